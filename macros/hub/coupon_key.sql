{#- Key of a coupon of a campaign, as text. -#}
{% macro coupon_key(campaign_id, coupon_upc) -%}
    concat(cast({{ campaign_id }} as {{ dbt.type_string() }}), '-', cast({{ coupon_upc }} as {{ dbt.type_string() }}))
{%- endmacro %}
