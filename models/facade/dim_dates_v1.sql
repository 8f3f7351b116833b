with dates as (

    select * from {{ ref('core_dates') }}

),

final as (

    select
        calendar_date,
        calendar_year,
        month_number,
        month_start_date,
        week_start_date,
        week_number,
        weekday_number,
        is_weekend,
        is_trading_day
    from dates

)

select * from final
