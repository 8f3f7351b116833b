{#- Fails a model whose mean of a column lies outside [min_value, max_value]; nulls do not count. -#}
{% test average(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, average__parameters()) -%}
    {{ whole_test(model, rule, average__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro average__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro average__observed(rule) -%}
    avg(cast({{ rule.column }} as double))
{%- endmacro %}
