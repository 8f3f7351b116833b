{#- Post-hook of every model, after its commit: takes the rows that break a rule with `on_failure: quarantine` or `drop` out of the table
    before anyone reads it. One scan finds the rows that break any rule; the rules are told apart on those few rows.
    Quarantined rows stay whole in quarantine.<model> with the rules that they broke; dropped rows are counted.
    Both are in quality.ledger: rows_in = rows_out + rows_quarantined + rows_dropped.
    It works in a transaction of its own because a DELETE in the transaction that made the table sends every row through
    DuckDB's log (20.9 million rows: 31 s). Until it ends, record_build has the model down as unfinished, so a crash
    between the two cannot be released. -#}
{% macro quality_gate() %}
    {%- if execute -%}
        {%- set rules = _gate_rules() -%}
        {%- if rules -%}
            {%- if model.config.materialized != 'table' -%}
                {%- do exceptions.raise_compiler_error(
                    model.original_file_path ~ ': rule ' ~ rules[0].name ~ ' takes rows out of ' ~ model.name
                    ~ ', which is a ' ~ model.config.materialized ~ '. Put it on the table built from it.'
                ) -%}
            {%- endif -%}
            {%- do _run_gate(rules) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- The model's rules that take rows out, as {name, on_failure, broken: SQL predicate, columns, keep}. -#}
{% macro _gate_rules() %}
    {%- set rules = [] -%}
    {%- for test in graph.nodes.values()
        if test.resource_type == 'test' and test.attached_node == model.unique_id
        and test.config.enabled and test.config.meta.get('on_failure') in ['quarantine', 'drop'] -%}
        {%- set template = test.test_metadata.name -%}
        {%- set broken = context.get('_' ~ template ~ '__broken') -%}
        {%- if template != 'unique_combination' and not broken -%}
            {%- do exceptions.raise_compiler_error(
                test.original_file_path ~ ': ' ~ template ~ ' judges a whole table, so it cannot '
                ~ test.config.meta.on_failure ~ ' rows. Use on_failure: fail or warn.'
            ) -%}
        {%- endif -%}
        {%- set arguments = test.test_metadata.kwargs -%}
        {%- do rules.append({
            'name': test.config.meta.get('rule', test.name),
            'on_failure': test.config.meta.on_failure,
            'columns': arguments.get('columns', []),
            'keep': arguments.get('keep_first_by', ''),
            'broken': broken(arguments) if broken else none
        }) -%}
    {%- endfor -%}
    {{ return(rules) }}
{% endmacro %}

{% macro _run_gate(rules) %}
    {%- set row_rules = rules | rejectattr('broken', 'none') | list -%}
    {%- set key_rules = rules | selectattr('broken', 'none') | list -%}
    {%- set breaks_a_row_rule = row_rules | map(attribute='broken') | join(' or ') or 'false' -%}
    {%- call statement('gate_begin', auto_begin=true) -%} select 1 {%- endcall -%}
    {%- set rows_in = _count('select count(*) from ' ~ this) -%}

    {%- call statement('gate_suspects') -%}
        create or replace temp table gate_suspects as
        select
            rowid as _row,
            *,
            {{ breaks_a_row_rule }} as _breaks_a_row_rule
        from {{ this }}
        where
            {{ breaks_a_row_rule }}
            {% for rule in key_rules -%}
            or ({{ rule.columns | join(', ') }}) in (
                select ({{ rule.columns | join(', ') }})
                from {{ this }}
                group by {{ rule.columns | join(', ') }}
                having count(*) > 1
            )
            {% endfor %}
    {%- endcall -%}

    {%- call statement('gate_verdicts') -%}
        create or replace temp table gate_verdicts as
        with judged as (
            select
                *,
                {% for rule in rules -%}
                {% if rule.broken -%}
                {{ rule.broken }}
                {%- else -%}
                row_number() over (
                    partition by {{ rule.columns | join(', ') }}
                    order by _breaks_a_row_rule, {{ rule.keep ~ ', ' if rule.keep }}_row
                ) > 1
                {% for column in rule.columns %} and {{ column }} is not null{% endfor %}
                {%- endif %} as _rule_{{ loop.index }},
                {% endfor %}
            from gate_suspects
        )

        select
            * exclude (_breaks_a_row_rule),
            concat_ws(', ' {%- for rule in rules %},
                case when _rule_{{ loop.index }} then '{{ rule.name }}' end {%- endfor -%}
            ) as _rules_broken,
            false {%- for rule in rules if rule.on_failure == 'quarantine' %}
            or _rule_{{ rules.index(rule) + 1 }} {%- endfor %} as _is_quarantined
        from judged
        where false {%- for rule in rules %} or _rule_{{ loop.index }} {%- endfor %}
    {%- endcall -%}

    {%- set flags_of_rules -%}
        _row, _is_quarantined {%- for rule in rules %}, _rule_{{ loop.index }} {%- endfor -%}
    {%- endset -%}
    {%- do run_query(
        'create or replace table quarantine.' ~ this.identifier ~ ' as select * exclude (' ~ flags_of_rules
        ~ "), '" ~ invocation_id ~ "' as _run_id, now() as _quarantined_at from gate_verdicts where _is_quarantined"
    ) -%}
    {%- do run_query('delete from ' ~ this ~ ' where rowid in (select _row from gate_verdicts)') -%}
    {%- set quarantined = _count('select count(*) from gate_verdicts where _is_quarantined') -%}
    {%- set dropped = _count('select count(*) from gate_verdicts where not _is_quarantined') -%}
    {%- set rows_out = _count('select count(*) from ' ~ this) -%}
    {%- do run_query(
        "insert into quality.ledger values ('" ~ invocation_id ~ "', '" ~ model.name ~ "', " ~ rows_in ~ ', '
        ~ rows_out ~ ', ' ~ quarantined ~ ', ' ~ dropped ~ ', now())'
    ) -%}
    {%- for rule in rules -%}
        {%- do run_query(
            "insert into quality.results select '" ~ invocation_id ~ "', '" ~ model.name ~ "', '" ~ rule.name ~ "', '"
            ~ rule.on_failure ~ "', " ~ rows_in ~ ', count(*) filter (where _rule_' ~ loop.index
            ~ '), now() from gate_verdicts'
        ) -%}
    {%- endfor -%}
    {%- if rows_in != rows_out + quarantined + dropped -%}
        {%- do exceptions.raise_compiler_error(
            model.name ~ ': ' ~ rows_in ~ ' rows went in, but ' ~ rows_out ~ ' came out, ' ~ quarantined
            ~ ' were quarantined and ' ~ dropped ~ ' dropped. The gate kept the table as it was built.'
        ) -%}
    {%- endif -%}
    {%- do run_query('drop table gate_suspects') -%}
    {%- do run_query('drop table gate_verdicts') -%}
    {%- do run_query(_insert_build(model.unique_id, _finished_checksum(), model.compiled_code)) -%}
    {%- do adapter.commit() -%}
{% endmacro %}

{% macro _count(query) %}
    {{ return(run_query(query).columns[0].values()[0] | int) }}
{% endmacro %}
