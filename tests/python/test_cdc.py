"""Change data capture from a real PostgreSQL, which the suite starts and stops."""

import contextlib
import itertools
import json
import os
import random
import struct
import sys
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from conftest import LOGICAL, Sandbox, private_database, private_postgres
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from hubspoke import cdc, compaction
from hubspoke.cdc import Follower, _tables, catch_up, drop, forget, status
from hubspoke.changelog import table_views
from hubspoke.errors import HubspokeError
from hubspoke.landing import LandingZone, Position
from hubspoke.pgoutput import Decoder, Messages
from hubspoke.postgres_server import LocalServer
from hubspoke.postgres_types import array_as_json
from hubspoke.project import Project


@pytest.fixture(scope="session")
def source_server() -> Iterator[LocalServer]:
    with private_postgres(**LOGICAL) as server:
        yield server


@dataclass
class Shop:
    """A database of the test's own that is followed, and the landing zone that follows it."""

    project: Project
    admin: psycopg.Connection[Any]
    told: list[str] = field(default_factory=list)

    @property
    def zone(self) -> LandingZone:
        return LandingZone(self.project.landing)

    def sql(self, *statements: str) -> None:
        for statement in statements:
            self.admin.execute(statement)  # type: ignore[arg-type]

    def ask(self, sql: str) -> list[tuple[Any, ...]]:
        return self.admin.execute(sql).fetchall()  # type: ignore[arg-type]

    def declare(self, *tables: str, publish: bool = True, ingest: str = "", columns: str = "", **meta: str) -> None:
        """Write the source's YAML, and publish its tables."""
        listed = f", columns: [{columns}]" if columns else ""
        lines = [f"- {{ name: {name}, config: {{ meta: {{ {meta.get(name, '')} }} }}{listed} }}" for name in tables]
        file = self.project.root / "models/_shop__sources.yml"
        file.parent.mkdir(exist_ok=True, parents=True)
        file.write_text(
            "sources:\n  - name: shop\n    config: { meta: { ingest: { mechanism: cdc, connection: shop "
            f"{ingest} }} }} }}\n    tables:\n      " + "\n      ".join(lines) + "\n"
        )
        if publish:
            self.sql(
                "drop publication if exists hubspoke_shop",
                f"create publication hubspoke_shop for table {', '.join(tables)} "
                "with (publish_via_partition_root = true)",
            )

    def follow(self) -> dict[str, int]:
        outcomes = catch_up(self.project, "shop", self.told.append)
        return {outcome.name.removeprefix("shop."): outcome.rows for outcome in outcomes}

    def view(self, table: str, suffix: str = "") -> duckdb.DuckDBPyRelation:
        content = self.zone.content("shop", table)
        assert content is not None
        connection = duckdb.connect()
        connection.execute("set TimeZone = 'UTC'")
        return connection.sql(table_views(self.zone, "shop", table, content)[suffix])

    def landed(self, table: str) -> list[tuple[Any, ...]]:
        """The table as it is now, out of the landing zone."""
        view = self.view(table)
        columns = ", ".join(f'"{name}"' for name in view.columns if name not in ("_load_id", "_loaded_at"))
        return sorted(view.project(columns).fetchall(), key=repr)

    def there(self, table: str) -> list[tuple[Any, ...]]:
        """The table as it is in the database."""
        return sorted(self.ask(f"select * from {table}"), key=repr)

    def is_same(self, *tables: str) -> bool:
        for table in tables:
            assert self.landed(table) == self.there(table)
        return True

    def log(self, table: str, columns: str) -> list[tuple[Any, ...]]:
        view = self.view(table, "__log")
        return view.order("_load_id, _change_number").project(columns).fetchall()


@pytest.fixture
def shop(source_server: LocalServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Shop]:
    with private_database(source_server) as parameters:
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(**parameters))
        (tmp_path / "dbt_project.yml").touch()
        admin = psycopg.connect(**parameters, autocommit=True, options="-c TimeZone=UTC")
        yield Shop(Project(tmp_path, tmp_path / "warehouse"), admin)
        mine = "pg_replication_slots where database = current_database()"
        for (slot,) in admin.execute(f"select slot_name from {mine}").fetchall():
            admin.execute(f"select pg_terminate_backend(active_pid) from {mine} and slot_name = %s", [slot])
            time.sleep(0.1)
            admin.execute("select pg_drop_replication_slot(%s)", [slot])
        admin.close()


def test_a_table_is_copied_and_then_followed(shop: Shop) -> None:
    shop.sql("create table orders (id int primary key, city text, amount numeric(12,2), at timestamptz)")
    shop.sql("insert into orders select i, 'city ' || i, i / 3.0, now() from generate_series(1, 1000) i")
    shop.declare("orders")
    assert shop.follow() == {"orders": 1000}
    assert shop.is_same("orders")
    shop.sql(
        "insert into orders values (2000, null, 1.5, now()), (2001, '', null, null)",
        "update orders set city = E'a\\n\"b\"\\\\,é' where id <= 10",
        "delete from orders where id between 500 and 600",
        "update orders set id = 3000 where id = 20",
    )
    assert shop.follow() == {"orders": 2 + 10 + 101 + 2}
    assert shop.is_same("orders")
    assert shop.follow() == {"orders": 0}
    shop.sql("truncate orders", "insert into orders values (1, 'after', 1, null)")
    shop.follow()
    assert shop.landed("orders") == [(1, "after", pytest.approx(1), None)]
    assert len(shop.zone.loads("shop", "orders")) == 3


