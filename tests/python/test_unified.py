"""One upstream, one result: by whichever mechanism rows come, at once or bit by bit, now or replayed from the log."""

import random
import re
import shutil
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pyarrow as pa
import pytest
from conftest import LOGICAL, ROOT, Sandbox, private_database, private_postgres
from psycopg.conninfo import make_conninfo

from hubspoke.cdc import catch_up
from hubspoke.exports import ingest
from hubspoke.federated import federated_views
from hubspoke.landing import LandingZone
from hubspoke.pins import landed_tables
from hubspoke.project import Project
from hubspoke.sources import read_sources

TRANSACTIONS = (
    "create table transactions (household_id bigint, store_id bigint, basket_id bigint, product_id bigint, "
    "quantity bigint, sales_value double precision, retail_disc double precision, coupon_disc double precision, "
    "coupon_match_disc double precision, week bigint, transaction_timestamp timestamp, "
    "primary key (basket_id, product_id))"
)
KINDS = (
    "create type mood as enum ('sad', 'happy'); create table kinds (id int primary key, a smallint, b bigint, "
    "c numeric(8, 2), d numeric, e real, f double precision, g boolean, h text, i varchar(9), j char(3), k date, "
    "l timestamp, m timestamptz, n time, o uuid, p bytea, q json, r jsonb, s int[], t text[], u mood)"
)
A_KIND = (
    "(%s, -7, 9e15, 12.34, 1e-3, 0.1, 'infinity', true, E'tab\\t\\\\ \"quoted\" ''and'' \\n ünï', '', 'x', "
    "'1815-12-10', '2026-02-28 23:59:59.999999', '2026-07-01 00:00:00+02', '23:59:59.5', "
    "'00000000-0000-4000-8000-000000000001', "
    "'\\x00ff27', '{\"a\": [1, null]}', '{\"b\": \"ß\"}', '{1,null,3}', '{\"a,b\",null,\"\"}', 'happy')"
)


@pytest.fixture(scope="module")
def server() -> Iterator[dict[str, Any]]:
    """A database whose log can be followed."""
    with private_postgres(**LOGICAL) as server, private_database(server) as parameters:
        yield parameters


@pytest.fixture
def database(server: dict[str, Any]) -> Iterator[psycopg.Connection]:
    with psycopg.connect(**server, autocommit=True, options="-c TimeZone=UTC") as connection:
        yield connection
        connection.execute("drop publication if exists hubspoke_pos, hubspoke_log")
        for (slot,) in connection.execute("select slot_name from pg_replication_slots").fetchall():
            connection.execute("select pg_drop_replication_slot(%s)", [slot])
        connection.execute("drop table if exists transactions, kinds; drop type if exists mood")


def copy_in(database: psycopg.Connection, rows: list[tuple]) -> None:
    with database.cursor().copy("copy transactions from stdin") as copy:
        for row in rows:
            copy.write_row(row)


def upstream(sandbox: Sandbox) -> list[tuple]:
    """The sample's lines in the order of time."""
    return duckdb.sql(
        f"from '{sandbox.root}/exports/transactions.parquet' order by transaction_timestamp, basket_id, product_id"
    ).fetchall()


def rows_of(hub: duckdb.DuckDBPyConnection, relation: str) -> pa.Table:
    """All rows of a relation in one order, without the columns that say which load brought them."""
    return hub.execute(
        f"select columns(name -> not starts_with(name, '_')) from {relation} order by all"
    ).to_arrow_table()


def every_relation(sandbox: Sandbox) -> dict[str, pa.Table]:
    found = {}
    with duckdb.connect(sandbox.root / "warehouse/hub.duckdb", read_only=True) as hub:
        named = hub.execute(
            "select schema_name, view_name from duckdb_views() where not internal union all "
            "select schema_name, table_name from duckdb_tables()"
        ).fetchall()
        for schema, name in named:
            if not schema.startswith(("landing_", "runs", "quality", "quarantine")):
                found[f"{schema}.{name}"] = rows_of(hub, f'"{schema}"."{name}"')
    return found


