{#- Fails rows that equal an earlier one in the columns once case, spaces and punctuation are left out: the same thing entered twice. -#}
{% test not_similar(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, not_similar__parameters()) -%}
    {{ query_test(model, rule, not_similar__failing(model, rule)) }}
{% endtest %}

{% macro not_similar__parameters() %}
    {{ return({'columns': 'columns!'}) }}
{% endmacro %}

{% macro not_similar__failing(relation, rule) %}
    {%- set alike = [] -%}
    {%- for column in rule.columns -%}
        {%- do alike.append("lower(translate(cast(" ~ column ~ " as " ~ dbt.type_string() ~ "), ' .,;:-_/()&''', ''))") -%}
    {%- endfor -%}
    select * from (
        select
            *,
            row_number() over (partition by {{ alike | join(', ') }} order by {{ rule.columns | join(', ') }}) as _occurrence
        from {{ relation }}
        where {{ rule.columns | join(' is not null and ') }} is not null
    ) as _numbered
    where _occurrence > 1
{% endmacro %}
