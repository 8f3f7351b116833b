{#- A seed's rows in one statement. dbt's own way writes an empty value as the text None, and ends a text at its apostrophe. -#}
{% macro spark__load_csv_rows(model, agate_table) %}
    {%- set types, rows = model['config'].get('column_types', {}), [] -%}
    {%- for row in agate_table.rows -%}
        {%- set values = [] -%}
        {%- for name in agate_table.column_names -%}
            {%- set type = types.get(name, adapter.convert_type(agate_table, loop.index0)) -%}
            {%- do values.append('cast(' ~ (_text(row[name]) if row[name] is not none else 'null') ~ ' as ' ~ type ~ ')') -%}
        {%- endfor -%}
        {%- do rows.append('(' ~ values | join(', ') ~ ')') -%}
    {%- endfor -%}
    {%- set sql = 'insert into ' ~ this ~ ' values ' ~ rows | join(',\n') -%}
    {%- if rows -%}{%- do run_statement(sql) -%}{%- endif -%}
    {{ return(sql if rows else '') }}
{% endmacro %}
