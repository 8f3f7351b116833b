-- What the tiles of a dashboard ask, one statement each; bench/dashboards.py times them.

-- name: sales of every day
select purchase_date, sum(sales_amount) as sales from spoke_bi__daily_stores group by purchase_date order by purchase_date;

-- name: headline figures
select sum(sales_amount) as sales, sum(basket_count) as baskets, sum(sales_amount) / sum(basket_count) as per_basket from spoke_bi__daily_stores;

-- name: one store's year
select purchase_date, sales_amount, household_count from spoke_bi__daily_stores where store_id = 367 order by purchase_date;

-- name: last four weeks, ten best stores
select store_id, sum(sales_amount) as sales from spoke_bi__daily_stores where week_number between 49 and 52 group by store_id order by sales desc limit 10;

-- name: fuel's share by month
select date_trunc('month', purchase_date) as month, sum(fuel_sales_amount) / sum(sales_amount) as share from spoke_bi__daily_stores group by 1 order by 1;

-- name: stores against the week before
select store_id, sales_change_share from spoke_bi__weekly_stores where week_number = 30 order by sales_change_share desc nulls last;

-- name: stores and their weeks, as a heat map
select store_id, week_number, sales_per_trading_day from spoke_bi__weekly_stores;

-- name: departments
select department_name, sales_amount, sales_share, private_brand_share from spoke_bi__departments order by sales_amount desc;

-- name: categories of a department by week
select category_name, week_number, sales_amount from spoke_bi__weekly_categories where department_name = 'GROCERY' order by 1, 2;

-- name: growth of categories, second half against first
select category_name, sum(sales_amount) filter (where week_number > 26) / nullif(sum(sales_amount) filter (where week_number <= 26), 0) as growth from spoke_bi__weekly_categories group by category_name order by growth desc nulls last limit 20;

-- name: best products
select product_id, product_type_name, sales_amount from spoke_bi__products order by sales_rank limit 50;

-- name: products found by name
select product_id, category_name, sales_amount from spoke_bi__products where product_type_name ilike '%yogurt%' order by sales_amount desc limit 50;

-- name: brands by department
select department_name, brand_type, sum(sales_amount) as sales, count(*) as products from spoke_bi__products group by department_name, brand_type;

-- name: a list of choices for a filter
select distinct category_name from spoke_bi__products order by category_name;

-- name: pairs of categories
select first_category_name, second_category_name, lift from spoke_bi__category_pairs order by lift desc limit 20;

-- name: cohorts
select cohort_month_date, month_offset, retention_share from spoke_bi__cohort_retention order by 1, 2;

-- name: campaigns and their coupons
select campaign_type, count(*) as coupons, sum(coupons.redemption_count) as redemptions from spoke_bi__campaigns as campaigns inner join spoke_bi__coupons as coupons using (campaign_id) group by campaign_type;

-- name: lift of promotions
select display_location_name, mailer_location_name, promotion_lift from spoke_bi__promotion_lift order by promotion_lift desc nulls last;
