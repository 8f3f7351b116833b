with baskets as (

    select * from {{ ref('fct_baskets') }}

),

as_of as (

    select
        max(purchase_date) as as_of_date,
        max(week_number) as last_week_number
    from baskets

),

visit_days as (

    select
        household_id,
        purchase_date,
        lag(purchase_date) over (
            partition by household_id
            order by purchase_date asc nulls first
        ) as previous_purchase_date
    from baskets
    group by
        household_id,
        purchase_date

),

visits as (

    select
        household_id,
        count(*) as visit_day_count,
        max(purchase_date) as last_purchase_date,
        median({{ dbt.datediff('previous_purchase_date', 'purchase_date', 'day') }}) as median_gap_days
    from visit_days
    group by household_id

),

trends as (

    select
        baskets.household_id,
        cast(sum(case
            when baskets.week_number > as_of.last_week_number - 8 then baskets.sales_amount
            else 0
        end) as decimal(18, 2)) as last_8_weeks_sales_amount,
        cast(sum(case
            when
                baskets.week_number <= as_of.last_week_number - 8
                and baskets.week_number > as_of.last_week_number - 16
                then baskets.sales_amount
            else 0
        end) as decimal(18, 2)) as previous_8_weeks_sales_amount
    from baskets
    cross join as_of
    group by baskets.household_id

),

measured as (

    select
        visits.household_id,
        visits.visit_day_count,
        visits.last_purchase_date,
        cast(visits.median_gap_days as double) as median_gap_days,
        cast({{ dbt.datediff('visits.last_purchase_date', 'as_of.as_of_date', 'day') }} as int) as recency_days,
        trends.last_8_weeks_sales_amount,
        trends.previous_8_weeks_sales_amount
    from visits
    inner join trends on visits.household_id = trends.household_id
    cross join as_of

),

final as (

    select
        household_id,
        visit_day_count,
        last_purchase_date,
        recency_days,
        median_gap_days,
        recency_days / nullif(median_gap_days, 0) as overdue_ratio,
        last_8_weeks_sales_amount,
        previous_8_weeks_sales_amount,
        case
            when visit_day_count < 3 then recency_days > 56
            else
                recency_days > 3 * median_gap_days
                and (recency_days > 28 or 2 * last_8_weeks_sales_amount < previous_8_weeks_sales_amount)
        end as is_at_risk
    from measured

)

select * from final
