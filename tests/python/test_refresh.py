"""New data without dbt: what a build by change leaves, on a sample whose tills send new and corrected lines."""

import io
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from conftest import BIN, ROOT, Sandbox
from corner_shop import write_table
from rich.console import Console
from test_plan import plan

from hubspoke import refresh
from hubspoke.build import build
from hubspoke.errors import HubspokeError
from hubspoke.maintenance import Changed, Maintenance, Query
from hubspoke.manifest import content_of, parse_project
from hubspoke.project import Project
from hubspoke.quality import CURRENT_LEDGER

SOURCES = "models/hub/staging/pos/_pos__sources.yml"
BY_CHANGE = (
    "            files: transactions*.parquet\n            load: append\n            key: [basket_id, product_id]\n"
)
HELD_BACK = """    data_tests:
      - expression_is_true:
          name: nobody_buys_so_many
          arguments: { expression: "item_count <= 12" }
          config: { meta: { on_failure: quarantine } }
"""
BY_THE_CLOCK = """      - expression_is_true:
          name: the_century_lasts
          arguments: { expression: "current_timestamp < timestamptz '2099-12-31 00:00:00+00'" }
"""


@pytest.fixture(scope="module")
def tills(built: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A sample project, built and released, to which the tills send what is new and what is corrected."""
    target = tmp_path_factory.mktemp("tills") / "project"
    not_released = {str(built.root / "warehouse"): {"release", "tmp"}}
    shutil.copytree(built.root, target, symlinks=True, ignore=lambda folder, _: not_released.get(folder, set()))
    project = Sandbox(target)
    project.edit(SOURCES, "            file: transactions.parquet\n", BY_CHANGE)
    missions = "models/marts/sales/mart_sales__basket_missions.yml"
    project.edit(missions, "    columns:\n", f"{HELD_BACK}    columns:\n")
    project.run("hubspoke", "ingest", "pos")
    project.run("hubspoke", "build")
    return project


def send(tills: Sandbox, lines: str) -> None:
    """Have the tills send some lines, made of those that they have sent; land them."""
    folder = tills.root / "exports"
    number = len(list(folder.glob("transactions*.parquet")))
    file = folder / f"transactions-{number}.parquet"
    rows = lines.format(all=f"'{folder}/transactions.parquet'")
    duckdb.sql(f"copy ({rows}) to '{file}.new' (format parquet)")
    Path(f"{file}.new").replace(file)
    tills.run("hubspoke", "ingest", "pos")


def tables(project: Sandbox) -> dict[str, list[tuple]]:
    """All rows of every table of the hub, quarantined ones included, but for what it notes of itself."""
    found = project.query(
        "select schema_name || '.' || table_name, schema_name = 'quarantine' from duckdb_tables() "
        "where schema_name not in ('runs', 'quality') order by all"
    )
    rows = {True: "select * exclude (_run_id, _quarantined_at)", False: "select *"}
    return {name: project.query(f"{rows[is_held]} from {name} order by all") for name, is_held in found}


def ledger(project: Sandbox) -> list[tuple]:
    """Where the rows of each model went last."""
    return project.query(
        f"select model, rows_in, rows_out, rows_quarantined, rows_dropped from ({CURRENT_LEDGER}) order by all"
    )


def refreshed(told: str) -> str:
    """The line that says what was done without dbt."""
    return next((line for line in told.splitlines() if line.startswith("refreshed")), "")


LAST_RESULTS = """
    select model, rule, rows_tested, rows_failed from quality.results
    qualify row_number() over (partition by model, rule order by recorded_at desc) = 1
    order by all
"""
NEW = "select * replace (basket_id + 10 as basket_id) from {all} where basket_id % 50 = 3"
CORRECTED = "select * replace (sales_value + 1 as sales_value) from {all} where basket_id % 50 = 4"
LATE = (
    "select * replace (transaction_timestamp - interval 1 second as transaction_timestamp) from {all} where week = 20"
)


def test_new_data_gives_by_change_what_a_full_build_gives(tills: Sandbox) -> None:
    for lines in (NEW, CORRECTED, LATE):
        send(tills, lines)
        told = tills.run("hubspoke", "build").stdout
        assert int(refreshed(told).split()[1]) >= 5, told
        assert "0 failed" in told
        assert "Released" in told
        assert plan(tills)["steps"] == []
    rows, counts, held_back = tables(tills), tills.query(LAST_RESULTS), ledger(tills)
    for full in (("hubspoke", "build", "--full"), ("dbt", "build")):
        told = tills.run(*full).stdout
        assert "is still current: no relation changed." in told
        assert tables(tills) == rows
        assert tills.query(LAST_RESULTS) == counts
        assert ledger(tills) == held_back


def test_a_finer_key_is_looked_for_where_a_coarse_one_touches_many_rows(
    tills: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    looked_for: list[tuple[tuple[str, ...], tuple[str, ...]]] = []
    finer = Maintenance.finer

    def noted(maintenance: Maintenance) -> Maintenance | None:
        other = finer(maintenance)
        looked_for.append((maintenance.key, other.key if other else ()))
        return other

    monkeypatch.setattr(Maintenance, "finer", noted)
    monkeypatch.setattr(refresh, "MANY_ROWS", 10)
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    monkeypatch.chdir(tills.root)
    send(
        tills,  # in weeks in which their stores had sold nothing
        "select * replace (basket_id + 1000000000000 as basket_id, week + 1 as week, "
        "transaction_timestamp + interval 7 days as transaction_timestamp) "
        "from {all} where basket_id % 50 = 7 and week between 5 and 45",
    )
    printed = io.StringIO()
    assert build(Project.find(tills.root), (), False, Console(file=printed)), printed.getvalue()
    assert refreshed(printed.getvalue()), printed.getvalue()
    assert (("store_id",), ("product_id", "store_id")) in looked_for
    found = tables(tills)
    tills.run("hubspoke", "build", "--full")
    assert tables(tills) == found


def test_of_keys_that_a_join_finds_those_are_left_that_are_in_all_that_is_joined() -> None:
    types = {
        "memory.main.plans": {"product": "INTEGER", "store": "INTEGER", "week": "INTEGER"},
        "memory.main.sold": {"product": "INTEGER", "store": "INTEGER"},
        "memory.main.weeks": {"store": "INTEGER", "week": "INTEGER"},
    }
    query = Query(
        "select plans.product, plans.store, count(*) as week_count from memory.main.plans join memory.main.weeks "
        "on plans.store = weeks.store and plans.week = weeks.week join memory.main.sold "
        "on plans.product = sold.product and plans.store = sold.store group by plans.product, plans.store",
        types,
    )
    finer = Maintenance(query, {"memory.main.weeks"}).finer()
    assert finer
    with duckdb.connect() as connection:
        connection.execute(
            "create table plans as select * from values (1, 1, 1), (2, 1, 1), (3, 1, 2) as t (product, store, week)"
        )
        connection.execute("create table sold as select * from values (1, 1), (3, 1) as t (product, store)")
        connection.execute("create table weeks as select 1 as store, 1 as week")
        connection.execute("create table came as from weeks; create table went as from weeks limit 0")
        keys = connection.execute(finer.touched({"memory.main.weeks": Changed("went", "came")})).fetchall()
    assert (set(finer.key), keys) == ({"product", "store"}, [(1, 1)])


def test_a_full_build_computes_all_anew_and_asks_dbt_only_where_it_is_needed(tills: Sandbox) -> None:
    before = tables(tills)
    with duckdb.connect(tills.root / "warehouse/hub.duckdb") as hub:  # what no plan can know of
        hub.execute("delete from core.core_promotions where rowid % 2 = 0")
        hub.execute("update mart_sales.mart_sales__departments set product_count = product_count + 1")
    assert plan(tills)["steps"] == []
    full = tills.run("hubspoke", "build", "--full").stdout
    assert "seeds and 22 unit tests: unchanged, and they read no data" in full
    assert "by dbt" not in full
    assert tables(tills) == before
    with duckdb.connect(tills.root / "warehouse/hub.duckdb", read_only=True):  # somebody looks at it
        busy = tills.run("hubspoke", "build", "--full", check=False)
    assert busy.returncode == 1
    assert "hub.duckdb cannot be opened, most likely because another build runs" in busy.stderr
    new = tills.root / "models/hub/core/core_new.sql"
    new.write_text("select 1 as one\n")
    full = tills.run("hubspoke", "build", "--full", check=False).stdout
    assert "describe" in full  # it breaks a rule of the house
    assert "by dbt     core_new: added: never built here" in full
    assert "skipped" not in full
    new.unlink()
    tills.run("hubspoke", "build")


def test_a_model_is_explained(tills: Sandbox) -> None:
    told = tills.run("hubspoke", "explain", "core_basket_lines").stdout.splitlines()
    assert told == [
        "core_basket_lines, when rows change in",
        "  core_products     by change: the rows of the same product_id, as those",
        "  pos.transactions  by change: the rows of the same basket_id, product_id, as those; new rows are just added",
    ]
    assert (
        "is computed as a whole: a window looks at all rows"
        in tills.run("hubspoke", "explain", "mart_sales__departments").stdout
    )
    assert "drops rows of it for good" in tills.run("hubspoke", "explain", "core_coupon_products").stdout
    assert "is a view" in tills.run("hubspoke", "explain", "spoke_bi__departments").stdout
    wrong = tills.run("hubspoke", "explain", "mart_sales__department", check=False)
    assert wrong.returncode == 1
    assert "did you mean mart_sales__departments?" in wrong.stderr


def test_of_rows_that_are_alike_those_alone_go_that_went(settled_shop: Sandbox) -> None:
    ages = settled_shop.root / "models/hub/core/core_ages.sql"
    ages.write_text("select age_range, count(*) over () as customer_count from {{ ref('core_customers') }}\n")
    ages.with_suffix(".yml").write_text(
        "models: [{ name: core_ages, description: 'Ages. Grain: one row per customer.' }]\n"
    )
    settled_shop.run("hubspoke", "build")
    customers = settled_shop.root / "exports/customers.parquet"
    write_table(
        settled_shop.root,
        "crm.customers",
        f"select customer_id, if(customer_id = 1, '65+', age) as age from '{customers}'",
    )
    settled_shop.run("hubspoke", "ingest", "crm")
    told = settled_shop.run("hubspoke", "build").stdout
    assert refreshed(told), told
    with duckdb.connect(settled_shop.root / "warehouse/hub.duckdb", read_only=True) as hub:
        found = hub.execute("select age_range, count(*), max(customer_count) from core.core_ages group by 1").fetchall()
        assert sorted(found) == [("19-24", 13, 40), ("25-34", 13, 40), ("35-44", 13, 40), ("65+", 1, 40)]


def test_what_no_model_reads_reaches_none(tills: Sandbox) -> None:
    send(tills, "select * from {all} where basket_id % 50 = 5")  # sent again, as it was
    told = tills.run("hubspoke", "build").stdout
    assert refreshed(told).startswith("refreshed  "), told


def test_a_rule_that_fails_is_told_by_dbt_and_readers_keep_what_they_have(tills: Sandbox) -> None:
    before = tables(tills)
    release = (tills.root / "warehouse/release/current").readlink()
    send(tills, "select * replace (-1 as quantity) from {all} where basket_id % 500 = 6")
    red = tills.run("hubspoke", "build", check=False)
    assert red.returncode == 1
    assert not refreshed(red.stdout)
    assert "quantity" in red.stdout
    assert (tills.root / "warehouse/release/current").readlink() == release
    send(tills, "select * from {all} where basket_id % 500 = 6")  # put right
    assert tills.run("hubspoke", "build").returncode == 0
    assert tables(tills).keys() == before.keys()


def test_a_rule_that_looks_at_the_clock_is_asked_of_data_that_has_not_changed(tills: Sandbox) -> None:
    campaigns, rule = (
        "models/hub/core/core_campaigns.yml",
        "      - expression_is_true:\n          name: core_campaigns",
    )
    tills.edit(campaigns, rule, BY_THE_CLOCK + rule)
    tills.run("hubspoke", "build", "--select", "core_campaigns+")
    with duckdb.connect(tills.root / "warehouse/hub.duckdb") as hub:  # as if the century had passed
        hub.execute("update quality.gates set rules = replace(rules, '2099-12-31', '2009-12-31')")
    send(tills, "select * replace (basket_id + 20 as basket_id) from {all} where basket_id % 500 = 8")
    told = tills.run("hubspoke", "build").stdout
    assert not refreshed(told)
    assert "by dbt     the_century_lasts fails" in told
    tills.edit(campaigns, BY_THE_CLOCK, "")


def test_a_kill_at_any_instant_leaves_all_or_nothing(tills: Sandbox) -> None:
    chance = random.Random(1)
    environment = {**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"}
    for number in range(4):
        send(tills, f"select * replace (sales_value + {number} as sales_value) from {{all}} where basket_id % 50 = 7")
        build = subprocess.Popen(
            [BIN / "hubspoke", "build"], cwd=tills.root, env=environment, stdout=subprocess.DEVNULL
        )
        time.sleep(chance.uniform(0.5, 6))
        build.send_signal(signal.SIGKILL)
        build.wait()
    tills.run("hubspoke", "build")
    found = tables(tills)
    tills.run("dbt", "build")
    assert tables(tills) == found


def test_dbt_parses_only_what_is_another(tills: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    first = parse_project(tills.root).run_id
    assert parse_project(tills.root).run_id == first
    content = content_of(tills.root)
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "elsewhere")
    assert content_of(tills.root) != content
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    model = tills.root / "models/hub/core/core_stores.sql"
    text = model.read_text()
    model.write_text("select * from {{ ref('nobody_knows') }}")
    with pytest.raises(HubspokeError, match="nobody_knows"):
        parse_project(tills.root)
    model.write_text(text)
    assert parse_project(tills.root).run_id == first


TYPES = {
    "hub.core.lines": {"k": "INTEGER", "s": "VARCHAR", "d": "DATE", "v": "DECIMAL(10,2)", "f": "DOUBLE"},
    "hub.core.products": {"k": "INTEGER", "dep": "VARCHAR"},
}
STORED = {"k": "INTEGER", "v": "DECIMAL(18,2)"}


@pytest.mark.parametrize(
    ("sql", "stored", "united"),
    [
        ("select k, sum(v) as v from {lines} group by k", STORED, {"k": "", "v": "sum"}),
        ("select k, cast(sum(v) as decimal(18, 2)) as v from {lines} group by all", STORED, {"k": "", "v": "sum"}),
        (
            "select k, min(v) as v from {lines} group by 1",
            {"k": "INTEGER", "v": "DECIMAL(10,2)"},
            {"k": "", "v": "min"},
        ),
        ("select k, count_if(v > 2) as v from {lines} where s = 'a' group by k", STORED, {"k": "", "v": "sum"}),
        (
            "select upper(s) as k, count(*) as v from {lines} group by upper(s)",
            {"k": "VARCHAR", "v": "BIGINT"},
            {"k": "", "v": "sum"},
        ),
        (
            "with l as (select l.* from {lines} as l join {products} as p using (k)), t as (select k, sum(v) as w, "
            "max(d) as d from l group by k) select d as last, w as v, k from t",
            {"k": "INTEGER", "v": "DECIMAL(38,2)", "last": "DATE"},
            {"last": "max", "v": "sum", "k": ""},
        ),
        ("select distinct k, upper(s) as s from {lines}", {"k": "INTEGER", "s": "VARCHAR"}, {"k": "", "s": ""}),
        (
            "with p as (select distinct p.dep as s, l.k from {lines} as l join {products} as p using (k)) select k, s "
            "from p",
            {"k": "INTEGER", "s": "VARCHAR"},
            {"k": "", "s": ""},
        ),
        # what another row could not be added to
        ("select k, avg(v) as v from {lines} group by k", STORED, {}),
        ("select k, sum(distinct v) as v from {lines} group by k", STORED, {}),
        ("select k, count(distinct s) as v from {lines} group by k", STORED, {}),
        ("select k, sum(v) as v from {lines} group by k having sum(v) > 3", STORED, {}),
        ("select k, sum(v) + 1 as v from {lines} group by k", STORED, {}),
        ("select k, sum(v) as v from {lines} group by k limit 5", STORED, {}),
        ("select k, sum(v) as v from {lines} group by k qualify row_number() over (order by k) < 3", STORED, {}),
        ("select distinct count(*) as v from {lines}", {"v": "BIGINT"}, {}),
        ("select distinct k, row_number() over (order by k) as v from {lines}", {"k": "INTEGER", "v": "BIGINT"}, {}),
        ("select distinct on (k) k, s from {lines} order by k, s", {"k": "INTEGER", "s": "VARCHAR"}, {}),
        ("select distinct k, s from {lines} order by k limit 3", {"k": "INTEGER", "s": "VARCHAR"}, {}),
        ("select distinct k, v from {lines}", STORED, {}),
        # what has been rounded, or adds up differently
        ("select k, sum(f) as v from {lines} group by k", STORED, {}),
        ("select k, sum(v) as v from {lines} group by k", {"k": "INTEGER", "v": "DECIMAL(18,1)"}, {}),
        ("select k, cast(sum(v) as int) as v from {lines} group by k", STORED, {}),
        ("select k, try_cast(sum(v) as decimal(18, 2)) as v from {lines} group by k", STORED, {}),
        ("select k, max(v) as v from {lines} group by k", STORED, {}),
        # groups that are not told apart by what is kept of them
        ("select sum(v) as v from {lines} group by k", {"v": "DECIMAL(18,2)"}, {}),
        (
            "select date_trunc('month', d) as d, sum(v) as v from {lines} group by d",
            {"d": "DATE", "v": "DECIMAL(18,2)"},
            {},
        ),
        ("select f as k, sum(v) as v from {lines} group by f", {"k": "DOUBLE", "v": "DECIMAL(18,2)"}, {}),
        # rows that hang on others than those that came
        ("with l as (select distinct k, v from {lines}) select k, sum(v) as v from l group by k", STORED, {}),
        (
            "with l as (select k, max(v) as v from {lines} group by k) select k, sum(v) as v from l group by k",
            STORED,
            {},
        ),
        ("select p.k, sum(l.v) as v from {products} as p left join {lines} as l using (k) group by p.k", STORED, {}),
        ("with t as (select k, sum(v) as v from {lines} group by k) select k, v from t where v > 3", STORED, {}),
    ],
)
def test_new_rows_are_added_to_groups_where_that_takes_no_other_row(
    sql: str, stored: dict[str, str], united: dict[str, str]
) -> None:
    query = Query(sql.format(lines='"hub"."core"."lines"', products='"hub"."core"."products"'), TYPES)
    assert query.united("hub.core.lines", stored) == united


@pytest.mark.parametrize(
    ("sql", "is_so"),
    [
        ("select * from {lines} where k is not null and k not in (select k from {products} where k is not null)", True),
        (
            "select * from (with l as (select * from {lines}) select k, s from l) as f where k <> 5 and k not in "
            "(select k from (with p as (select * from {products}), q as (select k from p) select * from q) as p)",
            True,
        ),
        ("select * from {lines} where k in (select k from {products})", False),
        ("select * from {lines} where not (k not in (select k from {products}))", False),
        ("select * from {lines} where (k not in (select k from {products})) is null", False),
        ("select * from {lines} where k = 1 or k not in (select k from {products})", False),
        ("select k not in (select k from {products}) as k from {lines}", False),
        ("select count(*) as n from {lines} where k not in (select k from {products})", False),
        ("select * from {lines} where k not in (select max(k) from {products})", False),
        ("select * from {lines} where k not in (select k from {products} limit 1)", False),
        ("select * from {lines} where k not in (select k from {products} except select k from {lines})", False),
        (
            "select * from {lines} where k not in (select k from {products}) and k > (select max(k) from {products})",
            False,
        ),
        (
            "select * from {lines} where k not in (select k from {lines} where k not in (select k from {products}))",
            False,
        ),
        ("select * from {lines} where k not in (select k from {lines} where k = (select k from {products}))", False),
    ],
)
def test_more_rows_where_others_are_missed_leave_fewer_only_if_nothing_else_is_asked(sql: str, is_so: bool) -> None:
    query = Query(sql.format(lines='"hub"."core"."lines"', products='"hub"."core"."products"'), TYPES)
    assert query.is_only_missed("hub.core.products") == is_so
    assert not query.is_only_missed("hub.core.lines")


def test_views_of_many_shapes_are_kept_up_to_date_by_change() -> None:
    command = [sys.executable, ROOT / "bench/views.py", "--batches", "400", "--seed", "5"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "all are as their queries give" in " ".join(done.stdout.split())
