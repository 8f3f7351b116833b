with campaign_households as (

    select * from {{ ref('bridge_campaign_households') }}

),

campaigns as (

    select * from {{ ref('dim_campaigns') }}

),

coupon_redemptions as (

    select * from {{ ref('fct_coupon_redemptions') }}

),

coupons as (

    select * from {{ ref('dim_coupons') }}

),

coupon_products as (

    select * from {{ ref('bridge_coupon_products') }}

),

basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

covered_products as (

    select distinct
        coupons.campaign_id,
        coupon_products.product_id
    from coupon_products
    inner join coupons on coupon_products.coupon_id = coupons.coupon_id

),

redemptions as (

    select
        campaign_id,
        household_id,
        count(*) as redemption_count,
        min(redemption_date) as first_redemption_date
    from coupon_redemptions
    group by
        campaign_id,
        household_id

),

purchases as (

    select
        campaign_households.campaign_id,
        campaign_households.household_id,
        sum(basket_lines.sales_amount) as sales_amount,
        sum(
            case when covered_products.product_id is not null then basket_lines.sales_amount else 0 end
        ) as covered_sales_amount
    from campaign_households
    inner join campaigns on campaign_households.campaign_id = campaigns.campaign_id
    inner join basket_lines
        on
            campaign_households.household_id = basket_lines.household_id
            and basket_lines.purchase_date between campaigns.start_date and campaigns.end_date
    left join covered_products
        on
            campaign_households.campaign_id = covered_products.campaign_id
            and basket_lines.product_id = covered_products.product_id
    group by
        campaign_households.campaign_id,
        campaign_households.household_id

),

final as (

    select
        campaign_households.campaign_id,
        campaign_households.household_id,
        redemptions.household_id is not null as has_redeemed,
        coalesce(redemptions.redemption_count, 0) as redemption_count,
        redemptions.first_redemption_date,
        cast(coalesce(purchases.sales_amount, 0) as decimal(18, 2)) as sales_amount,
        cast(coalesce(purchases.covered_sales_amount, 0) as decimal(18, 2)) as covered_sales_amount
    from campaign_households
    left join redemptions
        on
            campaign_households.campaign_id = redemptions.campaign_id
            and campaign_households.household_id = redemptions.household_id
    left join purchases
        on
            campaign_households.campaign_id = purchases.campaign_id
            and campaign_households.household_id = purchases.household_id

)

select * from final
