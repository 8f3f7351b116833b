with promotion_lift as (

    select * from {{ ref('mart_marketing__promotion_lift') }}

),

final as (

    select
        display_location_code,
        display_location_name,
        mailer_location_code,
        mailer_location_name,
        promoted_week_count,
        item_count,
        sales_amount,
        promoted_items_per_week,
        baseline_items_per_week,
        promotion_lift
    from promotion_lift

)

select * from final
