"""Compaction: many small loads become a few large ones, and what a declared retention gives up goes.

A table that is fed in small batches piles up loads of changes. Consecutive ones are merged into one load that stands
for them; its rows are theirs, each with the load and the number that it had, so all views of the table show the same
rows as before. It becomes visible by one rename. The newest load is left alone: it says how far the mechanism is, and
a build takes a new one for new data.

Merging adds a load and touches no other, so it needs no lock of ingestion's, and goes on beside a follower that never
ends. Loads are removed only under that lock, by then replaced for some time, and if the hub's views do not read them.

    <landing>/.compaction/<source>/    what is being written or removed; whatever a kill leaves there is worth nothing
"""

import shutil
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import ExitStack
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from itertools import groupby, takewhile
from pathlib import Path
from typing import Any

import duckdb
import pyarrow.parquet as parquet
from pyarrow.lib import ArrowException

from hubspoke.changelog import SEQUENCE, Views
from hubspoke.errors import HubspokeError, first_line
from hubspoke.files import commit_folder, exclusive
from hubspoke.landing import REJECTS, Content, LandingZone, Load
from hubspoke.project import Project
from hubspoke.sources import SourceTable
from hubspoke.sql import identifier, quoted

FILE_BYTES = 256 << 20
"""Size up to which loads are merged; a load that is larger already is divided into files of about this size."""

SMALL_FILE_BYTES = FILE_BYTES // 4
"""Files of one load that are smaller than this on average are merged."""

