with coupon_redemptions as (

    select * from {{ source('marketing', 'coupon_redemptions') }}

),

final as (

    select
        household_id,
        coupon_upc,
        campaign_id,
        cast(redemption_date as date) as redemption_date,
        _load_id,
        _loaded_at
    from coupon_redemptions

)

select * from final
