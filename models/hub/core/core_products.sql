with catalogue as (

    select * from {{ ref('stg_catalog__products') }}

),

products_sold as (

    select * from {{ ref('core_products_sold') }}

),

coupons as (

    select * from {{ ref('stg_marketing__coupons') }}

),

mentioned as (

    select product_id from products_sold
    union
    select product_id from coupons

),

-- sold or on a coupon, yet in no catalogue: kept under its own id, described as Unknown
inferred as (

    select mentioned.product_id
    from mentioned
    left join catalogue on mentioned.product_id = catalogue.product_id
    where catalogue.product_id is null

),

united as (

    select
        product_id,
        manufacturer_id,
        department_name,
        category_name,
        product_type_name,
        brand_type,
        package_size_text,
        false as is_inferred
    from catalogue
    union all
    select
        product_id,
        cast(null as bigint) as manufacturer_id,
        cast(null as {{ dbt.type_string() }}) as department_name,
        cast(null as {{ dbt.type_string() }}) as category_name,
        cast(null as {{ dbt.type_string() }}) as product_type_name,
        cast(null as {{ dbt.type_string() }}) as brand_type,
        cast(null as {{ dbt.type_string() }}) as package_size_text,
        true as is_inferred
    from inferred

),

final as (

    select
        product_id,
        manufacturer_id,
        coalesce(department_name, 'Unknown') as department_name,
        coalesce(category_name, 'Unknown') as category_name,
        coalesce(product_type_name, 'Unknown') as product_type_name,
        coalesce(brand_type, 'Unknown') as brand_type,
        coalesce(package_size_text, 'Unknown') as package_size_text,
        coalesce(product_type_name = 'GASOLINE-REG UNLEADED', false) as is_fuel,
        is_inferred
    from united

)

select * from final
