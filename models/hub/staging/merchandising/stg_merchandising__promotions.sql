with promotions as (

    select * from {{ source('merchandising', 'promotions') }}

),

final as (

    select
        product_id,
        store_id,
        cast(week as int) as week_number,
        display_location as display_location_code,
        mailer_location as mailer_location_code,
        _load_id,
        _loaded_at
    from promotions

)

select * from final
