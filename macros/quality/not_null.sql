{#- Fails rows without a value. -#}
{% test not_null(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, not_null__parameters()) -%}
    {{ row_test(model, rule, not_null__broken(rule)) }}
{% endtest %}

{% macro not_null__parameters() %}{{ return({'column_name': 'column!'}) }}{% endmacro %}

{% macro not_null__broken(rule) -%}
    {{ rule.column }} is null
{%- endmacro %}
