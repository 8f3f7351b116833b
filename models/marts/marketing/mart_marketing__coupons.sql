with coupons as (

    select * from {{ ref('dim_coupons') }}

),

coupon_redemptions as (

    select * from {{ ref('fct_coupon_redemptions') }}

),

coupon_products as (

    select * from {{ ref('bridge_coupon_products') }}

),

basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

-- what the household bought that day of the products that its coupon is good for
redeemed_lines as (

    select
        coupon_redemptions.coupon_id,
        coupon_redemptions.household_id,
        coupon_redemptions.redemption_date,
        sum(basket_lines.sales_amount) as sales_amount,
        sum(basket_lines.coupon_discount_amount) as coupon_discount_amount
    from coupon_redemptions
    inner join coupon_products on coupon_redemptions.coupon_id = coupon_products.coupon_id
    inner join basket_lines
        on
            coupon_redemptions.household_id = basket_lines.household_id
            and coupon_redemptions.redemption_date = basket_lines.purchase_date
            and coupon_products.product_id = basket_lines.product_id
    group by
        coupon_redemptions.coupon_id,
        coupon_redemptions.household_id,
        coupon_redemptions.redemption_date

),

summed as (

    select
        coupon_redemptions.coupon_id,
        count(*) as redemption_count,
        count(distinct coupon_redemptions.household_id) as household_count,
        count(redeemed_lines.coupon_id) as matched_redemption_count,
        sum(redeemed_lines.sales_amount) as sales_amount,
        sum(redeemed_lines.coupon_discount_amount) as coupon_discount_amount
    from coupon_redemptions
    left join redeemed_lines
        on
            coupon_redemptions.coupon_id = redeemed_lines.coupon_id
            and coupon_redemptions.household_id = redeemed_lines.household_id
            and coupon_redemptions.redemption_date = redeemed_lines.redemption_date
    group by coupon_redemptions.coupon_id

),

final as (

    select
        coupons.coupon_id,
        coupons.campaign_id,
        coupons.coupon_upc,
        coupons.product_count,
        coalesce(summed.redemption_count, 0) as redemption_count,
        coalesce(summed.household_count, 0) as household_count,
        cast(summed.matched_redemption_count as double) / nullif(summed.redemption_count, 0) as matched_share,
        cast(coalesce(summed.sales_amount, 0) as decimal(18, 2)) as sales_amount,
        cast(coalesce(summed.coupon_discount_amount, 0) as decimal(18, 2)) as coupon_discount_amount,
        cast(summed.sales_amount as double)
        / nullif(cast(summed.coupon_discount_amount as double), 0) as sales_per_discount_dollar
    from coupons
    left join summed on coupons.coupon_id = summed.coupon_id

)

select * from final
