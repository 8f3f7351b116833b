{#- Fails rows whose value is not found in `field` of another model; a null passes, and so does unknown_member, where the
    model declares one. -#}
{% test relationships(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, relationships__parameters()) -%}
    {{ row_test(model, rule, relationships__broken(rule)) }}
{% endtest %}

{% macro relationships__parameters() %}
    {{ return({'column_name': 'column!', 'to': 'relation!', 'field': 'name!', 'unknown_member': 'value'}) }}
{% endmacro %}

{% macro relationships__broken(rule) -%}
    {{ rule.column }} is not null
    {%- if rule.arguments.get('unknown_member') is not none %} and {{ rule.column }} <> {{ rule.arguments.unknown_member }}{% endif %}
    and {{ rule.column }} not in (
        select {{ adapter.quote(rule.arguments.field) }} from {{ rule.other }} where {{ adapter.quote(rule.arguments.field) }} is not null
    )
{%- endmacro %}
