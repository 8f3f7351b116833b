{#- Fails rows that repeat a combination of columns. With on_failure quarantine or drop, the first row by
    keep_first_by ("column desc, …") stays and the others go; a combination with a null passes. -#}
{% test unique_combination(model, columns, keep_first_by=none) %}
    select
        {{ columns | join(', ') }},
        count(*) as row_count
    from {{ model }}
    where true {%- for column in columns %} and {{ column }} is not null {%- endfor %}
    group by {{ columns | join(', ') }}
    having count(*) > 1
{% endtest %}
