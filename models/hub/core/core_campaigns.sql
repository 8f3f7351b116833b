with campaign_descriptions as (

    select * from {{ ref('stg_marketing__campaign_descriptions') }}

),

final as (

    select
        campaign_id,
        campaign_type,
        start_date,
        end_date,
        cast({{ dbt.datediff('start_date', 'end_date', 'day') }} as int) + 1 as duration_days
    from campaign_descriptions

)

select * from final
