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

store_totals as (

    select
        store_id,
        count(*) as week_count
    from trading_weeks
    group by store_id

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

-- what each pair sells in a week without promotion; weeks in which it sold nothing count as nothing sold
baselines as (

    select
        pairs.product_id,
        pairs.store_id,
        cast(pairs.item_count - promoted_pairs.item_count as double)
        / nullif(store_totals.week_count - promoted_pairs.week_count, 0) as baseline_items_per_week
    from pairs
    inner join store_totals on pairs.store_id = store_totals.store_id
    inner join promoted_pairs
        on
            pairs.product_id = promoted_pairs.product_id
            and pairs.store_id = promoted_pairs.store_id
    where store_totals.week_count > promoted_pairs.week_count

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
        baselines.baseline_items_per_week
    from promoted_weeks
    inner join baselines
        on
            promoted_weeks.product_id = baselines.product_id
            and promoted_weeks.store_id = baselines.store_id
    group by
        promoted_weeks.product_id,
        promoted_weeks.store_id,
        promoted_weeks.display_location_code,
        promoted_weeks.display_location_name,
        promoted_weeks.mailer_location_code,
        promoted_weeks.mailer_location_name,
        baselines.baseline_items_per_week

)

select * from final
