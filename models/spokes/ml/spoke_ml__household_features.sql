with household_features as (

    select * from {{ ref('mart_customers__household_features') }}

),

final as (

    select
        household_id,
        cutoff_date,
        basket_count,
        sales_amount,
        last_4_weeks_basket_count,
        last_4_weeks_sales_amount,
        last_12_weeks_sales_amount,
        recency_days,
        discount_share,
        redemption_count,
        campaign_count,
        next_8_weeks_sales_amount,
        has_churned
    from household_features

)

select * from final