BIG = "(select string_agg(md5(random()::text), '') from generate_series(1, 300))"
"""A value that PostgreSQL stores outside of its row, and does not log again while it stays as it is."""


def test_a_follower_that_never_ends_compacts_what_it_lands(shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PILE", 5)
    monkeypatch.setattr(cdc, "PILE", 5)
    monkeypatch.setattr(compaction, "GRACE", timedelta(0))
    shop.sql("create table orders (id int primary key, city text)", "insert into orders values (1, 'Bern')")
    shop.declare("orders")
    shop.follow()

    class Stopped(Exception):
        pass

    landed = threading.Event()

    def land() -> None:
        follower = Follower(shop.project, "shop", _tables(shop.project, "shop"), shop.told.append)
        commit = follower._commit

        def commit_or_stop(position: Position) -> Position:
            if landed.is_set():
                raise Stopped
            return commit(position)

        follower._commit = commit_or_stop  # type: ignore[method-assign]
        with contextlib.suppress(Stopped):
            follower.follow(once=False, flush_s=0.1)

    thread = threading.Thread(target=land)
    thread.start()
    for number in range(2, 60):
        shop.sql(f"insert into orders values ({number}, 'x')", f"update orders set city = '{number}' where id = 1")
        time.sleep(0.12)
    landed.set()
    shop.sql("insert into orders values (0, 'the last')")
    thread.join()
    merged = [load for load in shop.zone.loads("shop", "orders") if load.stands_for_others]
    assert merged
    assert any("loads" in line and "->" in line for line in shop.told)
    shop.follow()
    assert shop.is_same("orders")
    assert len(shop.log("orders", "_change_number")) == 1 + 2 * 58 + 1


def test_a_value_that_was_not_sent_again_is_the_one_from_before(shop: Shop) -> None:
    shop.sql("create table notes (id int primary key, body text, more text, seen int)")
    shop.sql("alter table notes alter body set storage external, alter more set storage external")
    shop.sql(f"insert into notes select i, {BIG} || i, null, 0 from generate_series(1, 20) i")
    shop.declare("notes")
    shop.follow()
    shop.sql(
        "update notes set seen = 1 where id <= 10",  # body is left out
        f"insert into notes values (50, {BIG}, {BIG}, 0)",
        "update notes set seen = 2 where id = 50",  # both are
        "update notes set id = 101 where id = 1",  # the key changes, body is left out
        "update notes set id = 102 where id = 101",
        f"update notes set more = {BIG} where id = 102",
    )
    shop.follow()
    assert shop.is_same("notes")
    shop.sql(
        "update notes set id = 103, seen = 9 where id = 102",
        "update notes set body = null where id = 2",
        "update notes set seen = 3 where id = 2",  # null is a value, too
        "insert into notes values (1, 'another', null, 0)",  # what had this key is somebody else now
        "update notes set seen = 1 where id = 1",
        "update notes set id = id + 1000 where id between 5 and 15",
        "update notes set id = id + 1000 where id between 1005 and 1010",
        "delete from notes where id = 2006",
        f"insert into notes values (2006, {BIG}, null, 0)",
        "update notes set seen = 7 where id = 2006",
    )
    shop.follow()
    assert shop.log("notes", "_unchanged").count((["body"],)) > 10
    assert shop.is_same("notes")
    # the history has them as well
    now = shop.view("notes", "__history").filter("valid_to is null").project("id, body, more, seen")
    assert sorted(now.fetchall(), key=repr) == shop.there("notes")
    history = shop.view("notes", "__history")
    assert history.filter("id in (101, 102, 2005) and body is null").fetchall() == []
    shop.sql("truncate notes", f"insert into notes values (1, {BIG}, null, 0)", "update notes set seen = 1")
    shop.follow()
    assert shop.is_same("notes")


def test_the_history_has_every_state_with_its_interval(shop: Shop) -> None:
    shop.sql("create table prices (item text primary key, price int)", "insert into prices values ('a', 1), ('b', 1)")
    shop.declare("prices")
    shop.follow()
    shop.sql("update prices set price = 2 where item = 'a'", "delete from prices where item = 'b'")
    shop.sql("begin", "update prices set price = 3", "update prices set price = 4", "commit")
    shop.sql("insert into prices values ('b', 5)", "truncate prices", "insert into prices values ('a', 6)")
    shop.follow()
    history = shop.view("prices", "__history").order("item, valid_from").project("item, price, valid_from, valid_to")
    rows = history.fetchall()
    # 3 was never seen: one transaction wrote 3 and 4
    assert [row[:2] for row in rows] == [("a", 1), ("a", 2), ("a", 4), ("a", 6), ("b", 1), ("b", 5)]
    a, b = [row[2:] for row in rows if row[0] == "a"], [row[2:] for row in rows if row[0] == "b"]
    assert a[0][1] == a[1][0]
    assert a[1][1] == a[2][0]
    assert a[2][1] == b[1][1]  # both ended with the truncation
    assert a[2][1] < a[3][0]
    assert a[3][1] is None
    assert b[0][1] < b[1][0]
    assert shop.log("prices", "_change, price") == [
        ("snapshot", 1),
        ("snapshot", 1),
        ("update", 2),
        ("delete", None),
        ("update", 3),
        ("update", 4),
        ("insert", 5),
        ("truncate", None),
        ("insert", 6),
    ]


def test_a_row_carries_the_load_of_its_last_change(shop: Shop) -> None:
    shop.sql("create table t (id int primary key, x int)", "insert into t values (1, 1), (2, 2)")
    shop.declare("t")
    shop.follow()
    shop.sql("update t set x = 5 where id = 2")
    shop.follow()
    first, second = shop.zone.loads("shop", "t")
    view = shop.view("t")
    assert view.columns == ["id", "x", "_load_id", "_loaded_at"]
    assert view.order("id").project("_load_id, _loaded_at").fetchall() == [
        (load.load_id, load.loaded_at.replace(tzinfo=None)) for load in (first, second)
    ]


@pytest.mark.parametrize("identity", ["default", "full", "using index pairs_pair"])
def test_rows_are_told_apart_by_any_key(shop: Shop, identity: str) -> None:
    shop.sql(
        'create table pairs (a int not null, "B c" text not null, x int, body text)',
        'create unique index pairs_pair on pairs (a, "B c")',
        f"insert into pairs select i / 3, 'k' || i, i, {BIG} from generate_series(1, 30) i",
    )
    if identity == "default":
        shop.sql("alter table pairs add primary key using index pairs_pair")
    else:
        shop.sql(f"alter table pairs replica identity {identity}")
    shop.declare("pairs", pairs="key: [a, B c]")
    shop.follow()
    shop.sql(
        "update pairs set x = x + 1 where a < 5",
        'update pairs set "B c" = "B c" || \'!\' where a in (3, 4)',
        "update pairs set a = a + 100, x = 0 where a = 7",
        "delete from pairs where a = 8",
        "insert into pairs values (7, 'k21', 9, null)",
    )
    shop.follow()
    assert shop.is_same("pairs")
    assert len(shop.log("pairs", "_change")) == 30 + 14 + 2 * 6 + 2 * 3 + 3 + 1


@pytest.mark.parametrize(
    ("identity", "message"),
    [
        ("replica identity nothing", "shop.t: public.t has replica identity nothing"),
        ("replica identity default", "shop.t: public.t has no primary key"),
        ("replica identity full", "shop.t: public.t has no primary key. Say which columns"),
    ],
)
def test_a_table_whose_rows_cannot_be_told_apart_is_refused(shop: Shop, identity: str, message: str) -> None:
    shop.sql("create table t (id int, x int)", f"alter table t {identity}")
    shop.declare("t")
    with pytest.raises(HubspokeError, match=message):
        shop.follow()
    assert shop.ask("select count(*) from pg_replication_slots where database = current_database()") == [(0,)]


def test_a_partitioned_table_is_one_table(shop: Shop) -> None:
    shop.sql(
        "create table sales (id int, day date, x int, primary key (id, day)) partition by range (day)",
        "create table sales_1 partition of sales for values from ('2024-01-01') to ('2024-07-01')",
        "create table sales_2 partition of sales for values from ('2024-07-01') to ('2025-01-01')",
        "insert into sales select i, date '2024-01-01' + i, i from generate_series(1, 300) i",
    )
    shop.declare("sales")
    assert shop.follow() == {"sales": 300}
    shop.sql(
        "update sales set x = -1 where id < 50",
        "update sales set day = '2024-12-24' where id = 7",  # goes to the other partition
        "delete from sales where id > 250",
        "create table sales_3 partition of sales for values from ('2025-01-01') to ('2026-01-01')",
        "insert into sales values (999, '2025-05-05', 1)",
    )
    shop.follow()
    assert shop.is_same("sales")
    shop.sql("truncate sales", "insert into sales values (1, '2024-02-02', 5)")
    shop.follow()
    assert shop.is_same("sales")


def test_several_tables_stand_at_one_instant(shop: Shop) -> None:
    """Every transaction moves an amount from one table to the other: whatever is read together has the same sum."""
    shop.sql(
        "create table a (id int primary key, x int)",
        "create table b (id int primary key, x int)",
        "insert into a select i, 100 from generate_series(1, 10) i",
        "insert into b select i, 100 from generate_series(1, 10) i",
    )
    shop.declare("a", "b")
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(os.environ["HUBSPOKE_CONNECTION_SHOP"], autocommit=True) as writer:
            while not stop.is_set():
                one, amount = random.randint(1, 10), random.randint(1, 9)
                with writer.transaction():
                    writer.execute("update a set x = x - %s where id = %s", [amount, one])
                    writer.execute("update b set x = x + %s where id = %s", [amount, one])

    threads = [threading.Thread(target=write) for _ in range(3)]
    for thread in threads:
        thread.start()
    for _ in range(5):
        shop.follow()
        reached = shop.zone.reached("shop")
        total = 0
        for table in ("a", "b"):
            content = shop.zone.content("shop", table, reached)
            sql = table_views(shop.zone, "shop", table, content)[""]
            total += duckdb.sql(f"select sum(x) from ({sql})").fetchone()[0]
        assert total == 2000
    stop.set()
    for thread in threads:
        thread.join()
    shop.follow()
    assert shop.is_same("a", "b")


TYPES = {
    "bool": ("BOOLEAN", ["true", "f"]),
    "smallint": ("SMALLINT", ["-5"]),
    "int": ("INTEGER", ["5"]),
    "bigint": ("BIGINT", ["9223372036854775807"]),
    "real": ("FLOAT", ["1.5", "NaN", "-Infinity"]),
    "double precision": ("DOUBLE", ["0.1", "1e-300", "Infinity"]),
    "numeric": ("DOUBLE", ["1.5"]),
    "numeric(12,2)": ("DECIMAL(12,2)", ["1.25", "-0.01"]),
    "numeric(38,5)": ("DECIMAL(38,5)", ["123456789012345678901234567890123.12345"]),
    "text": ("VARCHAR", ["", "a\"'\\\n\t,é", "NULL", "\\N"]),
    "varchar(9)": ("VARCHAR", ["x "]),
    "char(5)": ("VARCHAR", ["ab"]),
    "bytea": ("BLOB", ["\\x00ff41", "\\x"]),
    "date": ("DATE", ["2024-02-29", "0044-03-15 BC", "infinity"]),
    "timestamp": ("TIMESTAMP", ["2024-02-29 12:00:00.123456", "-infinity", "0044-03-15 12:00:00 BC"]),
    "timestamptz": ("TIMESTAMP WITH TIME ZONE", ["2024-02-29 12:00:00.5+05", "1900-01-01 00:00:00+00"]),
    "time": ("TIME", ["12:00:00.5", "24:00:00"]),
    "interval": ("VARCHAR", ["1 year 2 mons 3 days 04:05:06.7", "-1 years +3 days -00:00:01.000001"]),
    "uuid": ("UUID", ["a0eebc99-9c0b-4ef8-bb6d-6bb9bd380a11"]),
    "json": ("VARCHAR", ['{"a": 1,  "b":null}']),
    "jsonb": ("VARCHAR", ['{"b": "x\\"y"}']),
    "mood": ("VARCHAR", ["ok"]),
    "inet": ("VARCHAR", ["10.0.0.1/24"]),
    "int[]": ("INTEGER[]", ["{1,NULL,3}", "{}"]),
    "text[]": ("VARCHAR[]", ['{"a,b",NULL,"NULL","q\\"x\\\\",plain,"{}",""}']),
    "numeric(8,2)[]": ("DECIMAL(8,2)[]", ["{1.50,-2.25}"]),
    "timestamp[]": ("TIMESTAMP[]", ['{"2024-01-01 00:00:00"}']),
    "int[][]": ("INTEGER[][]", ["{{1,2},{3,4}}"]),
}


def test_a_value_is_the_same_from_the_copy_and_from_the_log(shop: Shop) -> None:
    shop.sql("create type mood as enum ('sad', 'ok')")
    columns = ", ".join(f"c{place} {name}" for place, name in enumerate(TYPES))
    for table in ("copied", "logged"):
        shop.sql(f"create table {table} (id int primary key, {columns})")
    shop.declare("copied", "logged")

    def fill(table: str) -> None:
        for row in range(8):
            values = [found[row] if row < len(found) else None for _, found in TYPES.values()]
            shop.admin.execute(f"insert into {table} values ({', '.join(['%s'] * (len(values) + 1))})", [row, *values])

    fill("copied")
    shop.follow()
    fill("logged")
    shop.follow()
    copied, logged = shop.view("copied"), shop.view("logged")
    assert [str(t) for t in copied.types[1:-2]] == [data_type for data_type, _ in TYPES.values()]
    assert copied.types == logged.types
    texts = ", ".join(f"cast(c{place} as varchar)" for place in range(len(TYPES)))
    rows = copied.order("id").project(texts).fetchall()
    assert rows == logged.order("id").project(texts).fetchall()
    told = {name: [row[place] for row in rows if row[place] is not None] for place, name in enumerate(TYPES)}
    assert {name: len(values) for name, values in told.items()} == {n: len(v) for n, (_, v) in TYPES.items()}
    assert told["text"] == TYPES["text"][1]
    assert told["numeric(38,5)"] == TYPES["numeric(38,5)"][1]
    assert told["bytea"] == ["\\x00\\xFFA", ""]
    assert told["date"] == ["2024-02-29", "0044-03-15 (BC)", "infinity"]
    assert told["timestamp"] == ["2024-02-29 12:00:00.123456", "-infinity", "0044-03-15 (BC) 12:00:00"]
    assert told["timestamptz"] == ["2024-02-29 07:00:00.5+00", "1900-01-01 00:00:00+00"]
    assert told["interval"] == TYPES["interval"][1]
    assert logged.project("c24").filter("c24 is not null").fetchall() == [
        (["a,b", None, "NULL", 'q"x\\', "plain", "{}", ""],)
    ]
    assert shop.told == []


def test_a_value_that_its_type_cannot_hold_stops_nothing_and_is_kept(shop: Shop) -> None:
    shop.sql("create table t (id int primary key, n numeric(8,2), at timestamp, x text)")
    shop.declare("t")
    shop.follow()
    shop.sql("insert into t values (1, 'NaN', '2024-12-31', 'a'), (2, 1.5, '294276-12-31', 'b'), (3, 1, null, 'c')")
    shop.follow()
    landed = shop.view("t", "__log").order("id").project("id, n, x, _uncast").fetchall()
    assert [(row[0], row[2]) for row in landed] == [(1, "a"), (2, "b"), (3, "c")]
    assert landed[0][1] is None
    assert json.loads(landed[0][3])["n"] == "NaN"
    assert landed[2][1:] == (1, "c", None)
    assert "do not fit" in shop.told[0]


# --- tables that are altered while they are followed ---


@pytest.fixture
def things(shop: Shop) -> Shop:
    shop.sql(
        "create table things (id int primary key, name text, size int)",
        "insert into things select i, 'n' || i, i from generate_series(1, 50) i",
    )
    shop.declare("things")
    shop.follow()
    shop.sql("update things set size = 0 where id = 1")
    return shop


def test_a_column_that_is_added_empty_or_dropped_needs_no_copy(things: Shop) -> None:
    things.sql(
        "alter table things add colour text",
        "update things set colour = 'red' where id < 5",
        "alter table things drop size",
        "insert into things values (100, 'new', 'blue')",
    )
    things.follow()
    assert things.is_same("things")
    things.sql("alter table things drop colour", "update things set name = 'x' where id = 9")
    assert things.follow() == {"things": 1}
    assert things.is_same("things")
    assert things.view("things").columns == ["id", "name", "_load_id", "_loaded_at"]


@pytest.mark.parametrize(
    "alteration",
    [
        "alter table things add colour text default 'red'",
        "alter table things add number uuid default gen_random_uuid()",
        "alter table things add colour text default 'red'; alter table things alter colour drop default",
        "alter table things rename name to title",
        "alter table things add tag text; alter table things rename name to old; alter table things rename tag to name",
        "alter table things alter size type numeric(8,2) using size / 3.0",
        "alter table things alter name type varchar(200)",
        "alter table things drop size; alter table things add size int",
        "alter table things drop constraint things_pkey; alter table things add primary key (name)",
    ],
)
def test_an_alteration_that_the_log_does_not_tell_whole_is_copied(things: Shop, alteration: str) -> None:
    things.sql(alteration, "update things set size = 7 where id between 10 and 20", "delete from things where id = 3")
    things.follow()
    assert things.is_same("things")
    assert any("copied again" in line for line in things.told)
    things.sql("update things set size = 8 where id between 15 and 25")
    assert things.follow() == {"things": 11}
    assert things.is_same("things")


ID, NAME, SIZE, COLOUR = (
    f"{{ name: {name}, data_type: {kind} }}"
    for name, kind in (("id", "integer"), ("name", "varchar"), ("size", "integer"), ("colour", "varchar"))
)


def test_a_declared_column_that_the_database_does_not_have_is_null(things: Shop) -> None:
    things.declare("things", columns=f"{ID}, {NAME}, {COLOUR}")
    things.follow()
    things.sql("alter table things drop size", "update things set name = 'x' where id < 3")
    things.follow()
    assert things.view("things").columns == ["id", "name", "colour", "_load_id", "_loaded_at"]
    assert things.view("things").aggregate("count(*), count(colour), count(name)").fetchall() == [(50, 0, 50)]
    things.sql("alter table things add colour text", "update things set colour = 'red' where id < 5")
    things.follow()
    assert things.is_same("things")


def test_frozen_columns_stop_the_source_until_they_are_as_declared_and_lose_nothing(things: Shop) -> None:
    things.declare("things", ingest=", on_schema_change: freeze", columns=f"{ID}, {NAME}, {SIZE}")
    things.follow()
    before = things.landed("things")
    things.sql("insert into things values (60, 'sixty', 6)", "alter table things add colour text")
    things.sql("insert into things values (61, 'more', 6, 'red')")
    for _ in range(2):
        with pytest.raises(HubspokeError, match="things: its columns have changed: colour is not declared"):
            things.follow()
        assert things.landed("things") == before
    things.declare("things", ingest=", on_schema_change: freeze", columns=f"{ID}, {NAME}, {SIZE}, {COLOUR}")
    things.follow()
    assert things.is_same("things")


def test_a_change_log_has_no_quarantine_for_columns(things: Shop) -> None:
    things.declare("things", ingest=", on_schema_change: quarantine")
    with pytest.raises(HubspokeError, match=r"_shop__sources.yml:3: .*say evolve or freeze"):
        things.follow()


def test_a_table_is_altered_under_load_and_nothing_is_lost(things: Shop) -> None:
    stop = threading.Event()

    def write() -> None:
        with psycopg.connect(os.environ["HUBSPOKE_CONNECTION_SHOP"], autocommit=True) as writer:
            while not stop.is_set():
                one = random.randint(1, 60)
                writer.execute("insert into things (id) values (%s) on conflict (id) do nothing", [one])
                writer.execute("update things set size = %s where id = %s", [random.randint(1, 99), one])
                writer.execute("delete from things where id = %s", [random.randint(1, 60)])

    writer = threading.Thread(target=write)
    writer.start()
    for step in (
        "add a int",
        "add b int default 5",
        "rename a to c",
        "alter c type bigint",
        "drop b",
        "add b text",
        "alter size type bigint using size * 2",
    ):
        things.sql(f"alter table things {step}")
        time.sleep(0.2)
        if random.random() < 0.5:
            things.follow()
    stop.set()
    writer.join()
    things.follow()
    assert things.is_same("things")


def test_a_table_that_is_declared_later_is_copied_then(things: Shop) -> None:
    things.sql("create table more (id int primary key)", "insert into more values (1), (2)")
    things.declare("things", "more")
    things.sql("insert into more values (3)")
    assert things.follow() == {"things": 1, "more": 3}
    things.sql("insert into more values (4)", "delete from more where id = 1")
    assert things.follow() == {"things": 0, "more": 2}
    assert things.is_same("things", "more")


# --- what can be wrong with a source ---


def test_what_is_missing_in_the_database_is_said_with_the_sql_that_helps(shop: Shop, monkeypatch: Any) -> None:
    shop.sql("create table t (id int primary key)", "create role reader login password 'secret-word'")
    try:
        secret = "secret-word"  # noqa: S105 -- of a server that lives for the test
        shop.declare("t", publish=False)
        steps = []

        def fails() -> str:
            with pytest.raises(HubspokeError) as error:
                shop.follow()
            steps.append(str(error.value))
            assert "secret-word" not in steps[-1]
            return steps[-1]

        assert "create publication hubspoke_shop for table public.t" in fails()
        shop.sql("create publication hubspoke_shop with (publish = 'insert')")
        assert "leaves out some kinds of changes" in fails()
        shop.sql("alter publication hubspoke_shop set (publish = 'insert, update, delete, truncate')")
        assert "alter publication hubspoke_shop add table public.t" in fails()
        shop.sql("alter publication hubspoke_shop add table t")
        address = os.environ["HUBSPOKE_CONNECTION_SHOP"]
        shop.sql(f"grant connect on database {shop.admin.info.dbname} to reader")
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(address, user="reader", password=secret))
        assert 'grant select on public.t to "reader"' in fails()
        shop.sql("grant select on t to reader")
        assert 'alter role "reader" replication' in fails()
        shop.sql("alter role reader replication")
        assert shop.follow() == {"t": 0}
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(address, port=1, password=secret))
        assert "run this again" in fails()
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", "not an address secret-word")
        assert "HUBSPOKE_CONNECTION_SHOP is no address" in fails()
        monkeypatch.delenv("HUBSPOKE_CONNECTION_SHOP")
        assert "Set HUBSPOKE_CONNECTION_SHOP" in fails()
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", address)
    finally:
        shop.sql("drop owned by reader", "drop role reader")


