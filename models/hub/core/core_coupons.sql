with coupon_products as (

    select * from {{ ref('core_coupon_products') }}

),

final as (

    select
        coupon_id,
        campaign_id,
        coupon_upc,
        count(*) as product_count
    from coupon_products
    group by
        coupon_id,
        campaign_id,
        coupon_upc

)

select * from final
