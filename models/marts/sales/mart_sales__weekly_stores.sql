with daily_stores as (

    select * from {{ ref('mart_sales__daily_stores') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

trading_weeks as (

    select
        week_number,
        count(*) as trading_day_count
    from dates
    where is_trading_day
    group by week_number

),

summed as (

    select
        store_id,
        week_number,
        cast(sum(basket_count) as bigint) as basket_count,
        cast(sum(item_count) as bigint) as item_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount
    from daily_stores
    group by
        store_id,
        week_number

),

-- per day on which any store traded: week 1 has one such day, and Christmas Day has none
per_day as (

    select
        summed.*,
        trading_weeks.trading_day_count,
        cast(summed.sales_amount as double) / nullif(trading_weeks.trading_day_count, 0) as sales_per_trading_day
    from summed
    inner join trading_weeks on summed.week_number = trading_weeks.week_number

),

final as (

    select
        this_week.store_id,
        this_week.week_number,
        this_week.trading_day_count,
        this_week.basket_count,
        this_week.item_count,
        this_week.sales_amount,
        this_week.sales_per_trading_day,
        last_week.sales_per_trading_day as previous_sales_per_trading_day,
        this_week.sales_per_trading_day / nullif(last_week.sales_per_trading_day, 0) - 1 as sales_change_share,
        cast(rank() over (
            partition by this_week.week_number
            order by this_week.sales_amount desc nulls last
        ) as bigint) as sales_rank
    from per_day as this_week
    left join per_day as last_week
        on
            this_week.store_id = last_week.store_id
            and this_week.week_number = last_week.week_number + 1

)

select * from final
