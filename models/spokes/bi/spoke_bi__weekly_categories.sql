with weekly_categories as (

    select * from {{ ref('mart_sales__weekly_categories') }}

),

final as (

    select
        department_name,
        category_name,
        week_number,
        basket_count,
        household_count,
        item_count,
        sales_amount,
        shelf_amount,
        discount_share
    from weekly_categories

)

select * from final
