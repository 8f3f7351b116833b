with promotions as (

    select * from {{ ref('stg_merchandising__promotions') }}

),

display_locations as (

    select * from {{ ref('display_locations') }}

),

mailer_locations as (

    select * from {{ ref('mailer_locations') }}

),

final as (

    select
        promotions.product_id,
        promotions.store_id,
        promotions.week_number,
        promotions.display_location_code,
        display_locations.display_location_name,
        promotions.mailer_location_code,
        mailer_locations.mailer_location_name,
        promotions._load_id,
        promotions._loaded_at
    from promotions
    left join display_locations
        on promotions.display_location_code = display_locations.display_location_code
    left join mailer_locations
        on promotions.mailer_location_code = mailer_locations.mailer_location_code

)

select * from final
