"""The landing zone: what the sources sent, unchanged, append-only, each load whole or absent.

A load is a folder ``<source>/<table>/<load_id>/`` with Parquet files and ``commit.json``. It is written under another
name and renamed when it is complete, so whatever carries a load's name is a whole load. A load is the whole table, or
holds changes to what came before.

A source that is followed by its own log has a file ``<source>/position.json``: how far in the log its tables are.
Loads that lie further are not there yet. So loads of many tables become visible at once, by the rename of one file.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel

from hubspoke.files import UNFINISHED, commit_folder, discard_folder, exclusive, write_whole

REJECTS = "rejects.parquet"
"""Beside a load's data: the rows of the source that could not be landed, each with what is wrong with it."""


class Load(BaseModel):
    """One committed load of one table (the content of ``commit.json``).

    Attributes:
        load_id: ``<sequence>-<fingerprint>``; sorts by age within its table.
        loaded_at: UTC time of the load.
        rows: Rows landed.
        kind: ``whole``: it is the table; ``changes``: it holds what changed since the loads before.
        fingerprint: SHA-256 of the source file, if there was one.
        file: Name of the source file, if there was one.
        columns: The table's columns in their order, and their types in DuckDB; empty: those of the Parquet file.
        key: Columns that tell rows apart; empty: nothing does, and changes are inserts only.
        unchanged: Columns of which some changes do not say the value, as it is the one from before.
        position: Where the load ends in the source's log, if it came from one.
        rows_in: Rows that the source had, where they were counted: those landed, rejected and superseded.
        rejected: Rows that could not be landed; they are in ``rejects.parquet`` with the reason.
        superseded: Rows whose key a later file of the same load has again.
        state: What the mechanism that made it has to remember.
    """

    load_id: str
    loaded_at: datetime
    rows: int
    kind: Literal["whole", "changes"] = "whole"
    fingerprint: str = ""
    file: str = ""
    columns: dict[str, str] = {}
    key: list[str] = []
    unchanged: list[str] = []
    position: int | None = None
    rows_in: int | None = None
    rejected: int = 0
    superseded: int = 0
    state: dict[str, Any] = {}

    @property
    def sequence(self) -> int:
        """Its place among the loads of its table."""
        return _sequence(self.load_id)


def _sequence(load_id: str) -> int:
    return int(load_id.partition("-")[0])


class Position(BaseModel):
    """How far a source's log has landed (the content of ``position.json``).

    Attributes:
        position: Everything before this place in the log is in a load.
        as_of: The source's time at which that was all there was to land.
        state: What the mechanism has to remember of the source.
    """

    position: int
    as_of: datetime
    state: dict[str, Any] = {}


@dataclass(frozen=True)
class Content:
    """What makes up a table now: a whole load, and the changes since.

    Attributes:
        whole: The newest whole load; None if there were only changes.
        changes: The loads of changes after it, oldest first.
    """

    whole: Load | None
    changes: list[Load]

    @property
    def newest(self) -> Load:
        """The load that came last."""
        return self.changes[-1] if self.changes or self.whole is None else self.whole


@dataclass(frozen=True)
class Outcome:
    """What ingesting one table came to.

    Attributes:
        name: ``<source>.<table>``.
        rows: Rows of the load that is current now.
        is_new: Whether this run landed it; False if it had landed before.
        rejected: Rows that this run could not land.
        notes: What a person should know of it.
    """

    name: str
    rows: int
    is_new: bool
    rejected: int = 0
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Draft:
    """A load that is being written.

    Attributes:
        load_id: Its name, which its rows carry.
        folder: Where its files go.
    """

    load_id: str
    folder: Path

    def stamp(self, loaded_at: datetime) -> str:
        """Return the SQL of the two columns that every row of the load carries."""
        return f"'{self.load_id}' as _load_id, timestamp '{loaded_at:%Y-%m-%d %H:%M:%S}' as _loaded_at"


