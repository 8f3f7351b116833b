with product_totals as (

    select * from {{ ref('mart_sales__product_totals') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select
        products.product_id,
        products.department_name,
        products.category_name,
        products.product_type_name,
        products.brand_type,
        product_totals.household_count,
        product_totals.basket_count,
        product_totals.item_count,
        product_totals.sales_amount,
        product_totals.shelf_amount,
        product_totals.repeat_household_share,
        1 - cast(product_totals.sales_amount as double)
        / nullif(cast(product_totals.shelf_amount as double), 0) as discount_share,
        product_totals.first_purchase_date,
        product_totals.last_purchase_date,
        cast(rank() over (
            partition by products.department_name, products.category_name
            order by product_totals.sales_amount desc nulls last
        ) as bigint) as sales_rank
    from product_totals
    inner join products on product_totals.product_id = products.product_id

)

select * from final
