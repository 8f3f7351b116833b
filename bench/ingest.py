"""What ingestion costs beside DuckDB alone, in one run: files, and PostgreSQL in bulk. Start it with: make bench.

Each row is the sales lines of the running example (1.47 million rows): the seconds of hubspoke's ingestion in this
process, and those of DuckDB's own copy of the same source to Parquet. The rate is the share of DuckDB's own.
"""

import os
import shutil
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import duckdb
import psycopg
from rich.console import Console
from rich.table import Table

from hubspoke.connections import address, attach
from hubspoke.exports import ingest
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.sources import read_sources

ROOT = Path(__file__).parents[1]
TRIES = 5


def fastest(ours: Callable[[], object], plain: Callable[[], object]) -> tuple[float, float]:
    """Return the seconds of the fastest of some tries of each, made in turn: a machine is not as quick all the time."""
    seconds: tuple[list[float], list[float]] = ([], [])
    for _ in range(TRIES):
        for action, taken in zip((ours, plain), seconds, strict=True):
            started = time.monotonic()
            action()
            taken.append(time.monotonic() - started)
    return min(seconds[0]), min(seconds[1])


def declare(root: Path, ingest_meta: str, meta: str, columns: dict[str, str]) -> Project:
    """Write a project with one source."""
    (root / "models").mkdir(parents=True, exist_ok=True)
    listed = ", ".join(f"{{ name: {name}, data_type: {kind} }}" for name, kind in columns.items())
    (root / "models/_it__sources.yml").write_text(
        f"sources:\n  - name: it\n    config: {{ meta: {{ ingest: {{ mechanism: export, {ingest_meta} }} }} }}\n"
        f"    tables:\n      - name: lines\n        config: {{ meta: {{ {meta} }} }}\n        columns: [{listed}]\n"
    )
    return Project(root, root / "warehouse")


def land(project: Project) -> None:
    """Land the source as if it never had."""
    shutil.rmtree(project.warehouse / "landing", ignore_errors=True)
    ingest(project, read_sources(project.root))


def copy(query: str) -> None:
    """Run a query in an engine of its own."""
    with duckdb.connect() as connection:
        connection.execute(query)


def main() -> None:
    """Measure, and print a table."""
    table = Table(title="Ingestion beside DuckDB alone: 1.47 million rows")
    for heading in ("source", "seconds", "DuckDB, seconds", "rate", "at least"):
        table.add_column(heading, justify="left" if heading == "source" else "right")
    lines = next(found.path for found in read_sources(ROOT) if found.name == "pos.transactions")
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
        root = Path(temporary)
        root.chmod(0o755)  # as root, PostgreSQL runs as another user
        files, out = root / "exports", root / "plain.parquet"
        files.mkdir()
        columns = {row[0]: row[1].lower() for row in duckdb.sql(f"describe from '{lines}'").fetchall()}
        duckdb.sql(f"copy (from '{lines}') to '{files}/lines.csv' (header)")
        duckdb.sql(f"copy (from '{lines}') to '{files}/lines.jsonl' (format json)")
        shutil.copy(lines, files / "lines.parquet")
        text = (files / "lines.csv").read_text()
        (files / "dirty.csv").write_text(text + "x" + text.splitlines()[1] + "\n")
        readers = {
            "lines.csv": "read_csv",
            "lines.jsonl": "read_json",
            "lines.parquet": "read_parquet",
            "dirty.csv": "read_csv",
        }
        for name, reader in readers.items():
            project = declare(root, f"location: {files}", f"file: {name}", columns)
            extra = ", ignore_errors = true" if name == "dirty.csv" else ""
            query = f"copy (from {reader}('{files}/{name}'{extra})) to '{out}' (format parquet)"
            ours, plain = fastest(partial(land, project), partial(copy, query))
            limit = "" if name == "dirty.csv" else "0.5"
            table.add_row(name, f"{ours:.2f}", f"{plain:.2f}", f"{plain / ours:.2f}", limit)
        server = LocalServer(Project(root, root / "served"))
        server.start()
        try:
            given = psycopg.conninfo.make_conninfo(**server.parameters())
            with psycopg.connect(given) as admin:
                kinds = ", ".join(f"{name} {kind.replace('double', 'float8')}" for name, kind in columns.items())
                admin.execute(f"create table lines ({kinds})")
                with admin.cursor().copy("copy lines from stdin (format csv, header)") as lines_in:
                    lines_in.write(text)
            os.environ["HUBSPOKE_CONNECTION_BENCH"] = given
            project = declare(root, "connection: bench", "relation: public.lines", columns)

            def scan() -> None:
                with duckdb.connect() as connection:
                    attach(connection, address(project, "bench"), "source")
                    connection.execute(f"copy (from source.public.lines) to '{out}' (format parquet)")

            ours, plain = fastest(partial(land, project), scan)
            table.add_row("PostgreSQL", f"{ours:.2f}", f"{plain:.2f}", f"{plain / ours:.2f}", "0.7")
        finally:
            server.stop()
    Console().print(table)


if __name__ == "__main__":
    main()
