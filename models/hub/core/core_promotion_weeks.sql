with promotions as (

    select * from {{ ref('core_promotions') }}

),

final as (

    select
        store_id,
        week_number,
        count(*) as product_count
    from promotions
    group by
        store_id,
        week_number

)

select * from final
