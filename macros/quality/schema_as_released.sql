{#- Fails for each column of a spoke's relation that the current release does not have, has with another type, or has and this has not. -#}
{% test schema_as_released(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, schema_as_released__parameters()) -%}
    {{ query_test(model, rule, schema_as_released__failing(model, rule)) }}
{% endtest %}

{% macro schema_as_released__parameters() %}
    {{ return({}) }}
{% endmacro %}

{% macro schema_as_released__failing(relation, rule) %}
    {%- set released = _released(relation) -%}
    {%- if not released -%}
        select 1 as nothing_released where false
    {%- else -%}
        {{ adapter.dispatch('_other_columns', 'hubspoke')(relation, released) }}
    {%- endif -%}
{% endmacro %}

{% macro default___other_columns(relation, released) %}
        (
            select column_name, column_type, 'now' as found_in from (describe select * from {{ relation }})
            except
            select column_name, column_type, 'now' as found_in from (describe {{ released }})
        )
        union all
        (
            select column_name, column_type, 'release' as found_in from (describe {{ released }})
            except
            select column_name, column_type, 'release' as found_in from (describe select * from {{ relation }})
        )
{% endmacro %}

{#- Spark's describe is no relation that can be selected from. -#}
{% macro spark___other_columns(relation, released) %}
    {%- set sides = {'now': {}, 'release': {}} -%}
    {%- for side, query in [('now', 'select * from ' ~ relation), ('release', released)] -%}
        {%- for row in run_query('describe query ' ~ query).rows -%}{%- do sides[side].update({row[0]: row[1]}) -%}{%- endfor -%}
    {%- endfor -%}
    {%- set found = [] -%}
    {%- for side, other in [('now', 'release'), ('release', 'now')] -%}
        {%- for column, type in sides[side].items() if sides[other].get(column) != type -%}
            {%- do found.append('select ' ~ _text(column) ~ ' as column_name, ' ~ _text(type) ~ ' as column_type, ' ~ _text(side) ~ ' as found_in') -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ found | join(' union all ') if found else 'select 1 as nothing_differs where false' }}
{% endmacro %}
