with campaigns as (

    select * from {{ ref('stg_marketing__campaigns') }}

),

final as (

    select
        campaign_id,
        household_id,
        _load_id,
        _loaded_at
    from campaigns

)

select * from final
