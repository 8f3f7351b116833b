{#- A relation's schema is its folder: core and staging for the hub's rooms, facade, mart_<domain>, spoke_<consumer>.
    A schema that is configured (seeds) is used as it stands, without the target's name before it. -#}
{% macro generate_schema_name(custom_schema_name, node) -%}
    {%- set folders = node.fqn[1:-1] -%}
    {%- if custom_schema_name is not none -%}
        {{ custom_schema_name | trim }}
    {%- elif node.resource_type != 'model' or not folders -%}
        {{ target.schema }}
    {%- else -%}
        {{ {
            'hub': folders[1] | default('hub'),
            'marts': 'mart_' ~ folders[1] | default(''),
            'spokes': 'spoke_' ~ folders[1] | default('')
        }.get(folders[0], folders[0]) }}
    {%- endif -%}
{%- endmacro %}
