with campaigns as (

    select * from {{ ref('dim_campaigns') }}

),

responses as (

    select * from {{ ref('mart_marketing__campaign_responses') }}

),

coupons as (

    select * from {{ ref('dim_coupons') }}

),

reach as (

    select
        campaign_id,
        count(*) as household_count,
        cast(sum(case when has_redeemed then 1 else 0 end) as bigint) as redeeming_household_count,
        cast(sum(redemption_count) as bigint) as redemption_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(covered_sales_amount) as decimal(18, 2)) as covered_sales_amount
    from responses
    group by campaign_id

),

offers as (

    select
        campaign_id,
        count(*) as coupon_count
    from coupons
    group by campaign_id

),

final as (

    select
        campaigns.campaign_id,
        campaigns.campaign_type,
        campaigns.start_date,
        campaigns.end_date,
        campaigns.duration_days,
        coalesce(offers.coupon_count, 0) as coupon_count,
        coalesce(reach.household_count, 0) as household_count,
        coalesce(reach.redeeming_household_count, 0) as redeeming_household_count,
        coalesce(reach.redemption_count, 0) as redemption_count,
        coalesce(
            cast(reach.redeeming_household_count as double) / nullif(reach.household_count, 0), 0
        ) as response_share,
        coalesce(reach.sales_amount, 0) as sales_amount,
        coalesce(reach.covered_sales_amount, 0) as covered_sales_amount
    from campaigns
    left join reach on campaigns.campaign_id = reach.campaign_id
    left join offers on campaigns.campaign_id = offers.campaign_id

)

select * from final
