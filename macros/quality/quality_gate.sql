{#- Post-hook of every model, after its commit: measures all its rules, in one statement for those on rows and keys and one for those on
    the whole table, and takes out of the table what `on_failure: quarantine` or `drop` says, before anyone reads it.

    Where rows are to be taken out, each key's repetitions are found once, and one more statement finds the rows, with a flag for each rule
    that any row broke, and for no other: a hundred rules cost what the few do that are broken. Quarantined rows stay whole in
    quarantine.<model>, with every rule that they broke; dropped rows are counted.
    quality.ledger holds for each model that takes rows out: rows_in = rows_out + rows_quarantined + rows_dropped.
    quality.measurements holds every rule's count, for the test nodes to take instead of a scan of their own.

    It works in a transaction of its own: see docs/decisions. Until that ends, record_build has the model down as unfinished. -#}
{% macro quality_gate() %}
    {%- if execute -%}
        {%- set rules = _gate_rules() -%}
        {%- if rules -%}{%- do _run_gate(rules) -%}{%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- The model's tests that can be measured when it is built: not those that read a model which is built later. -#}
{% macro _gate_tests() %}
    {%- set found = [] -%}
    {%- set tests = graph.nodes.values() | selectattr('resource_type', 'equalto', 'test')
        | selectattr('attached_node', 'equalto', model.unique_id) | list -%}
    {%- set above = _ancestors(model) if tests else [] -%}
    {%- for test in tests if test.config.enabled and _kind(test) != 'query' -%}
        {%- set others = test.depends_on.nodes | reject('equalto', model.unique_id) | list -%}
        {%- if others | reject('in', above) | list | length == 0 -%}{%- do found.append(test) -%}{%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{#- The rules that they are. Of one on rows, `sql` is true for a row that breaks it; of one on a key, for a row that counts; of one on the
    whole table, it gives its figure. -#}
{% macro _gate_rules() %}
    {%- set rules = [] -%}
    {%- set tests = _gate_tests() -%}
    {%- set let_through = _exceptions_of(model.name) if tests else {} -%}
    {%- for test in tests -%}
        {%- set rule = _describe(test, _arguments(test)) -%}
        {%- do rule.update({'kind': _kind(test), 'exceptions': let_through.get(rule.name, [])}) -%}
        {%- do rule.update({'key': context[rule.template ~ '__key'](rule) if rule.kind == 'key' else []}) -%}
        {%- do rule.update({'sql': _broken(rule) if rule.kind == 'row' else _in_rule(rule) if rule.kind == 'key' else _figures([rule])}) -%}
        {%- do rules.append(rule) -%}
    {%- endfor -%}
    {{ return(rules) }}
{% endmacro %}

{#- `row` (a predicate on one row), `key` (columns that may not repeat), `whole` (one figure of the table) or `query` (anything else: a
    test of somebody else's, and an argument that is Jinja, which is only rendered where the test itself runs). -#}
{% macro _kind(test) %}
    {%- set template = test.test_metadata.name -%}
    {{ return(
        'query' if not context.get(template ~ '__parameters') or '{{' in _arguments(test) | string
        else 'row' if context.get(template ~ '__broken') else 'key' if context.get(template ~ '__key')
        else 'whole' if context.get(template ~ '__observed') else 'query'
    ) }}
{% endmacro %}

{#- What the analyst wrote of it: all but the model. -#}
{% macro _arguments(test) %}
    {%- set arguments = dict(test.test_metadata.kwargs) -%}
    {%- do arguments.pop('model') -%}
    {{ return(arguments) }}
{% endmacro %}

{% macro _ancestors(node) %}
    {%- set found, waiting = [], node.depends_on.nodes | list -%}
    {%- for _ in range(10000) if waiting -%}
        {%- set parent = waiting.pop() -%}
        {%- if parent not in found -%}
            {%- do found.append(parent) -%}
            {%- do waiting.extend(graph.nodes[parent].depends_on.nodes if parent in graph.nodes else []) -%}
        {%- endif -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{% macro _takes_rows_out(rules) %}
    {{ return(rules | selectattr('on_failure', 'in', ['quarantine', 'drop']) | list | length > 0) }}
{% endmacro %}

{#- Whether the gate may take rows out of the model, so that it is finished only when its gate is. -#}
{% macro _is_finished_by_gate() %}
    {{ return(_gate_tests() | selectattr('config.meta.on_failure', 'in', ['quarantine', 'drop']) | list | length > 0) }}
{% endmacro %}

{#- Stops with the rule's own name where the engine does not take what the analyst wrote as SQL; begins the gate's transaction. Spark has
    none, and says itself which text it does not take. -#}
{% macro spark___check_sql(row_rules, whole_rules) %}{% endmacro %}

{% macro default___check_sql(row_rules, whole_rules) %}
    {%- set of_rows, of_table = [], [] -%}{#- these cannot stand in one select -#}
    {%- for rule in row_rules -%}
        {%- do of_rows.append(rule.sql) -%}
    {%- endfor -%}
    {%- for rule in whole_rules -%}
        {%- set observed = context[rule.template ~ '__observed'](rule) -%}
        {%- do of_table.append('count(*) filter (where ' ~ rule.where ~ '), ' ~ observed if rule.where else observed) -%}
    {%- endfor -%}
    {%- call statement('fault', fetch_result=true, auto_begin=true) -%}
        select hubspoke_fault({{ _text(this) }}, {{ _text(tojson([of_rows, of_table])) }})
    {%- endcall -%}
    {%- set fault = fromjson(load_result('fault').table.rows[0][0]) -%}
    {%- if fault -%}
        {%- set rule = (row_rules + whole_rules)[fault.place] -%}
        {%- do exceptions.raise_compiler_error(_where_is(graph.nodes[rule.id]) ~ rule.template ~ ': ' ~ fault.error) -%}
    {%- endif -%}
{% endmacro %}

{% macro _run_gate(rules) %}
    {%- set row_rules = rules | selectattr('kind', 'in', ['row', 'key']) | list -%}
    {%- set whole_rules = rules | selectattr('kind', 'equalto', 'whole') | list -%}
    {%- set takes_rows_out = _takes_rows_out(rules) -%}
    {%- do adapter.dispatch('_check_sql', 'hubspoke')(row_rules, whole_rules) -%}
    {%- set measured = namespace(rows=none, failed={}, observed={}) -%}
    {%- if row_rules -%}
        {#- which row of a key stays depends on the other rules, so where rows are taken out these are counted first -#}
        {%- set keys = row_rules | selectattr('kind', 'equalto', 'key') | list if takes_rows_out else [] -%}
        {%- set counted = row_rules | reject('in', keys) | list -%}
        {%- set counts = run_query(_count_failing(counted)).rows[0] -%}
        {%- set measured.rows = counts['rows_tested'] | int -%}
        {%- for rule in counted -%}
            {%- do measured.failed.update({rule.id: counts['failed_' ~ loop.index] | int}) -%}
        {%- endfor -%}
        {%- if takes_rows_out -%}
            {%- for rule in keys -%}{%- do _keep_repeated_keys(rule, _faulty(row_rules, measured), measured) -%}{%- endfor -%}
            {%- set taken = _take_rows_out(row_rules, measured) -%}
            {%- do _keep_ledger(measured.rows, taken) -%}
        {%- endif -%}
    {%- endif -%}
    {%- if whole_rules -%}
        {%- set figures = run_query(_figures(whole_rules)).rows[0] -%}
        {%- set measured.rows = figures['rows_tested'] if measured.rows is none else measured.rows -%}
        {%- for rule in whole_rules -%}
            {%- do measured.failed.update({rule.id: 1 if figures['unfit_' ~ loop.index] else 0}) -%}
            {%- do measured.observed.update({rule.id: figures['observed_' ~ loop.index]}) -%}
        {%- endfor -%}
    {%- endif -%}
    {%- do adapter.dispatch('_note_gate', 'hubspoke')(rules, measured) -%}
{% endmacro %}

{#- Writes down what was measured, and ends the gate's transaction. -#}
{% macro default___note_gate(rules, measured) %}
    {%- do _note_rules(rules) -%}
    {%- do run_statement('delete from quality.measurements where model = ' ~ _text(model.name) ~ ';' ~ _insert_measurements(rules, measured)) -%}
    {%- do adapter.commit() -%}
{% endmacro %}

{% macro spark___note_gate(rules, measured) %}
    {%- for rule in rules -%}
        {%- set observed = measured.observed.get(rule.id) -%}
        {%- do _notes().failures.update({rule.id: _reported(rule, measured)}) -%}
        {%- do _notes().measurements.append({
            'model': model.name, 'test_id': rule.id, 'definition': rule.definition, 'rows_tested': measured.rows,
            'rows_failed': measured.failed[rule.id], 'failures': _reported(rule, measured),
            'observed': observed | string if observed is not none else none
        }) -%}
    {%- endfor -%}
{% endmacro %}

{#- Failures that the test node is to report: nothing up to max_failed_share, and for rows that the gate took out only where a threshold
    (warn_if, error_if) is set on their number. -#}
{% macro _reported(rule, measured) %}
    {%- set failed, share = measured.failed[rule.id], rule.max_failed_share -%}
    {%- set is_reported = failed > share * measured.rows if share is not none
        else rule.on_failure in ['warn', 'fail'] or rule.has_threshold -%}
    {{ return(failed if is_reported else 0) }}
{% endmacro %}

{#- What tells one row of a table from all others while the table stays as it is. -#}
{% macro _row_id() -%}{{ adapter.dispatch('_row_id', 'hubspoke')() }}{%- endmacro %}

{% macro default___row_id() -%}_gated.rowid{%- endmacro %}

{% macro spark___row_id() -%}struct(_gated._file, _gated._pos){%- endmacro %}

{#- Keeps a query's rows in a table for the time that the gate works, and returns its name. -#}
{% macro default___keep_for_now(name, sql) %}
    {%- do run_statement('create or replace temp table ' ~ name ~ ' as ' ~ sql) -%}
    {{ return(name) }}
{% endmacro %}

{#- Spark has no temporary tables; a view would look at what the gate changes meanwhile. -#}
{% macro spark___keep_for_now(name, sql) %}
    {%- set table = 'quarantine.' ~ name ~ '_of_' ~ this.identifier -%}
    {%- do run_statement(_replace_table(table) ~ sql) -%}
    {{ return(table) }}
{% endmacro %}

{% macro _replace_table(table) -%}
    create or replace table {{ table }} {{ adapter.dispatch('_kept_as', 'hubspoke')() }} as
{% endmacro %}

{% macro default___kept_as() %}{% endmacro %}

{% macro spark___kept_as() %}using iceberg{% endmacro %}

{#- The one statement that counts for all rules on rows and keys. count_if, not count with a filter: the engine leaves out what its
    statistics say cannot be, and is twenty times as fast for a hundred rules. Of no rows it is null. -#}
{% macro _count_failing(rules) %}
    select
        count(*) as rows_tested
        {%- for rule in rules %},
        {% if rule.kind == 'row' -%}
            coalesce(count_if({{ rule.sql }}), 0)
        {%- else -%}
            (select coalesce(sum(_gate_occurrences - 1), 0) from ({{ _repeated_keys(rule) }}) as _repeated)
        {%- endif %} as failed_{{ loop.index }}
        {%- endfor %}
    from {{ this }} as _gated
{% endmacro %}

{#- SQL that is true if a row breaks one of the rules on rows that any row broke; empty text if none did. -#}
{% macro _faulty(rules, measured) -%}
    {%- set broken = [] -%}
    {%- for rule in rules if rule.kind == 'row' and measured.failed[rule.id] -%}{%- do broken.append(rule.sql) -%}{%- endfor -%}
    {{- broken | join(' or ') -}}
{%- endmacro %}

{#- Keeps the keys that come more than once, and of each the row that stays, in a table that is from then on in `rule.repeated`; and counts
    what fails. That is what costs most, and is done once. -#}
{% macro _keep_repeated_keys(rule, faulty, measured) %}
    {%- set keys = _keys_and_first_rows(rule, faulty) if rule.arguments.get('keep_first_by') else _repeated_keys(rule, faulty) -%}
    {%- set table = adapter.dispatch('_keep_for_now', 'hubspoke')('gate_repeated_' ~ local_md5(rule.id), keys) -%}
    {%- set failed = run_query('select coalesce(sum(_gate_occurrences - 1), 0) from ' ~ table).rows[0][0] -%}
    {%- do measured.failed.update({rule.id: failed | int}) -%}
    {%- do rule.update({'repeated': table}) -%}
{% endmacro %}

{#- One row for each key that comes more than once, the columns of the key by number; with `faulty`, also the row that stays: the first
    that breaks no other rule, if there is one. -#}
{% macro _repeated_keys(rule, faulty=none) -%}
    select
        {%- for column in rule.key %}
        {{ column }} as _gate_key_{{ loop.index }},
        {%- endfor %}
        count(*) as _gate_occurrences
        {%- if faulty %},
        coalesce(min({{ _row_id() }}) filter (where not coalesce({{ faulty }}, false)), min({{ _row_id() }})) as _gate_kept_row
        {%- elif faulty is not none %},
        min({{ _row_id() }}) as _gate_kept_row
        {%- endif %}
    from {{ this }} as _gated
    where {{ rule.sql }} and {{ adapter.dispatch('_may_be_repeated', 'hubspoke')(rule) }}
    group by {{ rule.key | join(', ') }}
    having count(*) > 1
{%- endmacro %}

{#- The same, where a rule says by what the first row is found. -#}
{% macro _keys_and_first_rows(rule, faulty) -%}
    select * from (
        select
            {%- for column in rule.key %}
            {{ column }} as _gate_key_{{ loop.index }},
            {%- endfor %}
            count(*) over (partition by {{ rule.key | join(', ') }}) as _gate_occurrences,
            row_number() over (
                partition by {{ rule.key | join(', ') }}
                order by {{ 'coalesce(' ~ faulty ~ ', false), ' if faulty }}{{ rule.arguments.keep_first_by }}, {{ _row_id() }}
            ) as _gate_place,
            {{ _row_id() }} as _gate_kept_row
        from {{ this }} as _gated
        where {{ rule.sql }} and {{ adapter.dispatch('_may_be_repeated', 'hubspoke')(rule) }}
    ) as _placed
    where _gate_occurrences > 1 and _gate_place = 1
{%- endmacro %}

{#- Whether another row has the same hash of its key. Few have where a key is one: to sort a table's hashes and to group those few takes a
    third of the time of grouping all. -#}
{% macro default___may_be_repeated(rule) -%}
    {%- set key = rule.key | join(', ') -%}
    hash({{ key }}) in (
        select _hash
        from (
            select
                _hash,
                lag(_hash) over (order by _hash) as _hash_before
            from (select hash({{ key }}) as _hash from {{ this }} where {{ rule.sql }}) as _hashed
        ) as _sorted
        where _hash = _hash_before
    )
{%- endmacro %}

{#- Whether another row has the same key: grouped, keys are less to pass around than whole rows. -#}
{% macro spark___may_be_repeated(rule) -%}
    {%- set key = rule.key | join(', ') -%}
    ({{ key }}) in (select {{ key }} from {{ this }} where {{ rule.sql }} group by {{ key }} having count(*) > 1)
{%- endmacro %}

{#- Whether a row counts for a key rule: within its `where`, with no null in the key, and not let through. -#}
{% macro _in_rule(rule) -%}
    (
        {{- '(' ~ rule.where ~ ') and ' if rule.where }}{{ rule.key | join(' is not null and ') }} is not null
        {%- for exception in rule.exceptions %} and not coalesce({{ exception }}, false){% endfor -%}
    )
{%- endmacro %}

{#- Takes out what quarantine and drop rules found, counts again for the rules that any row broke (a row that is taken out counts only for
    the rules that take it out), and returns the row of counts. -#}
{% macro _take_rows_out(rules, measured) %}
    {%- set broken = [] -%}
    {%- for rule in rules if measured.failed[rule.id] -%}{%- do broken.append(rule) -%}{%- endfor -%}
    {%- set broken = broken if _takes_rows_out(broken) else [] -%}
    {%- set suspects = adapter.dispatch('_keep_for_now', 'hubspoke')('gate_suspects', _suspects(broken)) -%}
    {%- set counts = run_query(_count_suspects(broken, suspects)).rows[0] -%}
    {%- for rule in broken -%}
        {%- do measured.failed.update({rule.id: counts['failed_' ~ loop.index] | int}) -%}
    {%- endfor -%}
    {%- do run_statement(
        _replace_table('quarantine.' ~ adapter.quote(this.identifier)) ~ 'select _gated.*, concat_ws(' ~ "', ', cast(null as " ~ dbt.type_string() ~ ')'
        ~ _names_if_broken(broken) ~ ') as _rules_broken, ' ~ _text(model.name) ~ ' as _model, ' ~ _text(invocation_id)
        ~ ' as _run_id, now() as _quarantined_at from ' ~ this ~ ' as _gated inner join ' ~ suspects
        ~ ' as _suspects on ' ~ _row_id() ~ ' = _suspects._row where ' ~ _breaks(broken, ['quarantine'])
    ) -%}
    {%- do adapter.dispatch('_delete_suspects', 'hubspoke')(suspects, _breaks(broken, ['quarantine', 'drop'])) -%}
    {%- do run_statement('drop table ' ~ suspects) -%}
    {%- for rule in rules if rule.repeated -%}{%- do run_statement('drop table ' ~ rule.repeated) -%}{%- endfor -%}
    {{ return(counts) }}
{% endmacro %}

{% macro default___delete_suspects(suspects, condition) %}
    {%- do run_statement('delete from ' ~ this ~ ' where rowid in (select _row from ' ~ suspects ~ ' where ' ~ condition ~ ')') -%}
{% endmacro %}

{#- Iceberg's own delete takes no subquery about a row's place in its file; it would write the files anew just the same. -#}
{% macro spark___delete_suspects(suspects, condition) %}
    {%- do run_statement(
        'insert overwrite ' ~ this ~ ' select _gated.* from ' ~ this ~ ' as _gated left anti join (select _row from ' ~ suspects ~ ' where '
        ~ condition ~ ') as _suspects on ' ~ _row_id() ~ ' = _suspects._row'
    ) -%}
{% endmacro %}

{#- The rows that break any of these rules, with a flag for each. Of rows that repeat a key, one that breaks no other rule stays. -#}
{% macro _suspects(rules) %}
    {%- set is_suspect = ['false'] -%}
    select
        {{ _row_id() }} as _row
        {%- for rule in rules %},
        {% if rule.kind == 'row' -%}
            {%- do is_suspect.append(rule.sql) -%}
            coalesce({{ rule.sql }}, false)
        {%- else -%}
            {%- do is_suspect.append('_gate_' ~ loop.index ~ '._gate_kept_row is not null and ' ~ rule.sql) -%}
            coalesce({{ rule.sql }} and {{ _row_id() }} <> _gate_{{ loop.index }}._gate_kept_row, false)
        {%- endif %} as _rule_{{ loop.index }}
        {%- endfor %}
    from {{ this }} as _gated
    {%- for rule in rules if rule.kind == 'key' %}
    {%- set number = rules.index(rule) + 1 %}
    left join {{ rule.repeated }} as _gate_{{ number }}
        on
            {%- for column in rule.key %}
            {{ 'and ' if not loop.first }}{{ column }} = _gate_{{ number }}._gate_key_{{ loop.index }}
            {%- endfor %}
    {%- endfor %}
    where {{ is_suspect | join('\n        or ') }}
{% endmacro %}

{#- One row: failed_<n> for each rule, and the rows to quarantine and to drop. -#}
{% macro _count_suspects(rules, suspects) %}
    {%- set is_out, is_quarantined = _breaks(rules, ['quarantine', 'drop']), _breaks(rules, ['quarantine']) -%}
    select
        {%- for rule in rules %}
        {{ _sum_of('_rule_' ~ loop.index ~ (' and not ' ~ is_out if rule.on_failure in ['warn', 'fail'] else '')) }} as failed_{{ loop.index }},
        {%- endfor %}
        {{ _sum_of(is_quarantined) }} as quarantined,
        {{ _sum_of(is_out ~ ' and not ' ~ is_quarantined) }} as dropped
    from {{ suspects }}
{% endmacro %}

{#- How many suspects a condition holds for. Spark's planner fails at a count_if of flags with "and not" between them. -#}
{% macro _sum_of(condition) -%}
    coalesce(sum(case when {{ condition }} then 1 else 0 end), 0)
{%- endmacro %}

{#- Whether a suspect breaks a rule with one of these actions. -#}
{% macro _breaks(rules, actions) -%}
    (false {%- for rule in rules if rule.on_failure in actions %} or _rule_{{ rules.index(rule) + 1 }}{% endfor -%})
{%- endmacro %}

{#- Notes where every row went; a build in which they do not add up fails. -#}
{% macro _keep_ledger(rows_in, taken) %}
    {%- set rows_out = run_query('select count(*) from ' ~ this).rows[0][0] | int -%}
    {%- set quarantined, dropped = taken['quarantined'] | int, taken['dropped'] | int -%}
    {%- if rows_in != rows_out + quarantined + dropped -%}
        {%- do exceptions.raise_compiler_error(
            model.name ~ ': ' ~ rows_in ~ ' rows went in, but ' ~ rows_out ~ ' came out, ' ~ quarantined
            ~ ' were quarantined and ' ~ dropped ~ ' dropped. The table is as it was built, and will not be released.'
        ) -%}
    {%- endif -%}
    {%- do adapter.dispatch('_note_ledger', 'hubspoke')(rows_in, rows_out, quarantined, dropped) -%}
{% endmacro %}

{% macro spark___note_ledger(rows_in, rows_out, quarantined, dropped) %}
    {%- do _notes().ledger.append({
        'node_id': model.unique_id, 'model': model.name, 'rows_in': rows_in, 'rows_out': rows_out, 'rows_quarantined': quarantined,
        'rows_dropped': dropped
    }) -%}
{% endmacro %}

{#- With the ledger's line the model is finished. -#}
{% macro default___note_ledger(rows_in, rows_out, quarantined, dropped) %}
    {%- do run_statement(_insert_build(model.unique_id, _state(), model.compiled_code)) -%}
    {%- do run_statement(
        'insert into quality.ledger values (' ~ _text(invocation_id) ~ ", nextval('runs.build_number'), " ~ _text(model.unique_id) ~ ', '
        ~ _text(model.name) ~ ', ' ~ rows_in ~ ', ' ~ rows_out ~ ', '
        ~ quarantined ~ ', ' ~ dropped ~ ', now())'
    ) -%}
{% endmacro %}

{% macro _names_if_broken(rules) -%}
    {%- for rule in rules %}, case when _rule_{{ loop.index }} then {{ _text(rule.name) }} end {%- endfor -%}
{%- endmacro %}

{#- The one statement that scans the model for all rules on the whole table; a rule's `where` narrows its own figure. -#}
{% macro _figures(rules) %}
    with figures as (
        select
            count(*) as rows_tested
            {%- for rule in rules %},
            {{ context[rule.template ~ '__observed'](rule) if not rule.where
                else '(select ' ~ context[rule.template ~ '__observed'](rule) ~ ' from ' ~ this ~ ' where ' ~ rule.where ~ ')' }} as observed_{{ loop.index }}
            {%- endfor %}
        from {{ this }} as _gated
    )

    select
        rows_tested
        {%- for rule in rules %},
        observed_{{ loop.index }},
        {{ _unfit(rule, 'observed_' ~ loop.index) }} as unfit_{{ loop.index }}
        {%- endfor %}
    from figures
{% endmacro %}

{#- Notes the SQL of every rule, for new data to be measured without dbt (hubspoke/refresh.py). -#}
{% macro _note_rules(rules) %}
    {%- set noted = [] -%}
    {%- for rule in rules -%}
        {%- do noted.append({
            'test_id': rule.id, 'name': rule.name, 'definition': rule.definition, 'kind': rule.kind, 'on_failure': rule.on_failure,
            'others': rule.other is not none, 'key': rule.key, 'first_by': rule.arguments.get('keep_first_by'), 'sql': rule.sql,
            'max_failed_share': rule.max_failed_share,
            'is_reported': rule.on_failure in ['warn', 'fail'] or rule.has_threshold
        }) -%}
    {%- endfor -%}
    {%- do run_statement(
        'delete from quality.gates where node_id = ' ~ _text(model.unique_id) ~ '; insert into quality.gates values ('
        ~ _text(model.unique_id) ~ ', ' ~ _text(tojson(noted)) ~ ')'
    ) -%}
{% endmacro %}

{% macro _insert_measurements(rules, measured) %}
    insert into quality.measurements
    select nextval('runs.build_number'), {{ _text(invocation_id) }}, {{ _text(model.name) }}, *, now()
    from (
        values
        {%- for rule in rules %}
        {%- set observed = measured.observed.get(rule.id) %}
        (
            {{ _text(rule.id) }}, {{ _text(rule.definition) }}, {{ measured.rows }}, {{ measured.failed[rule.id] }}, {{ _reported(rule, measured) }},
            {{ _text(observed) if observed is not none else 'null' }}
        ){{ ',' if not loop.last }}
        {%- endfor %}
    )
{% endmacro %}