def test_a_slot_that_is_gone_or_read_by_others_is_refused_until_all_is_copied_anew(things: Shop) -> None:
    things.follow()
    before = things.landed("things")
    things.sql("select pg_drop_replication_slot('hubspoke_shop')", "delete from things where id > 40")
    with pytest.raises(HubspokeError, match=r"has no slot hubspoke_shop any more.*hubspoke cdc snapshot shop"):
        things.follow()
    assert "is gone" in status(things.project, "shop").alarms[0]
    assert things.landed("things") == before
    forget(things.project, "shop")
    assert things.landed("things") == before  # readers see it until the copy is there
    things.follow()
    assert things.is_same("things")
    things.sql("delete from things where id > 30")
    things.sql("select pg_replication_slot_advance('hubspoke_shop', pg_current_wal_lsn())")
    with pytest.raises(HubspokeError, match="somebody else has read it"):
        things.follow()
    forget(things.project, "shop")
    things.follow()
    assert things.is_same("things")
    assert len(things.zone.loads("shop", "things")) == 4  # nothing that landed was removed


def test_a_slot_of_somebody_else_is_left_alone(shop: Shop) -> None:
    shop.sql("create table t (id int primary key)")
    shop.sql("select pg_create_logical_replication_slot('hubspoke_shop', 'pgoutput')")
    shop.declare("t")
    with pytest.raises(HubspokeError, match="a slot hubspoke_shop that this warehouse has not made"):
        shop.follow()
    with pytest.raises(HubspokeError, match="not made by this warehouse"):
        drop(shop.project, "shop")
    assert shop.ask("select count(*) from pg_replication_slots where slot_name = 'hubspoke_shop'") == [(1,)]


