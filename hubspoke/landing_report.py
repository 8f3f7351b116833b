"""What is in the landing zone, how it grows, and what is not as it should be there: from metadata alone."""

import os
from collections.abc import Iterable
from dataclasses import dataclass, field
from datetime import UTC, date, datetime, timedelta
from pathlib import Path

import pyarrow.parquet as parquet
from pyarrow.lib import ArrowException

from hubspoke.compaction import SMALL_FILE_BYTES
from hubspoke.errors import HubspokeError, first_line
from hubspoke.files import UNFINISHED
from hubspoke.landing import Content, LandingZone, Load
from hubspoke.pages import sparkline
from hubspoke.project import Project
from hubspoke.sources import SourceTable, read_sources

DAYS_SHOWN = 30
"""Days that growth is shown for."""

MANY_SMALL_FILES = 10
"""So many are worth a finding; readers do not notice fewer."""

EXPECTED_WITHIN = {
    "hourly": timedelta(hours=1),
    "daily": timedelta(days=1),
    "weekly": timedelta(days=7),
    "monthly": timedelta(days=31),
    "yearly": timedelta(days=366),
}

USUAL_CODECS = {"SNAPPY", "ZSTD", "GZIP"}
"""What every engine reads."""

SMALL_GROUP_ROWS, LARGE_GROUP_ROWS = 10_000, 2_000_000
"""Row groups are what engines skip and share out: many smaller ones cost, and one larger is one task."""

KNOWN_FILES = {"commit.json"}


@dataclass
class Finding:
    """Something that somebody should look at.

    Attributes:
        kind: What sort of thing.
        says: What it is, and what to do.
    """

    kind: str
    says: str


@dataclass
class TableReport:
    """One table in the landing zone.

    Attributes:
        name: ``<source>.<table>``.
        loads: Its loads, older copies included.
        files: Their Parquet files.
        size: Their bytes.
        rows: Their rows and changes.
        rejected: Rows that could not be landed.
        oldest: When its oldest load has landed.
        newest: When its newest has.
        daily: Rows that landed on each of the last days, the last one today.
        findings: What somebody should look at.
    """

    name: str
    loads: int = 0
    files: int = 0
    size: int = 0
    rows: int = 0
    rejected: int = 0
    oldest: datetime | None = None
    newest: datetime | None = None
    daily: list[int] = field(default_factory=list)
    findings: list[Finding] = field(default_factory=list)

    def grown(self, days: int) -> tuple[int, int]:
        """Return the rows that landed in the last days, and the bytes of as many rows."""
        rows = sum(self.daily[-days:])
        return rows, rows * self.size // self.rows if self.rows else 0

    @property
    def file_size(self) -> int:
        """Bytes of a file, on average."""
        return self.size // self.files if self.files else 0

    def __str__(self) -> str:
        """Two lines, and one for each finding."""
        margin = f"\n{'':<32} "
        lines = (
            f"{self.name:<32} {self.loads:,} loads, {self.files:,} files, {self.size / 1e6:,.1f} MB, {self.rows:,} rows"
        )
        if self.oldest and self.newest:
            rejected = f", {self.rejected:,} rejected" if self.rejected else ""
            lines += (
                f"{rejected}; from {self.oldest:%Y-%m-%d %H:%M} to {self.newest:%Y-%m-%d %H:%M} UTC; "
                f"{self.file_size / 1e6:,.1f} MB a file"
            )
        grown = ((days, *self.grown(days)) for days in (7, DAYS_SHOWN))
        growth = "; ".join(f"in {days} days {rows:,} rows, {size / 1e6:,.1f} MB" for days, rows, size in grown)
        lines += f"{margin}{sparkline(self.daily)}  {growth}"
        return lines + "".join(f"{margin}{finding.kind.upper()}: {finding.says}" for finding in self.findings)


