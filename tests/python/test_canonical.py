"""What counts of a template's text, and which queries may give something else when they are run again."""

import re
from typing import Any

import duckdb
import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubspoke.canonical import KEYWORDS, canonical
from hubspoke.manifest import Manifest
from hubspoke.volatility import CLOCK_AND_CHANCE, FUNCTIONS, volatile

QUERY = """
with sales as (select * from {{ ref('core_sales') }}),

final as (
    select s.store_id, sum(s.amount) as total_amount
    from sales as s
    left join {{ ref('core_stores') }} as stores on s.store_id = stores.store_id
    where stores.region = 'North  East' -- only there
    group by all
)

select * from final
"""


@pytest.mark.parametrize(
    "edited",
    [
        QUERY.replace("\n", " ").replace("-- only there", ""),
        QUERY.replace("-- only there", "/* the\nregion */"),
        QUERY.replace("where", "{# the region #}\nwhere"),
        QUERY.replace("s.", "line.").replace("as s\n", "as line\n").replace("storeline.", "stores."),
        QUERY.replace("final", "by_store"),
        QUERY.replace("sales as (", "lines as (").replace("from sales", "from lines"),
        QUERY + "-- the end",
        QUERY.replace("select", "SELECT").replace("left join", "Left  JOIN").replace("group by", "GROUP\nBY"),
    ],
)
def test_comments_space_and_aliases_do_not_count(edited: str) -> None:
    assert canonical(edited) == canonical(QUERY)


@pytest.mark.parametrize(
    "edited",
    [
        QUERY.replace("North  East", "North East"),
        QUERY.replace("North  East", "north  east"),
        QUERY.replace("'North  East'", "'Select'"),
        QUERY.replace("as total_amount", "as Total_amount"),
        QUERY.replace("left join", "join"),
        QUERY.replace("core_stores", "core_shops"),
        QUERY.replace("s.store_id, sum", "stores.store_id, sum"),
        QUERY.replace("sum(", "max("),
        QUERY.replace(" as total_amount", ""),
        QUERY.replace("group by all", "group by all limit 5"),
        "{{ config(pre_hook='select 1') }}\n" + QUERY,
        QUERY.replace("{{ ref('core_stores') }}", "{{ ref( 'core_stores' ) }}"),  # Jinja is not read
    ],
)
def test_everything_else_counts(edited: str) -> None:
    assert canonical(edited) != canonical(QUERY)


@pytest.mark.parametrize("query", ["select x as {} from {{ ref('t') }}", "select t.{} from {{ ref('t') }} as t"])
def test_a_keyword_that_names_a_column_keeps_its_case(query: str) -> None:
    assert canonical(query.replace("{}", "left")) != canonical(query.replace("{}", "Left"))


def test_the_engine_keeps_no_column_by_the_name_of_a_keyword_but_after_as() -> None:
    rows = duckdb.sql(
        "select keyword_name from duckdb_keywords() where keyword_category in ('reserved', 'type_function')"
    ).fetchall()
    assert {name for (name,) in rows} >= KEYWORDS


def test_two_aliases_that_change_places_count() -> None:
    one = "select a.x from {{ ref('t') }} as a inner join {{ ref('u') }} as b on a.i = b.i"
    other = "select a.x from {{ ref('t') }} as b inner join {{ ref('u') }} as a on a.i = b.i"
    assert canonical(one) != canonical(other)


def test_an_alias_that_a_macro_names_or_a_column_is_called_by_counts() -> None:
    for query in (
        "select {{ shifted('a.x') }} as x from {{ ref('t') }} as a",  # a macro's text may hold any name
        "select count(a.x) from {{ ref('t') }} as a",  # the column is called count(a.x)
        "select a from {{ ref('t') }} as a",  # the whole row
    ):
        assert canonical(query) != canonical(query.replace("a.x", "b.x").replace("as a", "as b"))


def test_jinja_in_a_comment_is_run_and_counts() -> None:
    query = "select 1 as x -- {{ ref('t') }}"
    assert canonical(query) != canonical(query.replace("'t'", "'u'"))


def test_a_text_that_is_no_sql_counts_as_it_stands() -> None:
    for text in ("it's  so", "{% set area %} North  East {% endset %}", "select 'a'  'b'", "select jinja_piece_0_ --"):
        assert canonical(text) == text


