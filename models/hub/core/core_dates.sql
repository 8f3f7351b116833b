with spine as (

    {{ dbt.date_spine(
        'day',
        "cast('" ~ var('calendar_start_date') ~ "' as date)",
        "cast('" ~ var('calendar_end_date') ~ "' as date)"
    ) }}

),

days as (

    select cast(date_day as date) as calendar_date
    from spine

),

baskets as (

    select * from {{ ref('core_baskets') }}

),

trading_days as (

    select
        purchase_date,
        count(*) as basket_count
    from baskets
    group by purchase_date

),

numbered as (

    select
        calendar_date,
        cast(floor({{ days_since_first_week('calendar_date') }} / 7.0) as int) + 1 as running_week_number,
        cast({{ dbt.date_trunc('week', 'calendar_date') }} as date) as week_start_date
    from days

),

final as (

    select
        numbered.calendar_date,
        cast(extract(year from numbered.calendar_date) as int) as calendar_year,
        cast(extract(month from numbered.calendar_date) as int) as month_number,
        cast({{ dbt.date_trunc('month', 'numbered.calendar_date') }} as date) as month_start_date,
        numbered.week_start_date,
        case
            when numbered.running_week_number between 1 and 53 then numbered.running_week_number
        end as week_number,
        cast({{ dbt.datediff('numbered.week_start_date', 'numbered.calendar_date', 'day') }} as int)
        + 1 as weekday_number,
        {{ dbt.datediff('numbered.week_start_date', 'numbered.calendar_date', 'day') }} >= 5 as is_weekend,
        trading_days.basket_count is not null as is_trading_day
    from numbered
    left join trading_days on numbered.calendar_date = trading_days.purchase_date

)

select * from final
