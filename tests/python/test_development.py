"""Development environments: they read the hub, hold what was built in them, and are promoted as it is."""

import json
import sqlite3
import subprocess
import sys
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import Sandbox, minimal_project

from hubspoke import development
from hubspoke.development import attach_base, create, environments, follow, promote, read_relations, remove
from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest
from hubspoke.plan import Plan, Step
from hubspoke.project import Project
from hubspoke.quality import held_back, open_hub
from hubspoke.release import last_builds

DEPARTMENTS = "models/marts/sales/mart_sales__departments.sql"
PRODUCTS = "count(*) as product_count"
SALES = "sum(sales_amount) as decimal"
HERE = "warehouse/dev/prices"
ERP = """sources:
  - name: erp
    schema: landing_erp
    config: { meta: { ingest: { mechanism: federated, connection: erp } } }
    tables: [{ name: orders, columns: [{ name: id, data_type: bigint }] }]
"""
DATES, STORES = "model.hubspoke.core_dates", "model.hubspoke.core_stores"


def of(sandbox: Sandbox) -> Project:
    return Project(sandbox.root, sandbox.root / "warehouse")


def steps(sandbox: Sandbox, **environment: str) -> dict[str, str]:
    found: dict[str, Any] = json.loads(sandbox.run("hubspoke", "plan", "--json", **environment).stdout)
    return {step["name"]: step["why"] for step in found["steps"]}


def numbers(project: Project) -> dict[str, int]:
    with open_hub(project) as hub:
        return {node_id: build.number for node_id, build in last_builds(hub).items()}


def note(hub: duckdb.DuckDBPyConnection, run_id: str, node_id: str) -> None:
    """Note what a run notes of a model that it builds."""
    for table, state in (("builds", "state"), ("results", "status")):
        hub.execute(
            f"insert into runs.{table} (build_number, run_id, node_id, {state}) "
            f"values (nextval('runs.build_number'), '{run_id}', '{node_id}', 'success')"
        )


def build_dates(made: Project, run_id: str) -> None:
    """Make another table of dates in an environment, as a run would."""
    with duckdb.connect(made.hub) as hub:
        attach_base(made, hub)
        hub.execute("create table core.it as from core.core_dates limit 7")
        hub.execute("drop view core.core_dates; alter table core.it rename to core_dates")
        note(hub, run_id, DATES)
        hub.execute(
            f"delete from quality.gates where node_id = '{DATES}'; insert into quality.gates values ('{DATES}', '')"
        )


def dates(project: Project) -> int:
    with open_hub(project) as hub:
        return int(hub.sql("from core.core_dates").count("*").fetchall()[0][0])


def test_what_is_built_in_one_stays_there_until_it_is_promoted_as_it_is(settled: Sandbox) -> None:
    project, here = of(settled), {"HUBSPOKE_WAREHOUSE": HERE}
    before, built = project.hub.read_bytes(), numbers(project)
    held = settled.run("hubspoke", "quarantine", "list").stdout
    assert settled.run("hubspoke", "dev", "prices").stdout == f"To work in it: export HUBSPOKE_WAREHOUSE={HERE}\n"
    assert (settled.root / HERE / "hub.duckdb").stat().st_size < len(before) / 10
    assert settled.run("hubspoke", "dev").stdout == "prices\n"
    assert settled.run("hubspoke", "quarantine", "list", **here).stdout == held

    # each change of the warehouse is a change of dbt's profile, for which dbt reads the whole project: few of them here
    settled.edit("seeds/display_locations.csv", "Store front", "Shop front")
    settled.edit(DEPARTMENTS, SALES, f"2 * {SALES}")
    red = settled.run("hubspoke", "build", check=False, **here)
    assert "fail: department_sales_equal_the_raw_rows" in red.stdout
    assert "dev prices --promote" not in red.stdout
    refused = settled.run("hubspoke", "dev", "prices", "--promote", check=False, **here)
    assert (refused.returncode, refused.stderr) == (
        1,
        "Error: prices is not built to its end: department_sales_equal_the_raw_rows is to be done (failed last). "
        f"Build it there first: HUBSPOKE_WAREHOUSE={HERE} hubspoke build\n",
    )
    settled.edit(DEPARTMENTS, f"2 * {SALES}", SALES)
    settled.edit(DEPARTMENTS, PRODUCTS, f"1 + {PRODUCTS}")
    green = settled.run("hubspoke", "build", **here).stdout
    assert "built      2 models in" in green
    assert "Not released: prices is a development environment; readers keep release 1." in green
    assert green.endswith("dev prices --promote\n")
    assert project.hub.read_bytes() == before

    told = settled.run("hubspoke", "dev", "prices", "--promote", **here).stdout
    promoted, following = told.removeprefix("promoted ").splitlines()
    assert following == "next: unset HUBSPOKE_WAREHOUSE; hubspoke build"
    after = numbers(project)
    moved = {node_id.split(".")[2] for node_id in built if after[node_id] != built[node_id]}
    assert set(promoted.split(", ")) == moved
    assert {"display_locations", "core_promotions", "mart_sales__departments", "spoke_bi__departments"} < moved
    assert "stg_merchandising__promotions" not in moved
    assert environments(project) == []
    assert settled.run("hubspoke", "quarantine", "list").stdout == held

    # what a spoke shows is read, and nothing is computed
    assert set(steps(settled).values()) == {"unreleased"}
    released = settled.run("hubspoke", "build").stdout
    assert "built      12 models in" in released
    assert "Released 2: 2 of 12 relations changed." in released
    assert {"Shop front"} < {
        name for (name,) in settled.read("bi", "select display_location_name from spoke_bi__promotion_lift")
    }
    full = settled.run("dbt", "build").stdout
    assert "Release 2 is still current: no relation changed." in full


