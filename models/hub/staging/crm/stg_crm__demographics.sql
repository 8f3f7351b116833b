with demographics as (

    select * from {{ source('crm', 'demographics') }}

),

final as (

    select
        household_id,
        age as age_range,
        income as income_range,
        home_ownership as home_ownership_status,
        marital_status,
        household_size as household_size_range,
        household_comp as household_composition,
        kids_count as kids_count_range,
        _load_id,
        _loaded_at
    from demographics

)

select * from final
