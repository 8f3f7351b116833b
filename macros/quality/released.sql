{#- A select of a spoke's relation as the current release holds it; nothing before its first release. -#}
{% macro _released(relation) %}
    {%- if not execute -%}{{ return('') }}{%- endif -%}
    {%- set target = graph.nodes[model.attached_node] -%}
    {%- if target.fqn[1] != 'spokes' -%}
        {%- do exceptions.raise_compiler_error(
            _where_is(model) ~ model.test_metadata.name ~ ' compares with a release, and only spokes are released; '
            ~ target.name ~ ' is none'
        ) -%}
    {%- endif -%}
    {{ return(adapter.dispatch('_released_rows', 'hubspoke')(target.name)) }}
{% endmacro %}

{% macro default___released_rows(name) %}
    {{ return(run_query('select hubspoke_released(' ~ _text(name) ~ ')').rows[0][0]) }}
{% endmacro %}

{#- Spark knows of the release what `hubspoke spark land` has last shown it. -#}
{% macro spark___released_rows(name) %}
    {%- set parts = [] -%}
    {%- for row in run_query('select file from landing._released where name = ' ~ _text(name)).rows -%}
        {%- do parts.append('select * from parquet.`' ~ row[0] ~ '`') -%}
    {%- endfor -%}
    {{ return(parts | join(' union all ')) }}
{% endmacro %}
