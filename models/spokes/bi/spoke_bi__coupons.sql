with coupons as (

    select * from {{ ref('mart_marketing__coupons') }}

),

final as (

    select
        coupon_id,
        campaign_id,
        coupon_upc,
        product_count,
        redemption_count,
        household_count,
        matched_share,
        sales_amount,
        coupon_discount_amount,
        sales_per_discount_dollar
    from coupons

)

select * from final