def test_an_alias_that_may_be_another_relation_counts() -> None:
    """Within the query, a name may be what a ref becomes, or what a variable holds."""
    query = "select y.x, (select max(z.x) from {{ ref('z') }}) as m from {{ ref('t') }} as y"
    assert canonical(query) != canonical(query.replace("as y", "as z").replace("y.x", "z.x"))
    query = "select a.x from {{ ref('t') }} as a where {{ var('condition') }}"
    assert canonical(query) != canonical(query.replace("as a", "as b").replace("a.x", "b.x"))
    query = "with customers as (select * from customers) select * from {}"
    assert canonical(query.format("customers")) != canonical(
        query.replace("with customers", "with buyers").format("buyers")
    )


NAMES = st.from_regex(r"[a-z]{3,6}_[0-9]", fullmatch=True)


@given(
    names=st.lists(NAMES, min_size=3, max_size=3, unique=True),
    more=st.lists(NAMES, min_size=3, max_size=3, unique=True),
)
def test_names_of_tables_may_be_any_if_they_are_different(names: list[str], more: list[str]) -> None:
    def query(one: str, two: str, three: str) -> str:
        return (
            f"with {one} as (select x, y from {{{{ ref('t') }}}}), {two} as (select {one}.x from {one}) "
            f"select {three}.y, {two}.x from {two} inner join {one} as {three} on {two}.x = {three}.x"
        )

    assert canonical(query(*names)) == canonical(query(*more))


def test_what_the_engine_calls_volatile_is_known() -> None:
    rows = duckdb.sql(
        "select distinct function_name from duckdb_functions() "
        "where stability in ('VOLATILE', 'CONSISTENT_WITHIN_QUERY') and function_type = 'scalar'"
    ).fetchall()
    # of the session or the schema, which are a run's own and the same each time; and one that only fails
    harmless = {"error", "stats", "in_search_path", "current_query"}
    harmless |= {name for (name,) in rows if re.fullmatch(r"current_(schemas?|database)", name)}
    assert {name for (name,) in rows} - harmless <= {*FUNCTIONS, *CLOCK_AND_CHANCE}


@pytest.mark.parametrize(
    ("query", "word"),
    [
        ("select now() as at", "now"),
        ("select current_date as day", "current_date"),
        ("select * from read_csv('orders.csv')", "read_csv"),
        ("select '{{ run_started_at }}' as at", "run_started_at"),
        ("select {{ dbt.current_timestamp() }} as at", "current_timestamp"),
        ("select {{ Later() }} as at", "now"),
        ("{% set found = run_query('select 1') %} select {{ found }} as x", "run_query"),
        ("select now as at, random from {{ ref('t') }}\n-- now()", ""),
        ("select '--' as sep, now() as at", "now"),
        ("select * from orders using sample 10%", "sample"),
        ("select * from 'orders.csv'", "from"),
        ("select max(build_number) as x from runs.builds", "runs."),
        ('select "random"() as x', "random"),
        ("select transaction_timestamp from {{ ref('t') }}", ""),
    ],
)
def test_a_query_that_looks_at_the_clock_at_chance_or_outside_is_volatile(query: str, word: str) -> None:
    def macro(package: str, name: str, text: str, *calls: str) -> dict[str, Any]:
        unique_id = f"macro.{package}.{name}"
        depends_on = {"macros": list(calls)}
        return {
            "unique_id": unique_id,
            "name": name,
            "package_name": package,
            "macro_sql": text,
            "depends_on": depends_on,
        }

    macros = [
        macro("hubspoke", "Later", "{{ adapter.dispatch('later')() }}", "macro.hubspoke.default__later"),
        macro("hubspoke", "default__later", "now()"),
        macro("dbt", "current_timestamp", "{{ adapter.dispatch('current_timestamp')() }}"),
        macro("hubspoke", "record_build", "{{ invocation_id }} now()"),
    ]
    model: dict[str, Any] = {
        "unique_id": "model.it",
        "resource_type": "model",
        "raw_code": query,
        "config": {"post-hook": [{"sql": "{{ record_build() }}"}]},
        "depends_on": {"macros": ["macro.hubspoke.record_build"]},
    }
    model["depends_on"]["macros"] += [one["unique_id"] for one in macros if one["name"] in query]
    content = {
        "nodes": {"model.it": model},
        "sources": {},
        "exposures": {},
        "macros": {one["unique_id"]: one for one in macros},
    }
    assert volatile(Manifest(content)).get("model.it", "") == word