def test_status_tells_how_far_behind_it_is_and_alarms_on_kept_log(things: Shop) -> None:
    things.follow()
    assert status(things.project, "shop").alarms == []
    things.sql("insert into things select i, repeat('x', 1000), 0 from generate_series(1000, 3000) i")
    time.sleep(1.1)
    behind = status(things.project, "shop")
    assert behind.slot == "idle"
    assert behind.lag_bytes > 2_000_000
    assert behind.lag_s > 1
    assert behind.retained_bytes >= behind.lag_bytes
    things.declare("things", publish=False, ingest=", retained_wal_limit: 1MB")
    assert "more than retained_wal_limit (1.0 MB)" in status(things.project, "shop").alarms[0]
    things.follow()
    assert status(things.project, "shop").lag_s == 0
    assert "is dropped" in drop(things.project, "shop")
    assert status(things.project, "shop").slot == "missing"


def test_a_slot_whose_log_was_thrown_away_is_alarmed_and_copied_anew(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").touch()
    small = LOGICAL | {"max_slot_wal_keep_size": "16MB", "max_wal_size": "32MB", "min_wal_size": "32MB"}
    with private_postgres(**small) as server, psycopg.connect(**server.parameters(), autocommit=True) as admin:
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(**server.parameters()))
        things = Shop(Project(tmp_path, tmp_path / "warehouse"), admin)
        things.sql("create table things (id int primary key)", "insert into things values (1)")
        things.declare("things")
        things.follow()
        for number in range(2, 6):
            things.sql(f"insert into things values ({number})", "select pg_switch_wal()", "checkpoint")
        assert "slot hubspoke_shop is lost" in status(things.project, "shop").alarms[0]
        before = things.landed("things")
        with pytest.raises(HubspokeError, match=r"(?s)slot hubspoke_shop is lost.*hubspoke cdc snapshot shop"):
            things.follow()
        assert things.landed("things") == before == [(1,)]
        forget(things.project, "shop")
        assert things.follow() == {"things": 5}
        things.sql("insert into things values (7)")
        assert things.follow() == {"things": 1}
        assert things.is_same("things")


