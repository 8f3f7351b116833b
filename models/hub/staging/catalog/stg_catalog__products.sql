with products as (

    select * from {{ source('catalog', 'products') }}

),

final as (

    select
        product_id,
        manufacturer_id,
        department as department_name,
        brand as brand_type,
        product_category as category_name,
        product_type as product_type_name,
        package_size as package_size_text,
        _load_id,
        _loaded_at
    from products

)

select * from final
