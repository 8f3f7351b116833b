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
    {{ return(run_query('select hubspoke_released(' ~ _text(target.name) ~ ')').rows[0][0]) }}
{% endmacro %}
