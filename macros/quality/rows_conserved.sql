{#- Fails when the rows of another model did not all arrive: rows of from_model = rows here + quarantined + dropped. -#}
{% test rows_conserved(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, rows_conserved__parameters()) -%}
    {{ query_test(model, rule, rows_conserved__failing(model, rule)) }}
{% endtest %}

{% macro rows_conserved__parameters() %}
    {{ return({'from_model': 'relation!'}) }}
{% endmacro %}

{% macro rows_conserved__failing(relation, rule) %}
    with held_back as (
        select rows_quarantined + rows_dropped as row_count
        from quality.ledger
        where
            node_id = {{ _text(model.attached_node) }}
            -- of the model's last build, and of no other
            and build_number > (select max(build_number) from runs.builds where node_id = {{ _text(model.attached_node) }})
    ),

    counted as (
        select
            (select count(*) from {{ rule.arguments.from_model }}) as rows_in,
            (select count(*) from {{ relation }}) as rows_out,
            coalesce((select row_count from held_back), 0) as rows_held_back
    )

    select * from counted where rows_in <> rows_out + rows_held_back
{% endmacro %}
