"""PostgreSQL for spokes, against a real server that the suite starts and stops."""

import os
import random
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
import yaml
from conftest import ROOT, Sandbox, private_database, private_postgres
from psycopg.conninfo import make_conninfo

from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest
from hubspoke.orders import Index, Order, Ordered, faults, orders
from hubspoke.postgres import Publication, Publisher, connect, outcome, publishing
from hubspoke.postgres_copy import build_table, postgres_type
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore, publication
from hubspoke.roles import make_roles

PASSWORD = "correct horse"  # noqa: S105 -- of a server that lives for the test


def node(name: str, spoke: str) -> dict[str, Any]:
    return {
        "name": name,
        "relation_name": name,
        "original_file_path": f"models/spokes/{spoke}/{name}.sql",
        "description": "It's a relation. Grain: one row per id.",
        "columns": {"id": {"name": "id", "description": "The customer's id; 100 % of them."}},
    }


SPOKES = [node("spoke_bi__sales", "bi"), node("spoke_bi__stores", "bi"), node("spoke_crm__letters", "crm")]
ORDERS = {
    "bi": Order(
        "bi",
        {
            "spoke_bi__sales": Ordered("spoke_bi__sales", (Index(columns=["amount", "id"]),), ("id",)),
            "spoke_bi__stores": Ordered("spoke_bi__stores"),
        },
        statement_timeout_seconds=1,
        connection_limit=3,
    ),
    "crm": Order("crm", {"spoke_crm__letters": Ordered("spoke_crm__letters")}),
}


@dataclass
class Bench:
    """A database of the test's own, and a release store to publish from."""

    project: Project
    admin: psycopg.Connection[Any]
    hub: duckdb.DuckDBPyConnection
    log: Path

    @property
    def store(self) -> ReleaseStore:
        return ReleaseStore(self.project.release)

    def fill(self, value: int, rows: int = 100) -> None:
        """Write one number into every relation, so that a mixture of two releases shows."""
        for name in ("spoke_bi__sales", "spoke_bi__stores", "spoke_crm__letters"):
            self.hub.execute(
                f"create or replace table {name} as select range::int as id, {value} as version, 'Bern' as city, "
                f"1.5::decimal(18,2) as amount from range({rows})"
            )

    def two_releases(self, rows: int = 100) -> None:
        for version in (1, 2):
            self.fill(version, rows)
            self.store.publish(self.hub, SPOKES, "run")

    def turn(self, number: int) -> Publication:
        """Make one of the releases current and publish it."""
        self.store.rollback(number)
        with connect(self.project) as connection:
            return Publisher(connection, self.store, ORDERS).publish()

    def publish(self, ordered: dict[str, Order] | None = None, patience_s: float = 60) -> Publication:
        self.store.publish(self.hub, SPOKES, "run")
        with connect(self.project) as connection:
            publisher = Publisher(connection, self.store, ordered or ORDERS)
            publisher.patience_s = patience_s
            return publisher.publish()

    def sync(self, ordered: dict[str, Order] | None = None) -> list[str]:
        with connect(self.project) as connection, publishing(connection):
            return make_roles(self.project, connection, ordered or ORDERS)

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.admin.execute(sql).fetchall()

    def dsn(self, user: str, **more: Any) -> str:
        info = self.admin.info
        known = {"host": info.host, "port": info.port, "dbname": info.dbname, "password": PASSWORD}
        return make_conninfo(user=user, **(known | more))

    def login(self, user: str, **more: Any) -> psycopg.Connection[Any]:
        return psycopg.connect(self.dsn(user, **more), autocommit=True)


@pytest.fixture(scope="session")
def server() -> Iterator[LocalServer]:
    with private_postgres() as server:
        yield server


@pytest.fixture
def bench(server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Bench]:
    with private_database(server) as parameters:
        monkeypatch.setenv("HUBSPOKE_POSTGRES", make_conninfo(**parameters))
        for account in ("BI", "CRM", "BI_NORTH", "BI_SOUTH"):
            monkeypatch.setenv(f"HUBSPOKE_PASSWORD_{account}", PASSWORD)
        admin = psycopg.connect(**parameters, autocommit=True)
        bench = Bench(Project(tmp_path, tmp_path / "warehouse"), admin, duckdb.connect(), server.log)
        bench.fill(1)
        yield bench
        admin.close()
    with psycopg.connect(**server.parameters(), autocommit=True) as root:
        for (role,) in root.execute("select rolname from pg_roles where rolname like 'spoke%'").fetchall():
            root.execute(f'drop role "{role}"')


