{#- Fails a model whose newest date or UTC timestamp is older than so many hours, days or weeks at the moment of the build; a model
    without one fails. -#}
{% test recency(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, recency__parameters()) -%}
    {{ whole_test(model, rule, recency__observed(rule), recency__unfit(rule, '_observed')) }}
{% endtest %}

{% macro recency__parameters() %}
    {{ return({'column_name': 'column!', 'count': 'integer!', 'period': 'choice:hour|day|week|month|year!'}) }}
{% endmacro %}

{% macro recency__observed(rule) -%}
    max(cast({{ rule.column }} as timestamp))
{%- endmacro %}

{% macro recency__unfit(rule, observed) -%}
    {%- set now = 'cast(' ~ _text(run_started_at.strftime('%Y-%m-%d %H:%M:%S')) ~ ' as timestamp)' -%}
    coalesce({{ observed }} < {{ dbt.dateadd(rule.arguments.period, -1 * rule.arguments['count'], now) }}, true)
{%- endmacro %}
