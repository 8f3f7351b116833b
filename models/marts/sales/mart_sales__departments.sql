with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

summed as (

    select
        products.department_name,
        count(distinct basket_lines.product_id) as product_count,
        count(distinct basket_lines.basket_id) as basket_count,
        count(distinct basket_lines.household_id) as household_count,
        cast(sum(basket_lines.item_count) as bigint) as item_count,
        cast(sum(basket_lines.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(
            sum(case when products.brand_type = 'Private' then basket_lines.sales_amount else 0 end) as decimal(18, 2)
        ) as private_brand_sales_amount
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    group by products.department_name

),

final as (

    select
        department_name,
        product_count,
        basket_count,
        household_count,
        item_count,
        sales_amount,
        cast(sales_amount as double) / nullif(cast(sum(sales_amount) over () as double), 0) as sales_share,
        cast(private_brand_sales_amount as double) / nullif(cast(sales_amount as double), 0) as private_brand_share
    from summed

)

select * from final
