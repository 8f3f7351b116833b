with stores as (

    select * from {{ ref('core_stores') }}

),

final as (

    select
        store_id,
        first_purchase_date,
        last_purchase_date,
        has_promotion_plan
    from stores

)

select * from final
