{#- Fails rows in which a column comes after the next of the list: dates or numbers that must rise from left to right.
    Equal values pass unless strictly: true; a null passes. -#}
{% test ordered(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, ordered__parameters()) -%}
    {{ row_test(model, rule, ordered__broken(rule)) }}
{% endtest %}

{% macro ordered__parameters() %}{{ return({'columns': 'columns!', 'strictly': 'boolean'}) }}{% endmacro %}

{% macro ordered__broken(rule) -%}
    {%- set sign = '>=' if rule.arguments.get('strictly') else '>' -%}
    (
        {%- for column in rule.columns[:-1] -%}
            {{ column }} {{ sign }} {{ rule.columns[loop.index] }}{{ ' or ' if not loop.last }}
        {%- endfor -%}
    )
{%- endmacro %}
