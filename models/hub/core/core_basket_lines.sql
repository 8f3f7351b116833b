with transactions as (

    select * from {{ ref('stg_pos__transactions') }}

),

products as (

    select * from {{ ref('core_products') }}

),

on_store_clock as (

    select
        *,
        {{ store_local_time('purchased_at') }} as purchased_local_at
    from transactions

),

-- fuel is rung up in thousandths of a gallon; a quantity of 1 is a prepaid amount without a measure
measured as (

    select
        on_store_clock.*,
        products.is_fuel,
        case when products.is_fuel then 1 else on_store_clock.quantity end as item_count,
        case
            when products.is_fuel and on_store_clock.quantity > 1
                then cast(on_store_clock.quantity / 1000.0 as decimal(12, 3))
        end as fuel_gallons
    from on_store_clock
    inner join products on on_store_clock.product_id = products.product_id

),

final as (

    select
        basket_id,
        product_id,
        household_id,
        store_id,
        purchased_at,
        cast(purchased_local_at as date) as purchase_date,
        cast(extract(hour from purchased_local_at) as int) as purchase_hour,
        week_number,
        case
            when is_fuel then 'fuel'
            when quantity > 0 and sales_amount > 0 then 'sale'
            when quantity > 0 then 'free'
            when sales_amount > 0 then 'unmeasured'
            when coupon_discount_amount > 0 then 'coupon'
            else 'void'
        end as line_type,
        item_count,
        fuel_gallons,
        sales_amount,
        loyalty_discount_amount,
        coupon_discount_amount,
        coupon_match_discount_amount,
        cast(
            sales_amount + loyalty_discount_amount + coupon_match_discount_amount as decimal(18, 2)
        ) as shelf_amount,
        cast(sales_amount - coupon_discount_amount as decimal(18, 2)) as paid_amount,
        _load_id,
        _loaded_at
    from measured

)

select * from final
