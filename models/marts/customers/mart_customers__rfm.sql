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

ranked as (

    select
        summed.household_id,
        summed.last_purchase_date,
        cast({{ dbt.datediff('summed.last_purchase_date', 'as_of.as_of_date', 'day') }} as int) as recency_days,
        summed.basket_count,
        summed.sales_amount,
        percent_rank() over (order by summed.last_purchase_date asc nulls first) as recency_rank,
        percent_rank() over (order by summed.basket_count asc nulls first) as frequency_rank,
        percent_rank() over (order by summed.sales_amount asc nulls first) as monetary_rank
    from summed
    cross join as_of

),

-- fifths by rank, from 0 to 1: households that are equal score equally, so the fifths are not of quite the same size
final as (

    select
        household_id,
        last_purchase_date,
        recency_days,
        basket_count,
        sales_amount,
        cast(least(floor(recency_rank * 5), 4) as int) + 1 as recency_score,
        cast(least(floor(frequency_rank * 5), 4) as int) + 1 as frequency_score,
        cast(least(floor(monetary_rank * 5), 4) as int) + 1 as monetary_score
    from ranked

)

select * from final
