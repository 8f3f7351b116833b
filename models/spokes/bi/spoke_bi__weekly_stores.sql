with weekly_stores as (

    select * from {{ ref('mart_sales__weekly_stores') }}

),

final as (

    select
        store_id,
        week_number,
        trading_day_count,
        basket_count,
        item_count,
        sales_amount,
        sales_per_trading_day,
        previous_sales_per_trading_day,
        sales_change_share,
        sales_rank
    from weekly_stores

)

select * from final
