with campaign_descriptions as (

    select * from {{ source('marketing', 'campaign_descriptions') }}

),

final as (

    select
        campaign_id,
        campaign_type,
        cast(start_date as date) as start_date,
        cast(end_date as date) as end_date,
        _load_id,
        _loaded_at
    from campaign_descriptions

)

select * from final
