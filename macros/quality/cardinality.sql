{#- Fails for each key that breaks the cardinality between two columns: one-to-one, one-to-many (each second has one first) or many-to-one. -#}
{% test cardinality(model, column_name=none) %}
    {%- set rule = read_rule(column_name, kwargs, cardinality__parameters()) -%}
    {{ query_test(model, rule, cardinality__failing(model, rule)) }}
{% endtest %}

{% macro cardinality__parameters() %}
    {{ return({'columns': 'columns!', 'is': 'choice:one-to-one|one-to-many|many-to-one!'}) }}
{% endmacro %}

{% macro cardinality__failing(relation, rule) %}
    {%- set first, second = rule.columns -%}
    {%- set counted = [] -%}
    {%- if rule.arguments.is in ['one-to-one', 'many-to-one'] -%}{%- do counted.append([first, second]) -%}{%- endif -%}
    {%- if rule.arguments.is in ['one-to-one', 'one-to-many'] -%}{%- do counted.append([second, first]) -%}{%- endif -%}
    {%- for key, other in counted %}
    select
        {{ _text(key) }} as column_name,
        cast({{ key }} as {{ dbt.type_string() }}) as value,
        count(distinct {{ other }}) as partner_count
    from {{ relation }}
    where {{ key }} is not null
    group by {{ key }}
    having count(distinct {{ other }}) > 1
    {{ 'union all' if not loop.last }}
    {%- endfor %}
{% endmacro %}
