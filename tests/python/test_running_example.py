"""Facts of the running example that a reader can check by hand, on the whole of it: 22.6 million rows."""

from decimal import Decimal

import duckdb
import pytest
from conftest import ROOT, Sandbox

from hubspoke.sources import read_sources

pytestmark = pytest.mark.real


@pytest.fixture(scope="module")
def raw() -> duckdb.DuckDBPyConnection:
    """The source files themselves, one view for each table."""
    connection = duckdb.connect()
    for table in read_sources(ROOT):
        connection.execute(f"create view {table.table} as from '{table.path}'")
    return connection


def test_every_row_of_every_source_is_landed(whole: Sandbox, raw: duckdb.DuckDBPyConnection) -> None:
    for table in read_sources(whole.root):
        landed = whole.query(f"select count(*) from landing_{table.source}.{table.table}")
        assert landed == raw.execute(f"select count(*) from {table.table}").fetchall(), table.name
    assert "22,627,890 rows in 8 tables" in (whole.root / "build.txt").read_text()


@pytest.mark.parametrize(
    ("fact", "source_sql", "hub_sql", "expected"),
    [
        (
            "sales of the year",
            "select sum(sales_value::decimal(18, 2)) from transactions",
            "select sum(sales_amount) from mart_sales.mart_sales__departments",
            Decimal("4596039.58"),
        ),
        (
            "sales of the year, by store and day",
            "select sum(sales_value::decimal(18, 2)) from transactions",
            "select sum(sales_amount) from mart_sales.mart_sales__daily_stores",
            Decimal("4596039.58"),
        ),
        (
            "baskets",
            "select count(distinct basket_id) from transactions",
            "select count(*) from facade.fct_baskets_v1",
            155_848,
        ),
        (
            "households",
            "select count(distinct household_id) from transactions",
            "select count(*) from mart_customers.mart_customers__rfm",
            2_469,
        ),
        (
            "products sold that no catalogue knows",
            "select count(distinct product_id) from transactions anti join products using (product_id)",
            "select count(distinct product_id) from facade.fct_basket_lines_v1 "
            "inner join facade.dim_products_v1 using (product_id) where is_inferred",
            17,
        ),
        (
            "lines of products that no catalogue knows",
            "select count(*) from transactions anti join products using (product_id)",
            "select count(*) from facade.fct_basket_lines_v1 "
            "inner join facade.dim_products_v1 using (product_id) where is_inferred",
            4_836,
        ),
        (
            "promotions planned twice",
            "select count(*) - count(distinct (product_id, store_id, week)) from promotions",
            "select count(*) from quarantine.core_promotions",
            12_785,
        ),
        (
            "coupon products sent twice",
            "select count(*) - count(distinct (coupon_upc, product_id, campaign_id)) from coupons",
            "select distinct rows_dropped from quality.ledger where model = 'core_coupon_products'",
            4_872,
        ),
        (
            "lines of households without demographics",
            "select count(*) from transactions anti join demographics using (household_id)",
            "select count(*) from facade.fct_basket_lines_v1 "
            "inner join facade.dim_households_v1 using (household_id) where not has_demographics",
            640_457,
        ),
        (
            "lines with quantity 0 or value 0",
            "select count(*) from transactions where quantity = 0 or sales_value = 0",
            "select count(*) from facade.fct_basket_lines_v1 "
            "where line_type in ('free', 'unmeasured', 'coupon', 'void')",
            11_275,
        ),
        (
            "products without package size",
            "select count(*) from products where package_size is null",
            "select count(*) from facade.dim_products_v1 where package_size_text = 'Unknown' and not is_inferred",
            30_586,
        ),
        (
            "products without category",
            "select count(*) from products where product_category is null",
            "select count(*) from facade.dim_products_v1 where category_name = 'Unknown' and not is_inferred",
            540,
        ),
        (
            "stores with a promotion plan",
            "select count(distinct store_id) from promotions",
            "select count(*) from facade.dim_stores_v1 where has_promotion_plan",
            112,
        ),
        (
            "coupons redeemed",
            "select count(*) from coupon_redemptions",
            "select sum(redemption_count) from mart_marketing.mart_marketing__coupons",
            2_102,
        ),
        (
            "campaign letters",
            "select count(*) from campaigns",
            "select sum(household_count) from mart_marketing.mart_marketing__campaigns",
            6_589,
        ),
    ],
)
def test_a_fact_of_the_source_is_the_same_in_the_hub(
    whole: Sandbox, raw: duckdb.DuckDBPyConnection, fact: str, source_sql: str, hub_sql: str, expected: object
) -> None:
    assert raw.execute(source_sql).fetchall() == [(expected,)], fact
    assert whole.query(hub_sql) == [(expected,)], fact


def test_figures_that_only_the_hub_can_tell(whole: Sandbox) -> None:
    assert whole.query("select line_type, count(*) from facade.fct_basket_lines_v1 group by all order by all") == [
        ("coupon", 2_978),
        ("free", 2_406),
        ("fuel", 14_697),
        ("sale", 1_443_335),
        ("unmeasured", 29),
        ("void", 5_862),
    ]
    assert whole.query("select count(*) from facade.dim_products_v1 where is_inferred") == [(20,)]
    assert whole.query("select count(*) from facade.dim_stores_v1") == [(457,)]
    assert whole.query("select count(*) from facade.dim_dates_v1 where week_number = 1 and is_trading_day") == [(1,)]
    # of the promotions planned twice, those whose displays agree
    assert whole.query(
        "select count(*) from quarantine.core_promotions inner join core.core_promotions as kept "
        "using (product_id, store_id, week_number, display_location_code)"
    ) == [(37,)]
    assert whole.query(
        "select count(*) from core.core_basket_lines where coupon_match_discount_amount > coupon_discount_amount"
    ) == [(4,)]
    # by UTC dates, redemptions would miss their baskets: the reason for the stores' clock
    assert whole.query(
        "select count(*) from facade.fct_coupon_redemptions_v1 as redemption where not exists (select 1 from "
        "facade.fct_baskets_v1 as basket where basket.household_id = redemption.household_id "
        "and basket.purchased_at::date = redemption.redemption_date)"
    ) == [(233,)]


def test_a_spoke_has_its_own_relations_and_no_personal_data_but_what_was_granted(whole: Sandbox) -> None:
    columns = {
        spoke: {
            (table, column)
            for table, column in whole.read(
                spoke, "select table_name, column_name from duckdb_columns() where not internal"
            )
        }
        for spoke in ("bi", "ml", "crm")
    }
    assert {spoke: len({table for table, _ in found}) for spoke, found in columns.items()} == {
        "bi": 10,
        "ml": 1,
        "crm": 1,
    }
    personal = {"age_range", "income_range", "home_ownership_status", "marital_status", "household_size_range"}
    personal |= {"household_composition", "kids_count_range"}
    assert {column for _, column in columns["bi"] | columns["ml"]} & personal == set()
    assert {column for _, column in columns["crm"]} & personal == {"age_range", "household_composition"}


def test_building_again_changes_nothing_that_readers_see(whole: Sandbox) -> None:
    """Sums come out the same in whatever order the engine adds them up."""
    assert "Release 1 is still current: no relation changed." in (whole.root / "again.txt").read_text()
