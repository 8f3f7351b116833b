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
    {%- endif -%}
{% endmacro %}