def test_one_goes_with_its_hub(settled: Sandbox) -> None:
    project, here = of(settled), {"HUBSPOKE_WAREHOUSE": HERE}
    settled.run("hubspoke", "dev", "prices")
    settled.edit(DEPARTMENTS, PRODUCTS, f"1 + {PRODUCTS}")
    settled.run("hubspoke", "build", **here)
    file = settled.root / "exports/demographics.parquet"
    duckdb.sql(f"copy (select * replace ('Unknown' as marital_status) from '{file}') to '{file}.new' (format parquet)")
    Path(f"{file}.new").replace(file)
    settled.run("hubspoke", "ingest", "crm")
    assert steps(settled, **here) == {}  # it reads what its hub was built from
    settled.edit(DEPARTMENTS, f"1 + {PRODUCTS}", PRODUCTS)
    settled.run("hubspoke", "build")
    with pytest.raises(HubspokeError, match="was built since; see first what that means for prices: HUBSPOKE_WARE"):
        promote(project, "prices", Manifest.read(settled.root))
    settled.run("hubspoke", "build", **here)  # what was edited back
    with open_hub(Project(settled.root, settled.root / HERE)) as hub:
        for relation in ("core.core_households", "mart_sales.mart_sales__departments"):
            here_and_there = [
                hub.execute(f"select count(*), bit_xor(hash(it)) from {database}{relation} as it").fetchone()
                for database in ("", "base.")
            ]
            assert here_and_there[0] == here_and_there[1]


