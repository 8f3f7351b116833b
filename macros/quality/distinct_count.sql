{#- Fails a model with fewer distinct values than min_value or more than max_value. -#}
{% test distinct_count(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, distinct_count__parameters()) -%}
    {{ whole_test(model, rule, distinct_count__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro distinct_count__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro distinct_count__observed(rule) -%}
    count(distinct {{ rule.column }})
{%- endmacro %}
