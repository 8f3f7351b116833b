{#- End of every run: notes each result, then releases if all that a release rests on is green and current. -#}
{% macro finish_run(results) %}
    {%- if execute and results -%}
        {%- set rows, rules = [], [] -%}
        {%- for result in results -%}
            {%- set node, failures = result.node, result.failures if result.failures is not none else 'null' -%}
            {%- do rows.append(
                "(nextval('runs.build_number'), " ~ _text(invocation_id) ~ ', ' ~ _text(node.unique_id) ~ ', ' ~ _text(result.status) ~ ', null, '
                ~ failures ~ ', ' ~ result.execution_time ~ ', now(), null, ' ~ _query_of(node) ~ ')'
            ) -%}
            {%- if node.resource_type == 'test' -%}
                {%- set about = graph.nodes.get(node.attached_node) -%}
                {%- set words = [] -%}
                {%- for word in [
                    node.unique_id, about.name if about else '', node.name,
                    node.test_metadata.name if node.test_metadata else 'singular',
                    node.config.meta.on_failure or ('warn' if node.config.severity | lower == 'warn' else 'fail'), result.status
                ] -%}
                    {%- do words.append(_text(word)) -%}
                {%- endfor -%}
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
    {%- endif -%}
{% endmacro %}

{#- What a data test ran to count by itself, as SQL text; null where the gate had counted. -#}
{% macro _query_of(node) %}
    {%- set has_counted = node.resource_type == 'test' and _counted_by_gate() not in (node.compiled_code or '') -%}
    {{ return(_text(node.compiled_code) if has_counted and node.compiled_code else 'null') }}
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
