{#- Fails for each row whose interval [valid_from, valid_to) begins before an earlier one of the same by has ended; no valid_to means for ever. -#}
{% test no_overlaps(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, no_overlaps__parameters()) -%}
    {{ query_test(model, rule, no_overlaps__failing(model, rule)) }}
{% endtest %}

{% macro no_overlaps__parameters() %}
    {{ return({'valid_from': 'column!', 'valid_to': 'column!', 'by': 'columns!'}) }}
{% endmacro %}

{% macro no_overlaps__failing(relation, rule) %}
    {%- set groups = _quoted(rule.arguments.by) -%}
    {%- set from, to = adapter.quote(rule.arguments.valid_from), adapter.quote(rule.arguments.valid_to) -%}
    select * from (
        select
            {{ groups | join(', ') }},
            {{ from }},
            max(coalesce(cast({{ to }} as timestamp), timestamp '9999-12-31 00:00:00')) over (
                partition by {{ groups | join(', ') }}
                order by {{ from }} asc nulls last, {{ to }} asc nulls last
                rows between unbounded preceding and 1 preceding
            ) as earlier_end
        from {{ relation }}
    ) as followed
    where cast({{ from }} as timestamp) < earlier_end
{% endmacro %}
