{#- A UTC timestamp on the stores' clock; each engine spells it in its own way. -#}
{% macro store_local_time(utc_timestamp) -%}
    {{ return(adapter.dispatch('store_local_time', 'hubspoke')(utc_timestamp)) }}
{%- endmacro %}

{% macro default__store_local_time(utc_timestamp) -%}
    timezone('{{ var("store_time_zone") }}', timezone('UTC', {{ utc_timestamp }}))
{%- endmacro %}

{% macro spark__store_local_time(utc_timestamp) -%}
    from_utc_timestamp({{ utc_timestamp }}, '{{ var("store_time_zone") }}')
{%- endmacro %}
