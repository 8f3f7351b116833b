{#- Fails rows whose combination of columns has come before; a combination with a null passes. With on_failure quarantine or
    drop the first row by keep_first_by ("column desc, …") stays. -#}
{% test unique_combination(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, unique_combination__parameters()) -%}
    {{ key_test(model, rule, unique_combination__key(rule)) }}
{% endtest %}

{% macro unique_combination__parameters() %}{{ return({'columns': 'columns!', 'keep_first_by': 'sql'}) }}{% endmacro %}

{% macro unique_combination__key(rule) %}{{ return(rule.columns) }}{% endmacro %}
