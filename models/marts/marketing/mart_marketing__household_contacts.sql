with campaign_responses as (

    select * from {{ ref('mart_marketing__campaign_responses') }}

),

campaigns as (

    select * from {{ ref('dim_campaigns') }}

),

final as (

    select
        campaign_responses.household_id,
        count(*) as campaign_count,
        cast(sum(case when campaigns.campaign_type = 'Type A' then 1 else 0 end) as bigint) as type_a_campaign_count,
        cast(sum(case when campaign_responses.has_redeemed then 1 else 0 end) as bigint) as answered_campaign_count,
        cast(sum(campaign_responses.redemption_count) as bigint) as redemption_count,
        max(campaigns.start_date) as last_campaign_date,
        cast(sum(case when campaign_responses.has_redeemed then 1 else 0 end) as double) / count(*) as response_share,
        count(*) >= 5
        and sum(case when campaign_responses.has_redeemed then 1 else 0 end) = 0 as is_over_contacted
    from campaign_responses
    inner join campaigns on campaign_responses.campaign_id = campaigns.campaign_id
    group by campaign_responses.household_id

)

select * from final
