"""Edits of SQL around Jinja: they need no dbt, and leave what dbt would."""

import json
from pathlib import Path

import duckdb
import pytest
from conftest import Sandbox
from test_plan import plan
from test_refresh import refreshed, tables

from hubspoke.edits import compiled, edited
from hubspoke.maintenance import NotMaintainable, difference, repeated
from hubspoke.manifest import Manifest, parse_project
from hubspoke.release import last_builds

DEPARTMENTS = "models/marts/sales/mart_sales__departments.sql"
WEEKS = "models/marts/sales/mart_sales__weeks.sql"
CORE = "models/hub/core/core_sales.sql"
COUNT = "count(*) as sale_count"


def node(text: str, **more: object) -> dict[str, object]:
    return {"resource_type": "model", "language": "sql", "raw_code": text, **more}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("select a from {{ ref('x') }}", "select b from {{ ref('x') }} -- why\n"),
        (
            "{{ config(tags=['t']) }} select 1 from {{ ref('x') }}",
            "{{ config(tags=['t']) }}\nselect 2 from {{ ref('x') }}",
        ),
        ("select {{ dbt.length('a') }} from {{ ref('x') }}", "select 1 + {{ dbt.length('a') }} from {{ ref('x') }}"),
        ("{# one #} select a from {{ ref('x') }}", "{# another {{ one }} #} select a from {{ ref('x') }}"),
    ],
)
def test_what_dbt_parses_is_known_where_its_jinja_is_the_same(before: str, after: str) -> None:
    now = edited(node(before, name="it"), after)
    assert now is not None
    assert (now["raw_code"], now["name"]) == (after.strip(), "it")


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ("select a from {{ ref('x') }}", "select a from {{ ref('y') }}"),
        ("select a from {{ ref('x') }}", "select a from {{ ref('x') }}, {{ ref('y') }}"),
        ("{{ config(tags=['t']) }} select 1", "{{ config(tags=['u']) }} select 1"),
        ("select a from {{ ref('x') }}", "select a from {{ ref('x') }} {% if true %} where b {% endif %}"),
        ("{% set a = 1 %} select 1", "{% set a = 1 %} select 2"),
        ("select '{{ \"}}\" }}'", "select '{{ \"}} \" }}'"),
        ("select a from {{ ref('x') }}", "select a from {{ ref('x') }} where b = '{{'"),
    ],
)
def test_any_other_edit_is_parsed_by_dbt(before: str, after: str) -> None:
    assert edited(node(before), after) is None


def test_only_models_and_tests_in_sql_are_known() -> None:
    assert edited(node("select 1") | {"language": "python"}, "select 2") is None
    assert edited(node("select 1") | {"resource_type": "snapshot"}, "select 2") is None
    assert edited({}, "select 2") is None


def test_sql_is_compiled_as_dbt_does(built: Sandbox) -> None:
    manifest = Manifest(json.loads(next((built.root / "target/parsed").glob("*.json")).read_text()))
    with duckdb.connect(built.root / "warehouse/hub.duckdb", read_only=True) as hub:
        builds = last_builds(hub)
    told = {
        model["unique_id"]: compiled(model, [manifest.get(parent) for parent in manifest.parents(model["unique_id"])])
        for model in manifest.models
    }
    known = {node_id: sql for node_id, sql in told.items() if sql is not None}
    assert len(known) > 0.75 * len(told)
    for node_id, sql in known.items():
        assert sql.split() == builds[node_id].compiled.split(), node_id


def test_a_reference_that_may_mean_two_is_left_to_dbt() -> None:
    one = {"name": "x", "package_name": "here", "version": 1, "relation_name": '"x_v1"'}
    two = one | {"version": 2, "relation_name": '"x_v2"'}
    assert compiled(node("from {{ ref('x') }}"), [one]) == 'from "x_v1"'
    assert compiled(node("from {{ ref('x') }}"), [one, two]) is None
    assert compiled(node("from {{ ref('x', v=2) }}"), [one, two]) == 'from "x_v2"'
    assert compiled(node("from {{ ref('there', 'x') }}"), [one]) is None
    assert compiled(node("from {{ source('s', 'x') }}"), [one]) is None
    landed = {"source_name": "s", "name": "x", "relation_name": '"landing"."x"'}
    assert compiled(node("from {{ source('s', 'x') }}"), [one, landed]) == 'from "landing"."x"'
    assert compiled(node("select {{ var('x') }}"), [one]) is None


def test_jinja_that_moves_what_is_around_it_is_left_to_dbt() -> None:
    one = {"name": "x", "package_name": "here", "relation_name": '"x"'}
    assert compiled(node("{{ config(tags=['t']) }}from {# why #}{{ ref('x') }}\r\n"), [one]) == 'from "x"\n'
    assert compiled(node("from {{ ref('x') }} where a -- why\n{#- note -#}\nand b"), [one]) is None
    assert compiled(node("from -- sales\n{{- ref('x') }}"), [one]) is None
    assert compiled(node("{{ config(tags=['t']) or 'z' }}"), [one]) is None


