with products as (

    select * from {{ ref('mart_sales__products') }}

),

final as (

    select
        product_id,
        department_name,
        category_name,
        product_type_name,
        brand_type,
        household_count,
        basket_count,
        item_count,
        sales_amount,
        shelf_amount,
        repeat_household_share,
        discount_share,
        first_purchase_date,
        last_purchase_date,
        sales_rank
    from products

)

select * from final
