{#- Fails rows whose value is not in the list; a null passes. quote: false takes the values as SQL, for numbers and dates. -#}
{% test accepted_values(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, accepted_values__parameters()) -%}
    {{ row_test(model, rule, accepted_values__broken(rule)) }}
{% endtest %}

{% macro accepted_values__parameters() %}
    {{ return({'column_name': 'column!', 'values': 'list!', 'quote': 'boolean'}) }}
{% endmacro %}

{% macro accepted_values__broken(rule) -%}
    {{ rule.column }} not in (
        {%- for value in rule.arguments['values'] -%}
            {{ value if rule.arguments.get('quote', true) is false else _text(value) }}{{ ', ' if not loop.last }}
        {%- endfor -%}
    )
{%- endmacro %}