def test_a_difference_counts_repetitions_and_nulls() -> None:
    rows = {"before": "(1), (1), (null), (2)", "after": "(1), (null), (null), (3)"}
    with duckdb.connect() as connection:
        for name, values in rows.items():
            connection.execute(f"create table {name} as from (values {values}) as it (a)")
        connection.execute(f"create table differing as {difference('before', 'after', ['a'])}")
        went, came = (
            connection.execute(repeated("differing", ["a"], times)).fetchall() for times in ("-_times", "_times")
        )
    assert (sorted(went), sorted(came, key=str)) == ([(1,), (2,)], [(3,), (None,)])
    with pytest.raises(NotMaintainable):
        difference("before", "after", ["a", "_TIMES"])


def test_an_edit_of_a_table_is_built_without_dbt_as_dbt_builds_it(
    settled_shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    shop = settled_shop
    shop.run("hubspoke", "plan")  # the project was moved, so dbt parses it
    parsed = parse_project(shop.root).run_id
    for old, new in ((COUNT, "2 * count(*) as sale_count"), ("2 * count(*)", "count(*)")):
        shop.edit(DEPARTMENTS, old, new)
        assert [step["why"] for step in plan(shop)["steps"][:1]] == ["edited"]
        told = shop.run("hubspoke", "build").stdout
        assert refreshed(told), told
        assert "Released" in told
        assert plan(shop)["steps"] == []
        assert parse_project(shop.root).run_id == parsed
    shop.edit(DEPARTMENTS, COUNT, "1 + count(*) as sale_count")
    shop.edit("models/marts/sales/mart_sales__days.sql", COUNT, "3 + count(*) as sale_count")
    assert refreshed(shop.run("hubspoke", "build").stdout)
    rows = tables(shop)
    assert shop.read("bi", "select min(sale_count) from spoke_bi__days")[0][0] > 3
    assert "is still current: no relation changed." in shop.run("dbt", "build").stdout
    assert tables(shop) == rows


def test_a_comment_is_no_edit_and_nothing_that_dbt_parses(
    settled_shop: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    parsed = parse_project(settled_shop.root).run_id
    settled_shop.edit(WEEKS, "select * from final", "-- all of it\nselect * from final")
    assert parse_project(settled_shop.root).run_id == parsed
    assert settled_shop.run("hubspoke", "build").stdout.startswith("built      nothing")


@pytest.mark.parametrize(
    ("file", "old", "new"),
    [
        pytest.param(WEEKS, "sum(sale_count)", "2 * sum(sale_count)", id="a model with macros and unit tests"),
        pytest.param(
            CORE, "        sales_amount,\n", "        sales_amount,\n        1 as one,\n", id="another column"
        ),
        pytest.param(
            CORE, "product_id,\n        customer_id,", "customer_id,\n        product_id,", id="another order"
        ),
        pytest.param("models/facade/fct_sales_v1.sql", "from given", "from given where true", id="a view"),
        pytest.param(DEPARTMENTS, "select * from final", "select * from {{ var('it', 'final') }}", id="Jinja"),
    ],
)
def test_what_is_more_than_an_edit_of_a_tables_sql_is_built_by_dbt(
    settled_shop: Sandbox, file: str, old: str, new: str
) -> None:
    settled_shop.edit(file, old, new)
    told = settled_shop.run("hubspoke", "build", check=False).stdout
    assert not refreshed(told)
    assert "models in" in told or "model in" in told, told


def test_a_rule_that_is_edited_with_its_table_is_the_one_that_is_asked(settled_shop: Sandbox) -> None:
    settled_shop.run("hubspoke", "plan")
    about = CORE.replace(".sql", ".yml")
    rule, taken_out = "name: no_sale_below_zero\n", "        config: { meta: { on_failure: quarantine } }\n"
    settled_shop.edit(about, rule, rule + taken_out)
    settled_shop.edit(about, "min_value: 0", "min_value: 3")
    settled_shop.run("hubspoke", "plan")  # dbt has parsed the rule before the text is edited
    settled_shop.edit(CORE, "select * from final", "select * from final where true")
    told = settled_shop.run("hubspoke", "build", check=False).stdout
    assert not refreshed(told)
    assert settled_shop.query("select min(sales_amount) >= 3 from core.core_sales") == [(True,)]


def test_an_edit_that_breaks_a_rule_is_told_by_dbt_and_leaves_what_readers_see(settled_shop: Sandbox) -> None:
    current = settled_shop.root / "warehouse/release/current"
    before = Path(current.readlink())
    settled_shop.edit(DEPARTMENTS, "cast(sum(sales.sales_amount)", "cast(2 * sum(sales.sales_amount)")
    red = settled_shop.run("hubspoke", "build", check=False)
    assert red.returncode == 1
    assert "department_sales_are_as_sent" in red.stdout
    assert not refreshed(red.stdout)
    assert Path(current.readlink()) == before


def test_sql_that_does_not_run_is_told_by_dbt(settled_shop: Sandbox) -> None:
    settled_shop.edit(DEPARTMENTS, COUNT, "count(*) + no_such_column as sale_count")
    red = settled_shop.run("hubspoke", "build", check=False)
    assert red.returncode == 1
    assert "no_such_column" in red.stdout
    assert "mart_sales__departments.sql" in red.stdout
