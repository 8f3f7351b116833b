with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

buyers as (

    select
        product_id,
        household_id,
        count(*) as basket_count,
        cast(sum(item_count) as bigint) as item_count,
        sum(sales_amount) as sales_amount,
        sum(shelf_amount) as shelf_amount,
        min(purchase_date) as first_purchase_date,
        max(purchase_date) as last_purchase_date
    from basket_lines
    where line_type not in ('coupon', 'void')
    group by
        product_id,
        household_id

),

final as (

    select
        product_id,
        count(*) as household_count,
        cast(sum(basket_count) as bigint) as basket_count,
        cast(sum(item_count) as bigint) as item_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(shelf_amount) as decimal(18, 2)) as shelf_amount,
        cast(sum(case when basket_count > 1 then 1 else 0 end) as double) / count(*) as repeat_household_share,
        min(first_purchase_date) as first_purchase_date,
        max(last_purchase_date) as last_purchase_date
    from buyers
    group by product_id

)

select * from final
