with daily_stores as (

    select * from {{ ref('mart_sales__daily_stores') }}

),

final as (

    select
        store_id,
        purchase_date,
        week_number,
        basket_count,
        household_count,
        line_count,
        item_count,
        sales_amount,
        fuel_sales_amount,
        loyalty_discount_amount,
        coupon_discount_amount,
        average_basket_sales
    from daily_stores

)

select * from final
