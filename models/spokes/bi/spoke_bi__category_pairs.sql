with category_pairs as (

    select * from {{ ref('mart_sales__category_pairs') }}

),

final as (

    select
        first_category_name,
        second_category_name,
        basket_count,
        support_share,
        second_given_first_share,
        first_given_second_share,
        lift
    from category_pairs

)

select * from final
