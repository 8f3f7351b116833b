{#- Fails a model whose share of rows without a value, 0 to 1, lies outside [min_value, max_value]; of no rows it is 0. -#}
{% test null_share(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, null_share__parameters()) -%}
    {{ whole_test(model, rule, null_share__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro null_share__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro null_share__observed(rule) -%}
    coalesce(avg(case when {{ rule.column }} is null then 1.0 else 0.0 end), 0)
{%- endmacro %}