def test_a_spoke_sees_the_release_and_only_what_changed_is_copied(bench: Bench) -> None:
    first = bench.publish()
    assert (first.release, len(first.copied), first.rows) == (1, 3, 300)
    oids = "select oid, relfilenode, relname from pg_class where relname like 'spoke\\_%' and relkind = 'r' order by 3"
    before = bench.ask(oids)
    again = bench.publish()
    assert (again.copied, again.kept, again.attempts) == ([], 3, 0)
    assert str(again) == "readers see release 1; nothing to copy."
    bench.hub.execute("update spoke_bi__sales set version = 2 where id = 7")
    second = bench.publish()
    assert (second.release, second.copied, second.kept) == (2, ["spoke_bi__sales"], 2)
    after = bench.ask(oids)
    assert [old == new for old, new in zip(before, after, strict=True)] == [False, True, True]
    assert bench.ask("select sum(version) from bi.spoke_bi__sales") == [(101,)]
    for spoke in ("bi", "crm"):
        assert bench.ask(f"select release_number from {spoke}.hubspoke_release") == [(2,)]
    assert bench.ask("select nspname from pg_namespace where nspname like '%\\_\\_%'") == []


def test_rollback_and_removal_reach_postgres(bench: Bench) -> None:
    bench.publish()
    bench.fill(2)
    bench.publish()
    assert bench.turn(1).release == 1
    assert bench.ask("select distinct version from bi.spoke_bi__sales") == [(1,)]
    fewer = {"bi": replace(ORDERS["bi"], relations={"spoke_bi__stores": Ordered("spoke_bi__stores")})}
    with connect(bench.project) as connection:
        assert sorted(Publisher(connection, bench.store, fewer).publish().removed) == [
            "spoke_bi__sales",
            "spoke_crm__letters",
        ]
    assert bench.ask("select to_regclass('bi.spoke_bi__sales'), to_regnamespace('crm')") == [(None, None)]
    assert bench.ask("select to_regclass('bi.spoke_bi__stores') is null") == [(False,)]


VALUES = {
    # DuckDB expression: PostgreSQL's type, and its text of the value
    "true": ("boolean", "true"),
    "(-128)::tinyint": ("smallint", "-128"),
    "255::utinyint": ("smallint", "255"),
    "65535::usmallint": ("integer", "65535"),
    "4294967295::uinteger": ("bigint", "4294967295"),
    "18446744073709551615::ubigint": ("numeric(20,0)", "18446744073709551615"),
    "(-99999999999999999999999999999999999999)::hugeint": ("numeric(38,0)", "-99999999999999999999999999999999999999"),
    "340282366920938463463374607431768211455::uhugeint": ("numeric(39,0)", "340282366920938463463374607431768211455"),
    "1.10::decimal(18,2)": ("numeric(18,2)", "1.10"),
    "0.1::double": ("double precision", "0.1"),
    "'nan'::double": ("double precision", "NaN"),
    "'-inf'::float": ("real", "-Infinity"),
    "'a,\"b\n\\.\n\\N é'": ("text", 'a,"b\n\\.\n\\N é'),
    "'\\.'": ("text", "\\."),
    "''": ("text", ""),
    "null::varchar": ("text", None),
    "'a'::enum('a', 'b')": ("text", "a"),
    "'\\x00\\xff'::blob": ("bytea", "\\x00ff"),
    "'1011'::bit": ("bit varying", "1011"),
    "date '2017-02-28'": ("date", "2017-02-28"),
    "date '0044-03-15 (BC)'": ("date", "0044-03-15 BC"),
    "time '23:59:59.999999'": ("time without time zone", "23:59:59.999999"),
    "'12:00:00+02'::timetz": ("time with time zone", "12:00:00+02"),
    "timestamp '2017-01-01 10:00:00.123456'": ("timestamp without time zone", "2017-01-01 10:00:00.123456"),
    "'infinity'::timestamp": ("timestamp without time zone", "infinity"),
    "timestamp_ns '2017-01-01 10:00:00.123456789'": ("timestamp without time zone", "2017-01-01 10:00:00.123456"),
    "timestamptz '2017-01-01 10:00:00+02'": ("timestamp with time zone", "2017-01-01 08:00:00+00"),
    "interval '1 year -2 days 3 seconds'": ("interval", "1 year -2 days +00:00:03"),
    "'00000000-0000-0000-0000-00000000000a'::uuid": ("uuid", "00000000-0000-0000-0000-00000000000a"),
    "{'a': 1, 'b': [null, 'x']}": ("jsonb", '{"a": 1, "b": [null, "x"]}'),
    "map {'k': 1.5}": ("jsonb", '{"k": 1.5}'),
    "[1, 2]": ("jsonb", "[1, 2]"),
    "'{\"a\": 1}'::json": ("jsonb", '{"a": 1}'),
}


def test_every_type_arrives_as_itself(bench: Bench) -> None:
    columns = [f"c{place}" for place in range(len(VALUES))]
    listed = ", ".join(f"{expression} as {column}" for expression, column in zip(VALUES, columns, strict=True))
    with connect(bench.project) as connection:
        select = f"select {listed} union all select {', '.join('null' for _ in columns)}"
        assert build_table(connection, bench.hub, select, "public.t", Ordered("t"), {}, []) == 2
    bench.admin.execute("set timezone = 'UTC'")
    found = bench.ask(
        "select attname, format_type(atttypid, atttypmod) from pg_attribute where attrelid = 't'::regclass "
        "and attnum > 0 order by attnum"
    )
    texts = bench.ask(f"select {', '.join(f'{column}::text' for column in columns)} from t where c0")[0]
    for (column, kind), text, (expression, expected) in zip(found, texts, VALUES.items(), strict=True):
        assert (kind, text) == expected, (column, expression)
    assert bench.ask(f"select num_nulls({', '.join(columns)}) from t where c0 is null") == [(len(columns),)]
    assert postgres_type("SOMETHING NEW") == "text"


