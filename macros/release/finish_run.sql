{#- End of every run: notes each result, then releases if all that a release rests on is green and current. -#}
{% macro finish_run(results) %}
    {%- if execute and results -%}
        {%- set rows = [] -%}
        {%- for result in results -%}
            {%- do rows.append(
                "(nextval('runs.build_number'), '" ~ invocation_id ~ "', '" ~ result.node.unique_id ~ "', '"
                ~ result.status ~ "', " ~ (result.failures if result.failures is not none else 'null') ~ ', '
                ~ result.execution_time ~ ', now())'
            ) -%}
        {%- endfor -%}
        {%- do run_query('insert into runs.results values ' ~ rows | join(', ')) -%}
        {%- if flags.WHICH in ['build', 'run', 'test'] -%}
            {%- set answer = fromjson(
                run_query("select hubspoke_release('" ~ invocation_id ~ "')").columns[0].values()[0]
            ) -%}
            {%- if answer.error is defined -%}
                {%- do exceptions.raise_compiler_error(answer.error) -%}
            {%- endif -%}
            {%- do log(answer.outcome, info=true) -%}
        {%- endif -%}
    {%- endif -%}
{% endmacro %}
