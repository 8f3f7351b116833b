{#- The tables and views of a schema, which is made if it is not there. dbt's own way asks Iceberg what it cannot answer, and then describes
    each table by itself. (Its columns: schema, name, whether it is temporary, what dbt looks for a table's kind in.) -#}
{% macro spark__list_relations_without_caching(relation) %}
    {%- do run_statement('create schema if not exists ' ~ relation.schema) -%}
    {%- set found = [] -%}
    {%- for kind in ['tables', 'views'] -%}
        {%- for row in run_query('show ' ~ kind ~ ' in ' ~ relation.schema).rows if not row[2] -%}
            {%- set information = 'Type: VIEW' if kind == 'views' else 'Provider: iceberg' -%}
            {%- do found.append('(' ~ _text(relation.schema) ~ ', ' ~ _text(row[1]) ~ ', false, ' ~ _text(information) ~ ')') -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return(run_query('select * from values ' ~ (found or ["('', '', false, '')"]) | join(', ') ~ (' where false' if not found))) }}
{% endmacro %}
