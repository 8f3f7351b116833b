-- the mart's sales by department are those of the files as they landed, to the cent
with raw_lines as (

    select
        coalesce(products.department, 'Unknown') as department_name,
        sum(cast(basket_lines.sales_value as decimal(18, 2))) as sales_amount
    from {{ source('pos', 'transactions') }} as basket_lines
    left join {{ source('catalog', 'products') }} as products on basket_lines.product_id = products.product_id
    group by coalesce(products.department, 'Unknown')

),

departments as (

    select * from {{ ref('mart_sales__departments') }}

)

select
    raw_lines.department_name as raw_department_name,
    departments.department_name,
    raw_lines.sales_amount as raw_sales_amount,
    departments.sales_amount
from raw_lines
full outer join departments on raw_lines.department_name = departments.department_name
where
    raw_lines.sales_amount != departments.sales_amount
    or raw_lines.department_name is null
    or departments.department_name is null
