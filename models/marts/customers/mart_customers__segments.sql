with rfm as (

    select * from {{ ref('mart_customers__rfm') }}

),

final as (

    select
        household_id,
        recency_score,
        frequency_score,
        monetary_score,
        case
            when recency_score >= 4 and frequency_score >= 4 and monetary_score >= 4 then 'champion'
            when recency_score >= 3 and frequency_score >= 4 then 'loyal'
            when recency_score <= 2 and frequency_score >= 4 then 'slipping'
            when recency_score >= 4 and frequency_score <= 2 then 'occasional'
            when recency_score <= 2 and monetary_score >= 4 then 'big spender gone quiet'
            when recency_score <= 2 and frequency_score <= 2 then 'hibernating'
            else 'middle'
        end as segment_name
    from rfm

)

select * from final
