with households as (

    select * from {{ ref('core_households') }}

),

final as (

    select
        household_id,
        first_purchase_date,
        last_purchase_date,
        has_demographics,
        age_range,
        income_range,
        home_ownership_status,
        marital_status,
        household_size_range,
        household_composition,
        kids_count_range
    from households

)

select * from final
