{#- Points every source that this run reads at the load that is current now, so that the whole run reads one state of the landing
    zone while ingestion goes on. A pin that changed counts as a new build of its source. The others stay where they are, as what was
    built from them is not built now; those that nothing reads yet are there to be looked at. -#}
{% macro pin_landing() %}
    {#- to compile is not to run: dbt compiles hooks, too, in no order -#}
    {%- if execute and flags.WHICH not in ['compile', 'generate'] -%}
        {%- do adapter.dispatch('_create_run_log', 'hubspoke')() -%}
        {%- do adapter.dispatch('_pin_sources', 'hubspoke')() -%}
    {%- endif -%}
{% endmacro %}

{% macro default___pin_sources() %}
        {%- set answer = fromjson(run_query('select hubspoke_landed()').columns[0].values()[0]) -%}
        {%- if answer.error is defined -%}{%- do exceptions.raise_compiler_error(answer.error) -%}{%- endif -%}
        {%- set missing, in_place = [], [] -%}
        {%- set read_now, read_by_others = _sources_read_now() -%}
        {%- for source in graph.sources.values() if source.unique_id not in read_by_others -%}
            {%- set name = source.source_name ~ '.' ~ source.name -%}
            {%- if answer.declared.get(name) is false -%}
                {%- if source.unique_id in read_now -%}{%- do in_place.append(source) -%}{%- endif -%}
            {%- elif name in answer.landed -%}
                {%- do _pin_source(source, answer.landed[name]) -%}
            {%- elif name in answer.declared and source.unique_id in read_now -%}
                {%- do missing.append(name) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if in_place -%}{%- do _pin_in_place(in_place) -%}{%- endif -%}
        {%- do _make_room_for_seeds() -%}
        {%- if missing -%}
            {%- do exceptions.raise_compiler_error(
                'Nothing has landed yet for ' ~ missing | join(', ') ~ '. Land it first: hubspoke ingest'
            ) -%}
        {%- endif -%}
{% endmacro %}

{#- Spark reads what `hubspoke spark land` has registered, as of one snapshot of each table. That a run has begun is written down with
    what it reads and is to build: none of that is finished until a note says so. -#}
{% macro spark___pin_sources() %}
    {%- set read_now, read_by_others = _sources_read_now() -%}
    {%- set registered, missing, loads = {}, [], {} -%}
    {%- do run_statement('create schema if not exists landing') -%}
    {%- if adapter.get_relation(none, 'landing', '_loads') -%}
        {%- for row in run_query('select * from landing._loads').rows -%}{%- do registered.update({row['name']: row}) -%}{%- endfor -%}
    {%- endif -%}
    {%- for source in graph.sources.values() if source.unique_id in read_now -%}
        {%- set landed = registered.get(source.schema ~ '.' ~ source.identifier) -%}
        {%- if landed -%}
            {%- do run_statement('create schema if not exists ' ~ source.schema) -%}
            {%- do run_statement(
                'create or replace view ' ~ source.schema ~ '.' ~ source.identifier ~ ' as select * from hub.landing.' ~ landed['table_name']
                ~ ' version as of ' ~ landed['snapshot_id']
            ) -%}
            {%- do loads.update({source.unique_id: landed['load_id']}) -%}
        {%- else -%}
            {%- do missing.append(source.source_name ~ '.' ~ source.name) -%}
        {%- endif -%}
    {%- endfor -%}
    {%- if missing -%}
        {%- do exceptions.raise_compiler_error(
            'Spark sees nothing yet of ' ~ missing | join(', ') ~ '. Land it and show it: hubspoke ingest && hubspoke spark land. '
            ~ 'A source that is read where it is has to be pinned for that (pin: true).'
        ) -%}
    {%- endif -%}
    {%- do _write_note('began', {'loads': loads, 'selected': selected_resources}) -%}
{% endmacro %}

{#- dbt puts no seed in the place of a view, which is what a development environment has of one. -#}
{% macro _make_room_for_seeds() %}
    {%- for node in graph.nodes.values() if node.resource_type == 'seed' and node.unique_id in selected_resources -%}
        {%- set there = adapter.get_relation(node.database, node.schema, node.alias) -%}
        {%- if there and there.is_view -%}{%- do adapter.drop_relation(there) -%}{%- endif -%}
    {%- endfor -%}
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

{#- Sources that a node of this run reads, by itself or through views; and those that only other nodes of the project read. -#}
{% macro _sources_read_now() %}
    {%- set now, others, seen, waiting = {}, {}, {}, [] -%}
    {%- for node in graph.nodes.values() if node.unique_id in selected_resources -%}{%- do waiting.append(node) -%}{%- endfor -%}
    {%- for _ in range(100000) if waiting -%}
        {%- for parent in waiting.pop().depends_on.nodes or [] if parent not in seen -%}
            {%- do seen.update({parent: true}) -%}
            {%- if parent in graph.sources -%}
                {%- do now.update({parent: true}) -%}
            {%- elif graph.nodes[parent].config.materialized in ['view', 'ephemeral'] -%}
                {%- do waiting.append(graph.nodes[parent]) -%}
            {%- endif -%}
        {%- endfor -%}
    {%- endfor -%}
    {%- for node in graph.nodes.values() -%}
        {%- for parent in node.depends_on.nodes or [] if parent in graph.sources and parent not in now -%}
            {%- do others.update({parent: true}) -%}
        {%- endfor -%}
    {%- endfor -%}
    {{ return((now, others)) }}
{% endmacro %}

{#- The views are made anew even for the same load: the project may have been moved. All at once, so that what is noted is what they show. -#}
{% macro _pin_source(source, load) %}
    {%- set statements = ['begin', 'create schema if not exists ' ~ source.schema] -%}
    {%- for suffix, sql in load.views.items() -%}
        {%- set relation = api.Relation.create(source.database, source.schema, source.identifier ~ suffix) -%}
        {%- do statements.append('create or replace view ' ~ relation ~ ' as ' ~ sql) -%}
    {%- endfor -%}
    {%- set pinned = run_query(
        "select fingerprint from runs.builds where node_id = '" ~ source.unique_id ~ "' order by build_number desc limit 1"
    ) -%}
    {%- if not pinned.rows or pinned.columns[0].values()[0] != load.load_id -%}
        {%- do statements.append(_insert_build(source.unique_id, 'finished', '', load.load_id)) -%}
    {%- endif -%}
    {%- do run_statement(statements | join(';\n') ~ ';\ncommit') -%}
{% endmacro %}
