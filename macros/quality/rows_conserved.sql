{#- Fails when the rows of another model did not all arrive: rows of from_model = rows here + quarantined + dropped. -#}
{% test rows_conserved(model, from_model) %}
    with ledger as (
        select
            rows_quarantined + rows_dropped as rows_held_back
        from quality.ledger
        where model = '{{ model.identifier }}'
        order by recorded_at desc
        limit 1
    ),

    counted as (
        select
            (select count(*) from {{ from_model }}) as rows_in,
            (select count(*) from {{ model }}) as rows_out,
            coalesce((select rows_held_back from ledger), 0) as rows_held_back
    )

    select *
    from counted
    where rows_in != rows_out + rows_held_back
{% endtest %}
