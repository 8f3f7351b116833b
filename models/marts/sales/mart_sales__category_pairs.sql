with basket_categories as (

    select * from {{ ref('mart_sales__basket_categories') }}

),

weekly_pairs as (

    select * from {{ ref('mart_sales__weekly_category_pairs') }}

),

categories as (

    select
        category_name,
        count(*) as basket_count
    from basket_categories
    group by category_name

),

baskets as (

    select count(distinct basket_id) as basket_count
    from basket_categories

),

pairs as (

    select
        first_category_name,
        second_category_name,
        cast(sum(basket_count) as bigint) as basket_count
    from weekly_pairs
    group by
        first_category_name,
        second_category_name
    having sum(basket_count) >= {{ var('category_pair_minimum_baskets') }}

),

final as (

    select
        pairs.first_category_name,
        pairs.second_category_name,
        pairs.basket_count,
        cast(pairs.basket_count as double) / nullif(baskets.basket_count, 0) as support_share,
        cast(pairs.basket_count as double) / nullif(first_category.basket_count, 0) as second_given_first_share,
        cast(pairs.basket_count as double) / nullif(second_category.basket_count, 0) as first_given_second_share,
        cast(pairs.basket_count as double) * baskets.basket_count
        / nullif(cast(first_category.basket_count as double) * second_category.basket_count, 0) as lift
    from pairs
    inner join categories as first_category on pairs.first_category_name = first_category.category_name
    inner join categories as second_category on pairs.second_category_name = second_category.category_name
    cross join baskets

)

select * from final
