"""Whether engines that are not ours read the released Iceberg tables as DuckDB does. Start it with: make engines.

Each engine is given the metadata files that the release's manifest names, and copies each table's rows to a Parquet
file of its own; the checksum of that file's rows must be the one in the manifest. It ends with 1 if one differs.
pyiceberg and polars run here; Apache Spark (bench/engines_spark.py) in an environment of its own, .spark/.
"""

import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path

import duckdb
import polars
import pyarrow.parquet as parquet
from pyiceberg.table import StaticTable
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hubspoke.project import Project
from hubspoke.release import ReleaseStore
from hubspoke.sql import quoted

HERE = Path(__file__).parent


def by_pyiceberg(tables: dict[str, Path]) -> None:
    """Read with the library that also writes them."""
    for metadata, copy in tables.items():
        parquet.write_table(StaticTable.from_metadata(metadata).scan().to_arrow(), copy)


def by_polars(tables: dict[str, Path]) -> None:
    """Read with polars' own scan."""
    os.environ["POLARS_ICEBERG_PLANNER"] = "pyiceberg"  # a quicker one is a package of its own
    for metadata, copy in tables.items():
        polars.scan_iceberg(metadata).collect().write_parquet(copy)


def by_spark(tables: dict[str, Path]) -> None:
    """Read with Spark and Iceberg's own runtime for it."""
    pairs = [str(part) for pair in tables.items() for part in pair]
    command: list[str | Path] = [HERE.parent / ".spark/bin/python", HERE / "engines_spark.py", *pairs]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"Spark could not read the tables:\n{done.stderr[-3000:]}")


ENGINES: dict[str, Callable[[dict[str, Path]], None]] = {
    "pyiceberg": by_pyiceberg,
    "polars": by_polars,
    "Spark": by_spark,
}


def checksum(copy: Path) -> str:
    """Compute what a release's manifest calls the checksum, over a file or a folder of files."""
    files = f"{copy}/*.parquet" if copy.is_dir() else str(copy)
    [row] = duckdb.sql(
        f"select coalesce(sum(hash(_whole_row)::hugeint), 0) from read_parquet('{quoted(files)}') as _whole_row"
    ).fetchall()
    return str(row[0])


def main() -> None:
    """Read every released relation with every engine, and print a table."""
    store = ReleaseStore(Project.find(HERE).release)
    release = store.get()
    console = Console()
    table = Table(title=f"Release {release.number}: {len(release.relations)} relations, read by other engines")
    for heading in ("engine", "seconds", "rows", "checksums that are the manifest's"):
        table.add_column(heading, justify="left" if heading == "engine" else "right")
    wrong: list[str] = []
    for engine, read in track(ENGINES.items(), "reading", console=console, disable=not console.is_terminal):
        with tempfile.TemporaryDirectory() as folder:
            copies = {name: Path(folder) / f"{name}.parquet" for name in release.relations}
            started = time.monotonic()
            read({f"{store.location.url}/{release.relations[name].metadata}": copy for name, copy in copies.items()})
            seconds = time.monotonic() - started
            differ = [name for name, copy in copies.items() if checksum(copy) != release.relations[name].checksum]
        wrong += [f"{engine}: {name}" for name in differ]
        rows = sum(relation.rows for relation in release.relations.values())
        table.add_row(engine, f"{seconds:.1f}", f"{rows:,}", f"{len(copies) - len(differ)} of {len(copies)}")
    console.print(table)
    if wrong:
        sys.exit("another checksum: " + ", ".join(wrong))


if __name__ == "__main__":
    main()
