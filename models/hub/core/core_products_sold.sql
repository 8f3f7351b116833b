with transactions as (

    select * from {{ ref('stg_pos__transactions') }}

),

final as (

    select distinct product_id
    from transactions

)

select * from final
