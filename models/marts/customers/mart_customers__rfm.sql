with baskets as (

    select * from {{ ref('fct_baskets') }}

),

as_of as (

    select max(purchase_date) as as_of_date
    from baskets

),

summed as (

    select
        household_id,
        max(purchase_date) as last_purchase_date,
        count(*) as basket_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount
    from baskets
    group by household_id

),

final as (

    select
        summed.household_id,
        summed.last_purchase_date,
        cast({{ dbt.datediff('summed.last_purchase_date', 'as_of.as_of_date', 'day') }} as int) as recency_days,
        summed.basket_count,
        summed.sales_amount,
        cast(ntile(5) over (
            order by summed.last_purchase_date asc nulls first, summed.household_id asc nulls last
        ) as int) as recency_score,
        cast(ntile(5) over (
            order by summed.basket_count asc nulls first, summed.household_id asc nulls last
        ) as int) as frequency_score,
        cast(ntile(5) over (
            order by summed.sales_amount asc nulls first, summed.household_id asc nulls last
        ) as int) as monetary_score
    from summed
    cross join as_of

)

select * from final
