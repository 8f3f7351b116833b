with winback_audience as (

    select * from {{ ref('mart_customers__winback_audience') }}

),

final as (

    select
        household_id,
        segment_name,
        value_decile,
        sales_amount,
        last_purchase_date,
        recency_days,
        age_range,
        household_composition
    from winback_audience

)

select * from final
