{#- Fails a model whose quantile of a column (share 0.5 is the median) lies outside [min_value, max_value]. -#}
{% test quantile(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, quantile__parameters()) -%}
    {{ whole_test(model, rule, quantile__observed(rule), _outside('_observed', rule.arguments)) }}
{% endtest %}

{% macro quantile__parameters() %}
    {{ return({'column_name': 'column!', 'share': 'share!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro quantile__observed(rule) -%}
    percentile_cont({{ rule.arguments.share }}) within group (order by {{ rule.column }})
{%- endmacro %}
