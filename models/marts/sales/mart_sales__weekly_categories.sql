with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select
        products.department_name,
        products.category_name,
        basket_lines.week_number,
        count(distinct basket_lines.basket_id) as basket_count,
        count(distinct basket_lines.household_id) as household_count,
        cast(sum(basket_lines.item_count) as bigint) as item_count,
        cast(sum(basket_lines.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(basket_lines.shelf_amount) as decimal(18, 2)) as shelf_amount,
        1 - cast(sum(basket_lines.sales_amount) as double)
        / nullif(cast(sum(basket_lines.shelf_amount) as double), 0) as discount_share
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    group by
        products.department_name,
        products.category_name,
        basket_lines.week_number

)

select * from final
