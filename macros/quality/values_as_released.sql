{#- Fails when a column's values have moved against the current release: a population stability index above max_value (0.1 is small, 0.25 large), over tenths of the released values, or over the values themselves where they are text. -#}
{% test values_as_released(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, values_as_released__parameters()) -%}
    {{ query_test(model, rule, values_as_released__failing(model, rule)) }}
{% endtest %}

{% macro values_as_released__parameters() %}
    {{ return({'column_name': 'column!', 'max_value': 'number'}) }}
{% endmacro %}

{% macro values_as_released__failing(relation, rule) %}
    {%- set released = _released(relation) -%}
    {%- if not released -%}
        select 1 as nothing_released where false
    {%- else -%}
        with released as (select {{ rule.column }} as value from ({{ released }}) as _released where {{ rule.column }} is not null),

        present as (select {{ rule.column }} as value from {{ relation }} where {{ rule.column }} is not null),

        is_text as (
            select coalesce(max(upper(typeof(value)) in ('VARCHAR', 'STRING', 'BOOLEAN')), false) as yes
            from (select value from released limit 1) as _first
        ),

        placed as (
            select value, row_number() over (order by value asc nulls last) as place, count(*) over () as row_count from released
        ),

        bounds as (
            select
                {%- for tenth in range(1, 10) %}
                min(case when place >= {{ tenth }} * row_count / 10.0 then value end) as tenth_{{ tenth }}{{ ',' if not loop.last }}
                {%- endfor %}
            from placed
        ),

        released_bins as (select {{ _bin() }} as bin, count(*) as row_count from released cross join bounds cross join is_text group by 1),

        present_bins as (select {{ _bin() }} as bin, count(*) as row_count from present cross join bounds cross join is_text group by 1),

        -- a bin that is empty on one side counts as half a row: the index has no logarithm of nothing
        shares as (
            select
                greatest(coalesce(released_bins.row_count, 0), 0.5) / (select greatest(count(*), 1) from released) as released_share,
                greatest(coalesce(present_bins.row_count, 0), 0.5) / (select greatest(count(*), 1) from present) as present_share
            from released_bins
            full outer join present_bins on released_bins.bin = present_bins.bin
        )

        select * from (
            select sum((present_share - released_share) * ln(present_share / released_share)) as stability_index from shares
        ) as measured
        where stability_index > {{ rule.arguments.get('max_value', 0.25) }}
    {%- endif -%}
{% endmacro %}

{% macro _bin() -%}
    case when is_text.yes then cast(value as {{ dbt.type_string() }}) else cast(
        {%- for tenth in range(1, 10) %}
        {{ '+ ' if not loop.first }}case when tenth_{{ tenth }} < value then 1 else 0 end
        {%- endfor %}
        as {{ dbt.type_string() }}
    ) end
{%- endmacro %}
