{#- The columns of a contract as a query without rows. varchar, as contracts have it, is Spark's string. -#}
{% macro spark__get_empty_schema_sql(columns) %}
    {%- set spoken = {} -%}
    {%- for name, column in columns.items() -%}
        {%- set type = column['data_type'] or '' -%}
        {%- do spoken.update({name: dict(column, data_type='string' if type | lower == 'varchar' else type)}) -%}
    {%- endfor -%}
    {{ return(dbt.default__get_empty_schema_sql(spoken)) }}
{% endmacro %}
