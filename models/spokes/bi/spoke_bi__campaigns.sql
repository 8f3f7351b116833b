with campaigns as (

    select * from {{ ref('mart_marketing__campaigns') }}

),

final as (

    select
        campaign_id,
        campaign_type,
        start_date,
        end_date,
        duration_days,
        coupon_count,
        household_count,
        redeeming_household_count,
        redemption_count,
        response_share,
        sales_amount,
        covered_sales_amount
    from campaigns

)

select * from final