def test_a_server_whose_log_does_not_say_what_changes_is_refused_with_what_helps(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "dbt_project.yml").touch()
    with private_postgres() as server, psycopg.connect(**server.parameters(), autocommit=True) as admin:
        monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(**server.parameters()))
        things = Shop(Project(tmp_path, tmp_path / "warehouse"), admin)
        things.sql("create table things (id int primary key)")
        things.declare("things")
        with pytest.raises(HubspokeError, match=r"wal_level is .*alter system set wal_level = logical; then restart"):
            things.follow()


def test_two_cannot_follow_at_once(things: Shop) -> None:
    with things.zone.following("shop"), pytest.raises(HubspokeError, match="Another process is ingesting"):
        things.follow()


def test_an_idle_source_does_not_hold_the_log_of_a_busy_database(things: Shop) -> None:
    things.follow()
    places = (
        "select (restart_lsn - '0/0')::bigint, (confirmed_flush_lsn - '0/0')::bigint from pg_replication_slots "
        "where slot_name = 'hubspoke_shop'"
    )
    before = things.ask(places)[0]
    things.sql("create table other as select repeat('x', 1000) from generate_series(1, 9000)", "checkpoint")
    things.follow()
    things.follow()
    restart, confirmed = things.ask(places)[0]
    assert confirmed - before[1] > 9_000_000
    assert restart > before[0]
    assert things.zone.content("shop", "things").newest.rows == 1


