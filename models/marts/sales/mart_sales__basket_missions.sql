with baskets as (

    select * from {{ ref('fct_baskets') }}

),

dates as (

    select * from {{ ref('dim_dates') }}

),

final as (

    select
        baskets.basket_id,
        baskets.household_id,
        baskets.store_id,
        baskets.purchase_date,
        baskets.purchase_hour,
        dates.is_weekend,
        case
            when baskets.has_fuel and baskets.item_count = 1 then 'fuel stop'
            when baskets.line_count <= 3 then 'quick trip'
            when baskets.line_count <= 15 then 'fill-in'
            else 'stock-up'
        end as mission_name,
        baskets.line_count,
        baskets.item_count,
        baskets.department_count,
        baskets.category_count,
        baskets.sales_amount,
        1 - cast(baskets.sales_amount as double) / nullif(cast(baskets.shelf_amount as double), 0) as discount_share
    from baskets
    inner join dates on baskets.purchase_date = dates.calendar_date

)

select * from final
