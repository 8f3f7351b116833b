"""SQL databases as sources: PostgreSQL and MariaDB servers that the suite starts and stops, and SQLite."""

import os
import shutil
import socket
import sqlite3
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import duckdb
import psycopg
import pytest
from conftest import Sandbox, minimal_project, private_postgres
from hypothesis import given, settings
from hypothesis import strategies as st

from hubspoke.changelog import table_views
from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.landing import LandingZone, Outcome
from hubspoke.project import Project
from hubspoke.sources import read_sources

SECRET = "pa'ss w\"or\\d&%/9"  # noqa: S105
COLUMNS = (
    "columns: [{ name: id, data_type: bigint }, { name: name, data_type: varchar }, "
    "{ name: seen, data_type: timestamp }]"
)


@pytest.fixture(scope="session")
def postgres() -> Iterator[str]:
    with private_postgres() as server:
        with psycopg.connect(**server.parameters(), autocommit=True) as admin:
            quoted = SECRET.replace("'", "''")
            admin.execute(f"create role reader login password '{quoted}'")
            admin.execute("grant pg_read_all_data to reader; grant connect on database hubspoke to reader")
        found = server.parameters()
        os.environ["HUBSPOKE_TEST_ADMIN"] = psycopg.conninfo.make_conninfo(**found)
        yield f"host={found['host']} port={found['port']} dbname={found['dbname']} user=reader"


@pytest.fixture(scope="session")
def mariadb() -> Iterator[Callable[[str], None]]:
    """A MariaDB server of the suite's own, and what runs SQL in it; its reader is in HUBSPOKE_CONNECTION_MARIA."""
    program = shutil.which("mariadbd", path=f"{os.environ['PATH']}:/usr/sbin")
    if program is None:
        pytest.skip("there is no MariaDB server on this machine: sudo apt-get install mariadb-server")
    folder = Path(tempfile.mkdtemp(prefix="hubspoke-"))
    folder.chmod(0o755)
    user = ["--user=mysql"] if os.getuid() == 0 else []
    data, run = folder / "data", folder / "run"
    run.mkdir()
    if user:
        shutil.chown(run, "mysql")
    subprocess.run(
        ["mariadb-install-db", "--no-defaults", f"--datadir={data}", "--auth-root-authentication-method=normal", *user],
        check=True,
        capture_output=True,
    )
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    server = subprocess.Popen(
        [
            program,
            "--no-defaults",
            f"--datadir={data}",
            f"--socket={run}/socket",
            f"--port={port}",
            *user,
            "--bind-address=127.0.0.1",
        ],
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )

    def sql(text: str) -> None:
        command = ["mariadb", "--no-defaults", f"--socket={run}/socket", "-uroot", "-e", text]
        subprocess.run(command, check=True, capture_output=True)

    for _ in range(100):
        try:
            sql("create database if not exists shop")
            break
        except subprocess.CalledProcessError:
            time.sleep(0.2)
    sql("create user reader@'127.0.0.1' identified by 'se-cret'; grant select on shop.* to reader@'127.0.0.1'")
    os.environ["HUBSPOKE_CONNECTION_MARIA"] = f"mysql://reader:se-cret@127.0.0.1:{port}/shop"
    yield sql
    server.terminate()
    server.wait()
    shutil.rmtree(folder)


def write_source(root: Path, connection: str, meta: str = "", ingest_meta: str = "mechanism: export") -> Project:
    (root / "models").mkdir(exist_ok=True)
    (root / "models/_erp__sources.yml").write_text(
        f"""
sources:
  - name: erp
    schema: landing_erp
    config: {{ meta: {{ ingest: {{ {ingest_meta}, connection: {connection} }} }} }}
    tables:
      - name: orders
        config: {{ meta: {{ {meta} }} }}
        {COLUMNS}
"""
    )
    return Project(root, root / "warehouse")


def run(project: Project) -> Outcome:
    [outcome] = ingest(project, read_sources(project.root))
    return outcome


def landed(project: Project, columns: str = "id, name, seen") -> list[tuple]:
    zone = LandingZone(project.landing)
    content = zone.content("erp", "orders")
    assert content is not None
    connection = duckdb.connect()
    connection.execute("set TimeZone = 'UTC'")
    sql = table_views(zone, "erp", "orders", content)[""]
    return connection.execute(f"select {columns} from ({sql}) order by all").fetchall()


class Source:
    """One kind of database, filled and asked in the same way."""

    def __init__(self, kind: str, sql: Callable[[str], None]) -> None:
        self.kind, self.sql = kind, sql

    def create(self, rows: int) -> None:
        stamp = "timestamp" if self.kind == "postgres" else "datetime"
        self.sql("drop table if exists orders")
        self.sql(f"create table orders (id bigint primary key, name varchar(40), seen {stamp})")
        self.add(range(1, rows + 1))

    def add(self, ids: range, day: int = 1) -> None:
        values = ", ".join(f"({i}, 'naïve {i}', '2024-01-{day:02d} 00:00:00')" for i in ids)
        self.sql(f"insert into orders values {values}")