# --- a whole project ---


def test_a_source_is_switched_to_its_change_log_and_staging_does_not_notice(
    shop: Shop, sandbox: Sandbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The rows of the running example by export and by cdc are the same, and a change arrives in the marts' room."""
    rows = "select * exclude (_load_id, _loaded_at) from main_staging.stg_pos__transactions order by all"
    [(schema,)] = sandbox.query("select schema_name from duckdb_views() where view_name = 'stg_pos__transactions'")
    rows = rows.replace("main_staging", schema)
    before = sandbox.query(rows)
    shop.sql(
        "create table transactions (household_id bigint, store_id bigint, basket_id bigint, product_id bigint, "
        "quantity bigint, sales_value double precision, retail_disc double precision, coupon_disc double precision, "
        "coupon_match_disc double precision, week bigint, transaction_timestamp timestamp, "
        "primary key (basket_id, product_id))",
        "create publication hubspoke_pos for table transactions with (publish_via_partition_root = true)",
    )
    exported = duckdb.sql(f"from '{sandbox.root}/exports/transactions.parquet'").fetchall()
    with shop.admin.cursor().copy("copy transactions from stdin") as copy:
        for row in exported:
            copy.write_row(row)
    sandbox.edit(
        "models/hub/staging/pos/_pos__sources.yml",
        "          mechanism: export\n",
        "          mechanism: cdc\n          connection: pos\n",
    )
    address = {"HUBSPOKE_CONNECTION_POS": os.environ["HUBSPOKE_CONNECTION_SHOP"]}
    assert "landed" in sandbox.run("hubspoke", "ingest", "pos", **address).stdout
    basket, product = exported[0][2:4]
    shop.sql(
        f"update transactions set quantity = 77 where basket_id = {basket} and product_id = {product}",
        f"delete from transactions where basket_id = {exported[1][2]} and product_id = {exported[1][3]}",
    )
    sandbox.run("dbt", "run", "--select", "stg_pos__transactions")
    assert sandbox.query(rows) == before
    printed = sandbox.run("hubspoke", "ingest", "pos", **address).stdout
    assert "2 rows or changes  landed" in printed
    sandbox.run("dbt", "build", "--select", "stg_pos__transactions", "core_basket_lines")
    after = sandbox.query(rows)
    assert len(after) == len(before) - 1
    assert len(set(after) - set(before)) == 1
    log = "select _change, count(*) from landing_pos.transactions__log group by 1 order by 1"
    assert sandbox.query(log) == [("delete", 1), ("snapshot", len(before)), ("update", 1)]
    assert sandbox.query("select count(*) from landing_pos.transactions__history where valid_to is not null") == [(2,)]
    shown = sandbox.run("hubspoke", "cdc", "status", **address).stdout
    assert "slot idle" in shown
    assert "dropped" in sandbox.run("hubspoke", "cdc", "drop", "pos", **address).stdout
    gone = sandbox.run("hubspoke", "cdc", "status", check=False, **address)
    assert gone.returncode == 1
    assert "ALARM: slot hubspoke_pos is gone" in gone.stdout


# --- the decoder by itself ---

TEXTS = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=5)
LEFT = "(left as it was)"


