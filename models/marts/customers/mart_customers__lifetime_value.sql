with baskets as (

    select * from {{ ref('fct_baskets') }}

),

last_week as (

    select max(week_number) as week_number
    from baskets

),

summed as (

    select
        baskets.household_id,
        min(baskets.purchase_date) as first_purchase_date,
        max(baskets.purchase_date) as last_purchase_date,
        count(distinct baskets.week_number) as active_week_count,
        cast(sum(baskets.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(baskets.shelf_amount) as decimal(18, 2)) as shelf_amount,
        cast(
            sum(
                case when baskets.week_number > last_week.week_number - 12 then baskets.sales_amount else 0 end
            ) as decimal(18, 2)
        ) as last_12_weeks_sales_amount,
        cast(
            sum(
                case when baskets.week_number > last_week.week_number - 4 then baskets.sales_amount else 0 end
            ) as decimal(18, 2)
        ) as last_4_weeks_sales_amount
    from baskets
    cross join last_week
    group by baskets.household_id

),

final as (

    select
        household_id,
        first_purchase_date,
        last_purchase_date,
        cast({{ dbt.datediff('first_purchase_date', 'last_purchase_date', 'day') }} as int) + 1 as tenure_days,
        active_week_count,
        sales_amount,
        1 - cast(sales_amount as double) / nullif(cast(shelf_amount as double), 0) as discount_share,
        cast(sales_amount as double) / nullif(active_week_count, 0) as sales_per_active_week,
        last_12_weeks_sales_amount,
        -- halved as a decimal: of a double, half a cent is rounded up by one engine and down by another
        cast((last_12_weeks_sales_amount + 3 * last_4_weeks_sales_amount) * 0.5 as decimal(18, 2))
            as projected_12_weeks_sales_amount,
        cast(ntile(10) over (
            order by sales_amount asc nulls first, household_id asc nulls last
        ) as int) as value_decile,
        -- summed as decimals: doubles would add up differently in another order
        cast(sum(sales_amount) over (
            order by sales_amount desc nulls last, household_id asc nulls last
            rows between unbounded preceding and current row
        ) as double) / nullif(cast(sum(sales_amount) over () as double), 0) as cumulative_sales_share
    from summed

)

select * from final
