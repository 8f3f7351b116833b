with basket_lines as (

    select * from {{ ref('fct_basket_lines') }}

),

final as (

    select distinct
        store_id,
        week_number
    from basket_lines
    where line_type = 'sale'

)

select * from final
