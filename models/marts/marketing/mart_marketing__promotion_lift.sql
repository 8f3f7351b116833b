with promoted_products as (

    select * from {{ ref('mart_marketing__promoted_products') }}

),

trading_weeks as (

    select * from {{ ref('mart_marketing__trading_weeks') }}

),

store_totals as (

    select
        store_id,
        count(*) as week_count
    from trading_weeks
    group by store_id

),

-- what each product sells in a week without promotion; weeks in which it sold nothing count as nothing sold
with_baselines as (

    select
        promoted_products.*,
        cast(promoted_products.unpromoted_item_count as double)
        / nullif(store_totals.week_count - promoted_products.week_count_in_any_place, 0) as baseline_items_per_week
    from promoted_products
    inner join store_totals on promoted_products.store_id = store_totals.store_id
    where store_totals.week_count > promoted_products.week_count_in_any_place

),

final as (

    select
        display_location_code,
        display_location_name,
        mailer_location_code,
        mailer_location_name,
        cast(sum(promoted_week_count) as bigint) as promoted_week_count,
        cast(sum(item_count) as bigint) as item_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(item_count) as double) / nullif(sum(promoted_week_count), 0) as promoted_items_per_week,
        round(
            sum(baseline_items_per_week * promoted_week_count) / nullif(sum(promoted_week_count), 0), 9
        ) as baseline_items_per_week,
        round(
            cast(sum(item_count) as double) / nullif(sum(baseline_items_per_week * promoted_week_count), 0), 6
        ) as promotion_lift
    from with_baselines
    group by
        display_location_code,
        display_location_name,
        mailer_location_code,
        mailer_location_name

)

select * from final
