with products as (

    select * from {{ ref('core_products') }}

),

final as (

    select
        product_id,
        manufacturer_id,
        department_name,
        category_name,
        product_type_name,
        brand_type,
        package_size_text,
        is_fuel,
        is_inferred
    from products

)

select * from final
