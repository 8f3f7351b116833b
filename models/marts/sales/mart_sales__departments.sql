with department_baskets as (

    select * from {{ ref('mart_sales__department_baskets') }}

),

basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

sold as (

    select distinct product_id
    from basket_lines

),

counted as (

    select
        products.department_name,
        count(*) as product_count
    from sold
    inner join products on sold.product_id = products.product_id
    group by products.department_name

),

summed as (

    select
        department_name,
        count(*) as basket_count,
        count(distinct household_id) as household_count,
        cast(sum(item_count) as bigint) as item_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(private_brand_sales_amount) as decimal(18, 2)) as private_brand_sales_amount
    from department_baskets
    group by department_name

),

final as (

    select
        summed.department_name,
        counted.product_count,
        summed.basket_count,
        summed.household_count,
        summed.item_count,
        summed.sales_amount,
        cast(summed.sales_amount as double)
        / nullif(cast(sum(summed.sales_amount) over () as double), 0) as sales_share,
        cast(summed.private_brand_sales_amount as double)
        / nullif(cast(summed.sales_amount as double), 0) as private_brand_share
    from summed
    inner join counted on summed.department_name = counted.department_name

)

select * from final
