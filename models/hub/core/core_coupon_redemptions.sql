with coupon_redemptions as (

    select * from {{ ref('stg_marketing__coupon_redemptions') }}

),

final as (

    select
        {{ coupon_key('campaign_id', 'coupon_upc') }} as coupon_id,
        household_id,
        campaign_id,
        coupon_upc,
        redemption_date,
        _load_id,
        _loaded_at
    from coupon_redemptions

)

select * from final
