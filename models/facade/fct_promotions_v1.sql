with promotions as (

    select * from {{ ref('core_promotions') }}

),

final as (

    select
        product_id,
        store_id,
        week_number,
        display_location_code,
        display_location_name,
        mailer_location_code,
        mailer_location_name
    from promotions

)

select * from final
