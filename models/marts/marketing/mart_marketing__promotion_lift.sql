with promoted_products as (

    select * from {{ ref('mart_marketing__promoted_products') }}

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
    from promoted_products
    group by
        display_location_code,
        display_location_name,
        mailer_location_code,
        mailer_location_name

)

select * from final
