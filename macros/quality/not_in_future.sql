{#- Fails rows whose date or UTC timestamp lies after the moment of the build; a null passes. -#}
{% test not_in_future(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, not_in_future__parameters()) -%}
    {{ row_test(model, rule, not_in_future__broken(rule)) }}
{% endtest %}

{% macro not_in_future__parameters() %}{{ return({'column_name': 'column!'}) }}{% endmacro %}

{% macro not_in_future__broken(rule) -%}
    cast({{ rule.column }} as timestamp) > {{ _text(run_started_at.strftime('%Y-%m-%d %H:%M:%S')) }}
{%- endmacro %}
