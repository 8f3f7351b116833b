select basket_id
from {{ ref('fct_basket_lines') }}
group by basket_id
having
    count(distinct household_id) > 1
    or count(distinct store_id) > 1
    or count(distinct purchased_at) > 1
