{#- Days from the Monday of trading week 1 to a date. -#}
{% macro days_since_first_week(date) -%}
    {{ dbt.datediff("cast('" ~ var('first_week_start_date') ~ "' as date)", date, 'day') }}
{%- endmacro %}
