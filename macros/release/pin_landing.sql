{#- Points every source at the load that is current now, so that the whole run reads one state of the landing zone
    while ingestion goes on. A pin that changed counts as a new build of its source. -#}
{% macro pin_landing() %}
    {#- to compile is not to run: dbt compiles hooks, too, in no order -#}
    {%- if execute and flags.WHICH not in ['compile', 'generate'] -%}
        {%- do _create_run_log() -%}
        {%- set answer = fromjson(run_query('select hubspoke_landed()').columns[0].values()[0]) -%}
        {%- if answer.error is defined -%}{%- do exceptions.raise_compiler_error(answer.error) -%}{%- endif -%}
        {%- set missing, in_place = [], [] -%}
        {%- for source in graph.sources.values() if (source.source_name ~ '.' ~ source.name) in answer.declared -%}
            {%- set name = source.source_name ~ '.' ~ source.name -%}
            {%- if not answer.declared[name] -%}
                {%- if _is_read_now(source.unique_id) -%}{%- do in_place.append(source) -%}{%- endif -%}
            {%- elif name in answer.landed -%}
                {%- do _pin_source(source, answer.landed[name]) -%}
            {%- elif _is_read_now(source.unique_id) -%}
                {%- do missing.append(name) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if in_place -%}{%- do _pin_in_place(in_place) -%}{%- endif -%}
        {%- if missing -%}
            {%- do exceptions.raise_compiler_error(
                'Nothing has landed yet for ' ~ missing | join(', ') ~ '. Land it first: hubspoke ingest'
            ) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- Nobody tells whether a source that is read where it is has changed, so each run that reads it counts as a new build of it. -#}
{% macro _pin_in_place(in_place) %}
    {%- set names = [] -%}
    {%- for source in in_place -%}{%- do names.append(source.source_name ~ '.' ~ source.name) -%}{%- endfor -%}
    {%- set answer = fromjson(run_query('select hubspoke_federated(' ~ _text(tojson(names)) ~ ')').columns[0].values()[0]) -%}
    {%- if answer.error is defined -%}{%- do exceptions.raise_compiler_error(answer.error) -%}{%- endif -%}
    {%- for source in in_place -%}
        {%- set view = answer.views[source.source_name ~ '.' ~ source.name] -%}
        {%- do _pin_source(source, {'load_id': invocation_id, 'views': {'': view}}) -%}
    {%- endfor -%}
{% endmacro %}

{#- By a node of this run, or through views that stay as they are. -#}
{% macro _is_read_now(node_id) %}
    {%- for node in graph.nodes.values() if node_id in (node.depends_on.nodes or []) -%}
        {%- set is_view = node.config.materialized in ['view', 'ephemeral'] -%}
        {%- if node.unique_id in selected_resources or (is_view and _is_read_now(node.unique_id)) -%}
            {{ return(true) }}
        {%- endif -%}
    {%- endfor -%}
    {{ return(false) }}
{% endmacro %}

{#- The views are made anew even for the same load: the project may have been moved. -#}
{% macro _pin_source(source, load) %}
    {%- do run_statement('create schema if not exists ' ~ source.schema) -%}
    {%- for suffix, sql in load.views.items() -%}
        {%- set relation = api.Relation.create(source.database, source.schema, source.identifier ~ suffix) -%}
        {%- do run_statement('create or replace view ' ~ relation ~ ' as ' ~ sql) -%}
    {%- endfor -%}
    {%- set pinned = run_query(
        "select fingerprint from runs.builds where node_id = '" ~ source.unique_id ~ "' order by build_number desc limit 1"
    ) -%}
    {%- if not pinned.rows or pinned.columns[0].values()[0] != load.load_id -%}
        {%- do run_statement(_insert_build(source.unique_id, 'finished', '', load.load_id)) -%}
    {%- endif -%}
{% endmacro %}