@dataclass
class Log:
    """Replication messages as a server writes them, and what they say."""

    width: int
    messages: list[bytes] = field(default_factory=list)
    says: list[tuple[Any, ...]] = field(default_factory=list)

    def add(self, body: bytes) -> None:
        self.messages.append(b"w" + bytes(24) + body)

    def describe(self, full: bool) -> None:
        columns = b"".join(
            struct.pack(">B", full or place == 0) + f"c{place}".encode() + b"\0" + struct.pack(">Ii", 25, -1)
            for place in range(self.width)
        )
        identity = b"f" if full else b"d"
        self.add(b"R" + struct.pack(">I", 7) + b"public\0t\0" + identity + struct.pack(">H", self.width) + columns)

    def row(self, values: list[str | None]) -> bytes:
        parts = [struct.pack(">H", len(values))]
        for value in values:
            text = (value or "").encode()
            kind = b"n" if value is None else b"u" if value == LEFT else b"t" + struct.pack(">I", len(text)) + text
            parts.append(kind)
        return b"".join(parts)


@st.composite
def logs(draw: st.DrawFn) -> Log:
    """Transactions over one table, with what each message comes to worked out one by one."""
    log = Log(draw(st.integers(1, 4)))
    full = draw(st.booleans())
    values = st.lists(st.none() | TEXTS, min_size=log.width - 1, max_size=log.width - 1)
    for number in range(draw(st.integers(1, 4))):
        lsn, xid = 1000 * (number + 1), number + 5
        log.add(b"B" + struct.pack(">QqI", lsn, number, xid))
        if number == 0 or draw(st.booleans()):
            log.describe(full)
        for _ in range(draw(st.integers(0, 6))):
            key, rest = draw(TEXTS), draw(values)
            what = draw(st.sampled_from("IUUMDT"))
            if what == "I":
                log.add(b"I" + struct.pack(">I", 7) + b"N" + log.row([key, *rest]))
                log.says.append(("insert", lsn, xid, key, *rest, None))
            elif what == "D":
                old = [key, *rest] if full else [key, *[None] * len(rest)]
                log.add(b"D" + struct.pack(">I", 7) + (b"O" if full else b"K") + log.row(old))
                log.says.append(("delete", lsn, xid, *old, None))
            elif what == "T":
                log.add(b"T" + struct.pack(">IB", 1, 0) + struct.pack(">I", 7))
                log.says.append(("truncate", lsn, xid, *[None] * log.width, None))
            else:
                new = [LEFT if draw(st.booleans()) else value for value in rest]
                before = draw(TEXTS) if what == "M" else key
                old = b""
                sent = [before, *rest] if full else [before, *[None] * len(rest)]
                if full or before != key:
                    old = (b"O" if full else b"K") + log.row(sent)
                log.add(b"U" + struct.pack(">I", 7) + old + b"N" + log.row([key, *new]))
                if before != key:
                    log.says.append(("delete", lsn, xid, *sent, None))
                found = [b if v == LEFT and full and b is not None else v for v, b in zip(new, rest, strict=True)]
                left = [f"c{place + 1}" for place, value in enumerate(found) if value == LEFT]
                shown = [None if value == LEFT else value for value in found]
                log.says.append(("update", lsn, xid, key, *shown, left or None))
        log.add(b"C" + struct.pack(">BQQq", 0, lsn, lsn + 8, number))
    return log


