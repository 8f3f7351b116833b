with transactions as (

    select * from {{ source('pos', 'transactions') }}

),

final as (

    select
        basket_id,
        product_id,
        household_id,
        store_id,
        quantity,
        cast(sales_value as decimal(18, 2)) as sales_amount,
        cast(retail_disc as decimal(18, 2)) as loyalty_discount_amount,
        cast(coupon_disc as decimal(18, 2)) as coupon_discount_amount,
        cast(coupon_match_disc as decimal(18, 2)) as coupon_match_discount_amount,
        cast(week as int) as week_number,
        cast(transaction_timestamp as timestamp) as purchased_at,
        _load_id,
        _loaded_at
    from transactions

)

select * from final
