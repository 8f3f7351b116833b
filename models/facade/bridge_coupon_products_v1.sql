with coupon_products as (

    select * from {{ ref('core_coupon_products') }}

),

final as (

    select
        coupon_id,
        product_id
    from coupon_products

)

select * from final
