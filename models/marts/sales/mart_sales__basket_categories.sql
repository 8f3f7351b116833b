with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select distinct
        basket_lines.basket_id,
        basket_lines.week_number,
        products.category_name
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    where
        basket_lines.line_type = 'sale'
        and products.category_name != 'Unknown'

)

select * from final
