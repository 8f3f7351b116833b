{#- Fails rows whose value lies outside [min_value, max_value]; a null passes. NaN counts as larger than any number. -#}
{% test accepted_range(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, accepted_range__parameters()) -%}
    {{ row_test(model, rule, accepted_range__broken(rule)) }}
{% endtest %}

{% macro accepted_range__parameters() %}
    {{ return({'column_name': 'column!', 'min_value': 'value', 'max_value': 'value', '_any_of': ['min_value', 'max_value']}) }}
{% endmacro %}

{% macro accepted_range__broken(rule) -%}
    {{ _outside(rule.column, rule.arguments) }}
{%- endmacro %}

{#- SQL that is true where an expression lies below min_value or above max_value; either may be missing. -#}
{% macro _outside(expression, arguments) -%}
    {%- set sides = [] -%}
    {%- if arguments.get('min_value') is not none -%}
        {%- do sides.append(expression ~ ' < ' ~ arguments.min_value) -%}
    {%- endif -%}
    {%- if arguments.get('max_value') is not none -%}
        {%- do sides.append(expression ~ ' > ' ~ arguments.max_value) -%}
    {%- endif -%}
    ({{ sides | join(' or ') }})
{%- endmacro %}
