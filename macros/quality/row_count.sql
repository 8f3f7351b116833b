{#- Fails a model with fewer rows than min_value or more than max_value. -#}
{% test row_count(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, row_count__parameters()) -%}
    {{ whole_test(model, rule, row_count__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro row_count__parameters() %}
    {{ return({'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro row_count__observed(rule) -%}
    count(*)
{%- endmacro %}
