{#- Fails a model whose sum of a column lies outside [min_value, max_value]; nulls do not count. -#}
{% test total(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, total__parameters()) -%}
    {{ whole_test(model, rule, total__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro total__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro total__observed(rule) -%}
    coalesce(sum({{ rule.column }}), 0)
{%- endmacro %}
