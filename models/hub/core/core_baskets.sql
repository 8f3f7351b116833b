with basket_lines as (

    select * from {{ ref('core_basket_lines') }}

),

products as (

    select * from {{ ref('core_products') }}

),

-- a basket has one household, one store and one time on all its lines (tested), so min() picks, it does not choose
final as (

    select
        basket_lines.basket_id,
        min(basket_lines.household_id) as household_id,
        min(basket_lines.store_id) as store_id,
        min(basket_lines.purchased_at) as purchased_at,
        min(basket_lines.purchase_date) as purchase_date,
        min(basket_lines.purchase_hour) as purchase_hour,
        min(basket_lines.week_number) as week_number,
        cast(sum(case when basket_lines.line_type not in ('coupon', 'void') then 1 else 0 end) as bigint) as line_count,
        cast(sum(basket_lines.item_count) as bigint) as item_count,
        count(distinct products.department_name) as department_count,
        count(distinct products.category_name) as category_count,
        max(basket_lines.line_type = 'fuel') as has_fuel,
        max(basket_lines.coupon_discount_amount > 0) as has_coupon,
        cast(sum(basket_lines.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(basket_lines.loyalty_discount_amount) as decimal(18, 2)) as loyalty_discount_amount,
        cast(sum(basket_lines.coupon_discount_amount) as decimal(18, 2)) as coupon_discount_amount,
        cast(sum(basket_lines.coupon_match_discount_amount) as decimal(18, 2)) as coupon_match_discount_amount,
        cast(sum(basket_lines.shelf_amount) as decimal(18, 2)) as shelf_amount,
        cast(sum(basket_lines.paid_amount) as decimal(18, 2)) as paid_amount
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    group by basket_lines.basket_id

)

select * from final
