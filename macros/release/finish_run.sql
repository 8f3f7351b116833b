{#- End of every run: notes each result, then releases if all that a release rests on is green and current. -#}
{% macro finish_run(results) %}
    {%- if execute and results -%}{%- do adapter.dispatch('_finish_run', 'hubspoke')(results) -%}{%- endif -%}
{% endmacro %}

{#- On Spark all of it is one note; `hubspoke spark release` reads it, and releases. -#}
{% macro spark___finish_run(results) %}
    {%- set found = [] -%}
    {%- for result in results -%}
        {%- do found.append({
            'node_id': result.node.unique_id, 'status': result.status | string, 'failures': result.failures, 'seconds': result.execution_time,
            'was_stopped': 'fail_fast' in (result.message or ''),
            'rule': _about_rule(result.node) if result.node.resource_type == 'test' else none,
            'compiled_sql': (result.node.compiled_code or none) if result.node.resource_type != 'test' or _has_counted(result.node) else none
        }) -%}
    {%- endfor -%}
    {%- do _write_note('ended', {
        'state': _state(), 'exceptions': _notes().exceptions, 'results': found, 'measurements': _notes().measurements, 'ledger': _notes().ledger,
        'variables': invocation_args_dict.get('vars', {})
    }) -%}
    {%- do log('To release what this run has made: hubspoke spark release', info=true) -%}
{% endmacro %}

{% macro default___finish_run(results) %}
        {%- set rows, rules = [], [] -%}
        {%- for result in results -%}
            {%- set node, failures = result.node, result.failures if result.failures is not none else 'null' -%}
            {%- do rows.append(
                "(nextval('runs.build_number'), " ~ _text(invocation_id) ~ ', ' ~ _text(node.unique_id) ~ ', ' ~ _text(result.status) ~ ', null, '
                ~ failures ~ ', ' ~ result.execution_time ~ ', now(), null, ' ~ _query_of(node) ~ ')'
            ) -%}
            {%- if node.resource_type == 'test' -%}
                {%- set words = [] -%}
                {%- for word in [node.unique_id] + _about_rule(node) + [result.status] -%}{%- do words.append(_text(word)) -%}{%- endfor -%}
                {%- do rules.append('(' ~ words | join(', ') ~ ', ' ~ failures ~ ')') -%}
            {%- endif -%}
        {%- endfor -%}
        {%- do run_statement('insert into runs.results values ' ~ rows | join(', ')) -%}
        {%- do run_statement(
            'delete from runs.builds where build_number not in (select max(build_number) from runs.builds group by node_id)'
        ) -%}
        {%- if rules -%}{%- do run_statement(_insert_results(rules)) -%}{%- endif -%}
        {%- if _state() == 'sample' -%}
            {%- do log('Not released: a run on a sample, or on no rows, is to try things out.', info=true) -%}
        {%- elif flags.WHICH in ['build', 'run', 'test'] -%}
            {%- set answer = fromjson(
                run_query(
                    'select hubspoke_release(' ~ _text(invocation_id) ~ ', ' ~ _text(tojson(invocation_args_dict.get('vars', {}))) ~ ')'
                ).columns[0].values()[0]
            ) -%}
            {%- if answer.error is defined -%}
                {%- do exceptions.raise_compiler_error(answer.error) -%}
            {%- endif -%}
            {%- do log(answer.outcome, info=true) -%}
        {%- endif -%}
{% endmacro %}

{#- Of a data test: its model, its name, its template, and what happens to what fails. -#}
{% macro _about_rule(test) %}
    {%- set about = graph.nodes.get(test.attached_node) -%}
    {{ return([
        about.name if about else '', test.name, test.test_metadata.name if test.test_metadata else 'singular',
        test.config.meta.on_failure or ('warn' if test.config.severity | lower == 'warn' else 'fail')
    ]) }}
{% endmacro %}

{#- What a data test ran to count by itself, as SQL text; null where the gate had counted. -#}
{% macro _query_of(node) %}
    {{ return(_text(node.compiled_code) if node.compiled_code and _has_counted(node) else 'null') }}
{% endmacro %}

{% macro _has_counted(node) %}
    {{ return(node.resource_type == 'test' and _counted_by_gate() not in (node.compiled_code or '')) }}
{% endmacro %}

{#- A rule's result, with what the gate measured of it where it did. -#}
{% macro _insert_results(rules) %}
    insert into quality.results
    select
        {{ _text(invocation_id) }},
        finished.model,
        finished.rule,
        finished.template,
        finished.on_failure,
        finished.status,
        measurements.rows_tested,
        coalesce(measurements.rows_failed, finished.failures),
        measurements.observed,
        now()
    from (values {{ rules | join(', ') }}) as finished (test_id, model, rule, template, on_failure, status, failures)
    left join quality.measurements as measurements on finished.test_id = measurements.test_id
{% endmacro %}