@settings(max_examples=150, deadline=None)
@given(log=logs(), cuts=st.lists(st.integers(0, 40), max_size=4))
def test_the_decoder_says_what_the_messages_say_wherever_they_are_cut(log: Log, cuts: list[int]) -> None:
    decoder = Decoder()
    places = sorted({min(cut, len(log.messages)) for cut in cuts} | {0, len(log.messages)})
    found, numbers = [], []
    for start, end in itertools.pairwise(places):
        messages = Messages(bytearray(b"".join(log.messages[start:end])), [len(m) for m in log.messages[start:end]])
        for changes in decoder.decode(messages, {}):
            columns = ["_change", "_lsn", "_xid", *[f"c{place}" for place in range(log.width)], "_unchanged"]
            found += list(zip(*[changes.rows[name].to_pylist() for name in columns], strict=True))
            numbers += changes.rows["_change_number"].to_pylist()
    assert found == log.says
    assert numbers == sorted(set(numbers))
    assert decoder.position == 1000 * sum(message[25:26] == b"B" for message in log.messages) + 8
    assert not decoder.is_open


@settings(max_examples=100, deadline=None)
@given(log=logs(), cut=st.integers(0, 40))
def test_transactions_are_taken_whole(log: Log, cut: int) -> None:
    some = log.messages[: min(cut, len(log.messages))]
    messages = Messages(bytearray(b"".join(some)), [len(message) for message in some])
    taken = messages.take_transactions()
    assert bytes(taken.content + messages.content) == b"".join(some)
    assert taken.lengths + messages.lengths == [len(message) for message in some]
    ends = [message[25:26] == b"C" for message in some]
    if any(ends):
        assert taken.content[-taken.lengths[-1] + 25 :][:1] == b"C"
        assert len(taken.lengths) == len(ends) - ends[::-1].index(True)
    else:
        assert messages.lengths == []


@given(
    st.recursive(
        st.lists(st.none() | TEXTS, min_size=1, max_size=4), lambda inner: st.lists(inner, min_size=1, max_size=3)
    )
)
def test_an_array_is_read_as_it_was_written(array: list[Any]) -> None:
    def written(value: Any) -> str:
        if value is None:
            return "NULL"
        if isinstance(value, list):
            return "{" + ",".join(map(written, value)) + "}"
        return '"' + value.replace("\\", "\\\\").replace('"', '\\"') + '"'

    assert json.loads(array_as_json(written(array))) == array


# --- killed at any instant ---


def test_a_reader_that_is_killed_again_and_again_lands_every_event_once(tmp_path: Path) -> None:
    """The short form of what bench/cdc.py does for longer."""
    sys.path.insert(0, str(Path(__file__).parents[2] / "bench"))
    from cdc import Soak

    soak = Soak(tmp_path, seed=random.randrange(10**9))
    try:
        told = soak.run(kills=10, restarts=1)
    finally:
        soak.close()
    assert told.kills == 10
    assert told.events > 1000
