"""The landing zone: what the sources sent, unchanged, append-only, each load whole or absent.

A load is a folder ``<source>/<table>/<load_id>/`` with Parquet files and ``commit.json``. It is written under another
name and renamed when it is complete, so whatever carries a load's name is a whole load. A load is the whole table, or
holds changes to what came before.

A load that compaction has made (``hubspoke/compaction.py``) stands for all those from one number to another. They
are no part of the table from the rename on that makes it visible; their folders go later, when nobody reads them any
more. What the hub's views read is noted in ``pinned.json``, what Spark reads in ``pinned-spark.json``.

A source that is followed by its own log has a file ``<source>/position.json``: how far in the log its tables are.
Loads that lie further are not there yet. So loads of many tables become visible at once, by the rename of one file.
"""

import json
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import date, datetime
from pathlib import Path
from typing import Any, Literal, NamedTuple

from pydantic import BaseModel

from hubspoke.files import UNFINISHED, commit_folder, discard_folder, exclusive, write_whole

REJECTS = "rejects.parquet"
"""Beside a load's data: the rows of the source that could not be landed, each with what is wrong with it."""


class Load(BaseModel):
    """One committed load of one table (the content of ``commit.json``).

    Attributes:
        load_id: ``<sequence>-<fingerprint>``, or ``<last>-from<first>-<moment>`` if it stands for all loads from one
            number to another; sorts by age within its table.
        loaded_at: UTC time of the load.
        rows: Rows landed.
        kind: ``whole``: it is the table; ``changes``: it holds what changed since the loads before.
        fingerprint: A hash of the source file, if there was one.
        file: Name of the source file, if there was one.
        columns: The table's columns in their order, and their types in DuckDB; empty: those of the Parquet file.
        key: Columns that tell rows apart; empty: nothing does, and changes are inserts only.
        unchanged: Columns of which some changes do not say the value, as it is the one from before.
        position: Where the load ends in the source's log, if it came from one.
        rows_in: Rows that the source had, where they were counted: those landed, rejected and superseded.
        rejected: Rows that could not be landed; they are in ``rejects.parquet`` with the reason.
        superseded: Rows whose key a later file of the same load has again.
        state: What the mechanism that made it has to remember.
        by_day: If it stands for others: how many of their rows landed on which day.
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
    by_day: dict[date, int] = {}

    @property
    def sequence(self) -> int:
        """Its place among the loads of its table."""
        return _Name.of(self.load_id).last

    @property
    def first(self) -> int:
        """Number of the first load that it stands for; its own if only for itself."""
        return _Name.of(self.load_id).first

    @property
    def stands_for_others(self) -> bool:
        """Whether compaction has made it."""
        return _Name.of(self.load_id).stands_for_others

    @property
    def days(self) -> dict[date, int]:
        """How many of its rows landed on which day."""
        return self.by_day or {self.loaded_at.date(): self.rows}


def sequence_of(load_id: str) -> int:
    """Return the place of a load among those of its table; 0 for what is no load's name, as of a source in place."""
    number = load_id.partition("-")[0]
    return int(number) if number.isdigit() else 0


class _Name(NamedTuple):
    """A load's name, and the numbers of the loads that it stands for, if it is not only itself."""

    load_id: str
    first: int
    last: int
    stands_for_others: bool

    @classmethod
    def of(cls, load_id: str) -> "_Name":
        number, _, rest = load_id.partition("-")
        first = rest.partition("-")[0].removeprefix("from") if rest.startswith("from") else ""
        return cls(load_id, int(first or number), int(number), bool(first))

    def replaces(self, other: "_Name") -> bool:
        """Say whether this one, being visible, stands for another, if it is not older than that."""
        return self.stands_for_others and self.first <= other.first and other.last <= self.last


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

    @classmethod
    def of(cls, loads: list[Load]) -> "Content | None":
        """Return what makes up a table that has some loads, oldest first; None if it has none."""
        if not loads:
            return None
        wholes = [place for place, load in enumerate(loads) if load.kind == "whole"]
        first = wholes[-1] if wholes else -1
        return cls(loads[first] if wholes else None, loads[first + 1 :])

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

    def commit(self, load: Load) -> None:
        """Make it a load, which is there under its name from then on."""
        (self.folder / "commit.json").write_text(load.model_dump_json(indent=2) + "\n")
        commit_folder(self.folder, self.folder.with_name(load.load_id))


