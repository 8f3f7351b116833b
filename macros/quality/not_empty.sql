{#- Fails rows whose text is empty or blank; a null passes. -#}
{% test not_empty(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, not_empty__parameters()) -%}
    {{ row_test(model, rule, not_empty__broken(rule)) }}
{% endtest %}

{% macro not_empty__parameters() %}{{ return({'column_name': 'column!'}) }}{% endmacro %}

{% macro not_empty__broken(rule) -%}
    trim(cast({{ rule.column }} as {{ dbt.type_string() }})) = ''
{%- endmacro %}
