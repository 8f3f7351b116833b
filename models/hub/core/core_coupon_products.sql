with coupons as (

    select * from {{ ref('stg_marketing__coupons') }}

),

final as (

    select
        {{ coupon_key('campaign_id', 'coupon_upc') }} as coupon_id,
        product_id,
        campaign_id,
        coupon_upc,
        _load_id,
        _loaded_at
    from coupons

)

select * from final
