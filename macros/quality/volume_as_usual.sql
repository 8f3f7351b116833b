{#- Fails for each day whose row count lies further from the median of its weekday than so many times the weekday's median absolute deviation (scaled to a standard deviation, at least one twentieth of the median). -#}
{% test volume_as_usual(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, volume_as_usual__parameters()) -%}
    {{ query_test(model, rule, volume_as_usual__failing(model, rule)) }}
{% endtest %}

{% macro volume_as_usual__parameters() %}
    {{ return({'column_name': 'column!', 'deviations': 'number', 'last_days': 'integer'}) }}
{% endmacro %}

{% macro volume_as_usual__failing(relation, rule) %}
    {%- set weekday = 'extract(dow from day_of_rows)' -%}
    with days as (
        select cast({{ rule.column }} as date) as day_of_rows, count(*) as row_count
        from {{ relation }}
        where {{ rule.column }} is not null
        group by cast({{ rule.column }} as date)
    ),

    usual as (
        select {{ weekday }} as weekday, median(row_count) as usual_count
        from days
        group by {{ weekday }}
    ),

    spread as (
        select usual.weekday, 1.4826 * median(abs(days.row_count - usual.usual_count)) as usual_deviation
        from days
        inner join usual on usual.weekday = extract(dow from days.day_of_rows)
        group by usual.weekday
    )

    select days.day_of_rows, days.row_count, usual.usual_count, spread.usual_deviation
    from days
    inner join usual on usual.weekday = extract(dow from days.day_of_rows)
    inner join spread on spread.weekday = usual.weekday
    where
        abs(days.row_count - usual.usual_count)
        > {{ rule.arguments.get('deviations', 5) }} * greatest(spread.usual_deviation, 0.05 * usual.usual_count)
        {%- if rule.arguments.get('last_days') %}
        and days.day_of_rows > (select max(day_of_rows) from days) - {{ rule.arguments.last_days }}
        {%- endif %}
{% endmacro %}
