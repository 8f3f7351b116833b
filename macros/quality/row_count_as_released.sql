{#- Fails when a spoke's relation has more or fewer rows than in the current release by more than a share of them. -#}
{% test row_count_as_released(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, row_count_as_released__parameters()) -%}
    {{ query_test(model, rule, row_count_as_released__failing(model, rule)) }}
{% endtest %}

{% macro row_count_as_released__parameters() %}
    {{ return({'tolerance_share': 'share!'}) }}
{% endmacro %}

{% macro row_count_as_released__failing(relation, rule) %}
    {%- set released = _released(relation) -%}
    {%- if not released -%}
        select 1 as nothing_released where false
    {%- else -%}
        select * from (
            select
                (select count(*) from {{ relation }}) as rows_now,
                (select count(*) from ({{ released }}) as _released) as rows_released
        ) as counted
        where abs(rows_now - rows_released) > {{ rule.arguments.tolerance_share }} * rows_released
    {%- endif -%}
{% endmacro %}
