{#- Start of every run: reads seeds/rule_exceptions.csv, the rows that were let through a rule, by whom nothing else is decided than by a
    condition and a reason. A line that names no rule of the project stops the run. -#}
{% macro read_exceptions() %}
    {#- to compile is not to run: dbt compiles hooks, too, in no order -#}
    {%- if execute and flags.WHICH not in ['compile', 'generate'] -%}
        {%- if target.type == 'spark' -%}{#- it cannot look beside the cluster: hubspoke spark land shows them to it -#}
            {%- for line in run_query('select * from quality.exceptions').rows -%}{%- do _notes().exceptions.append(line.values() | list) -%}{%- endfor -%}
        {%- else -%}
        {%- do run_statement(
            "create or replace table quality.exceptions as select * from read_csv('seeds/rule_exceptions.csv', header = true, "
            ~ 'all_varchar = true, ' ~ "columns = {'model': 'varchar', 'rule': 'varchar', 'condition': 'varchar', 'reason': 'varchar', "
            ~ "'decided_on': 'varchar'})"
        ) -%}
        {%- endif -%}
        {%- set faults = [] -%}
        {%- for exception in run_query('select * from quality.exceptions').rows -%}
            {%- set names = [] -%}
            {%- for test in graph.nodes.values() if test.resource_type == 'test' and test.attached_node
                and graph.nodes[test.attached_node].name == exception['model'] -%}
                {%- do names.append(test.name) -%}
            {%- endfor -%}
            {%- if exception['rule'] not in names -%}
                {%- do faults.append(
                    'seeds/rule_exceptions.csv, line ' ~ (loop.index + 1) ~ ': ' ~ exception['model'] ~ ' has no rule '
                    ~ exception['rule'] ~ _suggest(exception['rule'], names)
                ) -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if faults -%}{%- do exceptions.raise_compiler_error(faults | join('\n')) -%}{%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- Conditions of the rows that were let through the rules of a model: {rule: [SQL, …]}. -#}
{% macro _exceptions_of(model_name) %}{{ return(adapter.dispatch('_exceptions_of', 'hubspoke')(model_name)) }}{% endmacro %}

{#- As the run began: Spark may be shown others meanwhile. -#}
{% macro spark___exceptions_of(model_name) %}
    {%- set found = {} -%}
    {%- for line in _notes().exceptions if line[0] == model_name -%}{%- do found.setdefault(line[1], []).append(line[2]) -%}{%- endfor -%}
    {{ return(found) }}
{% endmacro %}

{% macro default___exceptions_of(model_name) %}
    {%- set found = {} -%}
    {%- for exception in run_query('select rule, condition from quality.exceptions where model = ' ~ _text(model_name)).rows -%}
        {%- do found.setdefault(exception['rule'], []).append(exception['condition']) -%}
    {%- endfor -%}
    {{ return(found) }}
{% endmacro %}
