{#- Fails when the sum of a column is not that of a column of another model, give or take an amount. -#}
{% test total_equals(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, total_equals__parameters()) -%}
    {{ query_test(model, rule, total_equals__failing(model, rule)) }}
{% endtest %}

{% macro total_equals__parameters() %}
    {{ return({'column_name': 'column!', 'to': 'relation!', 'field': 'name!', 'tolerance': 'number'}) }}
{% endmacro %}

{% macro total_equals__failing(relation, rule) %}
    select * from (
        select
            (select coalesce(sum({{ rule.column }}), 0) from {{ relation }}) as total_here,
            (select coalesce(sum({{ adapter.quote(rule.arguments.field) }}), 0) from {{ rule.arguments.to }} as _other) as total_there
    ) as summed
    where abs(total_here - total_there) > {{ rule.arguments.get('tolerance', 0) }}
{% endmacro %}