class LandingZone:
    """The loads under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    def tables(self) -> list[tuple[str, str]]:
        """List the sources and tables that have a folder."""
        return sorted((path.parent.name, path.name) for path in self.root.glob("[!.]*/[!.]*/"))

    def loads(self, source: str, table: str, reached: int | None = None) -> list[Load]:
        """List a table's committed loads, oldest first.

        Args:
            source: The source.
            table: Its table.
            reached: Read a log up to this position; default: as far as it has landed. Whoever reads several tables
                asks for the position once, so that all of them are from one instant.
        """
        return self._read(source, table, self.reached(source) if reached is None else reached)[0]

    def reached(self, source: str) -> int:
        """Return how far a source's log has landed; 0 if nothing has, or it is not followed."""
        position = self.position(source)
        return position.position if position else 0

    def beyond(self, source: str, table: str) -> list[Load]:
        """List a table's loads that lie beyond the source's position: being made visible now, or left by a crash."""
        return self._read(source, table, self.reached(source))[1]

    def replaced(self, source: str, table: str) -> dict[str, Load]:
        """Return the names of loads that are no part of the table any more, and what stands for each."""
        loads, beyond = self._read(source, table, self.reached(source))
        there = {load.load_id for load in [*loads, *beyond]}
        gone = [name for name in self._names(source, table) if name.load_id not in there]
        return {name.load_id: load for name in gone for load in loads if _Name.of(load.load_id).replaces(name)}

    def folders(self, source: str, table: str) -> int:
        """Count a table's loads, those too that others stand for; quick."""
        return len(self._names(source, table))

    def _names(self, source: str, table: str) -> list[_Name]:
        """List the names of a table's loads, each after all that may stand for it."""
        folder = self.root / source / table
        there = [path.name for path in folder.iterdir()] if folder.is_dir() else []
        names = [_Name.of(name) for name in there if name.partition("-")[0].isdigit() and UNFINISHED not in name]
        return sorted(names, key=lambda it: (it.last - it.first, it.stands_for_others, it.load_id), reverse=True)

    def _read(self, source: str, table: str, reached: int) -> tuple[list[Load], list[Load]]:
        """Read a table's loads, oldest first: those that are visible, and those beyond a position.

        Loads that a visible one stands for are not even opened: there may be thousands.
        """
        visible: list[Load] = []
        beyond: list[Load] = []
        standing: list[_Name] = []
        for name in self._names(source, table):
            if any(other.replaces(name) for other in standing):
                continue
            folder = self.root / source / table / name.load_id
            try:
                load = Load.model_validate_json((folder / "commit.json").read_text())
            except FileNotFoundError:
                if folder.is_dir():
                    continue  # not a load
                return self._read(source, table, reached)  # it was replaced, and removed just now
            if load.position is not None and load.position > reached:
                beyond.append(load)
                continue
            visible.append(load)
            if name.stands_for_others:
                standing.append(name)
        return sorted(visible, key=lambda load: load.sequence), sorted(beyond, key=lambda load: load.sequence)

    def current(self, source: str, table: str) -> Load | None:
        """Return a table's newest load, without reading the others."""
        reached = self.reached(source)
        names = self._names(source, table)
        for name in sorted(names, key=lambda it: (it.last, it.stands_for_others, it.load_id), reverse=True):
            commit = self.root / source / table / name.load_id / "commit.json"
            if commit.exists():
                load = Load.model_validate_json(commit.read_text())
                if load.position is None or load.position <= reached:
                    return load
        return None

    def content(self, source: str, table: str, reached: int | None = None) -> Content | None:
        """Return what makes up a table now; None if nothing has landed. ``reached`` is that of ``loads``."""
        return Content.of(self.loads(source, table, reached))

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
            for table in (path.name for path in sorted((self.root / source).glob("[!.]*/"))):
                for load in self.beyond(source, table):
                    discard_folder(self.root / source / table / load.load_id)
            yield

    def pin(self, loads: Iterable[str], reader: str = "") -> None:
        """Note which loads a reader reads, each as ``<source>/<table>/<load_id>``: compaction does not remove them.

        Args:
            loads: The loads; they stand for those that the reader noted before.
            reader: Its name; none is the hub's own.
        """
        self.root.mkdir(parents=True, exist_ok=True)
        write_whole(self.root / f"pinned{reader and '-'}{reader}.json", json.dumps(sorted(loads), indent=1) + "\n")

    def pinned(self) -> set[str]:
        """Return the loads that somebody reads."""
        return {load for file in self.root.glob("pinned*.json") for load in json.loads(file.read_text())}

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
        return max((name.last for name in self._names(source, table)), default=0) + 1

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
            draft.commit(load)
        write_whole(self.root / source / "position.json", position.model_dump_json(indent=2) + "\n")
