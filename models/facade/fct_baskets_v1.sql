with baskets as (

    select * from {{ ref('core_baskets') }}

),

final as (

    select
        basket_id,
        household_id,
        store_id,
        purchased_at,
        purchase_date,
        purchase_hour,
        week_number,
        line_count,
        item_count,
        department_count,
        category_count,
        has_fuel,
        has_coupon,
        sales_amount,
        loyalty_discount_amount,
        coupon_discount_amount,
        coupon_match_discount_amount,
        shelf_amount,
        paid_amount
    from baskets

)

select * from final
