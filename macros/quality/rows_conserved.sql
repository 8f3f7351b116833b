{#- Fails when the rows of another model did not all arrive: rows of from_model = rows here + quarantined + dropped. -#}
{% test rows_conserved(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, rows_conserved__parameters()) -%}
    {{ query_test(model, rule, rows_conserved__failing(model, rule)) }}
{% endtest %}

{% macro rows_conserved__parameters() %}
    {{ return({'from_model': 'relation!'}) }}
{% endmacro %}

{% macro rows_conserved__failing(relation, rule) %}
    with counted as (
        select
            (select count(*) from {{ rule.arguments.from_model }}) as rows_in,
            (select count(*) from {{ relation }}) as rows_out,
            {{ adapter.dispatch('_rows_held_back', 'hubspoke')(model.attached_node) }} as rows_held_back
    )

    select * from counted where rows_in <> rows_out + rows_held_back
{% endmacro %}

{#- What the gate took out of a model in its last build, and in no other, as SQL. -#}
{% macro default___rows_held_back(node_id) -%}
    coalesce((
        select rows_quarantined + rows_dropped
        from quality.ledger
        where
            node_id = {{ _text(node_id) }}
            and build_number > (select max(build_number) from runs.builds where node_id = {{ _text(node_id) }})
    ), 0)
{%- endmacro %}

{#- On Spark that is what this run remembers, or else what the run has noted that built the model last. -#}
{% macro spark___rows_held_back(node_id) %}
    {%- if not execute or node_id in selected_resources -%}{{ return(_held_back_in(_notes().ledger, node_id)) }}{%- endif -%}
    {%- for row in run_query("select content from runs.notes where kind = 'ended' order by noted_at desc limit 30").rows -%}
        {%- set note = fromjson(row[0]) -%}
        {%- if note.results | selectattr('node_id', 'equalto', node_id) | selectattr('status', 'equalto', 'success') | list -%}
            {{ return(_held_back_in(note.ledger, node_id)) }}
        {%- endif -%}
    {%- endfor -%}
    {{ return(0) }}
{% endmacro %}

{% macro _held_back_in(ledger, node_id) %}
    {%- set lines = ledger | selectattr('node_id', 'equalto', node_id) | list -%}
    {{ return(lines[-1].rows_quarantined + lines[-1].rows_dropped if lines else 0) }}
{% endmacro %}
