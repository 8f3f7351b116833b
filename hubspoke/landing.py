"""The landing zone: what the sources sent, unchanged, append-only, each load whole or absent.

A load is a folder ``<source>/<table>/<load_id>/`` with ``data.parquet`` and ``commit.json``. It is written under
another name and renamed when it is complete, so whatever carries a load's name is a whole load.
"""

import hashlib
import threading
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import duckdb
from pydantic import BaseModel

from hubspoke.errors import HubspokeError
from hubspoke.files import UNFINISHED, commit_folder, exclusive
from hubspoke.sources import SourceTable
from hubspoke.sql import quoted

Progress = Callable[[str, float], None]
"""Called with a table's name and its share done, 0 to 1."""


class Load(BaseModel):
    """One committed load of one table (the content of ``commit.json``).

    Attributes:
        load_id: ``<sequence>-<fingerprint>``; sorts by age within its table.
        loaded_at: UTC time of the load.
        rows: Rows landed.
        fingerprint: SHA-256 of the source file.
        file: Name of the source file.
    """

    load_id: str
    loaded_at: datetime
    rows: int
    fingerprint: str
    file: str


@dataclass(frozen=True)
class Outcome:
    """What ingesting one table came to.

    Attributes:
        name: ``<source>.<table>``.
        rows: Rows of the load that is current now.
        is_new: Whether this run landed it; False if it had landed before.
    """

    name: str
    rows: int
    is_new: bool


class LandingZone:
    """The loads under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def loads(self, source: str, table: str) -> list[Load]:
        """List a table's committed loads, oldest first."""
        commits = sorted((self.root / source / table).glob("*/commit.json"))
        return [
            Load.model_validate_json(commit.read_text()) for commit in commits if UNFINISHED not in commit.parent.name
        ]

    def current(self, source: str, table: str) -> Load | None:
        """Return a table's newest load: every export is a full one, so the newest alone is the table."""
        loads = self.loads(source, table)
        return loads[-1] if loads else None

    def data(self, source: str, table: str, load: Load) -> Path:
        """Return the Parquet file of a load."""
        return self.root / source / table / load.load_id / "data.parquet"

    def ingest(self, tables: list[SourceTable], progress: Progress = lambda name, share: None) -> list[Outcome]:
        """Land every table whose file changed since its last load; if any file is bad, none.

        Each load becomes visible whole. A kill while several do can leave the later ones out; run it again.

        Args:
            tables: What to land.
            progress: Told how far each table is.

        Returns:
            One outcome per table, in their order.

        Raises:
            HubspokeError: A file is missing or cannot be read to its end, or another ingestion is running; the zone is
                as it was.
        """
        with exclusive(self.root, "ingesting"):
            outcomes, staged = [], []
            for table in tables:
                fingerprint = _fingerprint(table)
                current = self.current(table.source, table.table)
                if current and current.fingerprint == fingerprint:
                    outcomes.append(Outcome(table.name, current.rows, is_new=False))
                    progress(table.name, 1.0)
                    continue
                sequence = int(current.load_id.partition("-")[0]) + 1 if current else 1
                load_id = f"{sequence:06d}-{fingerprint[:12]}"
                final = self.root / table.source / table.table / load_id
                unfinished = final.with_name(load_id + UNFINISHED)
                load = _write(table, unfinished, load_id, fingerprint, progress)
                staged.append((unfinished, final))
                outcomes.append(Outcome(table.name, load.rows, is_new=True))
            for unfinished, final in staged:
                commit_folder(unfinished, final)
            return outcomes


def _fingerprint(table: SourceTable) -> str:
    try:
        with table.path.open("rb") as file:
            return hashlib.file_digest(file, "sha256").hexdigest()
    except OSError as error:
        raise HubspokeError(
            f"{table.name}: cannot read {table.path}: {error.strerror} (named in {table.declared_in})"
        ) from None


def _write(table: SourceTable, folder: Path, load_id: str, fingerprint: str, progress: Progress) -> Load:
    folder.mkdir(parents=True)
    loaded_at = datetime.now(UTC).replace(microsecond=0)
    data = folder / "data.parquet"
    query = f"""
        copy (
            select *, '{load_id}' as _load_id, timestamp '{loaded_at:%Y-%m-%d %H:%M:%S}' as _loaded_at
            from read_parquet('{quoted(table.path)}')
        ) to '{quoted(data)}' (format parquet)
    """
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = false")
        try:
            rows = int(_watched(connection, query, lambda share: progress(table.name, share)))
        except duckdb.Error as error:
            reason = str(error).splitlines()[0]
            if str(folder) in reason or "No space left" in reason:
                raise HubspokeError(
                    f"{table.name}: cannot write to {folder.parent} ({reason}). Nothing was landed."
                ) from None
            raise HubspokeError(
                f"{table.name}: {table.path} cannot be read as Parquet ({reason}). Nothing was landed; "
                "fetch the file again and run: hubspoke ingest"
            ) from None
    if _fingerprint(table) != fingerprint:
        raise HubspokeError(
            f"{table.name}: {table.path} changed while it was read. Nothing was landed; run again when it is complete: "
            "hubspoke ingest"
        )
    load = Load(load_id=load_id, loaded_at=loaded_at, rows=rows, fingerprint=fingerprint, file=table.path.name)
    (folder / "commit.json").write_text(load.model_dump_json(indent=2) + "\n")
    progress(table.name, 1.0)
    return load


def _watched(connection: duckdb.DuckDBPyConnection, query: str, progress: Callable[[float], None]) -> int:
    """Run a COPY and report its share done five times a second; returns the rows it wrote."""
    connection.execute("set enable_progress_bar = true; set enable_progress_bar_print = false")
    done = threading.Event()

    def watch() -> None:
        while not done.wait(0.2):
            progress(max(connection.query_progress(), 0.0) / 100)

    watcher = threading.Thread(target=watch)
    watcher.start()
    try:
        row = connection.execute(query).fetchone()
    finally:
        done.set()
        watcher.join()
    return int(row[0]) if row else 0
