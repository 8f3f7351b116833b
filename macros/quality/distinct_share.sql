{#- Fails a model whose distinct values, as a share of its values, lie outside [min_value, max_value]; a key has 1. -#}
{% test distinct_share(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, distinct_share__parameters()) -%}
    {{ whole_test(model, rule, distinct_share__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro distinct_share__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro distinct_share__observed(rule) -%}
    cast(count(distinct {{ rule.column }}) as double) / nullif(count({{ rule.column }}), 0)
{%- endmacro %}