@pytest.fixture(params=["postgres", "maria", "sqlite"])
def source(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Source]:
    if request.param == "maria":
        maria = request.getfixturevalue("mariadb")
        monkeypatch.setenv("HUBSPOKE_CONNECTION_ERP", os.environ["HUBSPOKE_CONNECTION_MARIA"])
        yield Source("maria", lambda text: maria(f"use shop; {text}"))
    elif request.param == "postgres":
        address = request.getfixturevalue("postgres")
        monkeypatch.setenv("HUBSPOKE_CONNECTION_ERP", address)
        secret = tmp_path / "warehouse/secrets/erp"
        secret.parent.mkdir(parents=True)
        secret.write_text(SECRET + "\n")
        with psycopg.connect(os.environ["HUBSPOKE_TEST_ADMIN"], autocommit=True) as admin:
            yield Source("postgres", lambda text: admin.execute(text))  # type: ignore[arg-type,return-value]
    else:
        monkeypatch.setenv("HUBSPOKE_CONNECTION_ERP", f"sqlite:///{tmp_path}/erp.db")
        file = sqlite3.connect(tmp_path / "erp.db", isolation_level=None)
        yield Source("sqlite", lambda text: file.execute(text))  # type: ignore[arg-type,return-value]
        file.close()


def test_a_table_is_landed_whole_and_again_only_if_it_changed(source: Source, tmp_path: Path) -> None:
    source.create(1000)
    project = write_source(tmp_path, "erp")
    assert run(project) == Outcome("erp.orders", 1000, is_new=True)
    assert landed(project, "count(*), min(name), max(id), cast(max(seen) as varchar)") == [
        (1000, "naïve 1", 1000, "2024-01-01 00:00:00")
    ]
    assert not run(project).is_new
    source.sql("update orders set name = 'other' where id = 7")
    source.sql("delete from orders where id > 900")
    assert run(project) == Outcome("erp.orders", 900, is_new=True)
    assert landed(project, "name")[-1] == ("other",)


def test_by_cursor_only_what_is_new_lands_and_nothing_twice(source: Source, tmp_path: Path) -> None:
    source.create(100)
    project = write_source(tmp_path, "erp", "cursor: seen, key: id")
    run(project)
    assert not run(project).is_new
    source.add(range(101, 104), day=2)
    source.sql("update orders set name = 'changed', seen = '2024-01-03 00:00:00' where id = 5")
    assert run(project) == Outcome("erp.orders", 4, is_new=True)
    # a row as old as the highest cursor came late
    source.sql("insert into orders values (200, 'late', '2024-01-03 00:00:00')")
    assert run(project) == Outcome("erp.orders", 1, is_new=True)
    assert not run(project).is_new
    assert landed(project, "count(*)") == [(104,)]
    assert landed(project, "name").count(("changed",)) == 1
    assert [load.kind for load in LandingZone(project.landing).loads("erp", "orders")] == [
        "whole",
        "changes",
        "changes",
    ]


def test_lookback_takes_rows_that_come_later_still(source: Source, tmp_path: Path) -> None:
    source.create(10)
    project = write_source(tmp_path, "erp", "cursor: id, key: id, lookback: 5")
    run(project)
    source.sql("delete from orders where id = 8")
    source.sql("insert into orders values (8, 'again', '2024-01-09 00:00:00')")
    assert run(project) == Outcome("erp.orders", 1, is_new=True)
    assert ("again",) in landed(project, "name")
    assert not run(project).is_new


def test_a_database_that_is_away_is_one_error_without_its_password(source: Source, tmp_path: Path, monkeypatch) -> None:
    source.create(5)
    project = write_source(tmp_path, "erp")
    run(project)
    away = {
        "postgres": "postgresql://reader:hush-hush@127.0.0.1:1/x",
        "maria": "mysql://reader:hush-hush@127.0.0.1:1/x",
    }
    monkeypatch.setenv("HUBSPOKE_CONNECTION_ERP", away.get(source.kind, "sqlite:////nowhere/erp.db"))
    with pytest.raises(HubspokeError, match=r"erp.orders: connection erp") as error:
        run(project)
    assert "hush" not in str(error.value)
    assert landed(project, "count(*)") == [(5,)]
    assert not list(project.landing.rglob("*.unfinished"))


def test_a_table_that_is_not_there_is_named_with_its_file(source: Source, tmp_path: Path) -> None:
    source.create(5)
    project = write_source(tmp_path, "erp", "relation: no_such")
    with pytest.raises(HubspokeError, match=r"no_such.*models/_erp__sources.yml"):
        run(project)


