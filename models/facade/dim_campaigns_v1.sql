with campaigns as (

    select * from {{ ref('core_campaigns') }}

),

final as (

    select
        campaign_id,
        campaign_type,
        start_date,
        end_date,
        duration_days
    from campaigns

)

select * from final
