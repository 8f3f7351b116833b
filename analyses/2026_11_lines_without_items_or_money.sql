-- 2026-11: What are the till lines that carry neither items nor money, and may a mart leave them out?
-- Answer: 5,862 lines are void (nothing at all) and 2,978 are coupons rung up on a line of their own. They change no sum of
-- sales, but they would count as lines of a basket, so fct_basket_lines names them in line_type.
with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select
        basket_lines.line_type,
        products.department_name,
        count(*) as line_count,
        cast(sum(basket_lines.coupon_discount_amount) as decimal(18, 2)) as coupon_discount_amount
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    where basket_lines.line_type in ('coupon', 'void')
    group by
        basket_lines.line_type,
        products.department_name

)

select * from final
order by
    line_type asc nulls last,
    line_count desc nulls last,
    department_name asc nulls last
