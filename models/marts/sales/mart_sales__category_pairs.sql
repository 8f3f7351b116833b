with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

basket_categories as (

    select distinct
        basket_lines.basket_id,
        products.category_name
    from basket_lines
    inner join products on basket_lines.product_id = products.product_id
    where
        basket_lines.line_type = 'sale'
        and products.category_name != 'Unknown'

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

-- a pair cannot be in more baskets than its rarer category: rare ones go before the join that grows
frequent_categories as (

    select basket_categories.*
    from basket_categories
    inner join categories on basket_categories.category_name = categories.category_name
    where categories.basket_count >= {{ var('category_pair_minimum_baskets') }}

),

pairs as (

    select
        first_category.category_name as first_category_name,
        second_category.category_name as second_category_name,
        count(*) as basket_count
    from frequent_categories as first_category
    inner join frequent_categories as second_category
        on
            first_category.basket_id = second_category.basket_id
            and first_category.category_name < second_category.category_name
    group by
        first_category.category_name,
        second_category.category_name
    having count(*) >= {{ var('category_pair_minimum_baskets') }}

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
