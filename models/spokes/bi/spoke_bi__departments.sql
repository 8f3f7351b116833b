with departments as (

    select * from {{ ref('mart_sales__departments') }}

),

final as (

    select
        department_name,
        product_count,
        basket_count,
        household_count,
        item_count,
        sales_amount,
        sales_share,
        private_brand_share
    from departments

)

select * from final
