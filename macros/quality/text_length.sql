{#- Fails rows whose text is shorter than min_value or longer than max_value characters; a null passes. -#}
{% test text_length(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, text_length__parameters()) -%}
    {{ row_test(model, rule, text_length__broken(rule)) }}
{% endtest %}

{% macro text_length__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'integer', 'max_value': 'integer', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro text_length__broken(rule) -%}
    {{ _outside('length(' ~ rule.column ~ ')', rule.arguments) }}
{%- endmacro %}
