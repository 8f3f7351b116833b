with basket_categories as (

    select * from {{ ref('mart_sales__basket_categories') }}

),

final as (

    select
        first_category.week_number,
        first_category.category_name as first_category_name,
        second_category.category_name as second_category_name,
        count(*) as basket_count
    from basket_categories as first_category
    inner join basket_categories as second_category
        on
            first_category.week_number = second_category.week_number
            and first_category.basket_id = second_category.basket_id
            and first_category.category_name < second_category.category_name
    group by
        first_category.week_number,
        first_category.category_name,
        second_category.category_name

)

select * from final
