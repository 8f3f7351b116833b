with cohort_retention as (

    select * from {{ ref('mart_customers__cohort_retention') }}

),

final as (

    select
        cohort_month_date,
        month_offset,
        cohort_household_count,
        active_household_count,
        retention_share,
        sales_amount
    from cohort_retention

)

select * from final
