with coupons as (

    select * from {{ ref('core_coupons') }}

),

final as (

    select
        coupon_id,
        campaign_id,
        coupon_upc,
        product_count
    from coupons

)

select * from final
