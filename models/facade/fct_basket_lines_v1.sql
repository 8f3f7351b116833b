with basket_lines as (

    select * from {{ ref('core_basket_lines') }}

),

final as (

    select
        basket_id,
        product_id,
        household_id,
        store_id,
        purchased_at,
        purchase_date,
        purchase_hour,
        week_number,
        line_type,
        item_count,
        fuel_gallons,
        sales_amount,
        loyalty_discount_amount,
        coupon_discount_amount,
        coupon_match_discount_amount,
        shelf_amount,
        paid_amount
    from basket_lines

)

select * from final
