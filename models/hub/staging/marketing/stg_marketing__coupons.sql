with coupons as (

    select * from {{ source('marketing', 'coupons') }}

),

final as (

    select
        coupon_upc,
        campaign_id,
        product_id,
        _load_id,
        _loaded_at
    from coupons

)

select * from final
