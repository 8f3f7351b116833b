-- computed the other way round: from facts cut down to before the cut-off first, per household and cut-off
with features as (

    select * from {{ ref('mart_customers__household_features') }}

),

baskets as (

    select * from {{ ref('fct_baskets') }}

),

recomputed as (

    select
        features.household_id,
        features.cutoff_date,
        features.basket_count,
        features.sales_amount,
        features.recency_days,
        count(*) as expected_basket_count,
        sum(baskets.sales_amount) as expected_sales_amount,
        min({{ dbt.datediff('baskets.purchase_date', 'features.cutoff_date', 'day') }}) as expected_recency_days
    from features
    inner join baskets
        on
            features.household_id = baskets.household_id
            and features.cutoff_date > baskets.purchase_date
    group by
        features.household_id,
        features.cutoff_date,
        features.basket_count,
        features.sales_amount,
        features.recency_days

)

select *
from recomputed
where
    basket_count != expected_basket_count
    or sales_amount != expected_sales_amount
    or recency_days != expected_recency_days
