{#- Fails rows whose value lies outside [min_value, max_value]; a null passes. -#}
{% test accepted_range(model, column_name, min_value=none, max_value=none) %}
    select *
    from {{ model }}
    where {{ _accepted_range__broken({'column_name': column_name, 'min_value': min_value, 'max_value': max_value}) }}
{% endtest %}

{% macro _accepted_range__broken(arguments) -%}
    {%- set bounds = [] -%}
    {%- if arguments.get('min_value') is not none -%}
        {%- do bounds.append(arguments.column_name ~ ' < ' ~ arguments.min_value) -%}
    {%- endif -%}
    {%- if arguments.get('max_value') is not none -%}
        {%- do bounds.append(arguments.column_name ~ ' > ' ~ arguments.max_value) -%}
    {%- endif -%}
    {%- if not bounds -%}
        {%- do exceptions.raise_compiler_error(
            'accepted_range on ' ~ arguments.column_name ~ ' needs min_value, max_value or both'
        ) -%}
    {%- endif -%}
    ({{ bounds | join(' or ') }})
{%- endmacro %}
