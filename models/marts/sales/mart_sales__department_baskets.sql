with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select
        products.department_name,
        basket_lines.basket_id,
        basket_lines.household_id,
        cast(sum(basket_lines.item_count) as bigint) as item_count,
        cast(sum(basket_lines.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(
            sum(case when products.brand_type = 'Private' then basket_lines.sales_amount else 0 end) as decimal(18, 2)
        ) as private_brand_sales_amount
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    group by
        products.department_name,
        basket_lines.basket_id,
        basket_lines.household_id

)

select * from final
