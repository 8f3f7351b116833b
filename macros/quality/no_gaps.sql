{#- Fails for each value after which the next day (or, for whole numbers, the next number) is missing, within each group of by. -#}
{% test no_gaps(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, no_gaps__parameters()) -%}
    {{ query_test(model, rule, no_gaps__failing(model, rule)) }}
{% endtest %}

{% macro no_gaps__parameters() %}
    {{ return({'column_name': 'column!', 'by': 'columns'}) }}
{% endmacro %}

{% macro no_gaps__failing(relation, rule) %}
    {%- set groups = _quoted(rule.arguments.get('by', [])) -%}
    select * from (
        select
            {{ rule.column }} as value_before_gap,
            lead({{ rule.column }}) over (
                {{ 'partition by ' ~ groups | join(', ') if groups }} order by {{ rule.column }} asc nulls last
            ) as value_after_gap
        from (select distinct {{ (groups + [rule.column]) | join(', ') }} from {{ relation }}) as _distinct
        where {{ rule.column }} is not null
    ) as followed
    where value_after_gap <> value_before_gap + 1
{% endmacro %}
