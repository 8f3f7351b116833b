with baskets as (

    select * from {{ ref('fct_baskets') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

household_months as (

    select
        baskets.household_id,
        dates.month_start_date,
        sum(baskets.sales_amount) as sales_amount
    from baskets
    inner join dates on baskets.purchase_date = dates.calendar_date
    group by
        baskets.household_id,
        dates.month_start_date

),

cohorts as (

    select
        household_id,
        min(month_start_date) as cohort_month_date
    from household_months
    group by household_id

),

cohort_sizes as (

    select
        cohort_month_date,
        count(*) as cohort_household_count
    from cohorts
    group by cohort_month_date

),

months as (

    select distinct month_start_date
    from household_months

),

activity as (

    select
        cohorts.cohort_month_date,
        household_months.month_start_date,
        count(*) as active_household_count,
        sum(household_months.sales_amount) as sales_amount
    from household_months
    inner join cohorts on household_months.household_id = cohorts.household_id
    group by
        cohorts.cohort_month_date,
        household_months.month_start_date

),

final as (

    select
        cohort_sizes.cohort_month_date,
        cast({{ dbt.datediff('cohort_sizes.cohort_month_date', 'months.month_start_date', 'month') }} as int)
            as month_offset,
        cohort_sizes.cohort_household_count,
        coalesce(activity.active_household_count, 0) as active_household_count,
        cast(coalesce(activity.active_household_count, 0) as double)
        / nullif(cohort_sizes.cohort_household_count, 0) as retention_share,
        cast(coalesce(activity.sales_amount, 0) as decimal(18, 2)) as sales_amount
    from cohort_sizes
    inner join months on cohort_sizes.cohort_month_date <= months.month_start_date
    left join activity
        on
            cohort_sizes.cohort_month_date = activity.cohort_month_date
            and months.month_start_date = activity.month_start_date

)

select * from final
