-- holds only if purchase dates are on the stores' clock: by UTC dates, 233 redemptions would have no basket
select
    coupon_redemptions.coupon_id,
    coupon_redemptions.household_id,
    coupon_redemptions.redemption_date
from {{ ref('fct_coupon_redemptions') }} as coupon_redemptions
left join {{ ref('fct_baskets') }} as baskets
    on
        coupon_redemptions.household_id = baskets.household_id
        and coupon_redemptions.redemption_date = baskets.purchase_date
where baskets.basket_id is null
