"""How long each tile of a dashboard waits for PostgreSQL, warm, over the release that this project has made.

Start it with: make bench, after make build. A private server, the spoke's own role, the queries of dashboards.sql;
every answer is first compared with the release's own. It ends with 1 if a median is over the limit or one differs.
Nothing of the project's own warehouse is touched.
"""

import re
import statistics
import sys
import tempfile
import time
from decimal import Decimal
from pathlib import Path
from typing import Any

import duckdb
import psycopg
from rich.console import Console
from rich.table import Table

from hubspoke.credentials import make_password, password
from hubspoke.manifest import Manifest
from hubspoke.orders import accounts, orders
from hubspoke.postgres import Publisher
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore
from hubspoke.roles import sync

LIMIT_MS = 100
REPEATS = 20


def queries() -> dict[str, str]:
    """Return the queries by their names."""
    text = (Path(__file__).parent / "dashboards.sql").read_text()
    return {name: sql.strip().rstrip(";") for name, sql in re.findall(r"-- name: (.+)\n([^;]+;)", text)}


def comparable(rows: list[tuple[Any, ...]]) -> list[tuple[Any, ...]]:
    """Bring rows of both into one form: quotients of decimals are doubles in DuckDB and decimals in PostgreSQL."""

    def of(value: Any) -> Any:
        return f"{float(value):.9g}" if isinstance(value, float | Decimal) else str(value)[:10]

    return sorted(tuple(map(of, row)) for row in rows)


def main() -> None:
    """Publish, ask, and print a table."""
    project = Project.find(Path(__file__).parent)
    manifest, store = Manifest.read_current(project.root), ReleaseStore(project.release)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        folder.chmod(0o755)  # as root, the server is another user
        served = Project(project.root, folder / "warehouse")
        server = LocalServer(served)
        server.start()
        try:
            for account in accounts(manifest):
                make_password(served, account)
            sync(served, manifest, server)
            with psycopg.connect(**server.parameters(), autocommit=True) as publisher:
                Publisher(publisher, store, orders(manifest)).publish()
            login = server.parameters() | {"user": "spoke_bi", "password": password(served, "bi")}
            with psycopg.connect(**login, autocommit=True) as reader:
                is_within = measure(reader, store.connect())
        finally:
            server.stop()
    if not is_within:
        sys.exit(1)


def measure(reader: psycopg.Connection, release: duckdb.DuckDBPyConnection) -> bool:
    """Ask everything once to compare, then repeatedly; return whether every median is within the limit."""
    table = Table(title=f"A dashboard's tiles, warm, {REPEATS} times each: ms until all rows are there")
    for heading in ("tile", "rows", "median", "max"):
        table.add_column(heading, justify="left" if heading == "tile" else "right")
    is_within = True
    for name, sql in queries().items():
        rows = reader.execute(sql.encode()).fetchall()
        if comparable(rows) != comparable(release.execute(sql).fetchall()):
            raise SystemExit(f"{name}: PostgreSQL and the release differ")
        taken = []
        for _ in range(REPEATS):
            started = time.perf_counter()
            reader.execute(sql.encode()).fetchall()
            taken.append((time.perf_counter() - started) * 1000)
        median = statistics.median(taken)
        is_within = is_within and median <= LIMIT_MS
        table.add_row(name, f"{len(rows):,}", f"{median:.1f}", f"{max(taken):.1f}")
    table.caption = f"at most {LIMIT_MS} ms is asked of each"
    Console().print(table)
    return is_within


if __name__ == "__main__":
    main()
