{#- Fails rows whose text does not match a regular expression, anywhere in it; a null passes. Anchor with ^ and $. -#}
{% test matches_pattern(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, matches_pattern__parameters()) -%}
    {{ row_test(model, rule, matches_pattern__broken(rule)) }}
{% endtest %}

{% macro matches_pattern__parameters() %}{{ return({'column_name': 'column!', 'pattern': 'pattern!'}) }}{% endmacro %}

{% macro matches_pattern__broken(rule) -%}
    not {{ adapter.dispatch('_matches', 'hubspoke')(rule.column, rule.arguments.pattern) }}
{%- endmacro %}

{% macro default___matches(column, pattern) -%}
    regexp_matches({{ column }}, {{ _text(pattern) }})
{%- endmacro %}

{% macro spark___matches(column, pattern) -%}
    {{ column }} rlike {{ _text(pattern) }}
{%- endmacro %}
