with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

final as (

    select
        store_id,
        purchase_date,
        min(week_number) as week_number,
        count(distinct basket_id) as basket_count,
        count(distinct household_id) as household_count,
        cast(sum(case when line_type not in ('coupon', 'void') then 1 else 0 end) as bigint) as line_count,
        cast(sum(item_count) as bigint) as item_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(case when line_type = 'fuel' then sales_amount else 0 end) as decimal(18, 2)) as fuel_sales_amount,
        cast(sum(loyalty_discount_amount) as decimal(18, 2)) as loyalty_discount_amount,
        cast(sum(coupon_discount_amount) as decimal(18, 2)) as coupon_discount_amount,
        cast(sum(sales_amount) as double) / nullif(count(distinct basket_id), 0) as average_basket_sales
    from basket_lines
    group by
        store_id,
        purchase_date

)

select * from final
