{#- First step of every template's test: checks, while dbt parses, what the analyst wrote against what the template declares, and
    describes the rule. -#}
{% macro read_rule(column_name, arguments, parameters) %}
    {%- if column_name is not none -%}{%- do arguments.update({'column_name': column_name}) -%}{%- endif -%}
    {%- do _check_rule(model, arguments, parameters) -%}
    {{ return(_describe(model, arguments)) }}
{% endmacro %}

{#- Second step, for a rule on rows: the failing rows. -#}
{% macro row_test(relation, rule, broken) -%}
    {%- do _check_action(model, takes_rows_out=true) -%}
    {%- set measured = _measured(rule) -%}
    {%- set failing -%} select * from {{ relation }} where {{ broken }}{{ _not_let_through(rule, measured) }} {%- endset -%}
    {{ _failures(relation, rule, failing, measured) }}
{%- endmacro %}

{#- Second step, for a rule on a key: every row but the first of each that repeats. -#}
{% macro key_test(relation, rule, key) -%}
    {%- do _check_action(model, takes_rows_out=true) -%}
    {%- set measured = _measured(rule) -%}
    {%- set failing -%}
        select * from (
            select
                *,
                row_number() over (
                    partition by {{ key | join(', ') }} order by {{ rule.arguments.get('keep_first_by') or key | join(', ') }}
                ) as _occurrence
            from {{ relation }}
            where {{ key | join(' is not null and ') }} is not null{{ _not_let_through(rule, measured) }}
        ) as _numbered
        where _occurrence > 1
    {%- endset -%}
    {{ _failures(relation, rule, failing, measured) }}
{%- endmacro %}

{#- Second step, for a rule on the whole table: one row with the observed figure, if that is unfit. -#}
{% macro whole_test(relation, rule, observed, unfit) -%}
    {%- do _check_action(model, takes_rows_out=false) -%}
    {%- set failing -%}
        select * from (select {{ observed }} as _observed from {{ relation }}) as _figures where {{ unfit }}
    {%- endset -%}
    {{ _failures(relation, rule, failing, _measured(rule)) }}
{%- endmacro %}

{#- Second step, for any other rule: the rows of a query of its own, which the gate does not measure. -#}
{% macro query_test(relation, rule, failing) -%}
    {%- do _check_action(model, takes_rows_out=false) -%}
    {{ _failures(relation, rule, failing, _measured(rule)) }}
{%- endmacro %}

{#- Failing rows: as many as the model's gate has counted for this very rule on the data as it is, else by a scan. -#}
{% macro _failures(relation, rule, failing, measured) %}
    {%- if measured is not none %}
    select * from range({{ measured }}) {{ _counted_by_gate() }}
    {%- elif rule.max_failed_share is none %}
    {{ failing }}
    {%- else %}
    with failing as ({{ failing }})

    select * from failing
    where (select count(*) from failing) > {{ rule.max_failed_share }} * (select count(*) from {{ relation }})
    {%- endif %}
{% endmacro %}

{#- Tells a test that took the gate's count from one that counted. -#}
{% macro _counted_by_gate() -%} /* counted by the gate */ {%- endmacro %}

{#- What a rule is, from its test node and its arguments: {id, name, template, on_failure, where, max_failed_share, column, columns,
    other (the relation that it compares with), arguments, definition}. -#}
{% macro _describe(test, arguments) %}
    {%- set settings = test.config.meta or {} -%}
    {%- set others = [] -%}
    {%- for parent in (test.depends_on.nodes if execute else []) if parent != test.attached_node -%}
        {%- set node = graph.nodes.get(parent) or graph.sources.get(parent) -%}
        {%- if node -%}{%- do others.append(node.relation_name) -%}{%- endif -%}
    {%- endfor -%}
    {{ return({
        'id': test.unique_id,
        'name': test.name,
        'template': test.test_metadata.name,
        'on_failure': settings.get('on_failure') or ('warn' if test.config.severity | lower == 'warn' else 'fail'),
        'where': test.config.where | default(none),
        'max_failed_share': settings.get('max_failed_share'),
        'has_threshold': test.config.error_if | default('!= 0') != '!= 0' or test.config.warn_if | default('!= 0') != '!= 0',
        'column': adapter.quote(arguments.column_name) if arguments.get('column_name') else none,
        'columns': _quoted(arguments.get('columns') or []),
        'other': others | first | default(none),
        'arguments': arguments,
        'definition': local_md5(tojson([test.test_metadata.kwargs, test.config.where | default(none), settings], sort_keys=true))
    }) }}
{% endmacro %}

{#- SQL that is true for a row that breaks a row rule; rows outside of its `where`, and exceptions, do not. -#}
{% macro _broken(rule) -%}
    (
        {%- if rule.where %}({{ rule.where }}) and {% endif -%}
        ({{ context[rule.template ~ '__broken'](rule) }})
        {%- for exception in rule.get('exceptions', []) %} and not coalesce({{ exception }}, false){% endfor -%}
    )
{%- endmacro %}

{#- SQL that is true if a figure of the whole table is not as the rule wants it; no figure (an empty table) passes. -#}
{% macro _unfit(rule, observed) -%}
    {%- set own = context.get(rule.template ~ '__unfit') -%}
    {{ own(rule, observed) if own else 'coalesce(' ~ _outside(observed, rule.arguments) ~ ', false)' }}
{%- endmacro %}

{#- What keeps the rows that were let through a rule out of its own scan; the gate has its own way (_broken, _in_rule). -#}
{% macro _not_let_through(rule, measured) -%}
    {%- if measured is none and _is_run() and model.attached_node in graph.nodes -%}
        {%- for exception in _exceptions_of(graph.nodes[model.attached_node].name).get(rule.name, []) %} and not coalesce({{ exception }}, false){% endfor -%}
    {%- endif -%}
{%- endmacro %}

{#- Whether tests are run, not only parsed or compiled. -#}
{% macro _is_run() %}
    {{ return(execute and flags.WHICH in ['build', 'test', 'retry']) }}
{% endmacro %}

{#- Failures that the gate counted for this rule, or none: in this run; or, where rules are run by themselves, in the current build of a
    table. A view shows what it reads, whatever was counted when it was made. -#}
{% macro _measured(rule) %}
    {%- if not _is_run() -%}{{ return(none) }}{%- endif -%}
    {{ return(adapter.dispatch('_noted_failures', 'hubspoke')(rule)) }}
{% endmacro %}

{% macro default___noted_failures(rule) %}
    {%- set about = graph.nodes.get(model.attached_node) -%}
    {%- set is_kept = flags.WHICH == 'test' and about and about.config.materialized != 'view' -%}
    {%- set measured = run_query(
        'select failures from quality.measurements where test_id = ' ~ _text(rule.id) ~ ' and definition = ' ~ _text(rule.definition)
        ~ (' and run_id = ' ~ _text(invocation_id) if not is_kept)
        ~ ' and build_number > (select coalesce(max(build_number), 0) from runs.builds where node_id in ('
        ~ model.depends_on.nodes | map('tojson') | join(', ') | replace('"', "'") ~ ')) order by build_number desc limit 1'
    ) -%}
    {{ return(measured.rows[0][0] | int if measured.rows else none) }}
{% endmacro %}

{#- On Spark, of this run alone: it is written down when the run ends. -#}
{% macro spark___noted_failures(rule) %}
    {{ return(_notes().failures.get(rule.id)) }}
{% endmacro %}

{#- A value as SQL text. -#}
{% macro _text(value) -%}
    {{ return(adapter.dispatch('_text', 'hubspoke')(value | string)) }}
{%- endmacro %}

{% macro default___text(value) -%}
    '{{ value | replace("'", "''") }}'
{%- endmacro %}

{#- To Spark a quote ends a text even if it is doubled, and a backslash begins an escape. -#}
{% macro spark___text(value) -%}
    '{{ value | replace('\\', '\\\\') | replace("'", "\\'") }}'
{%- endmacro %}

{% macro _quoted(columns) %}
    {%- set quoted = [] -%}
    {%- for column in columns -%}{%- do quoted.append(adapter.quote(column)) -%}{%- endfor -%}
    {{ return(quoted) }}
{% endmacro %}
