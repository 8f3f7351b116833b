{#- Start of every run: checks what only the whole project shows of each rule, and names all faults at once. -#}
{% macro check_rules() %}
    {%- if execute -%}
        {%- set faults = [] -%}
        {%- for test in graph.nodes.values() if test.resource_type == 'test' and test.test_metadata is defined and test.test_metadata -%}
            {%- set template = test.test_metadata.name -%}
            {%- set target = graph.nodes.get(test.attached_node) -%}
            {%- if not context.get('test_' ~ template) and not test.test_metadata.namespace -%}
                {%- do faults.append(_where_is(test) ~ 'there is no template ' ~ template ~ _suggest(template, _templates())) -%}
            {%- elif target -%}
                {%- set asked = test.test_metadata.kwargs -%}
                {%- for column in ([asked.column_name] if asked.get('column_name') else []) + asked.get('columns', []) -%}
                    {%- if column not in target.columns -%}
                        {%- do faults.append(
                            _where_is(test) ~ target.name ~ ' has no column ' ~ column ~ _suggest(column, target.columns | list)
                        ) -%}
                    {%- endif -%}
                {%- endfor -%}
                {%- if test.config.meta.get('on_failure') in ['quarantine', 'drop'] and target.config.materialized != 'table' -%}
                    {%- do faults.append(
                        _where_is(test) ~ 'on_failure: ' ~ test.config.meta.on_failure ~ ' takes rows out of a table, and '
                        ~ target.name ~ ' is a ' ~ target.config.materialized ~ '; put the rule on the table that it reads'
                    ) -%}
                {%- endif -%}
            {%- endif -%}
        {%- endfor -%}
        {%- if faults -%}{%- do exceptions.raise_compiler_error(faults | join('\n')) -%}{%- endif -%}
    {%- endif -%}
{% endmacro %}

{#- While dbt parses: checks a rule's parameters and actions against what its template declares. -#}
{% macro _check_rule(test, arguments, declared) %}
    {%- if execute -%}{{ return('') }}{%- endif -%}
    {%- set known = declared | reject('equalto', '_any_of') | list -%}
    {%- set faults = [] -%}
    {%- for name, value in arguments.items() -%}
        {%- if name not in known -%}
            {%- do faults.append(
                'is not about one column; put it under the data_tests of the model' if name == 'column_name'
                else 'has no parameter ' ~ name ~ _suggest(name, known)
            ) -%}
        {%- else -%}
            {%- set fault = _parameter_fault(declared[name] | replace('!', ''), value) -%}
            {%- if fault -%}{%- do faults.append(name ~ ' must be ' ~ fault ~ ', not ' ~ value) -%}{%- endif -%}
        {%- endif -%}
    {%- endfor -%}
    {%- for name in known if declared[name].endswith('!') and name not in arguments -%}
        {%- do faults.append('needs ' ~ (name if name != 'column_name' else 'a column: put it under one, or give column_name')) -%}
    {%- endfor -%}
    {%- if declared.get('_any_of') and not arguments | list | select('in', declared._any_of) | list -%}
        {%- do faults.append('needs ' ~ declared._any_of | join(' or ')) -%}
    {%- endif -%}
    {%- set least, most = arguments.get('min_value'), arguments.get('max_value') -%}
    {%- if least is number and most is number and least > most -%}
        {%- do faults.append('min_value ' ~ least ~ ' is above max_value ' ~ most) -%}
    {%- endif -%}
    {%- if faults -%}
        {%- do exceptions.raise_compiler_error(_where_is(test) ~ test.test_metadata.name ~ ' ' ~ faults | join('; ')) -%}
    {%- endif -%}
{% endmacro %}

{#- While dbt parses: checks what a rule's config says about rows that fail. -#}
{% macro _check_action(test, takes_rows_out) %}
    {%- if execute -%}{{ return('') }}{%- endif -%}
    {%- set settings, faults = test.config.meta or {}, [] -%}
    {%- set actions, known = ['warn', 'quarantine', 'drop', 'fail'], ['on_failure', 'max_failed_share'] -%}
    {%- set action = settings.get('on_failure') -%}
    {%- for name in settings if name not in known -%}
        {%- do faults.append('config.meta has no ' ~ name ~ _suggest(name, known)) -%}
    {%- endfor -%}
    {%- for name in known if test.config.get(name) is not none -%}
        {%- do faults.append(name ~ ' stands in config.meta, not in config: config: { meta: { ' ~ name ~ ': ' ~ test.config.get(name) ~ ' } }') -%}
    {%- endfor -%}
    {%- if action is not none and action not in actions -%}
        {%- do faults.append('on_failure cannot be ' ~ action ~ _suggest(action, actions)) -%}
    {%- endif -%}
    {%- if action in ['quarantine', 'drop'] and not takes_rows_out -%}
        {%- do faults.append('judges a whole table, so it cannot ' ~ action ~ ' rows; on_failure: warn or fail') -%}
    {%- endif -%}
    {%- if action == 'warn' and test.config.severity | lower != 'warn' or action == 'fail' and test.config.severity | lower == 'warn' -%}
        {%- do faults.append('on_failure: ' ~ action ~ ' and severity: ' ~ test.config.severity | lower ~ ' contradict each other; on_failure: warn goes with severity: warn') -%}
    {%- endif -%}
    {%- set share = settings.get('max_failed_share') -%}
    {%- if share is not none and (share is not number or share < 0 or share > 1) -%}
        {%- do faults.append('max_failed_share must be a share of rows, 0 to 1, not ' ~ share) -%}
    {%- endif -%}
    {%- if faults -%}
        {%- do exceptions.raise_compiler_error(_where_is(test) ~ test.test_metadata.name ~ ' ' ~ faults | join('; ')) -%}
    {%- endif -%}
{% endmacro %}

{#- What a parameter of a type must be, if a value is not; else nothing. -#}
{% macro _parameter_fault(type, value) %}
    {%- set is_list = type in ['list', 'columns'] and value is iterable and value is not string and value is not mapping -%}
    {%- if type in ['column', 'name', 'sql', 'type'] and not (value is string and value | trim) -%}
        {{ return({'column': 'the name of a column', 'name': 'a name', 'sql': 'SQL text', 'type': 'a SQL type'}[type]) }}
    {%- elif type == 'list' and not (is_list and value) -%}{{ return('a list of at least one value') }}
    {%- elif type == 'columns' and not (is_list and value and value | select('string') | list == value) -%}
        {{ return('a list of columns') }}
    {%- elif type == 'value' and not (value is number or value is string) -%}{{ return('a number or SQL text') }}
    {%- elif type == 'number' and not (value is number and value is not boolean) -%}{{ return('a number') }}
    {%- elif type == 'integer' and not (value is integer and value is not boolean) -%}{{ return('a whole number') }}
    {%- elif type == 'share' and not (value is number and 0 <= value <= 1) -%}{{ return('a share, 0 to 1') }}
    {%- elif type == 'boolean' and value is not boolean -%}{{ return('true or false') }}
    {%- elif type == 'pattern' and not _is_pattern(value) -%}{{ return('a regular expression with balanced brackets') }}
    {%- elif type.startswith('choice:') and value not in type[7:].split('|') -%}
        {{ return('one of ' ~ type[7:].split('|') | join(', ') ~ _suggest(value, type[7:].split('|'))) }}
    {%- endif -%}
    {{ return('') }}
{% endmacro %}

{#- Whether brackets balance, which is what people get wrong; the engine has the last word. -#}
{% macro _is_pattern(value) %}
    {%- if value is not string or not value -%}{{ return(false) }}{%- endif -%}
    {%- set plain = modules.re.sub('\\\\.', '', value) -%}
    {%- set plain = modules.re.sub('\\[\\^?\\]?[^\\]]*\\]', '', plain) -%}
    {{ return('[' not in plain and plain.count('(') == plain.count(')') and not plain.startswith(('*', '+', '?'))) }}
{% endmacro %}

{% macro _where_is(test) -%}
    {{ test.original_file_path }}: rule {{ test.name }}: {% endmacro %}

{#- Every template that there is. -#}
{% macro _templates() %}
    {%- set names = [] -%}
    {%- for name in context if name.startswith('test_') and context.get(name[5:] ~ '__parameters') -%}
        {%- do names.append(name[5:]) -%}
    {%- endfor -%}
    {{ return(names) }}
{% endmacro %}

{#- "; there are …; did you mean …?": the choices, and the one that shares most pairs of letters with what was written. -#}
{% macro _suggest(written, choices) %}
    {%- set best = namespace(choice=none, score=0.4) -%}
    {%- for choice in choices -%}
        {%- set shared = namespace(pairs=0) -%}
        {%- for start in range(choice | length - 1) if choice[start:start + 2] in written | string -%}
            {%- set shared.pairs = shared.pairs + 1 -%}
        {%- endfor -%}
        {%- set score = 2 * shared.pairs / ([choice | length + written | string | length - 2, 1] | max) -%}
        {%- if score > best.score -%}{%- set best.choice, best.score = choice, score -%}{%- endif -%}
    {%- endfor -%}
    {{ return(
        ('; did you mean ' ~ best.choice ~ '?' if best.choice else '') ~ ' (there are ' ~ choices | sort | join(', ') ~ ')'
    ) }}
{% endmacro %}
