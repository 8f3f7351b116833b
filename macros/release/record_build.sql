{#- Post-hook of every model and seed: notes, in the transaction that built it, that it was built and when. What built it is added
    at the end of the run (hubspoke/fingerprint.py); the release reads these notes to know what is out of date. -#}
{% macro record_build() %}
    {#- on Spark, what ran is written down when the run ends (finish_run), and dbt runs no hook that asks for no transaction -#}
    {%- if target.type == 'spark' -%}
        {%- do quality_gate() if model.resource_type == 'model' -%}
    {%- elif execute -%}
        {{ _insert_build(model.unique_id, 'unfinished' if _is_finished_by_gate() else _state(), model.compiled_code or '') }}
    {%- endif -%}
{% endmacro %}

{#- An empty or sampled build is real enough to develop on, never to release. -#}
{% macro _state() %}
    {{ return('sample' if flags.EMPTY or flags.SAMPLE else 'finished') }}
{% endmacro %}

{% macro _insert_build(node_id, state, compiled_sql, fingerprint=none) %}
    insert into runs.builds (build_number, run_id, node_id, state, fingerprint, compiled_sql, built_at)
    values (
        nextval('runs.build_number'),
        {{ _text(invocation_id) }},
        {{ _text(node_id) }},
        {{ _text(state) }},
        {{ _text(fingerprint) if fingerprint else 'null' }},
        {{ _text(compiled_sql) }},
        now()
    )
{% endmacro %}

{#- What the gates of this run have found, on an engine whose every insert is a commit of a third of a second: kept in memory until the run
    ends, with the rows that were let through rules when it began.
    {exceptions: [[model, rule, condition, reason, day]], failures: {test: rows}, measurements: [{…}], ledger: [{…}]} -#}
{% macro _notes() %}
    {{ return(graph.setdefault('hubspoke_notes', {'exceptions': [], 'failures': {}, 'measurements': [], 'ledger': []})) }}
{% endmacro %}

{% macro _write_note(kind, content) %}
    {%- do run_statement(
        'insert into runs.notes values (' ~ _text(invocation_id) ~ ', ' ~ _text(kind) ~ ', current_timestamp(), ' ~ _text(tojson(content)) ~ ')'
    ) -%}
{% endmacro %}

{% macro spark___create_run_log() %}
    {%- for schema in ['runs', 'quality', 'quarantine'] -%}{%- do run_statement('create schema if not exists ' ~ schema) -%}{%- endfor -%}
    {%- do run_statement(
        'create table if not exists runs.notes (run_id string, kind string, noted_at timestamp_ltz, content string) using iceberg'
    ) -%}
{% endmacro %}

{% macro default___create_run_log() %}
    {%- do run_statement('create schema if not exists runs') -%}
    {%- do run_statement('create sequence if not exists runs.build_number') -%}
    {%- do run_statement('create table if not exists runs.builds (
        build_number bigint, run_id varchar, node_id varchar, state varchar, fingerprint varchar, compiled_sql varchar,
        built_at timestamptz, version varchar
    )') -%}
    {%- do run_statement('create table if not exists runs.results (
        build_number bigint, run_id varchar, node_id varchar, status varchar, fingerprint varchar, failures bigint,
        seconds double, recorded_at timestamptz, version varchar, compiled_sql varchar
    )') -%}
    {%- for column in ['builds add column if not exists version varchar', 'results add column if not exists version varchar',
        'results add column if not exists compiled_sql varchar'] -%}{#- of a hub that was made before there were these -#}
        {%- do run_statement('alter table runs.' ~ column) -%}
    {%- endfor -%}
    {%- do run_statement('create schema if not exists quality') -%}
    {%- do run_statement('create schema if not exists quarantine') -%}
    {%- do run_statement('create table if not exists quality.measurements (
        build_number bigint, run_id varchar, model varchar, test_id varchar, definition varchar, rows_tested bigint,
        rows_failed bigint, failures bigint, observed varchar, measured_at timestamptz
    )') -%}
    {%- do run_statement('create table if not exists quality.gates (node_id varchar, rules varchar)') -%}
    {%- do run_statement('create table if not exists quality.results (
        run_id varchar, model varchar, rule varchar, template varchar, on_failure varchar, status varchar, rows_tested bigint,
        rows_failed bigint, observed varchar, recorded_at timestamptz
    )') -%}
    {%- do run_statement('create table if not exists quality.ledger (
        run_id varchar, build_number bigint, node_id varchar, model varchar, rows_in bigint, rows_out bigint, rows_quarantined bigint, rows_dropped bigint,
        recorded_at timestamptz
    )') -%}
{% endmacro %}
