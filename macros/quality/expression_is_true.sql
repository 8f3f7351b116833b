{#- Fails rows for which a SQL expression over the row is false; where it is null, the row passes. -#}
{% test expression_is_true(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, expression_is_true__parameters()) -%}
    {{ row_test(model, rule, expression_is_true__broken(rule)) }}
{% endtest %}

{% macro expression_is_true__parameters() %}{{ return({'expression': 'sql!'}) }}{% endmacro %}

{% macro expression_is_true__broken(rule) -%}
    not ({{ rule.arguments.expression }})
{%- endmacro %}
