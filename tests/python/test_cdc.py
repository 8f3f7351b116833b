"""Change data capture from a real PostgreSQL, which the suite starts and stops."""

import json
import os
import random
import shutil
import signal
import struct
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from psycopg.conninfo import make_conninfo

from hubspoke import cdc
from hubspoke.cdc import Follower, catch_up, drop, forget, status
from hubspoke.changelog import table_views
from hubspoke.errors import HubspokeError
from hubspoke.landing import LandingZone
from hubspoke.pgoutput import Decoder, Messages
from hubspoke.postgres_server import LocalServer
from hubspoke.postgres_types import array_as_json
from hubspoke.project import Project
from hubspoke.replication import position
from hubspoke.sources import read_sources

LOGICAL = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_worker_processes": "4",
    "fsync": "off",
    "logical_decoding_work_mem": "1MB",
}


@pytest.fixture(scope="session")
def source_server() -> Iterator[LocalServer]:
    folder = Path(tempfile.mkdtemp(prefix="hubspoke-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user
    server = LocalServer(Project(folder, folder / "warehouse"), **LOGICAL)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


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

    def declare(self, *tables: str, publish: bool = True, ingest: str = "", **meta: str) -> None:
        """Write the source's YAML, and publish its tables."""
        lines = [f"- {{ name: {name}, config: {{ meta: {{ {meta.get(name, '')} }} }} }}" for name in tables]
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
    name = f"test_{random.randrange(10**9)}"
    with psycopg.connect(**source_server.parameters(), autocommit=True) as root:
        root.execute(f"create database {name}")
    parameters = source_server.parameters() | {"dbname": name}
    monkeypatch.setenv("HUBSPOKE_CONNECTION_SHOP", make_conninfo(**parameters))
    (tmp_path / "dbt_project.yml").touch()
    admin = psycopg.connect(**parameters, autocommit=True, options="-c TimeZone=UTC")
    yield Shop(Project(tmp_path, tmp_path / "warehouse"), admin)
    for (slot,) in admin.execute("select slot_name from pg_replication_slots where database = %s", [name]).fetchall():
        admin.execute("select pg_terminate_backend(active_pid) from pg_replication_slots where slot_name = %s", [slot])
        time.sleep(0.1)
        admin.execute("select pg_drop_replication_slot(%s)", [slot])
    admin.close()
    with psycopg.connect(**source_server.parameters(), autocommit=True) as root:
        root.execute(f"drop database {name} with (force)")


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