def report(project: Project, names: tuple[str, ...] = (), now: datetime | None = None) -> list[TableReport]:
    """Look at every table in the landing zone; no row is read.

    Args:
        project: The project.
        names: Sources or tables to look at; default: all, those too that are declared nowhere.
        now: The time to count from; default: now.

    Raises:
        HubspokeError: There is nothing of a name, neither landed nor declared.
    """
    zone = LandingZone(project.landing)
    declared = {(table.source, table.table): table for table in read_sources(project.root)}
    landed = zone.tables()
    known = {name for place in [*declared, *landed] for name in (place[0], ".".join(place))}
    if unknown := set(names) - known:
        raise HubspokeError(f"no source {', '.join(sorted(unknown))}; there are {', '.join(sorted(known))}")
    there = [place for place in landed if not names or place[0] in names or ".".join(place) in names]
    moment = now or datetime.now(UTC)
    return [_Look(zone, source, table, declared.get((source, table)), moment).look() for source, table in there]


class _Look:
    """One table being looked at."""

    def __init__(self, zone: LandingZone, source: str, table: str, declared: SourceTable | None, now: datetime) -> None:
        self._zone, self._names, self._declared, self._now = zone, (source, table), declared, now
        self._folder = zone.root / source / table
        self._report = TableReport(f"{source}.{table}")

    def look(self) -> TableReport:
        loads = self._zone.loads(*self._names)
        files = {load.load_id: self._zone.files(*self._names, load) for load in loads}
        report = self._report
        report.loads = len(loads)
        report.files = sum(map(len, files.values()))
        report.size = sum(file.stat().st_size for of_load in files.values() for file in of_load)
        report.rows = sum(load.rows for load in loads)
        report.rejected = sum(load.rejected for load in loads)
        report.daily = self._daily(loads)
        if loads:
            report.oldest, report.newest = min(load.loaded_at for load in loads), loads[-1].loaded_at
        self._look_at_declaration()
        self._look_at_age()
        self._look_at_sizes(loads, files)
        self._look_at_history(loads, files)
        for load in loads:
            self._look_at_formats(load, files[load.load_id])
        self._look_at_leftovers()
        return report

    def _find(self, kind: str, says: str) -> None:
        self._report.findings.append(Finding(kind, says))

    def _daily(self, loads: list[Load]) -> list[int]:
        days: dict[date, int] = {}
        for load in loads:
            for day, rows in load.days.items():
                days[day] = days.get(day, 0) + rows
        today = self._now.date()
        return [days.get(today - timedelta(days=back), 0) for back in reversed(range(DAYS_SHOWN))]

    def _look_at_declaration(self) -> None:
        if self._declared is None:
            self._find("orphaned", f"no YAML declares it any more; declare it, or remove {self._folder}")
        elif not self._declared.is_landed:
            self._find("orphaned", f"it is read where it is now (federated); remove {self._folder}")

    def _look_at_age(self) -> None:
        source = self._names[0]
        position = self._zone.position(source)
        newest = max((at for at in (self._report.newest, position.as_of if position else None) if at), default=None)
        frequency = self._declared.frequency if self._declared else None
        if newest and frequency and self._now - newest > EXPECTED_WITHIN[frequency]:
            age = (self._now - newest).total_seconds() / 86400
            self._find(
                "stale",
                f"something new is expected {frequency}, and its newest load is {age:,.1f} days old; see whether the "
                f"source has it, then: hubspoke ingest {self._report.name}",
            )

    def _look_at_sizes(self, loads: list[Load], files: dict[str, list[Path]]) -> None:
        small = [
            file
            for load in loads[:-1]  # the newest is never merged
            for file in files[load.load_id]
            if (load.kind == "changes" or len(files[load.load_id]) > 1) and file.stat().st_size < SMALL_FILE_BYTES
        ]
        if len(small) >= MANY_SMALL_FILES:
            self._find(
                "small files",
                f"{len(small):,} files are smaller than {SMALL_FILE_BYTES >> 20} MB; merge them: hubspoke landing "
                f"compact {self._report.name}",
            )

    def _look_at_history(self, loads: list[Load], files: dict[str, list[Path]]) -> None:
        replaced = self._zone.replaced(*self._names)
        if replaced:
            self._find(
                "replaced",
                f"{len(replaced):,} loads were merged into others, {self._size(replaced):,.1f} MB; they go, once they "
                f"are read no more: hubspoke landing compact {self._report.name}",
            )
        content = Content.of(loads)
        if content is None or content.whole is None:
            return
        older = [load for load in loads if load.sequence < content.whole.first]
        kept_for = self._declared.kept_for if self._declared else None
        if older and kept_for is None:
            self._find(
                "older copies",
                f"{len(older):,} loads were before its newest whole copy, "
                f"{self._size(load.load_id for load in older):,.1f} MB; to have them removed, declare for example "
                "retention: 90 days",
            )
        expired = [load.load_id for load in older if kept_for and load.loaded_at < self._now - kept_for]
        if expired:
            self._find(
                "expired",
                f"{len(expired):,} loads are older than its retention, {self._size(expired):,.1f} MB; remove them: "
                f"hubspoke landing compact {self._report.name}",
            )

    def _size(self, load_ids: Iterable[str]) -> float:
        return sum(_size_of(self._folder / load_id) for load_id in load_ids) / 1e6

    def _look_at_formats(self, load: Load, files: list[Path]) -> None:
        folder = self._folder / load.load_id
        for path in sorted(folder.iterdir()):
            if path.suffix != ".parquet" and path.name not in KNOWN_FILES:
                self._find("odd format", f"{load.load_id}/{path.name} is not Parquet, and nobody reads it; remove it")
        for file in files:
            where = f"{load.load_id}/{file.name}"
            try:
                metadata = parquet.read_metadata(file)
            except (OSError, ArrowException) as error:
                self._find("odd format", f"{where} cannot be read as Parquet ({first_line(error)}); restore it")
                continue
            groups = [metadata.row_group(number) for number in range(metadata.num_row_groups)]
            codecs = {group.column(number).compression for group in groups for number in range(group.num_columns)}
            if odd := codecs - USUAL_CODECS:
                self._find(
                    "odd format",
                    f"{where} is written with {', '.join(sorted(odd)).lower()}; have it written with snappy or zstd",
                )
            if len(groups) > 1 and metadata.num_rows / len(groups) < SMALL_GROUP_ROWS:
                self._find(
                    "odd format",
                    f"{where} has {len(groups):,} row groups of {metadata.num_rows // len(groups):,} rows; have it "
                    f"written with at least {SMALL_GROUP_ROWS:,} each",
                )
            if largest := max((group.num_rows for group in groups if group.num_rows > LARGE_GROUP_ROWS), default=0):
                self._find(
                    "odd format",
                    f"{where} has a row group of {largest:,} rows, which one task has to read; have it written with at "
                    f"most {LARGE_GROUP_ROWS:,}",
                )

    def _look_at_leftovers(self) -> None:
        for path in sorted(self._folder.glob(f"*{UNFINISHED}")):
            self._find(
                "leftover",
                f"{path.name}, {_size_of(path) / 1e6:,.1f} MB, is being written, or a kill left it; the next hubspoke "
                "ingest removes it",
            )
        if beyond := self._zone.beyond(*self._names):
            self._find(
                "beyond",
                f"{len(beyond):,} loads lie beyond the position of the source: they become visible now, or a kill left "
                "them; the next hubspoke ingest removes them",
            )
        for path in sorted(self._folder.iterdir()):
            if path.is_file():
                self._find("odd format", f"{path.name} lies beside the loads, and nobody reads it; remove it")


def _size_of(folder: Path) -> int:
    """Return the bytes under a folder; what goes meanwhile counts nothing."""
    size = 0
    for path, _, names in os.walk(folder):
        for name in names:
            try:
                size += (Path(path) / name).stat().st_size
            except FileNotFoundError:
                continue
    return size
