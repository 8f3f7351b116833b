{#- Runs a statement whose result nobody reads; dbt's run_query would make a table of it, at a few milliseconds each. -#}
{% macro run_statement(sql) %}
    {%- call statement('run_statement', fetch_result=false, auto_begin=false) -%}{{ sql }}{%- endcall -%}
{% endmacro %}
