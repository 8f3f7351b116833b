with demographics as (

    select * from {{ ref('stg_crm__demographics') }}

),

baskets as (

    select * from {{ ref('core_baskets') }}

),

campaign_households as (

    select * from {{ ref('core_campaign_households') }}

),

coupon_redemptions as (

    select * from {{ ref('core_coupon_redemptions') }}

),

mentioned as (

    select household_id from demographics
    union
    select household_id from baskets
    union
    select household_id from campaign_households
    union
    select household_id from coupon_redemptions

),

visits as (

    select
        household_id,
        min(purchase_date) as first_purchase_date,
        max(purchase_date) as last_purchase_date
    from baskets
    group by household_id

),

final as (

    select
        mentioned.household_id,
        visits.first_purchase_date,
        visits.last_purchase_date,
        demographics.household_id is not null as has_demographics,
        coalesce(demographics.age_range, 'Unknown') as age_range,
        coalesce(demographics.income_range, 'Unknown') as income_range,
        coalesce(demographics.home_ownership_status, 'Unknown') as home_ownership_status,
        coalesce(demographics.marital_status, 'Unknown') as marital_status,
        coalesce(demographics.household_size_range, 'Unknown') as household_size_range,
        coalesce(demographics.household_composition, 'Unknown') as household_composition,
        coalesce(demographics.kids_count_range, 'Unknown') as kids_count_range
    from mentioned
    left join visits on mentioned.household_id = visits.household_id
    left join demographics on mentioned.household_id = demographics.household_id

)

select * from final
