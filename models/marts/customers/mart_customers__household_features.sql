with baskets as (

    select * from {{ ref('fct_baskets') }}

),

coupon_redemptions as (

    select * from {{ ref('fct_coupon_redemptions') }}

),

campaign_households as (

    select
        bridge.household_id,
        campaigns.start_date
    from {{ ref('bridge_campaign_households') }} as bridge
    inner join {{ ref('dim_campaigns') }} as campaigns on bridge.campaign_id = campaigns.campaign_id

),

cutoffs as (

    select distinct week_start_date as cutoff_date
    from {{ ref('dim_dates') }}
    where week_number in (13, 21, 29, 37, 45)

),

-- everything in the features is joined on a date before the cut-off; only the label looks at it and after it
history as (

    select
        baskets.household_id,
        cutoffs.cutoff_date,
        count(*) as basket_count,
        max(baskets.purchase_date) as last_purchase_date,
        cast(sum(baskets.sales_amount) as decimal(18, 2)) as sales_amount,
        cast(sum(baskets.shelf_amount) as decimal(18, 2)) as shelf_amount,
        cast(sum(case
            when baskets.purchase_date >= {{ dbt.dateadd('day', -28, 'cutoffs.cutoff_date') }} then 1 else 0
        end) as bigint) as last_4_weeks_basket_count,
        cast(sum(case
            when baskets.purchase_date >= {{ dbt.dateadd('day', -28, 'cutoffs.cutoff_date') }}
                then baskets.sales_amount
            else 0
        end) as decimal(18, 2)) as last_4_weeks_sales_amount,
        cast(sum(case
            when baskets.purchase_date >= {{ dbt.dateadd('day', -84, 'cutoffs.cutoff_date') }}
                then baskets.sales_amount
            else 0
        end) as decimal(18, 2)) as last_12_weeks_sales_amount
    from baskets
    inner join cutoffs on baskets.purchase_date < cutoffs.cutoff_date
    group by
        baskets.household_id,
        cutoffs.cutoff_date

),

redemptions as (

    select
        coupon_redemptions.household_id,
        cutoffs.cutoff_date,
        count(*) as redemption_count
    from coupon_redemptions
    inner join cutoffs on coupon_redemptions.redemption_date < cutoffs.cutoff_date
    group by
        coupon_redemptions.household_id,
        cutoffs.cutoff_date

),

campaigns as (

    select
        campaign_households.household_id,
        cutoffs.cutoff_date,
        count(*) as campaign_count
    from campaign_households
    inner join cutoffs on campaign_households.start_date < cutoffs.cutoff_date
    group by
        campaign_households.household_id,
        cutoffs.cutoff_date

),

labels as (

    select
        baskets.household_id,
        cutoffs.cutoff_date,
        sum(baskets.sales_amount) as next_8_weeks_sales_amount
    from baskets
    inner join cutoffs
        on
            baskets.purchase_date >= cutoffs.cutoff_date
            and baskets.purchase_date < {{ dbt.dateadd('day', 56, 'cutoffs.cutoff_date') }}
    group by
        baskets.household_id,
        cutoffs.cutoff_date

),

final as (

    select
        history.household_id,
        history.cutoff_date,
        history.basket_count,
        history.sales_amount,
        history.last_4_weeks_basket_count,
        history.last_4_weeks_sales_amount,
        history.last_12_weeks_sales_amount,
        cast({{ dbt.datediff('history.last_purchase_date', 'history.cutoff_date', 'day') }} as int) as recency_days,
        1 - cast(history.sales_amount as double) / nullif(cast(history.shelf_amount as double), 0) as discount_share,
        coalesce(redemptions.redemption_count, 0) as redemption_count,
        coalesce(campaigns.campaign_count, 0) as campaign_count,
        cast(coalesce(labels.next_8_weeks_sales_amount, 0) as decimal(18, 2)) as next_8_weeks_sales_amount,
        labels.household_id is null as has_churned
    from history
    left join redemptions
        on history.household_id = redemptions.household_id and history.cutoff_date = redemptions.cutoff_date
    left join campaigns
        on history.household_id = campaigns.household_id and history.cutoff_date = campaigns.cutoff_date
    left join labels on history.household_id = labels.household_id and history.cutoff_date = labels.cutoff_date

)

select * from final