@pytest.mark.parametrize(
    ("policy", "outcome"),
    [("evolve", "lands"), ("freeze", "extra is not declared"), ("quarantine", "no row can be landed")],
)
def test_a_new_column_does_what_is_declared(source: Source, tmp_path: Path, policy: str, outcome: str) -> None:
    source.create(5)
    project = write_source(tmp_path, "erp", ingest_meta=f"mechanism: export, on_schema_change: {policy}")
    if policy == "evolve":
        run(project)
    source.sql("alter table orders add column extra int")
    if outcome == "lands":
        assert run(project).is_new
        assert landed(project, "extra") == [(None,)] * 5
    else:
        with pytest.raises(HubspokeError, match=outcome):
            run(project)
        assert LandingZone(project.landing).current("erp", "orders") is None


@settings(max_examples=10, deadline=None)
@given(
    steps=st.lists(
        st.lists(st.tuples(st.integers(1, 20), st.integers(0, 6), st.integers(0, 3)), max_size=8),
        min_size=1,
        max_size=5,
    )
)
def test_by_cursor_and_key_the_landed_table_is_the_source(
    steps: list[list[tuple[int, int, int]]], tmp_path_factory: pytest.TempPathFactory
) -> None:
    root = tmp_path_factory.mktemp("cursor")
    os.environ["HUBSPOKE_CONNECTION_STEPS"] = f"sqlite:///{root}/erp.db"
    project = write_source(root, "steps", "cursor: seen, key: id")
    text = (root / "models/_erp__sources.yml").read_text()
    (root / "models/_erp__sources.yml").write_text(text.replace(COLUMNS, ""))
    file = sqlite3.connect(root / "erp.db", isolation_level=None)
    file.execute("create table orders (id bigint primary key, seen bigint, name varchar)")
    clock = 0
    for rows in steps:
        for key, later, name in rows:
            clock += later  # never falls, and often stays
            file.execute(
                "insert into orders values (?, ?, ?) "
                "on conflict (id) do update set seen = excluded.seen, name = excluded.name",
                (key, clock, f"n{name}"),
            )
        run(project)
        there = file.execute("select id, seen, name from orders order by id").fetchall()
        assert landed(project, "id, seen, name") == there
        assert not run(project).is_new
    file.close()


def federated_project(root: Path) -> Sandbox:
    """A project with a federated source, two models over it, and one that has nothing to do with it."""
    sandbox = minimal_project(root)
    folder = root / "models/hub/staging/erp"
    folder.mkdir(parents=True)
    write_source(root, "erp", ingest_meta="mechanism: federated")
    (root / "models/_erp__sources.yml").rename(folder / "_erp__sources.yml")
    (folder / "stg_erp__orders.sql").write_text("select id, name, seen from {{ source('erp', 'orders') }}")
    (root / "models/hub/core/core_orders.sql").write_text("select count(*) as n from {{ ref('stg_erp__orders') }}")
    (root / "models/hub/core/core_other.sql").write_text("select 1 as one")
    return sandbox


@pytest.mark.parametrize("source", ["postgres", "sqlite"], indirect=True)
def test_a_federated_source_is_read_in_place_and_leaves_no_address_in_the_hub(source: Source, tmp_path: Path) -> None:
    source.create(50)
    sandbox = federated_project(tmp_path / "project")
    if (tmp_path / "warehouse").exists():
        shutil.copytree(tmp_path / "warehouse", sandbox.root / "warehouse")
    assert "Nothing" not in sandbox.run("hubspoke", "ingest").stdout
    sandbox.run("dbt", "build")
    assert sandbox.query("select n from core.core_orders") == [(50,)]
    source.add(range(51, 61))
    sandbox.run("dbt", "build")
    assert sandbox.query("select n from core.core_orders") == [(60,)]
    assert not (sandbox.root / "warehouse/landing/erp/orders").exists()
    if source.kind == "postgres":
        files = [*sandbox.root.glob("warehouse/hub*"), *sandbox.root.glob("logs/*"), *sandbox.root.glob("target/**/*")]
        for file in files:
            assert not file.is_file() or SECRET.encode() not in file.read_bytes(), file


@pytest.mark.parametrize("source", ["postgres", "sqlite"], indirect=True)
def test_a_federated_source_that_is_down_fails_its_own_models_only(source: Source, tmp_path: Path) -> None:
    source.create(5)
    sandbox = federated_project(tmp_path / "project")
    away = {"postgres": "postgresql://reader:hush-hush@127.0.0.1:1/x"}.get(source.kind, "sqlite:////nowhere/erp.db")
    result = sandbox.run("dbt", "build", check=False, HUBSPOKE_CONNECTION_ERP=away)
    assert result.returncode == 1
    assert "erp.orders: connection erp" in result.stdout
    assert "pin: true" in result.stdout
    assert "hush" not in result.stdout + (sandbox.root / "logs/dbt.log").read_text()
    assert sandbox.query("select one from core.core_other") == [(1,)]
    assert "core_orders" not in {row[0] for row in sandbox.query("select table_name from information_schema.tables")}


def test_a_federated_source_with_a_pin_is_landed(source: Source, tmp_path: Path) -> None:
    source.create(12)
    project = write_source(tmp_path, "erp", ingest_meta="mechanism: federated, pin: true")
    assert read_sources(project.root)[0].is_landed
    assert run(project) == Outcome("erp.orders", 12, is_new=True)