def test_a_promotion_that_is_killed_is_whole_or_none(sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch) -> None:
    project, manifest = of(sandbox), Manifest.read(sandbox.root)
    made, before = create(project, "prices"), dates(project)
    build_dates(made, "mine")

    def kill(*_: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as patched:
        patched.setattr(development, "_add_notes", kill)
        with pytest.raises(KeyboardInterrupt):
            promote(project, "prices", manifest)
    assert (dates(project), dates(made)) == (before, 7)
    with monkeypatch.context() as patched:
        patched.setattr(development, "_discard", kill)
        with pytest.raises(KeyboardInterrupt):
            promote(project, "prices", manifest)
    assert dates(project) == 7
    follow(made)  # it begins anew
    with open_hub(made) as hub:
        assert hub.execute(
            "select table_name from duckdb_tables() where schema_name = 'core' and database_name = 'hub'"
        )
        assert hub.execute("select sql from duckdb_views() where view_name = 'core_dates'").fetchall() == [
            ("CREATE VIEW core.core_dates AS SELECT * FROM base.core.core_dates;",)
        ]
    assert numbers(made) == numbers(project)
    assert promote(project, "prices", manifest) == []
    assert environments(project) == []


def test_what_the_hub_has_built_since_is_newer_and_what_is_built_here_stays(sandbox: Sandbox) -> None:
    project, manifest = of(sandbox), Manifest.read(sandbox.root)
    made, gates = create(project, "prices"), len(sandbox.query("from quality.gates"))
    assert numbers(made) == numbers(project)
    build_dates(made, "mine")
    for turn in range(3):
        with duckdb.connect(project.hub) as hub:
            if turn == 2:  # made anew: it has come to the same number by other runs
                for table in development.NOTES:
                    hub.execute(f"update {table} set run_id = 'other ' || run_id")
            else:
                note(hub, f"theirs {turn}", STORES)
                note(hub, f"theirs {turn}", DATES)
        with pytest.raises(HubspokeError, match="was built since"):
            promote(project, "prices", manifest)
        follow(made)
        here, there = numbers(made), numbers(project)
        assert here.keys() == there.keys()
        newer = {node_id for node_id in here if here[node_id] > here[DATES]}
        assert newer == ({STORES} if turn < 2 else here.keys() - {DATES})
        assert dates(made) == 7
        in_order = sorted(here.keys() - {DATES}, key=lambda node_id: here[node_id])
        assert in_order == sorted(there.keys() - {DATES}, key=lambda node_id: there[node_id])
    with open_hub(project) as hub, open_hub(made) as environment:
        assert held_back(environment) == held_back(hub) == (425, 4872)
    assert promote(project, "prices", manifest) == ["core_dates"]
    after = numbers(project)
    assert sandbox.query(f"select rules from quality.gates where node_id = '{DATES}'") == [("",)]
    assert len(sandbox.query("from quality.gates")) == gates
    assert max(after, key=lambda node_id: after[node_id]) == DATES
    assert after | {DATES: there[DATES]} == there
    assert dates(project) == 7


def test_a_view_of_a_database_that_is_not_attached_waits_until_it_is(sandbox: Sandbox) -> None:
    project, till = of(sandbox), sandbox.root / "till.duckdb"
    with duckdb.connect(till) as sales:
        sales.execute("create table sales as select 1 as sale")
    with duckdb.connect(project.hub) as hub:
        hub.execute(f"attach '{till}' as source_till; create schema till; create schema a_staging")
        hub.execute(
            "create view till.sales as from source_till.main.sales; create view a_staging.it as from till.sales"
        )
    made = create(project, "prices")
    with duckdb.connect(made.hub) as hub:
        attach_base(made, hub)
        with pytest.raises(duckdb.CatalogException, match="it does not exist"):
            hub.sql("from a_staging.it")
        hub.execute(f"attach '{till}' as source_till")
        read_relations(hub)
        assert hub.sql("from a_staging.it").fetchall() == [(1,)]


def test_a_source_that_is_read_in_place_is_read_there_too(tmp_path: Path) -> None:
    sandbox = minimal_project(tmp_path / "project")
    staging, core = sandbox.root / "models/hub/staging/erp", sandbox.root / "models/hub/core"
    staging.mkdir(parents=True)
    (staging / "_erp__sources.yml").write_text(ERP)
    (staging / "stg_erp__orders.sql").write_text("select id from {{ source('erp', 'orders') }}")
    for name in ("core_orders", "core_others"):
        (core / f"{name}.sql").write_text("select count(*) as n from {{ ref('stg_erp__orders') }}")
    erp = sqlite3.connect(tmp_path / "erp.db", isolation_level=None)
    erp.execute("create table orders as select 1 as id")
    there = {"HUBSPOKE_CONNECTION_ERP": f"sqlite:///{tmp_path}/erp.db"}
    sandbox.run("dbt", "build", **there)
    sandbox.run("hubspoke", "dev", "prices")
    erp.execute("insert into orders values (2)")
    erp.close()
    sandbox.edit("models/hub/core/core_orders.sql", "count(*)", "10 + count(*)")
    here = {"HUBSPOKE_WAREHOUSE": HERE, **there}
    assert "built      1 model in" in sandbox.run("hubspoke", "build", **here).stdout
    assert sandbox.run("hubspoke", "dev", "prices", "--promote", **here).stdout.startswith("promoted core_orders\n")
    assert sandbox.query("select a.n, b.n from core.core_orders as a, core.core_others as b") == [(12, 1)]


def test_a_promotion_asks_for_nothing_that_every_build_does_again() -> None:
    def step(name: str, why: Any, *because: str) -> Step:
        return Step({"name": name, "resource_type": "model"}, why, because)

    clock, reader = step("clock", "volatile", "now"), step("reader", "data", "clock")
    both, edited = step("both", "ancestor", "clock", "edited"), step("edited", "edited")
    assert Plan(Manifest.__new__(Manifest), (clock, reader), (), "", {}, {}).missing == []
    assert Plan(Manifest.__new__(Manifest), (clock, reader, both, edited), (), "", {}, {}).missing == [both, edited]


def test_errors_say_what_to_do(sandbox: Sandbox) -> None:
    project = of(sandbox)
    for command, warehouse, message in [
        (["dev", "Prices"], "warehouse", "Error: Prices cannot be an environment's name. Take a letter, then letters"),
        (["dev", "../prices"], "warehouse", "Error: ../prices cannot be an environment's name."),
        (["dev", "prices", "--promote"], "warehouse", "Error: there is no development environment prices; there are:"),
        (["dev", "prices", "--remove"], "warehouse", "Error: there is no development environment prices; there are:"),
        (["plan"], HERE, "Error: there is no development environment prices, or no more. Make it: hubspoke dev prices"),
    ]:
        refused = sandbox.run("hubspoke", *command, check=False, HUBSPOKE_WAREHOUSE=warehouse)
        assert (refused.returncode, refused.stderr[: len(message)]) == (1, message)
    made = create(project, "prices")
    for command in (["ingest"], ["run"], ["rollback"]):
        refused = sandbox.run("hubspoke", *command, check=False, HUBSPOKE_WAREHOUSE=HERE)
        assert "Error: prices is a development environment: it reads and builds, and changes nothing" in refused.stderr
    with duckdb.connect(project.hub):
        for command in (["build"], ["plan"], ["dev", "more"]):
            busy = sandbox.run("hubspoke", *command, check=False, HUBSPOKE_WAREHOUSE=HERE)
            assert busy.returncode == 1
            assert busy.stderr.endswith("hub.duckdb is being built. Run this again when the build has ended.\n")
    assert environments(project) == ["prices"]
    lock = f"import duckdb; hub = duckdb.connect({str(made.hub)!r}); print(flush=True); input()"
    with subprocess.Popen([sys.executable, "-c", lock], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as user:
        assert user.stdout and user.stdout.readline()
        with pytest.raises(HubspokeError, match="prices is in use"):
            remove(project, "prices")
        user.communicate(b"\n")
    remove(project, "prices")
    assert environments(project) == []
