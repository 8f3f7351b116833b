{#- Fails rows whose text cannot be read as a type; a null passes. -#}
{% test castable(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, castable__parameters()) -%}
    {{ row_test(model, rule, castable__broken(rule)) }}
{% endtest %}

{% macro castable__parameters() %}{{ return({'column_name': 'column!', 'data_type': 'type!'}) }}{% endmacro %}

{% macro castable__broken(rule) -%}
    {{ rule.column }} is not null and try_cast({{ rule.column }} as {{ rule.arguments.data_type }}) is null
{%- endmacro %}
