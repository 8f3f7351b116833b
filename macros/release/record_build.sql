{#- Post-hook of every model and seed: notes, in the transaction that built it, which text built it and when.
    The release reads these notes to know what is out of date; see docs/decisions. -#}
{% macro record_build() %}
    {%- if execute -%}
        {#- a gated model is finished by its gate -#}
        {%- set checksum = 'unfinished' if _takes_rows_out(_gate_rules()) else _finished_checksum() -%}
        {{ _insert_build(model.unique_id, checksum, model.compiled_code or '') }}
    {%- endif -%}
{% endmacro %}

{#- An empty or sampled build is real enough to develop on, never to release. -#}
{% macro _finished_checksum() %}
    {{ return('sample' if flags.EMPTY or flags.SAMPLE else model.checksum.checksum) }}
{% endmacro %}

{% macro _insert_build(node_id, checksum, compiled_sql) %}
    insert into runs.builds (build_number, run_id, node_id, checksum, compiled_sql, built_at)
    values (
        nextval('runs.build_number'),
        '{{ invocation_id }}',
        '{{ node_id }}',
        '{{ checksum }}',
        '{{ compiled_sql | replace("'", "''") }}',
        now()
    )
{% endmacro %}

{% macro _create_run_log() %}
    {%- do run_query('create schema if not exists runs') -%}
    {%- do run_query('create sequence if not exists runs.build_number') -%}
    {%- do run_query('create table if not exists runs.builds (
        build_number bigint, run_id varchar, node_id varchar, checksum varchar, compiled_sql varchar, built_at timestamptz
    )') -%}
    {%- do run_query('create table if not exists runs.results (
        build_number bigint, run_id varchar, node_id varchar, status varchar, failures bigint, seconds double, recorded_at timestamptz
    )') -%}
    {%- do run_query('create schema if not exists quality') -%}
    {%- do run_query('create schema if not exists quarantine') -%}
    {%- do run_query('create table if not exists quality.measurements (
        build_number bigint, run_id varchar, model varchar, test_id varchar, definition varchar, rows_tested bigint,
        rows_failed bigint, failures bigint, observed varchar, measured_at timestamptz
    )') -%}
    {%- do run_query('create table if not exists quality.results (
        run_id varchar, model varchar, rule varchar, template varchar, on_failure varchar, status varchar, rows_tested bigint,
        rows_failed bigint, observed varchar, recorded_at timestamptz
    )') -%}
    {%- do run_query('create table if not exists quality.ledger (
        run_id varchar, model varchar, rows_in bigint, rows_out bigint, rows_quarantined bigint, rows_dropped bigint,
        recorded_at timestamptz
    )') -%}
{% endmacro %}
