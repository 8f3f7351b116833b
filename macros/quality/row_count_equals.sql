{#- Fails when a model has not as many rows as another, give or take a share of them. -#}
{% test row_count_equals(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, row_count_equals__parameters()) -%}
    {{ query_test(model, rule, row_count_equals__failing(model, rule)) }}
{% endtest %}

{% macro row_count_equals__parameters() %}
    {{ return({'to': 'relation!', 'tolerance_share': 'share'}) }}
{% endmacro %}

{% macro row_count_equals__failing(relation, rule) %}
    select * from (
        select
            (select count(*) from {{ relation }}) as rows_here,
            (select count(*) from {{ rule.arguments.to }} as _other) as rows_there
    ) as counted
    where abs(rows_here - rows_there) > {{ rule.arguments.get('tolerance_share', 0) }} * rows_there
{% endmacro %}
