with promotions as (

    select * from {{ ref('fct_promotions') }}

),

basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

trading_weeks as (

    select * from {{ ref('mart_marketing__trading_weeks') }}

),

sales as (

    select
        product_id,
        store_id,
        week_number,
        sum(item_count) as item_count,
        sum(sales_amount) as sales_amount
    from basket_lines
    where line_type = 'sale'
    group by
        product_id,
        store_id,
        week_number

),

pairs as (

    select
        product_id,
        store_id,
        sum(item_count) as item_count
    from sales
    group by
        product_id,
        store_id

),

promoted_weeks as (

    select
        promotions.product_id,
        promotions.store_id,
        promotions.display_location_code,
        promotions.display_location_name,
        promotions.mailer_location_code,
        promotions.mailer_location_name,
        coalesce(sales.item_count, 0) as item_count,
        coalesce(sales.sales_amount, 0) as sales_amount
    from promotions
    inner join pairs
        on
            promotions.product_id = pairs.product_id
            and promotions.store_id = pairs.store_id
    left join sales
        on
            promotions.product_id = sales.product_id
            and promotions.store_id = sales.store_id
            and promotions.week_number = sales.week_number
    where (promotions.store_id, promotions.week_number) in (
            select
                store_id,
                week_number
            from trading_weeks
        )

),

promoted_pairs as (

    select
        product_id,
        store_id,
        count(*) as week_count,
        sum(item_count) as item_count
    from promoted_weeks
    group by
        product_id,
        store_id

),

final as (

    select
        promoted_weeks.product_id,
        promoted_weeks.store_id,
        promoted_weeks.display_location_code,
        promoted_weeks.display_location_name,
        promoted_weeks.mailer_location_code,
        promoted_weeks.mailer_location_name,
        count(*) as promoted_week_count,
        cast(sum(promoted_weeks.item_count) as bigint) as item_count,
        cast(sum(promoted_weeks.sales_amount) as decimal(18, 2)) as sales_amount,
        promoted_pairs.week_count as week_count_in_any_place,
        cast(pairs.item_count - promoted_pairs.item_count as bigint) as unpromoted_item_count
    from promoted_weeks
    inner join promoted_pairs
        on
            promoted_weeks.product_id = promoted_pairs.product_id
            and promoted_weeks.store_id = promoted_pairs.store_id
    inner join pairs
        on
            promoted_weeks.product_id = pairs.product_id
            and promoted_weeks.store_id = pairs.store_id
    group by
        promoted_weeks.product_id,
        promoted_weeks.store_id,
        promoted_weeks.display_location_code,
        promoted_weeks.display_location_name,
        promoted_weeks.mailer_location_code,
        promoted_weeks.mailer_location_name,
        promoted_pairs.week_count,
        pairs.item_count,
        promoted_pairs.item_count

)

select * from final