def test_a_value_that_postgres_cannot_hold_is_named_and_readers_keep_what_they_saw(bench: Bench) -> None:
    bench.publish()
    bench.hub.execute("update spoke_bi__stores set version = 2, city = 'a' || chr(0)")
    with pytest.raises(HubspokeError, match=r"spoke_bi__stores.*0x00.*line 1"):
        bench.publish()
    assert bench.ask("select release_number from bi.hubspoke_release") == [(1,)]
    assert bench.ask("select distinct version from bi.spoke_bi__stores") == [(1,)]


def test_what_psql_and_sqlalchemy_show(bench: Bench) -> None:
    import sqlalchemy

    bench.sync()
    bench.publish()
    shown = subprocess.run(
        ["psql", bench.dsn("spoke_bi", password=None), "-c", r"\d+ spoke_bi__sales", "-c", r"\dt+", "-c", r"\dn+"],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    for expected in (
        "The customer's id; 100 % of them.",
        "It's a relation. Grain: one row per id.",
        "PRIMARY KEY, btree (id)",
        "btree (amount, id)",
        "numeric(18,2)",
    ):
        assert expected in shown
    assert "spoke_crm__letters" not in shown
    url = bench.dsn("spoke_bi")
    engine = sqlalchemy.create_engine("postgresql+psycopg://", creator=lambda: psycopg.connect(url))
    inspector = sqlalchemy.inspect(engine)
    assert sorted(inspector.get_table_names()) == ["spoke_bi__sales", "spoke_bi__stores"]
    assert inspector.get_view_names() == ["hubspoke_release"]
    assert inspector.get_pk_constraint("spoke_bi__sales")["constrained_columns"] == ["id"]
    assert inspector.get_table_comment("spoke_bi__sales")["text"] == "It's a relation. Grain: one row per id."
    [column] = [column for column in inspector.get_columns("spoke_bi__sales") if column["name"] == "amount"]
    assert str(column["type"]) == "NUMERIC(18, 2)"
    table = sqlalchemy.Table("spoke_bi__sales", sqlalchemy.MetaData(), autoload_with=engine)
    with engine.connect() as connection:
        assert connection.execute(sqlalchemy.select(sqlalchemy.func.sum(table.c.amount))).scalar_one() == 150
    engine.dispose()


READ = """
select sales.lowest, sales.highest, stores.lowest, stores.highest, hubspoke_release.release_number
from (select min(version) as lowest, max(version) as highest from bi.spoke_bi__sales) as sales,
    (select min(version) as lowest, max(version) as highest from bi.spoke_bi__stores) as stores, bi.hubspoke_release
"""


def test_readers_never_see_two_releases_mixed_nor_an_error(bench: Bench) -> None:
    """Eight readers: one statement, a prepared one, and transactions of either isolation level."""
    bench.two_releases()
    bench.turn(1)
    everything: list[Any] = []
    finished = threading.Event()

    def read(place: int) -> None:
        try:
            with psycopg.connect(os.environ["HUBSPOKE_POSTGRES"], autocommit=place < 4) as connection:
                connection.prepare_threshold = 0 if place % 2 else None
                if place >= 6:
                    connection.isolation_level = psycopg.IsolationLevel.REPEATABLE_READ
                while not finished.wait(0.004):
                    if place < 4:
                        everything.append(set(connection.execute(READ).fetchall()[0]))
                        continue
                    with connection.transaction():
                        connection.execute("select 1")  # takes the snapshot
                        time.sleep(0.002)
                        rows = connection.execute(
                            "select min(version), max(version), count(*) / 100 * max(version) from bi.spoke_bi__sales"
                        ).fetchall()
                        rows += connection.execute("select release_number from bi.hubspoke_release").fetchall()
                        rows += connection.execute("select min(version) from bi.spoke_bi__stores").fetchall()
                        everything.append({value for row in rows for value in row})
        except Exception as error:
            everything.append(error)

    readers = [threading.Thread(target=read, args=(place,)) for place in range(8)]
    for reader in readers:
        reader.start()
    for turn in range(20):
        bench.turn(turn % 2 + 1)
    finished.set()
    for reader in readers:
        reader.join()
    assert [seen for seen in everything if isinstance(seen, Exception) or len(seen) != 1] == []
    assert set().union(*everything) == {1, 2}
    assert len(everything) > 500


def test_a_long_reader_is_waited_for_and_nobody_else_notices(bench: Bench) -> None:
    bench.publish()
    bench.fill(2)
    with psycopg.connect(os.environ["HUBSPOKE_POSTGRES"], application_name="Monthly report") as reader:
        assert reader.execute("select distinct version from bi.spoke_bi__sales").fetchall() == [(1,)]
        done: list[Publication] = []
        publisher = threading.Thread(target=lambda: done.append(bench.publish()))
        publisher.start()
        others = []
        tried = "select 1 from pg_stat_activity where application_name = 'hubspoke' and query = 'rollback'"
        deadline = time.monotonic() + 60
        while not bench.ask(tried) and time.monotonic() < deadline:
            others += bench.ask("select distinct version from bi.spoke_bi__sales")
        assert set(others) == {(1,)}
        assert reader.execute(READ).fetchall() == [(1, 1, 1, 1, 1)]
        reader.rollback()
        publisher.join()
    assert done[0].attempts > 1
    assert bench.ask(READ) == [(2, 2, 2, 2, 2)]


def test_a_reader_who_never_ends_is_named(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubspoke.postgres.LONG_WAITS_MS", (10,))
    bench.publish()
    bench.fill(2)
    with psycopg.connect(os.environ["HUBSPOKE_POSTGRES"], application_name="Monthly report") as reader:
        reader.execute("select 1 from bi.spoke_bi__sales")
        with pytest.raises(HubspokeError, match=r"being read all the time: hubspoke \(Monthly report, process"):
            bench.publish(patience_s=0.1)
        assert reader.execute(READ).fetchall() == [(1, 1, 1, 1, 1)]
    assert bench.publish().release == 2


def test_kill_at_any_instant_leaves_one_whole_release(bench: Bench) -> None:
    code = f"""
import sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
import duckdb
from test_postgres import ORDERS, Bench, Project
root = Path({str(bench.project.root)!r})
bench = Bench(Project(root, root / "warehouse"), None, duckdb.connect(), None)
for turn in range(1000):
    bench.turn(turn % 2 + 1)
    print("published", flush=True)
"""
    bench.two_releases(20000)
    instants = random.Random(7)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout
        assert process.stdout.readline()
        time.sleep(instants.uniform(0, 0.5))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        [seen] = bench.ask(READ)
        assert len(set(seen)) == 1
        assert bench.ask("select count(*) from bi.spoke_bi__sales") == [(20000,)]
    bench.turn(1)
    bench.turn(2)
    assert bench.ask("select nspname from pg_namespace where nspname like '%\\_\\_%'") == []


def test_two_publishers_take_turns(bench: Bench) -> None:
    done: list[Publication] = []
    with connect(bench.project) as first, publishing(first):
        second = threading.Thread(target=lambda: done.append(bench.publish()))
        second.start()
        time.sleep(0.3)
        assert not done
    second.join()
    assert done[0].release == 1


REFUSED = [
    "insert into bi.spoke_bi__sales values (1)",
    "update bi.spoke_bi__sales set id = 1",
    "delete from bi.spoke_bi__sales",
    "truncate bi.spoke_bi__sales",
    "drop table bi.spoke_bi__sales",
    "alter table bi.spoke_bi__sales add column x int",
    "comment on table bi.spoke_bi__sales is 'x'",
    "create index on bi.spoke_bi__sales (id)",
    "lock table bi.spoke_bi__sales in share mode",
    "select * from bi.spoke_bi__sales for update",
    "reindex table bi.spoke_bi__sales",
    "select * from crm.spoke_crm__letters",
    "select * from hubspoke.relations",
    "create table bi.x (i int)",
    "create table public.x (i int)",
    "create temp table x (i int)",
    "create view bi.x as select 1",
    "create schema x",
    "create function bi.f() returns int language sql as 'select 1'",
    "create extension dblink",
    "create role x",
    "alter role spoke_crm password 'x'",
    "alter role spoke_bi superuser",
    "set role spoke_crm",
    "set session authorization hubspoke",
    "set temp_file_limit = -1",
    "alter system set fsync = off",
    "copy bi.spoke_bi__sales to '/tmp/x'",
    "copy bi.spoke_bi__sales to program 'true'",
    "copy bi.spoke_bi__sales from stdin",
    "select pg_read_file('/etc/passwd')",
    "select pg_ls_dir('/')",
    "select lo_import('/etc/passwd')",
    "select lo_from_bytea(0, 'x')",
    "select lo_create(0)",
    "select pg_advisory_lock(1751474803)",
    "select pg_reload_conf()",
    "select pg_terminate_backend(pid) from pg_stat_activity where usename = 'hubspoke'",
    "select rolpassword from pg_authid",
    "select 1; delete from bi.spoke_bi__sales",
]


def test_a_spoke_reads_its_own_and_can_do_nothing_else(bench: Bench) -> None:
    bench.sync()
    bench.publish()
    with bench.login("spoke_bi") as reader:
        assert reader.execute("select count(*) from spoke_bi__sales").fetchone() == (100,)
        for setting in ("on", "off"):  # the setting is the session's to change; the rights are not
            reader.execute(f"set default_transaction_read_only = {setting}")
            for statement in REFUSED:
                try:
                    reader.execute(statement)
                except psycopg.errors.OperationalError as error:
                    raise AssertionError(statement) from error
                except psycopg.Error:
                    continue
                raise AssertionError(statement)
        reader.execute("set default_transaction_read_only = off")
        assert bench.ask("select count(*) from bi.spoke_bi__sales") == [(100,)]
        with pytest.raises(psycopg.errors.InsufficientPrivilege):
            reader.execute("delete from spoke_bi__sales")
    with bench.login("spoke_bi") as reader, pytest.raises(psycopg.errors.ReadOnlySqlTransaction):
        reader.execute("create table bi.x (i int)")
    with bench.login("spoke_bi") as reader, pytest.raises(psycopg.errors.QueryCanceled):
        reader.execute("select pg_sleep(30)")
    readers = [bench.login("spoke_bi") for _ in range(3)]
    with pytest.raises(psycopg.OperationalError, match="too many connections"):
        bench.login("spoke_bi")
    for reader in readers:
        reader.close()
    with pytest.raises(psycopg.OperationalError, match="password authentication failed"):
        bench.login("spoke_bi", password="wrong")  # noqa: S106
    for database in ("postgres", "template1", "hubspoke"):
        with pytest.raises(psycopg.OperationalError, match="permission denied for database"):
            bench.login("spoke_bi", dbname=database)
    assert bench.ask("select 1") == [(1,)]


def test_a_tenant_sees_its_own_rows(bench: Bench) -> None:
    order = replace(
        ORDERS["bi"],
        relations={
            "spoke_bi__sales": Ordered("spoke_bi__sales", tenant_column="city"),
            "spoke_bi__stores": Ordered("spoke_bi__stores"),
        },
        tenants={"north": "O'Slo", "south": "Bern"},
    )
    bench.hub.execute("update spoke_bi__sales set city = 'O''Slo' where id < 30")
    bench.publish({"bi": order})
    bench.sync({"bi": order})

    def counts() -> dict[str, int]:
        found = {}
        for role in ("spoke_bi", "spoke_bi_north", "spoke_bi_south"):
            with bench.login(role) as reader:
                [(found[role],)] = reader.execute("select count(*) from bi.spoke_bi__sales").fetchall()
        return found

    assert counts() == {"spoke_bi": 100, "spoke_bi_north": 30, "spoke_bi_south": 70}
    with bench.login("spoke_bi_north") as north:
        assert north.execute("select distinct city from spoke_bi__sales").fetchall() == [("O'Slo",)]
        assert north.execute("select * from pg_stats where tablename = 'spoke_bi__sales'").fetchall() == []
        assert north.execute("select release_number from hubspoke_release").fetchall() == [(1,)]
        for refused in (
            "set row_security = off; select * from spoke_bi__sales",
            "select * from spoke_bi__stores",  # has no such column: not for tenants
            "drop policy spoke_bi_north on spoke_bi__sales",
            "alter table spoke_bi__sales disable row level security",
            "set role spoke_bi_south",
        ):
            north.execute("set default_transaction_read_only = off")
            with pytest.raises(psycopg.errors.InsufficientPrivilege):
                north.execute(refused)
    # a release keeps the policies; a change of tenants comes with the next sync
    bench.hub.execute("update spoke_bi__sales set city = 'O''Slo' where id < 40")
    bench.publish({"bi": order})
    assert counts() == {"spoke_bi": 100, "spoke_bi_north": 40, "spoke_bi_south": 60}
    bench.sync({"bi": replace(order, tenants={"north": "Bern", "south": "O'Slo"})})
    assert counts() == {"spoke_bi": 100, "spoke_bi_north": 60, "spoke_bi_south": 40}
    assert "spoke_bi_south: removed" in bench.sync({"bi": replace(order, tenants={"north": "Bern"})})
    with pytest.raises(psycopg.OperationalError):
        bench.login("spoke_bi_south")
    with bench.login("spoke_bi_north") as north:
        assert north.execute("select count(*) from spoke_bi__sales").fetchall() == [(60,)]


def test_roles_follow_the_exposures_and_passwords_stay_here(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    bench.admin.execute(f"alter database {bench.admin.info.dbname} set log_statement = 'all'")
    monkeypatch.delenv("HUBSPOKE_PASSWORD_CRM")
    bench.publish()
    told = bench.sync()
    assert told[0] == "spoke_bi: may log in"
    assert "hubspoke spokes password crm" in told[1]
    with bench.login("spoke_bi") as reader:
        assert reader.execute("select count(*) from bi.spoke_bi__sales").fetchall() == [(100,)]
    with pytest.raises(psycopg.OperationalError, match="authentication failed"):
        bench.login("spoke_crm")
    bench.sync()
    bench.hub.execute("update spoke_bi__sales set version = 2")
    bench.publish()
    with bench.login("spoke_bi") as reader:
        assert reader.execute("select distinct version from bi.spoke_bi__sales").fetchall() == [(2,)]
        assert bench.sync({"crm": ORDERS["crm"]})[0] == "spoke_bi: removed"
        with pytest.raises(psycopg.OperationalError):  # whoever is connected is cut off
            reader.execute("select 1")
    assert bench.ask("select rolname from pg_roles where rolname like 'spoke%'") == [("spoke_crm",)]
    log = bench.log.read_text()
    assert PASSWORD not in log
    assert "SCRAM-SHA-256$" not in log


def test_a_schema_or_view_of_somebody_else_is_left_alone(bench: Bench) -> None:
    bench.admin.execute("create schema crm; create table crm.mine as select 1 as i")
    with pytest.raises(HubspokeError, match="schema crm was there before Hubspoke"):
        bench.publish()
    bench.admin.execute("drop schema crm cascade")
    bench.publish()
    bench.admin.execute("create view public.mine as select * from bi.spoke_bi__sales")
    bench.fill(2)
    with pytest.raises(HubspokeError, match=r"view mine stands on bi\.spoke_bi__sales"):
        bench.publish()
    assert bench.ask("select distinct version from public.mine") == [(1,)]
    bench.admin.execute("drop view public.mine")
    bench.publish()


def test_a_failure_is_told_with_the_command_that_puts_it_right(bench: Bench, monkeypatch: pytest.MonkeyPatch) -> None:
    manifest = manifest_of({"how": ["file", "postgres"]})
    bench.publish()
    bench.fill(2)
    bench.store.publish(bench.hub, SPOKES, "run")
    bench.admin.execute("create view public.mine as select * from bi.spoke_bi__sales")
    told = outcome(bench.project, manifest)
    assert told.startswith("PostgreSQL: readers keep release 1: the view mine stands on")
    assert told.endswith("Then run: hubspoke publish")
    bench.admin.execute("drop view public.mine")
    assert outcome(bench.project, manifest).startswith("PostgreSQL: readers see release 2; ")
    monkeypatch.setenv("HUBSPOKE_POSTGRES", "host=127.0.0.1 port=1")
    assert "readers keep the release that they see: PostgreSQL cannot be reached" in outcome(bench.project, manifest)
    monkeypatch.delenv("HUBSPOKE_POSTGRES")
    assert outcome(bench.project, manifest) == "PostgreSQL: no server yet; to try one: hubspoke serve postgres"
    assert publication(bench.project, manifest_of({"how": "file"})) == ""


def manifest_of(delivery: Any, model_meta: dict[str, Any] | None = None, tests: tuple[Any, ...] = ()) -> Manifest:
    """A project with one spoke of one relation, and one exposure."""
    model = {
        "unique_id": "model.x.spoke_bi__sales",
        "resource_type": "model",
        "config": {"meta": model_meta or {}},
        "depends_on": {"nodes": []},
        **node("spoke_bi__sales", "bi"),
        "columns": {name: {"name": name} for name in ("id", "city", "amount")},
    }
    exposure = {
        "name": "dashboards",
        "config": {"meta": {"spoke": "bi", "delivery": delivery}},
        "depends_on": {"nodes": [model["unique_id"]]},
    }
    nodes = {model["unique_id"]: model} | {
        f"test.{place}": {
            "unique_id": f"test.{place}",
            "resource_type": "test",
            "attached_node": model["unique_id"],
            "test_metadata": {"name": name, "kwargs": arguments},
            "config": config,
        }
        for place, (name, arguments, config) in enumerate(tests)
    }
    return Manifest({"nodes": nodes, "sources": {}, "exposures": {"exposure.x.dashboards": exposure}})


@pytest.mark.parametrize(
    ("delivery", "model_meta", "message"),
    [
        ({}, {}, "needs how, a text or a list of texts"),
        ({"how": "file", "postgres": {"only": ["x"]}}, {}, r"options for postgres that how lacks"),
        ({"how": "postgres", "postgres": {"onyl": ["x"]}}, {}, r"delivery\.postgres\.onyl: extra inputs are not perm"),
        ({"how": "postgres", "postgres": {"only": ["x"]}}, {}, "only names x; the exposure rests on spoke_bi__sales"),
        ({"how": "postgres", "postgres": {"connection_limit": 0}}, {}, r"connection_limit: .* greater than 0"),
        ({"how": "postgres", "postgres": {"tenants": {"column": "x", "roles": {"a": 1}}}}, {}, "no relation has a col"),
        (
            {"how": "postgres", "postgres": {"tenants": {"column": "city", "roles": {"A b": 1}}}},
            {},
            "cannot be a tenan",
        ),
        ({"how": "postgres"}, {"indexes": [["id"], ["nope"]]}, "indexes, number 2: there is no column nope"),
        ({"how": "postgres"}, {"indexes": ["id"]}, "indexes, number 1: write a list of columns"),
        ({"how": "postgres"}, {"primary_key": ["nope"]}, "primary_key is not a list of the model's columns"),
    ],
)
def test_an_order_with_a_mistake_is_named(delivery: Any, model_meta: dict[str, Any], message: str) -> None:
    [(_, found)] = faults(manifest_of(delivery, model_meta))
    assert re.search(message, found), found


def test_the_order_of_the_guide_is_without_mistake() -> None:
    [text] = re.findall(r"```yaml\n(.*?)```", (ROOT / "docs/serving.md").read_text(), flags=re.DOTALL)
    delivery = yaml.safe_load(text)["config"]["meta"]["delivery"]
    delivery["postgres"] |= {
        "only": ["spoke_bi__sales"],
        "tenants": delivery["postgres"]["tenants"] | {"column": "city"},
    }
    manifest = manifest_of(delivery)
    assert list(faults(manifest)) == []
    assert orders(manifest)["bi"].roles == {"": "spoke_bi", "north": "spoke_bi_north", "south": "spoke_bi_south"}


def test_keys_come_from_tests_and_from_the_model() -> None:
    unique = ("unique_combination", {"columns": ["id", "city"]}, {"severity": "ERROR"})
    filled = [("not_null", {"column_name": name}, {"severity": "error"}) for name in ("id", "city")]
    some = ("unique", {"column_name": "id"}, {"severity": "error", "where": "id > 0"})

    def ordered(model_meta: dict[str, Any], *tests: Any) -> Ordered:
        return orders(manifest_of({"how": "postgres"}, model_meta, tests))["bi"].relations["spoke_bi__sales"]

    assert ordered({}, unique, *filled, some).primary_key == ("id", "city")
    assert (ordered({}, unique).primary_key, ordered({}, unique).key) == ((), ("id", "city"))
    assert ordered({"primary_key": ["city"]}, unique, *filled).primary_key == ("city",)
    assert ordered({"indexes": [["amount"]]}).indexes == (Index(columns=["amount"]),)


def test_a_promised_key_that_does_not_hold_is_left_out_and_a_declared_one_is_an_error(bench: Bench) -> None:
    bench.hub.execute("update spoke_bi__sales set id = 1")
    sales = Ordered("spoke_bi__sales", primary_key=("id",))
    bench.publish({"bi": Order("bi", {"spoke_bi__sales": sales})})
    assert bench.ask("select count(*) from pg_index where indrelid = 'bi.spoke_bi__sales'::regclass") == [(0,)]
    with pytest.raises(HubspokeError, match=r"spoke_bi__sales: could not create unique index"):
        bench.publish({"bi": Order("bi", {"spoke_bi__sales": replace(sales, is_declared=True)})})
    assert bench.ask("select count(*) from bi.spoke_bi__sales") == [(100,)]


def test_from_the_command_line(corner_shop: Sandbox) -> None:
    """As a person does: a server, a release, a reader; the folder is one that PostgreSQL's user may not enter."""
    link = corner_shop.root / "warehouse/postgres/data"
    try:
        started = corner_shop.run("hubspoke", "serve", "postgres", "--background", HUBSPOKE_POSTGRES="")
        assert "hubspoke build publishes the first one here, too." in started.stdout
        line = next(line for line in started.stdout.splitlines() if line.startswith("psql "))
        secret = Path(line.split("password: ")[1]).read_text().strip()
        assert secret not in started.stdout + started.stderr
        again = corner_shop.run("hubspoke", "serve", "postgres", "--background", check=False)
        assert "it runs already" in again.stderr
        told = corner_shop.run("dbt", "test", "--select", "mart_sales__days+").stdout
        assert "PostgreSQL: readers see release 1; 3 of 3 relations copied." in told
        read = subprocess.run(
            [*line.split('"')[0].split(), line.split('"')[1], "-Atc", "select count(*) > 0 from spoke_bi__departments"],
            env={**os.environ, "PGPASSWORD": secret},
            capture_output=True,
            text=True,
            check=True,
        )
        assert read.stdout == "t\n"
        assert "nothing to copy" in corner_shop.run("hubspoke", "publish").stdout
        assert "has a password already" in corner_shop.run("hubspoke", "spokes", "password", "bi").stdout
        assert corner_shop.run("hubspoke", "spokes", "sync").stdout == "spoke_bi: may log in\n"
        wrong = corner_shop.run("hubspoke", "spokes", "password", "nobody", check=False)
        assert "there are bi, crm" in wrong.stderr
        assert corner_shop.run("hubspoke", "serve", "postgres", "--stop").stdout == "Stopped.\n"
        refused = corner_shop.run("hubspoke", "publish", check=False)
        assert "no PostgreSQL server is configured" in refused.stderr
    finally:
        corner_shop.run("hubspoke", "serve", "postgres", "--stop", check=False)
        if link.is_symlink():
            shutil.rmtree(link.resolve())


def test_without_binaries_one_instruction_is_given(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("hubspoke.postgres_server.shutil.which", lambda name: None)
    monkeypatch.setattr("hubspoke.postgres_server.Path.glob", lambda self, pattern: iter(()))
    with pytest.raises(HubspokeError, match="sudo apt-get install postgresql"):
        LocalServer(Project(tmp_path, tmp_path)).start()


def test_a_server_whose_starter_was_killed_before_it_answered_is_started_anew() -> None:
    with private_postgres() as server:
        [pid, *_] = (server.data / "postmaster.pid").read_text().split()
        server.note.unlink()  # written once it answers
        assert not server.is_running()
        server.start()
        assert server.is_running()
        assert (server.data / "postmaster.pid").read_text().split()[0] != pid


PROBE = """
import java.sql.*;
import java.util.*;

public class Probe {
    public static void main(String[] given) throws SQLException {
        Properties how = new Properties();
        how.put("user", "spoke_bi");
        how.put("password", System.getenv("PGPASSWORD"));
        try (Connection it = DriverManager.getConnection(given[0], how)) {
            DatabaseMetaData about = it.getMetaData();
            ResultSet tables = about.getTables(null, "bi", "%", new String[] {"TABLE", "VIEW"});
            while (tables.next()) System.out.println(tables.getString(3) + "|" + tables.getString(5));
            ResultSet columns = about.getColumns(null, "bi", "spoke_bi__sales", "%");
            while (columns.next()) System.out.println(columns.getString(4) + "|" + columns.getString(6));
            ResultSet keys = about.getPrimaryKeys(null, "bi", "spoke_bi__sales");
            while (keys.next()) System.out.println("key " + keys.getString(4));
            it.setAutoCommit(false);
            PreparedStatement ask = it.prepareStatement("select sum(amount) from spoke_bi__sales where id < ?");
            ask.setFetchSize(10);
            ask.setInt(1, 50);
            ResultSet sum = ask.executeQuery();
            sum.next();
            System.out.println("sum " + sum.getBigDecimal(1));
        }
    }
}
"""


@pytest.mark.skipif(
    not shutil.which("java") or not Path("/usr/share/java/postgresql.jar").exists(), reason="no JDBC driver here"
)
def test_what_jdbc_tools_ask(bench: Bench, tmp_path: Path) -> None:
    bench.sync()
    bench.publish()
    (tmp_path / "Probe.java").write_text(PROBE)
    url = f"jdbc:postgresql://127.0.0.1:{bench.admin.info.port}/{bench.admin.info.dbname}"
    found = subprocess.run(
        ["java", "-cp", "/usr/share/java/postgresql.jar", tmp_path / "Probe.java", url],
        env={**os.environ, "PGPASSWORD": PASSWORD},
        capture_output=True,
        text=True,
        check=True,
    ).stdout.splitlines()
    assert "spoke_bi__sales|It's a relation. Grain: one row per id." in found
    assert "hubspoke_release|The release that the tables of this schema show." in found
    assert not any(line.startswith("spoke_crm") for line in found)
    assert {"id|int4", "amount|numeric", "key id", "sum 75.00"} <= set(found)


def has_odbc() -> bool:
    if not shutil.which("isql") or not shutil.which("odbcinst"):
        return False
    return "PostgreSQL Unicode" in subprocess.run(["odbcinst", "-q", "-d"], capture_output=True, text=True).stdout


@pytest.mark.skipif(not has_odbc(), reason="no ODBC driver here")
def test_what_odbc_tools_ask(bench: Bench, tmp_path: Path) -> None:
    bench.sync()
    bench.publish()
    (tmp_path / "odbc.ini").write_text(
        "[warehouse]\nDriver = PostgreSQL Unicode\nServername = 127.0.0.1\n"
        f"Port = {bench.admin.info.port}\nDatabase = {bench.admin.info.dbname}\nUserName = spoke_bi\n"
        f"Password = {PASSWORD}\nReadOnly = 1\n"
    )
    found = subprocess.run(
        ["isql", "-b", "-d|", "warehouse"],
        env={**os.environ, "ODBCINI": str(tmp_path / "odbc.ini")},
        input="select sum(amount) as amount from spoke_bi__sales\nhelp\nhelp spoke_bi__sales\n",
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    assert "150.00" in found
    assert "|bi|spoke_bi__sales|TABLE|" in found
    assert "|bi|spoke_bi__sales|id|4|int4|" in found


def test_the_catalog_of_the_iceberg_tables_may_be_postgresql(
    server: LocalServer, bench: Bench, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    given = bench.admin.info
    address = f"postgresql+psycopg://{given.user}:{given.password}@/{given.dbname}?host={given.host}&port={given.port}"
    monkeypatch.setenv("PYICEBERG_CATALOG__HUBSPOKE__URI", address)
    hub, node = duckdb.connect(), SPOKES[0]
    store = ReleaseStore(tmp_path / "store")
    for rows in (3, 4):
        hub.execute(f"create or replace table {node['relation_name']} as select range as id from range({rows})")
        store.publish(hub, [node], "run")
    assert not (tmp_path / "store/catalog.db").exists()
    noted = bench.admin.execute("select table_namespace, table_name from iceberg_tables").fetchall()
    assert noted == [("bi", node["name"])]
    store.prune(1)
    assert store.tables.catalog.load_table(("bi", node["name"])).scan().to_arrow().num_rows == 4
    other = ReleaseStore(tmp_path / "other")
    for _ in range(2):  # the second one clears what the first one left
        with pytest.raises(HubspokeError, match="belongs to the release store at"):
            other.publish(hub, [node], "run")
    assert store.tables.catalog.load_table(("bi", node["name"])).scan().to_arrow().num_rows == 4
