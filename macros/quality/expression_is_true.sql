{#- Fails rows for which a SQL expression over the row is false; where it is null, the row passes. -#}
{% test expression_is_true(model, expression) %}
    select *
    from {{ model }}
    where {{ _expression_is_true__broken({'expression': expression}) }}
{% endtest %}

{% macro _expression_is_true__broken(arguments) -%}
    (not ({{ arguments.expression }}))
{%- endmacro %}
