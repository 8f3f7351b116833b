-- on the stores' clock: taken by UTC dates, late Sunday purchases would fall into the next week
select
    basket_lines.basket_id,
    basket_lines.purchase_date,
    basket_lines.week_number
from {{ ref('fct_basket_lines') }} as basket_lines
left join {{ ref('dim_dates') }} as dates on basket_lines.purchase_date = dates.calendar_date
where dates.week_number is null or basket_lines.week_number != dates.week_number