class LandingZone:
    """The loads under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def loads(self, source: str, table: str, reached: int | None = None) -> list[Load]:
        """List a table's committed loads, oldest first.

        Args:
            source: The source.
            table: Its table.
            reached: Read a log up to this position; default: as far as it has landed. Whoever reads several tables
                asks for the position once, so that all of them are from one instant.
        """
        if reached is None:
            reached = self.reached(source)
        loads = [load for load in self._written(source, table) if load.position is None or load.position <= reached]
        return sorted(loads, key=lambda load: load.sequence)

    def reached(self, source: str) -> int:
        """Return how far a source's log has landed; 0 if nothing has, or it is not followed."""
        position = self.position(source)
        return position.position if position else 0

    def _written(self, source: str, table: str) -> list[Load]:
        """List a table's loads, those too that lie beyond the source's position."""
        commits = (self.root / source / table).glob("*/commit.json")
        return [
            Load.model_validate_json(commit.read_text()) for commit in commits if UNFINISHED not in commit.parent.name
        ]

    def current(self, source: str, table: str) -> Load | None:
        """Return a table's newest load, without reading the others."""
        reached = self.reached(source)
        folders = [path for path in (self.root / source / table).glob("*-*/") if UNFINISHED not in path.name]
        for folder in sorted(folders, key=lambda path: _sequence(path.name), reverse=True):
            load = Load.model_validate_json((folder / "commit.json").read_text())
            if load.position is None or load.position <= reached:
                return load
        return None

    def content(self, source: str, table: str, reached: int | None = None) -> Content | None:
        """Return what makes up a table now; None if nothing has landed. ``reached`` is that of ``loads``."""
        loads = self.loads(source, table, reached)
        if not loads:
            return None
        wholes = [place for place, load in enumerate(loads) if load.kind == "whole"]
        first = wholes[-1] if wholes else -1
        return Content(loads[first] if wholes else None, loads[first + 1 :])

    def files(self, source: str, table: str, load: Load) -> list[Path]:
        """List the Parquet files of a load."""
        folder = self.root / source / table / load.load_id
        return sorted(path for path in folder.glob("*.parquet") if path.name != REJECTS)

    def position(self, source: str) -> Position | None:
        """Return how far a source's log has landed; None if the source has none, or nothing has."""
        file = self.root / source / "position.json"
        try:
            return Position.model_validate_json(file.read_text())
        except FileNotFoundError:
            return None

    @contextmanager
    def following(self, source: str) -> Iterator[None]:
        """Keep others from landing the source; loads beyond its position, left by a crash, are removed.

        Raises:
            HubspokeError: Another process is landing it.
        """
        with exclusive(self.root / source, "ingesting"):
            reached = self.reached(source)
            for table in (path.name for path in sorted((self.root / source).glob("*/"))):
                for load in self._written(source, table):
                    if load.position is not None and load.position > reached:
                        discard_folder(self.root / source / table / load.load_id)
            yield

    def begin(self, source: str, table: str, sequence: int, suffix: str) -> "Draft":
        """Begin a load, to be filled with Parquet files and committed; hold the source's lock while you do."""
        load_id = f"{sequence:06d}-{suffix}"
        folder = self.root / source / table / (load_id + UNFINISHED)
        if folder.exists():
            discard_folder(folder)
        folder.mkdir(parents=True)
        return Draft(load_id, folder)

    def next_sequence(self, source: str, table: str) -> int:
        """Return the number of a table's next load."""
        loads = [path.name for path in (self.root / source / table).glob("*-*/") if UNFINISHED not in path.name]
        return max(map(_sequence, loads), default=0) + 1

    def seal(self, source: str, tables: list[str]) -> None:
        """Take the loads that are visible out of the source's log: they stay visible wherever it stands."""
        for table in tables:
            for load in self.loads(source, table):
                if load.position is not None:
                    commit = self.root / source / table / load.load_id / "commit.json"
                    write_whole(commit, load.model_copy(update={"position": None}).model_dump_json(indent=2) + "\n")

    def advance(self, source: str, loads: list[tuple["Draft", Load]], position: Position) -> None:
        """Make some loads of a source visible, all at the same instant, as its log has landed up to a position.

        Args:
            source: The source.
            loads: What was written, and what it is; every load's position is at most the new one.
            position: How far the log has landed now.
        """
        for draft, load in loads:
            (draft.folder / "commit.json").write_text(load.model_dump_json(indent=2) + "\n")
            commit_folder(draft.folder, draft.folder.with_name(load.load_id))
        write_whole(self.root / source / "position.json", position.model_dump_json(indent=2) + "\n")
