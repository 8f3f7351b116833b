with coupon_redemptions as (

    select * from {{ ref('core_coupon_redemptions') }}

),

final as (

    select
        coupon_id,
        household_id,
        campaign_id,
        coupon_upc,
        redemption_date
    from coupon_redemptions

)

select * from final
