{#- Fails rows whose value has come before; a null passes. With on_failure quarantine or drop the first row by keep_first_by
    ("column desc, …") stays. -#}
{% test unique(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, unique__parameters()) -%}
    {{ key_test(model, rule, unique__key(rule)) }}
{% endtest %}

{% macro unique__parameters() %}{{ return({'column_name': 'column!', 'keep_first_by': 'sql'}) }}{% endmacro %}

{% macro unique__key(rule) %}{{ return([rule.column]) }}{% endmacro %}
