with campaign_households as (

    select * from {{ ref('core_campaign_households') }}

),

final as (

    select
        campaign_id,
        household_id
    from campaign_households

)

select * from final
