with churn_signals as (

    select * from {{ ref('mart_customers__churn_signals') }}

),

lifetime_value as (

    select * from {{ ref('mart_customers__lifetime_value') }}

),

segments as (

    select * from {{ ref('mart_customers__segments') }}

),

households as (

    select * from {{ ref('dim_households') }}

),

final as (

    select
        churn_signals.household_id,
        segments.segment_name,
        lifetime_value.value_decile,
        lifetime_value.sales_amount,
        churn_signals.last_purchase_date,
        churn_signals.recency_days,
        households.age_range,
        households.household_composition
    from churn_signals
    inner join lifetime_value on churn_signals.household_id = lifetime_value.household_id
    inner join segments on churn_signals.household_id = segments.household_id
    inner join households on churn_signals.household_id = households.household_id
    where
        churn_signals.is_at_risk
        and lifetime_value.value_decile >= 5

)

select * from final
