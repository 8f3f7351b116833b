with baskets as (

    select * from {{ ref('core_baskets') }}

),

promotion_weeks as (

    select * from {{ ref('core_promotion_weeks') }}

),

visited as (

    select
        store_id,
        min(purchase_date) as first_purchase_date,
        max(purchase_date) as last_purchase_date
    from baskets
    group by store_id

),

planned as (

    select distinct store_id
    from promotion_weeks

),

mentioned as (

    select store_id from visited
    union
    select store_id from planned

),

final as (

    select
        mentioned.store_id,
        visited.first_purchase_date,
        visited.last_purchase_date,
        planned.store_id is not null as has_promotion_plan
    from mentioned
    left join visited on mentioned.store_id = visited.store_id
    left join planned on mentioned.store_id = planned.store_id

)

select * from final