LEVELS = (1 << 20, 16 << 20, FILE_BYTES // 2)
"""Only loads below the last are merged. A pile that is compacted by itself is one of loads below one of them, so that
the rows of a load that has grown are not written again for each small one."""

PILE = 100
"""Loads or files of about one size that are compacted by themselves after they have landed."""

FILES_AT_ONCE = 1000
"""Files that one statement merges; more take several rounds."""

PERIODS = 8
"""A retention is divided into so many periods; loads of two are not merged, and history goes by whole periods."""

GRACE = timedelta(hours=1)
"""How long a load stays after it was replaced, for those that have just listed the loads and are about to read it."""

MEMORY = "200MB"
"""More is spilled: a follower that compacts stays small."""


@dataclass
class Tidied:
    """What compaction did to a table.

    Attributes:
        name: ``<source>.<table>``.
        loads: Loads that make up the table, before and after.
        files: Their files, before and after.
        waiting: Bytes of loads that are no part of it any more, and not removed yet.
        removed: Loads that were removed.
        freed: Their bytes.
        notes: What a person should know.
    """

    name: str
    loads: tuple[int, int] = (0, 0)
    files: tuple[int, int] = (0, 0)
    waiting: int = 0
    removed: int = 0
    freed: int = 0
    notes: list[str] = field(default_factory=list)

    @property
    def is_nothing(self) -> bool:
        """Whether it was tidy already."""
        return self.loads[0] == self.loads[1] and self.files[0] == self.files[1] and not self.removed and not self.notes

    def __str__(self) -> str:
        """One line."""
        merged = f"{_change(self.loads)} loads, {_change(self.files)} files"
        later = f", {self.waiting / 1e6:,.1f} MB freed later" if self.waiting else ""
        removed = f", {self.removed:,} old loads removed, {self.freed / 1e6:,.1f} MB freed" if self.removed else ""
        return f"{self.name:<32} {merged}{later}{removed}" + "".join(f"; {note}" for note in self.notes)


def _change(counts: tuple[int, int]) -> str:
    before, after = counts
    return f"{before:,} -> {after:,}" if before != after else f"{before:,}"


def compact(
    project: Project,
    tables: Iterable[SourceTable],
    grace: timedelta = GRACE,
    pile: int = 2,
    holds_lock: bool = False,
) -> list[Tidied]:
    """Merge small files, give up what is older than its retention, and remove what is no part of a table any more.

    A kill at any instant leaves every table as it was or as it will be.

    Args:
        project: The project.
        tables: Which tables.
        grace: How long a replaced load stays.
        pile: Fewer loads and files than this are left as they are.
        holds_lock: The caller is landing the source; else its lock is taken for what is removed.

    Returns:
        What was done to each table that something has landed for.

    Raises:
        HubspokeError: Another process is compacting the source, or a file cannot be read or written; what was done
            to the tables before stays done.
    """
    zone = LandingZone(project.landing)
    done: list[Tidied] = []
    for source, group in groupby(tables, key=lambda table: table.source):
        if not (zone.root / source).is_dir():
            continue
        workshop = _workshop(zone, source)
        with exclusive(workshop, "compacting"), duckdb.connect(config={"memory_limit": MEMORY, "threads": 2}) as engine:
            _clear(workshop)
            engine.execute(f"set TimeZone = 'UTC'; set temp_directory = '{quoted(workshop / 'spill')}'")
            jobs = [_Table(zone, table, engine, grace, pile) for table in group]
            try:
                for job in jobs:
                    job.tidy()
                _remove(zone, source, jobs, holds_lock)
            except (duckdb.Error, OSError, ArrowException) as error:
                raise HubspokeError(f"{source}: cannot be compacted: {first_line(error)}. Nothing is lost") from None
            finally:
                _clear(workshop)
            done += [job.done for job in jobs if job.done.loads[0]]
    return done


def tidy(
    project: Project, tables: Iterable[SourceTable], tell: Callable[[str], None], holds_lock: bool = False
) -> None:
    """Compact tables for which many loads have piled up; called by whatever lands, which it never stops.

    Args:
        project: The project.
        tables: What may have been landed.
        tell: Told what was done.
        holds_lock: The caller is landing the source.
    """
    zone = LandingZone(project.landing)
    piled = [table for table in tables if zone.folders(table.source, table.table) >= PILE]
    try:
        for done in compact(project, piled, pile=PILE, holds_lock=holds_lock):
            if not done.is_nothing:
                tell(str(done))
    except HubspokeError as error:
        tell(str(error))


def _workshop(zone: LandingZone, source: str) -> Path:
    return zone.root / ".compaction" / source


def _clear(workshop: Path) -> None:
    for path in workshop.glob("*/"):
        shutil.rmtree(path)


def _remove(zone: LandingZone, source: str, jobs: list["_Table"], holds_lock: bool) -> None:
    """Remove what has no reader any more."""
    if not any(job.doomed for job in jobs):
        return
    with ExitStack() as stack:
        if not holds_lock:
            try:
                stack.enter_context(exclusive(zone.root / source, "ingesting"))
            except HubspokeError:
                for job in jobs:
                    if job.doomed:
                        job.done.notes.append("it is being landed now: what landed before is removed another time")
                return
        for job in jobs:
            for load_id, size in job.doomed.items():
                folder = zone.root / source / job.table.table / load_id
                folder.rename(_workshop(zone, source) / f"{job.table.table}-{load_id}")
                job.done.removed += 1
                job.done.freed += size
                job.done.waiting -= size


class _Table:
    """One table being compacted."""

    def __init__(
        self, zone: LandingZone, table: SourceTable, engine: duckdb.DuckDBPyConnection, grace: timedelta, pile: int
    ) -> None:
        self.table = table
        self.done = Tidied(table.name)
        self.doomed: dict[str, int] = {}
        self._zone, self._engine, self._grace, self._pile = zone, engine, grace, pile
        self._names = (table.source, table.table)
        self._folder = zone.root / table.source / table.table
        self._now = datetime.now(UTC)
        self._schemas: dict[Path, dict[str, Any]] = {}

    def tidy(self) -> None:
        """Merge, fold, and note what is to be removed."""
        content = self._zone.content(*self._names)
        if content is None:
            return
        before = self._counts(content)
        if self._fold(content):
            content = self._content()
        while runs := list(self._runs(content)):
            for run in runs:
                self._merge(run)
            content = self._content()
        after = self._counts(content)
        self.done.loads, self.done.files = (before[0], after[0]), (before[1], after[1])
        self._condemn(content)

    def _content(self) -> Content:
        content = self._zone.content(*self._names)
        assert content is not None  # noqa: S101 -- only what makes up nothing is ever removed
        return content

    def _counts(self, content: Content) -> tuple[int, int]:
        loads = _loads(content)
        return len(loads), sum(len(self._files(load)) for load in loads)

    def _files(self, load: Load) -> list[Path]:
        return self._zone.files(*self._names, load)

    # --- what to merge

    def _runs(self, content: Content) -> Iterator[list[Load]]:
        """Yield runs of consecutive loads to merge, each into one; the newest load is in none."""
        loads = [load for load in _loads(content) if load is not content.newest]
        files = {load.load_id: self._files(load) for load in loads}
        sizes = {name: sum(file.stat().st_size for file in of_load) for name, of_load in files.items()}
        for limit in LEVELS if self._pile >= PILE else LEVELS[-1:]:
            found = False
            for run in self._grouped(loads, files, sizes, limit):
                count = sum(len(files[load.load_id]) for load in run)
                size = sum(sizes[load.load_id] for load in run)
                is_split = not run[0].stands_for_others and count > 1 and size / count < SMALL_FILE_BYTES
                if max(len(run), count) >= self._pile and (len(run) > 1 or is_split):
                    found = True
                    yield run
            if found:
                return

    def _grouped(
        self, loads: list[Load], files: dict[str, list[Path]], sizes: dict[str, int], limit: int
    ) -> Iterator[list[Load]]:
        run: list[Load] = []
        types: dict[str, Any] = {}
        size = count = 0
        for load in loads:
            its_types = self._types(files[load.load_id])
            fits = (
                run
                and its_types is not None
                and _agree(types, its_types)
                and load.kind == run[-1].kind == "changes"
                and sizes[load.load_id] < limit
                and sizes[run[-1].load_id] < limit
                and size + sizes[load.load_id] <= FILE_BYTES
                and count + len(files[load.load_id]) <= FILES_AT_ONCE
                and self._period(load) == self._period(run[-1])
            )
            if not fits:
                if run:
                    yield run
                run, types, size, count = [], {}, 0, 0
                if its_types is None:  # to write it as one file could turn one value into another
                    continue
            run.append(load)
            types |= its_types or {}
            size += sizes[load.load_id]
            count += len(files[load.load_id])
        if run:
            yield run

    def _types(self, files: list[Path]) -> dict[str, Any] | None:
        """Return the types of files' columns; None if two files differ in one."""
        types: dict[str, Any] = {}
        for file in files:
            if file not in self._schemas:
                schema = parquet.read_schema(file)
                self._schemas[file] = {
                    name.lower(): kind for name, kind in zip(schema.names, schema.types, strict=True)
                }
            if not _agree(types, self._schemas[file]):
                return None
            types |= self._schemas[file]
        return types

    def _period(self, load: Load) -> int:
        """Return the number of the period of its retention in which a load has landed."""
        step = (self.table.kept_for or timedelta.max) / PERIODS
        return int(load.loaded_at.timestamp() // step.total_seconds())

    # --- writing

    def _merge(self, run: list[Load]) -> None:
        """Write one load that stands for some, with all their rows and rejected rows."""
        order = f"order by {SEQUENCE}" if run[0].kind == "changes" else ""
        files = [file for load in run for file in self._files(load)]
        rejects = [file for load in run if (file := self._folder / load.load_id / REJECTS).exists()]
        names = {name: kind for load in run for name, kind in load.columns.items()}
        counted = [load.rows_in for load in run if load.rows_in is not None]
        merged = run[-1].model_copy(
            update={
                "rows": sum(load.rows for load in run),
                "columns": run[-1].columns | {name: names[name] for name in names if name not in run[-1].columns},
                "unchanged": sorted({name for load in run for name in load.unchanged}),
                "rows_in": sum(counted) if len(counted) == len(run) else None,
                "rejected": sum(load.rejected for load in run),
                "superseded": sum(load.superseded for load in run),
            }
        )
        size = sum(file.stat().st_size for file in files)
        self._commit(run, merged, f"select * from {_read(files)} {order}" if files else "", size, rejects)

    def _fold(self, content: Content) -> bool:
        """Make changes that are older than the retention part of the whole copy: their history is given up."""
        kept_for, whole, newest = self.table.kept_for, content.whole, content.newest
        if kept_for is None or whole is None or not whole.columns or not newest.key:
            return False
        step = (kept_for / PERIODS).total_seconds()
        until = (self._now - kept_for).timestamp() // step
        old = list(takewhile(lambda load: load is not newest and self._period(load) < until, content.changes))
        if not old:
            return False
        loads = _loads(content)
        if self._types([file for load in loads for file in self._files(load)]) is None:
            self.done.notes.append("a column's type has changed, so its history is kept until the next whole copy")
            return False
        # columns that are missing from the last of them may have values in rows of the others
        known = {name: kind for load in [whole, *old] for name, kind in load.columns.items()}
        columns = {name: newest.columns.get(name, kind) for name, kind in known.items()}
        last = old[-1].model_copy(update={"columns": columns, "key": newest.key})
        current = Views(self._zone, *self._names, Content(whole, [*old[:-1], last])).current
        nulls = " or ".join(f"{identifier(name)} is null" for name in newest.key)
        if self._one(f"select exists (select 1 from ({current}) where {nulls})"):
            self.done.notes.append("its key has nulls, so its history is kept until the next whole copy")
            return False
        rows = self._one(f"select count(*) from ({current})")
        folded = last.model_copy(
            update={
                "kind": "whole",
                "rows": rows,
                "unchanged": [],
                "position": last.position if whole.position is not None else None,
                "rows_in": None,
                "rejected": 0,
                "superseded": 0,
            }
        )
        size = sum(file.stat().st_size for load in [whole, *old] for file in self._files(load))
        self._commit([whole, *old], folded, current, size, [])
        begins = content.changes[len(old)].loaded_at
        self.done.notes.append(f"its history begins at {begins:%Y-%m-%d %H:%M} UTC now")
        return True

    def _commit(self, replaced: list[Load], load: Load, rows: str, size: int, rejects: list[Path]) -> None:
        """Write a load and make it stand for others."""
        days: dict[Any, int] = {}
        for one in replaced:
            for day, count in one.days.items():
                days[day] = days.get(day, 0) + count
        # the moment makes the name new, and tells which is newer of two that stand for the same
        name = f"{replaced[-1].sequence:06d}-from{replaced[0].first:06d}-{time.time_ns():016x}"
        load = load.model_copy(update={"load_id": name, "by_day": days})
        draft = _workshop(self._zone, self.table.source) / name
        draft.mkdir()
        if rows:
            self._copy(rows, draft, size)
        if rejects:
            self._engine.execute(f"copy (from {_read(rejects)}) to '{quoted(draft / REJECTS)}' (format parquet)")
        (draft / "commit.json").write_text(load.model_dump_json(indent=2) + "\n")
        commit_folder(draft, self._folder / name)

    def _copy(self, rows: str, draft: Path, size: int) -> None:
        expected = self._one(f"select count(*) from ({rows})")
        if size <= FILE_BYTES:
            target, options = draft / "data.parquet", ""
        else:
            target, options = draft / "parts", f", file_size_bytes {FILE_BYTES}"
        copied = self._one(f"copy ({rows}) to '{quoted(target)}' (format parquet{options})")
        for number, file in enumerate(sorted(target.glob("*.parquet"), key=lambda it: (len(it.name), it.name))):
            file.rename(draft / f"data-{number:05d}.parquet")
        if target.is_dir():
            target.rmdir()
        if copied != expected:
            raise HubspokeError(f"{self.table.name}: {copied} of {expected} rows were written. Nothing has changed")

    def _one(self, sql: str) -> int:
        row = self._engine.execute(sql).fetchone()
        return int(row[0]) if row else 0

    # --- what to remove

    def _condemn(self, content: Content) -> None:
        """Note what is no part of the table any more, and what of it has no reader and is old enough to go."""
        outdated = {name: self._made_at(load) for name, load in self._zone.replaced(*self._names).items()}
        kept_for = self.table.kept_for
        if kept_for is not None and content.whole is not None:
            since = self._made_at(content.whole)
            for load in self._zone.loads(*self._names):
                if load.sequence < content.whole.first and load.loaded_at < self._now - kept_for:
                    outdated[load.load_id] = since
        pinned = self._zone.pinned()
        for name, since in outdated.items():
            size = sum(file.stat().st_size for file in (self._folder / name).iterdir())
            self.done.waiting += size
            is_read = "/".join([*self._names, name]) in pinned
            if not is_read and since <= datetime.now(UTC) - self._grace:
                self.doomed[name] = size

    def _made_at(self, load: Load) -> datetime:
        commit = self._folder / load.load_id / "commit.json"
        return datetime.fromtimestamp(commit.stat().st_mtime, UTC)


def _loads(content: Content) -> list[Load]:
    return [*([content.whole] if content.whole else []), *content.changes]


def _agree(types: dict[str, Any], others: dict[str, Any]) -> bool:
    return all(types.get(name, kind) == kind for name, kind in others.items())


def _read(files: list[Path]) -> str:
    names = ", ".join(f"'{quoted(file)}'" for file in files)
    return f"read_parquet([{names}], union_by_name = true, hive_partitioning = false)"