def assert_same(one: dict[str, pa.Table], other: dict[str, pa.Table]) -> None:
    assert one.keys() == other.keys()
    assert len(one) > 40
    assert [name for name in one if not one[name].equals(other[name])] == []


# --- three mechanisms ---


def test_export_cdc_and_federated_give_the_same_rows(
    built: Sandbox, database: psycopg.Connection, server: dict[str, Any], tmp_path: Path, monkeypatch: Any
) -> None:
    database.execute(TRANSACTIONS)
    database.execute(KINDS)
    (tmp_path / "dbt_project.yml").touch()
    (tmp_path / "models").mkdir()
    for name, mechanism in {"table": "export", "log": "cdc", "there": "federated"}.items():
        monkeypatch.setenv(f"HUBSPOKE_CONNECTION_{name.upper()}", make_conninfo(**server))
        (tmp_path / f"models/_{name}__sources.yml").write_text(
            f"sources:\n  - name: {name}\n    schema: landing_{name}\n"
            f"    config: {{ meta: {{ ingest: {{ mechanism: {mechanism}, connection: {name} }} }} }}\n"
            "    tables: [{ name: transactions }, { name: kinds }]\n"
        )
    project = Project(tmp_path, tmp_path / "warehouse")
    lines = upstream(built)
    copy_in(database, lines[: len(lines) // 2])
    database.execute("create publication hubspoke_log for table transactions, kinds")
    catch_up(project, "log", print)
    chance = random.Random(5)
    for number in range(20):  # the other half in transactions, between changes of what is there
        copy_in(database, lines[len(lines) // 2 :][number::20])
        chosen = [chance.choice(lines) for _ in range(30)]
        for line in chosen[:15]:
            database.execute(
                "update transactions set quantity = quantity + 1, sales_value = null "
                "where (basket_id, product_id) = (%s, %s)",
                line[2:4],
            )
        for line in chosen[15:]:
            database.execute("delete from transactions where (basket_id, product_id) = (%s, %s)", line[2:4])
        database.execute(f"insert into kinds values {A_KIND}", [number])  # type: ignore[arg-type]
        if number % 7 == 0:
            catch_up(project, "log", print)
    database.execute("insert into kinds (id) values (99)")
    database.execute("update kinds set id = -id, h = repeat('long ', 1000) where id % 2 = 1")
    catch_up(project, "log", print)
    ingest(project, [table for table in read_sources(tmp_path) if table.source == "table"])

    with duckdb.connect() as hub:
        hub.execute("set TimeZone = 'UTC'")
        views = {name: landed["views"][""] for name, landed in landed_tables(project).items()}
        views |= federated_views(project, hub, ["there.transactions", "there.kinds"])
        staging = (ROOT / "models/hub/staging/pos/stg_pos__transactions.sql").read_text()
        staged, kinds = [], []
        for name in ("table", "log", "there"):
            there = f"({views[f'{name}.transactions']})"
            staged.append(rows_of(hub, f"({re.sub(r'{{.*?}}', lambda _, view=there: view, staging)})"))
            kinds.append(rows_of(hub, f"({views[f'{name}.kinds']})"))
    [(expected,)] = database.execute("select count(*) from transactions").fetchall()
    assert [one.num_rows for one in staged] == [expected] * 3
    assert staged[0].equals(staged[1])
    assert staged[0].equals(staged[2])
    assert [one.num_rows for one in kinds] == [21] * 3
    assert kinds[0].equals(kinds[1])
    assert kinds[0].equals(kinds[2])


# --- Lambda and Kappa ---


def test_a_hundred_small_loads_give_what_one_gives_and_so_does_their_replay(sandbox: Sandbox, built: Sandbox) -> None:
    exports = sandbox.root / "exports"
    (exports / "transactions.parquet").rename(exports / "sent.parquet")
    shutil.rmtree(sandbox.root / "warehouse/landing/pos")
    sandbox.edit(
        "models/hub/staging/pos/_pos__sources.yml",
        "            file: transactions.parquet\n",
        "            files: transactions-*.parquet\n            load: append\n",
    )
    project = Project(sandbox.root, sandbox.root / "warehouse")
    tables = [table for table in read_sources(sandbox.root) if table.source == "pos"]
    in_time = (
        f"select *, ntile(100) over (order by transaction_timestamp, basket_id) as part from '{exports}/sent.parquet'"
    )
    duckdb.sql(f"create or replace temp table parts as {in_time}")
    for part in range(1, 101):
        file = f"{exports}/transactions-{part:03d}.parquet"
        duckdb.sql(f"copy (select * exclude (part) from parts where part = {part}) to '{file}' (format parquet)")
        assert [outcome.is_new for outcome in ingest(project, tables)] == [True]
    assert len(LandingZone(project.landing).loads("pos", "transactions")) == 100
    sandbox.run("hubspoke", "build")
    relations = every_relation(sandbox)
    assert_same(every_relation(built), relations)

    with duckdb.connect(project.hub) as hub:  # as if a model had read the clock
        hub.execute(
            "update core.core_baskets set store_id = 1 where basket_id = (select min(basket_id) from core.core_baskets)"
        )
    replayed = sandbox.run("hubspoke", "replay", check=False)
    assert replayed.returncode == 1
    assert re.match(r"(as of .* UTC: \d+ loads, built in \d+ s\n){2}differs    core_baskets: ", replayed.stdout)
    differing = re.findall(r"differs    (\w+): [\d,]+ rows in the hub", replayed.stdout)
    assert set(differing) <= {"core_baskets", "fct_baskets_v1", "fct_baskets"}  # and views of it
    total, same = re.findall(r"^(\d+) relations: (\d+) the same as in the hub", replayed.stdout, re.M)[0]
    assert int(total) - int(same) == len(differing)
    assert [path.name for path in (project.warehouse / "replay").iterdir()] == [".lock"]
    early = sandbox.run("hubspoke", "replay", "--from", "2000-01-01", check=False)
    assert early.returncode == 1
    assert early.stderr.startswith("Error: nothing had landed by 2000-01-01")


def test_the_change_log_gives_what_an_export_gives_and_so_does_its_replay(
    sandbox: Sandbox, built: Sandbox, database: psycopg.Connection, server: dict[str, Any], monkeypatch: Any
) -> None:
    monkeypatch.setenv("HUBSPOKE_CONNECTION_POS", make_conninfo(**server))
    shutil.rmtree(sandbox.root / "warehouse/landing/pos")
    sandbox.edit(
        "models/hub/staging/pos/_pos__sources.yml",
        "mechanism: export\n",
        "mechanism: cdc\n          connection: pos\n",
    )
    project = Project(sandbox.root, sandbox.root / "warehouse")
    lines = upstream(sandbox)
    database.execute(TRANSACTIONS)
    database.execute("create publication hubspoke_pos for table transactions")
    for start in range(0, len(lines), 10_000):
        copy_in(database, lines[start : start + 10_000])
        # what is corrected before anybody builds never was
        database.execute("update transactions set quantity = quantity + 1 where store_id = %s", [lines[start][1]])
        catch_up(project, "pos", print)
        database.execute("update transactions set quantity = quantity - 1 where store_id = %s", [lines[start][1]])
        time.sleep(1)  # a moment of its own: loads tell seconds
    catch_up(project, "pos", print)
    sandbox.run("hubspoke", "build")
    assert_same(every_relation(built), every_relation(sandbox))
    told = sandbox.run("hubspoke", "replay").stdout
    assert re.search(r"(?s)(as of .*){2}\b(\d+) relations: \2 the same as in the hub", told)
