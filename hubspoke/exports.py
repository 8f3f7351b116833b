"""Exports: files, SQL databases, REST interfaces and streams, landed whole or by what is new.

A file is first read by DuckDB as a whole. If anything is wrong with it, it is read again row by row, and each row that
cannot be landed is kept in the load's ``rejects.parquet`` with what is wrong with it: rows in = rows landed + rejected.
"""

import hashlib
import json
import shutil
import threading
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from functools import cached_property
from itertools import groupby, islice
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa

from hubspoke.changelog import AUDIT, Views, table_views
from hubspoke.connections import Address, address, attach, relation
from hubspoke.conversion import AS_READ, WHOLE, canonical, lenient, strict, strict_from_number
from hubspoke.errors import HubspokeError
from hubspoke.file_export import BadFile, SourceFile, fetch, is_unchanged, list_files
from hubspoke.file_records import (
    Record,
    csv_names,
    csv_records,
    json_names,
    json_records,
    sheet_names,
    sheet_records,
)
from hubspoke.files import UNFINISHED, exclusive
from hubspoke.landing import REJECTS, Content, Draft, LandingZone, Load, Outcome
from hubspoke.project import Project
from hubspoke.rest import download
from hubspoke.sources import SourceTable, file_format
from hubspoke.sql import columns_of, identifier, quoted
from hubspoke.streams import GONE, OWN, Stream, opened

Progress = Callable[[str, float], None]
"""Called with a table's name and its share done, 0 to 1."""

Convert = Callable[[str, str], str]
"""Gives the SQL that makes a value of a type (the second) of a column of what was read."""

BATCH = 50_000
TAKEN = ("_load_id", "_loaded_at", "_file", "_line", "_raw", "_reason", "_wrong", *OWN)
"""Names that the source's columns cannot have."""
PART_NUMBERS = 1 << 32
"""Numbers of changes that each file of a load may use."""


def ingest(
    project: Project,
    tables: list[SourceTable],
    progress: Progress = lambda name, share: None,
    new_stream: bool = False,
) -> list[Outcome]:
    """Land what is new in every table; of a source with a table that cannot be landed, nothing.

    Each load becomes visible whole. A kill while several do can leave the later ones out; run it again. Of a stream,
    each table is landed by itself, and each of its micro-batches.

    Args:
        project: The project.
        tables: What to land.
        progress: Told how far each table is.
        new_stream: Take up a stream that was made anew.

    Returns:
        One outcome per table, in their order.

    Raises:
        HubspokeError: A source cannot be landed; what it had landed before is as it was. The others are.
    """
    zone = LandingZone(project.landing)
    outcomes: list[Outcome] = []
    faults: list[str] = []
    for (source, is_stream, _), group in groupby(
        tables, key=lambda table: (table.source, table.is_stream, table.is_stream and table.table)
    ):
        try:
            with exclusive(zone.root / source, "ingesting"):
                if is_stream:
                    outcomes += [_ingest_stream(project, zone, table, progress, new_stream) for table in group]
                else:
                    outcomes += _ingest_source(project, zone, list(group), progress)
        except HubspokeError as error:
            faults.append(str(error))
    if faults:
        landed = "".join(f"\n{outcome.name} has landed." for outcome in outcomes if outcome.is_new)
        raise HubspokeError("\n".join(faults) + landed)
    return outcomes


def _ingest_source(project: Project, zone: LandingZone, tables: list[SourceTable], progress: Progress) -> list[Outcome]:
    staged: list[tuple[Draft, Load]] = []
    outcomes = []
    # one engine for all tables of a source: a scanner takes its time to load
    with _engine(zone, tables[0].source) as (engine, scratch):
        for table in tables:
            load = _TableLoad(project, zone, table, engine, scratch / table.table, progress)
            made = load.stage()
            if made:
                staged.append((load.draft, made))
                outcomes.append(Outcome(table.name, made.rows, is_new=True, rejected=made.rejected))
            else:
                newest = zone.current(table.source, table.table)
                outcomes.append(Outcome(table.name, newest.rows if newest else 0, is_new=False))
            progress(table.name, 1.0)
    for draft, made in staged:
        draft.commit(made)
    return outcomes


def _ingest_stream(
    project: Project, zone: LandingZone, table: SourceTable, progress: Progress, new_stream: bool
) -> Outcome:
    """Land a stream up to its end now, one load for each micro-batch."""
    rows = rejected = 0
    with opened(project, table) as reader, _engine(zone, table.source) as (engine, scratch):
        stream = Stream(table, reader, zone.current(table.source, table.table), new_stream)
        while True:
            load = _TableLoad(project, zone, table, engine, scratch / table.table, lambda name, share: None, stream)
            made = load.stage()
            if made is None:
                break
            load.draft.commit(made)
            rows, rejected = rows + made.rows, rejected + made.rejected
            progress(table.name, stream.share)
    progress(table.name, 1.0)
    return Outcome(table.name, rows, rows + rejected > 0, rejected, stream.notes)


@contextmanager
def _engine(zone: LandingZone, source: str) -> Iterator[tuple[duckdb.DuckDBPyConnection, Path]]:
    """Open an engine, and a folder for what has to be fetched."""
    scratch = zone.root / source / f"fetched{UNFINISHED}"
    with duckdb.connect() as engine:
        engine.execute("set preserve_insertion_order = false; set TimeZone = 'UTC'")
        engine.execute(f"set temp_directory = '{quoted(scratch)}'")
        yield engine, scratch


@dataclass
class _Counts:
    rows: int = 0
    rejected: int = 0
    first_reason: str = ""
    columns: dict[str, str] = field(default_factory=dict)


class _TableLoad:
    """One table being landed."""

    def __init__(
        self,
        project: Project,
        zone: LandingZone,
        table: SourceTable,
        engine: duckdb.DuckDBPyConnection,
        scratch: Path,
        progress: Progress,
        stream: Stream | None = None,
    ) -> None:
        self._project, self._zone, self._table = project, zone, table
        self._duck, self._scratch, self._stream = engine, scratch, stream
        self._newest = zone.current(table.source, table.table)
        self._now = datetime.now(UTC).replace(microsecond=0)
        self._counts = _Counts()
        self._parts = 0
        self._stamp = ""
        self.draft = Draft("", zone.root)
        self._progress: Callable[[float], None] = lambda share: progress(table.name, share)

    @cached_property
    def _content(self) -> Content | None:
        return self._zone.content(self._table.source, self._table.table)

    def stage(self) -> Load | None:
        """Write what is new to a draft; None if nothing is."""
        table = self._table
        self._scratch.mkdir(parents=True, exist_ok=True)
        self._duck.execute(
            "create or replace table rejects (file varchar, line bigint, columns varchar, raw varchar, reason varchar)"
        )
        self._types = {
            name: canonical(self._duck, data_type, f"{table.declared_in}: {table.name}, column {name}")
            for name, data_type in table.columns.items()
        }
        if self._stream:
            made = self._stage_stream(self._stream)
        else:
            made = self._stage_files() if table.has_files else self._stage_connection()
        if made:
            made = self._finish(made)
        shutil.rmtree(self._scratch, ignore_errors=True)
        return made

    # --- files

    def _stage_files(self) -> Load | None:
        table, newest = self._table, self._newest
        files = list_files(table)
        now = {file.name: file.fingerprint for file in files}
        before: dict[str, str] = {}
        if newest:
            before = newest.state.get("files") or {newest.file: newest.fingerprint}
        reading = self._reading()
        is_read_alike = newest is None or newest.state.get("reading", reading) == reading
        # the rows of what was no append do not tell their file
        was_append = newest is not None and "_file" in newest.columns
        if not files and not (table.load == "append" and was_append):
            raise HubspokeError(f"{table.name}: no file matches {table.files} in {table.folder} ({table.declared_in})")
        if table.load == "whole":
            if newest and now == before and is_read_alike:
                return None
            return self._read_files("whole", files, now, [])
        if newest and not was_append:
            return self._read_files("whole", files, now, [])
        changed = {name for name, fingerprint in now.items() if before.get(name, fingerprint) != fingerprint}
        fresh = [file for file in files if file.name not in before]
        if newest and is_read_alike and not changed:
            return self._read_files("changes", fresh, before | now, []) if fresh else None
        # what a file said before it changed no longer stands; of files that are gone, what they said does
        again = [file for file in files if not is_read_alike or file.name in changed or file.name not in before]
        kept = sorted(before.keys() - {file.name for file in again})
        return self._read_files("whole", again, before | now, kept)

    def _reading(self) -> str:
        """Return what a file's rows depend on beside the file."""
        table = self._table
        said: dict[str, Any] = {}
        if self._format(table.file or table.files) != "parquet":
            said = {"columns": self._types, "csv": table.csv.model_dump(), "sheet": table.sheet, "format": table.format}
        return hashlib.sha256(json.dumps(said, sort_keys=True).encode()).hexdigest()[:12] if said else ""

    def _read_files(self, kind: Any, files: list[SourceFile], state: dict[str, str], kept: list[str]) -> Load:
        table = self._table
        is_one = len(state) == 1 and bool(table.file or table.path.name)
        digest = next(iter(state.values())) if is_one else hashlib.sha256(json.dumps(state).encode()).hexdigest()
        self._begin(kind, digest)
        if kept:
            self._keep(kept)
        for number, file in enumerate(files):
            self._progress(number / len(files))
            scratch = self._scratch / str(number)
            try:
                for name, path in fetch(table, file, scratch):
                    self._read(name, file.url, path)
            except BadFile as error:
                self._refuse_file(file, error)
            shutil.rmtree(scratch, ignore_errors=True)
            if not is_unchanged(table, file):
                raise HubspokeError(
                    f"{table.name}: {file.url} changed while it was read. Nothing was landed; run again when it is "
                    "complete: hubspoke ingest"
                )
        load = self._load(kind, digest, {"files": state, "reading": self._reading()})
        return load.model_copy(update={"file": next(iter(state)) if is_one else ""})

    def _refuse_file(self, file: SourceFile, error: BadFile) -> None:
        """Keep out one file of several; a file that is the whole table is an error."""
        table = self._table
        if table.load == "whole":
            kind = {"parquet": "Parquet"}.get(self._format(file.name), self._format(file.name))
            raise HubspokeError(
                f"{table.name}: {file.url} cannot be read as {kind}: {error}. Nothing was landed; fetch the file again "
                "and run: hubspoke ingest"
            ) from None
        self._reject([(file.name, None, None, None, f"the file cannot be read: {error}")])

    def _keep(self, names: list[str]) -> None:
        """Take over rows that have landed before, with the loads that brought them."""
        assert self._content is not None  # noqa: S101 -- there were files before
        sql = table_views(self._zone, self._table.source, self._table.table, self._content)[""]
        listed = ", ".join(f"'{quoted(name)}'" for name in names)
        target = self.draft.folder / "kept.parquet"
        landed = (
            f"select * from ({sql}) where _file in ({listed}) or split_part(_file, '.zip/', 1) || '.zip' in ({listed})"
        )
        self._counts.rows += self._copy(landed, target)
        self._counts.columns |= self._content.newest.columns

    def _format(self, name: str) -> str:
        return "jsonl" if self._table.rest else self._table.format or file_format(name) or "parquet"

    def _read(self, name: str, url: str, path: Path) -> None:
        """Land a plain file: as a whole, or, if something is wrong with it, row by row."""
        form = self._format(name)
        table = self._table
        try:
            if form == "parquet":
                self._read_parquet(name, path)
                return
            plain, names, has_truths = self._names(form, path)
        except duckdb.Error as error:
            raise self._not_written(error) or BadFile(str(error).splitlines()[0]) from None
        if not names:  # an empty file has no rows
            self._columns(list(self._types))
            self._write("select * from (select null) where false", list(self._types), self._types, name, {})
            return
        lower = [name.lower() for name in names]
        if len({*lower, *TAKEN}) < len(lower) + len(TAKEN):
            raise BadFile(f"names of its columns are the same, or Hubspoke's own: {', '.join(sorted(names))[:200]}")
        names_by_lower = {column.lower(): column for column in self._types}
        found = {given: names_by_lower.get(given.lower(), given) for given in names}
        if self._types and not set(found.values()) & set(self._types):
            raise BadFile(
                f"it has none of the columns {', '.join(self._types)}, but {', '.join(names)[:200]}; "
                "is it another file, or written otherwise than declared?"
            )
        reason = self._judge(list(found.values()))
        types = {given: self._types.get(column, "VARCHAR") for given, column in found.items()}
        for reader, convert in self._readers(form, plain, types, has_truths) if plain and not reason else []:
            try:
                self._write(reader, list(found.values()), types, name, {c: g for g, c in found.items()}, convert)
            except duckdb.Error as error:
                if fault := self._not_written(error):
                    raise fault from None
            else:
                return
        records: Callable[[], Iterable[Record]] = {
            "csv": lambda: csv_records(path, table.csv, names),
            "xlsx": lambda: sheet_records(path, table.sheet, names),
        }.get(form, lambda: json_records(path, form == "jsonl"))
        self._write_records(name, records(), found, types, reason)

    def _readers(self, form: str, path: Path, types: dict[str, str], has_truths: bool) -> Iterator[tuple[str, Convert]]:
        """Yield ways to read a file as a whole and to make values of what is read, the quickest first."""
        if form == "csv":
            yield self._csv_reader(path, types), strict
            return
        if any(WHOLE.fullmatch(data_type) for data_type in types.values()) and not has_truths:
            yield self._json_reader(form, path, types, is_number=True), strict_from_number
        yield self._json_reader(form, path, types), strict

    def _names(self, form: str, path: Path) -> tuple[Path | None, list[str], bool]:
        """Return the file as DuckDB can read it, if it can, and the names of its columns.

        The third says whether it is JSON that may hold a truth value, which as a double would be a number.
        """
        if form == "csv":
            plain = self._in_utf8(path)
            if not self._table.csv.header:
                return plain, list(self._types), False
            return plain, csv_names(path, self._table.csv), False
        if form == "xlsx":
            return None, sheet_names(path, self._table.sheet), False
        if path.stat().st_size < 1 << 20 and not path.read_bytes().strip():
            return None, [], False
        kind = _json_kind(form, path)
        try:
            objects = f"read_json_objects('{quoted(path)}', format = '{kind}')"
            (first,) = self._duck.execute(f"select json_keys(json) from {objects} limit 1").fetchone() or (None,)
            others = self._duck.execute(
                # most objects have the names of the first, which takes less time to see than to tell names apart; and
                # that is told by their hash, as grouping by lists takes as long as reading them
                "select any_value(keys), bool_or(has_truths) from (select json_keys(json) as keys, "
                "contains(cast(json as varchar), 'true') or contains(cast(json as varchar), 'false') as has_truths "
                f"from {objects}) where keys is distinct from ? or has_truths group by hash(keys)",
                [first],
            ).fetchall()
        except duckdb.Error:
            return None, json_names(path, form == "jsonl") or list(self._types), False
        names = dict.fromkeys(key for keys in (first, *(keys for keys, _ in others)) for key in keys or [])
        return path, list(names), any(has_truths for _, has_truths in others)

    def _in_utf8(self, path: Path) -> Path | None:
        """Return a text file in UTF-8; None if it is not written as it says."""
        encoding = self._table.csv.encoding
        if encoding.lower().replace("_", "-") in ("utf-8", "utf8", "ascii"):
            return path
        plain = self._scratch / "utf8.csv"
        try:
            with (
                path.open(encoding=encoding, newline="") as given,
                plain.open("w", encoding="utf-8", newline="") as taken,
            ):
                shutil.copyfileobj(given, taken, 1 << 20)
        except LookupError:
            raise BadFile(f"there is no encoding {encoding}") from None
        except UnicodeError:
            return None
        return plain

    def _csv_reader(self, path: Path, types: dict[str, str]) -> str:
        dialect = self._table.csv
        columns = ", ".join(
            f"'{quoted(name)}': '{data_type if data_type in AS_READ else 'VARCHAR'}'"
            for name, data_type in types.items()
        )
        missing = f"['', '{quoted(dialect.missing)}']" if dialect.missing else "''"
        return (
            f"select * from read_csv('{quoted(path)}', auto_detect = false, columns = {{{columns}}}, "
            f"header = {str(dialect.header).lower()}, skip = {dialect.skip}, delim = '{quoted(dialect.delimiter)}', "
            f"quote = '{quoted(dialect.quote)}', escape = '{quoted(dialect.escape)}', nullstr = {missing}, "
            "strict_mode = true, null_padding = false)"
        )

    def _json_reader(self, form: str, path: Path, types: dict[str, str], is_number: bool = False) -> str:
        """Return a query for its values as texts and doubles; with ``is_number``, whole numbers as doubles, too."""

        def read_as(data_type: str) -> str:
            if data_type in ("DOUBLE", "FLOAT"):
                return data_type
            return "DOUBLE" if is_number and WHOLE.fullmatch(data_type) else "VARCHAR"

        columns = ", ".join(f"'{quoted(name)}': '{read_as(data_type)}'" for name, data_type in types.items())
        kind = _json_kind(form, path)
        return f"select * from read_json('{quoted(path)}', format = '{kind}', columns = {{{columns}}})"

    def _read_parquet(self, name: str, path: Path) -> None:
        reader = f"select * from read_parquet('{quoted(path)}')"
        found = columns_of(self._duck, reader)
        reason = self._judge(list(found), found)
        if reason:
            self._reject_relation(name, reader, reason)
        else:
            self._write_typed(reader, found, name)

    # --- databases and interfaces

    def _stage_connection(self) -> Load | None:
        table = self._table
        source = address(self._project, str(table.ingest.connection))
        rejected_before = self._newest.state.get("rejected", "") if self._newest else ""
        cursor = self._newest.state.get("cursor") if self._newest and table.cursor else None
        since = self._since(cursor) if cursor else ""
        kind = "changes" if since else "whole"
        self._begin(kind, f"{self._now:%Y%m%d%H%M%S}")
        if source.kind == "rest":
            reader, found = self._download(source, since)
        else:
            reader, found = self._attach(source)
            if reason := self._judge(list(found), found):
                self._reject_relation("", reader, reason)
                reader = f"{reader} where false"
        if table.cursor and table.cursor not in found:
            raise HubspokeError(
                f"{table.name}: the source has no column {table.cursor}, its cursor ({table.declared_in})"
            )
        if since:
            reader = self._only_new(reader, found, since)
        try:
            self._write_typed(reader, found, "")
        except duckdb.Error as error:
            raise self._not_written(error) or HubspokeError(
                f"{table.name}: connection {source.name}: {source.scrub(error)}. Nothing was landed"
            ) from None
        rejected = self._digest_rejects()
        if since and not self._counts.rows and rejected == rejected_before:
            shutil.rmtree(self.draft.folder)
            return None
        landed = f"read_parquet('{quoted(self.draft.folder)}/*.parquet')"
        state: dict[str, Any] = {"rejected": rejected}
        if table.cursor:
            highest = self._one(f"select cast(max({identifier(table.cursor)}) as varchar) from {landed}")
            if cursor and highest:
                both = ", ".join(f"cast('{quoted(text)}' as {found[table.cursor]})" for text in (cursor, highest))
                highest = self._one(f"select cast(greatest({both}) as varchar)")
            state["cursor"] = highest or cursor
        digest = ""
        if not since:
            columns = ", ".join(map(identifier, found))
            digest = self._one(
                "select concat_ws('-', count(*), bit_xor(hash(it)), sum(hash(it))) "
                f"from (select {columns} from {landed}) as it"
            )
            if self._newest and self._newest.fingerprint == digest and rejected == rejected_before:
                shutil.rmtree(self.draft.folder)
                return None
        return self._load(kind, digest, state)

    def _attach(self, source: Address) -> tuple[str, dict[str, str]]:
        table = self._table
        try:
            attach(self._duck, source, "source")
        except HubspokeError as error:
            raise HubspokeError(f"{table.name}: {error}. Nothing was landed") from None
        if source.kind == "mysql":
            self._duck.execute("set mysql_experimental_filter_pushdown = true")
        reader = f"select * from {relation(source, 'source', table.relation or table.table)}"
        try:
            found = columns_of(self._duck, reader)
        except duckdb.Error as error:
            raise HubspokeError(
                f"{table.name}: connection {source.name}: {source.scrub(error)} (named in {table.declared_in})"
            ) from None
        return reader, found

    def _download(self, source: Address, since: str) -> tuple[str, dict[str, str]]:
        """Read an interface to a file, and that as any file; its rows are where the reader says."""
        asked = self._one(f"select cast({since} as varchar)") if since else None
        answer = self._scratch / "answer.jsonl"
        download(self._table, source, answer, asked, lambda rows: None)
        draft, self.draft = self.draft, Draft(self.draft.load_id, self._scratch / "rows")
        self.draft.folder.mkdir()
        stamp, self._stamp = self._stamp, ""
        try:
            self._read("", str(source.url), answer)
        except BadFile as error:
            raise HubspokeError(f"{self._table.name}: {error}. Nothing was landed") from None
        self.draft, self._stamp = draft, stamp
        self._counts.rows, self._parts = 0, 0
        found = self._counts.columns
        return f"select * from read_parquet('{quoted(self._scratch)}/rows/*.parquet', union_by_name = true)", found

    def _stage_stream(self, stream: Stream) -> Load | None:
        """Land the next messages; each file of rejects names their partition, each line their offset."""
        batch = stream.next_batch()
        if batch is None:
            return None
        self._begin("changes", f"{self._now:%Y%m%d%H%M%S}")
        topic = self._table.topic
        self._reject(
            [
                (f"{topic}/{partition}", first, None, None, f"offsets {first} to {last}: {GONE}")
                for partition, first, last in batch.lost
            ]
        )
        types = {name: self._types.get(name) or OWN.get(name, "VARCHAR") for name in batch.columns}
        found = {name: name for name in batch.columns}
        self._write_records("", batch.records, found, types, "", f"concat('{quoted(topic)}/', _partition)")
        return self._load("changes", "", batch.state)

    def _since(self, cursor: str) -> str:
        """Return SQL of the lowest cursor that is read again."""
        table = self._table
        data_type = (self._newest.columns if self._newest else {}).get(table.cursor) or "varchar"
        value = f"cast('{quoted(cursor)}' as {data_type})"
        if table.lookback is None:
            return value
        back = f"interval '{quoted(table.lookback)}'" if isinstance(table.lookback, str) else str(table.lookback)
        return f"cast({value} - {back} as {data_type})"

    def _only_new(self, reader: str, found: dict[str, str], since: str) -> str:
        """Return rows from a cursor on that have not landed yet, whole row by whole row."""
        assert self._content is not None  # noqa: S101 -- there is a cursor
        views = Views(self._zone, self._table.source, self._table.table, self._content)
        known = self._content.newest.columns
        cursor = identifier(self._table.cursor)
        # a value that the comparison is with, not a query: so the database itself leaves out the other rows
        value = self._one(f"select cast({since} as varchar)")
        bound = f"{cursor} >= cast('{quoted(value)}' as {found[self._table.cursor]})"
        columns = ", ".join(map(identifier, found))
        landed = ", ".join(
            f"cast({identifier(name) if name in known else 'null'} as {data_type}) as {identifier(name)}"
            for name, data_type in found.items()
        )
        log = views.log if self._content.changes else views.current
        return (
            f"select {columns} from (select {columns} from ({reader}) where {bound} or {cursor} is null) "
            f"except all select {columns} from (select {landed} from ({log}) where {bound} or {cursor} is null)"
        )

    # --- writing

    def _begin(self, kind: str, digest: str) -> None:
        table = self._table
        self.draft = self._zone.begin(
            table.source, table.table, self._zone.next_sequence(table.source, table.table), digest[:12]
        )
        self._stamp = f", {self.draft.stamp(self._now)}"
        self._is_changes = kind == "changes"

    def _judge(self, found: list[str], types: dict[str, str] | None = None) -> str:
        """Say how columns differ from those declared, where that is a reason to reject their rows.

        Raises:
            HubspokeError: They differ, and the source says freeze.
        """
        policy = self._table.ingest.on_schema_change
        if policy == "evolve" or not self._types:
            return ""
        differences = [f"{name} is not declared" for name in found if name not in self._types]
        differences += [f"{name} is missing" for name in self._types if name not in found]
        differences += [
            f"{name} is {types[name]}, not {data_type}"
            for name, data_type in self._types.items()
            if types and types.get(name, data_type) != data_type
        ]
        if differences and policy == "freeze":
            raise HubspokeError(
                f"{self._table.name}: its columns have changed: {'; '.join(differences)}. Nothing was landed, as "
                f"{self._table.declared_in} says on_schema_change: freeze. Declare them, or say evolve"
            )
        return f"its columns have changed: {'; '.join(differences)}" if differences else ""

    def _columns(self, found: list[str]) -> list[str]:
        """Return a table's columns in order: as declared, then what else was found."""
        return [*self._types, *(name for name in found if name not in self._types)]

    def _write(
        self,
        reader: str,
        found: list[str],
        types: dict[str, str],
        name: str,
        given: dict[str, str],
        convert: Convert = strict,
    ) -> None:
        """Land texts as values of their types."""
        values = [
            f"{convert(given[column], types[given[column]])} as {identifier(column)}"
            if column in given
            else f"cast(null as {self._types[column]}) as {identifier(column)}"
            for column in self._columns(found)
        ]
        all_types = {
            column: types.get(given.get(column, ""), "") or self._types[column] for column in self._columns(found)
        }
        self._write_part(f"select {', '.join(values)}", f"from ({reader})", all_types, name)

    def _write_typed(self, reader: str, found: dict[str, str], name: str) -> None:
        """Land values just as they are."""
        missing = {column: data_type for column, data_type in self._types.items() if column not in found}
        values = [identifier(column) for column in found]
        values += [f"cast(null as {data_type}) as {identifier(column)}" for column, data_type in missing.items()]
        self._write_part(f"select {', '.join(values)}", f"from ({reader})", found | missing, name)

    def _write_part(self, select: str, source: str, types: dict[str, str], name: str) -> None:
        if self._table.load == "append":
            select, types = f"{select}, '{quoted(name)}' as _file", types | {"_file": "VARCHAR"}
        audit = ""
        if self._is_changes and self._stamp:
            # numbered so that no two files of the load use the same
            order = "order by _partition, _offset" if self._stream else ""
            number = f"cast({self._parts * PART_NUMBERS} + row_number() over ({order}) as bigint)"
            said = {"_change": "'insert'", "_change_number": number}
            if self._stream:
                said["_committed_at"] = "_sent_at"
            audit = "".join(f", {said.get(key, f'cast(null as {kind})')} as {key}" for key, kind in AUDIT.items())
        target = self.draft.folder / ("data.parquet" if self._parts == 0 else f"data-{self._parts:06d}.parquet")
        self._counts.rows += self._copy(f"{select}{self._stamp}{audit} {source}", target)
        self._parts += 1
        for column, data_type in types.items():
            before = self._counts.columns.setdefault(column, data_type)
            if before != data_type:
                self._counts.columns[column] = self._one(
                    f"select typeof(x) from (select cast(null as {before}) as x "
                    f"union all select cast(null as {data_type}))"
                )

    def _write_records(
        self,
        name: str,
        records: Iterable[Record],
        found: dict[str, str],
        types: dict[str, str],
        fault: str,
        origin: str = "",
    ) -> None:
        """Land the rows of a file that can be, and note the others; ``origin`` is SQL of where each one is from."""
        origin = origin or f"'{quoted(name)}'"
        values = ", ".join(lenient(given, types[given]) + f" as {identifier(given)}" for given in found)
        good = f"good_{self._parts}"
        self._duck.execute(
            f"create or replace temp table {good} as select {values} from (select {_nulls(found)}) where false"
        )
        faults = ", ".join(
            f"case when {identifier(given)} is not null and {lenient(given, data_type)} is null then "
            f"struct_pack(name := '{quoted(found[given])}', text := {identifier(given)}, kind := '{data_type}') end"
            for given, data_type in types.items()
            if data_type != "VARCHAR"
        )
        wrong = f"list_filter([{faults}], lambda it: it is not null)" if faults else "[]"
        about = "list_transform(_wrong, lambda it: it.name || ': ' || left(it.text, 100) || ' is not ' || it.kind)"
        rest = iter(records)
        while batch := list(islice(rest, BATCH)):
            self._duck.register("batch", _arrow(batch, list(found)))
            if fault:
                self._duck.execute(
                    f"insert into rejects select {origin}, _line, null, _raw, '{quoted(fault)}' from batch"
                )
                continue
            self._duck.execute(f"create or replace temp table judged as select *, {wrong} as _wrong from batch")
            self._duck.execute(
                f"insert into {good} select {values} from judged where _reason is null and len(_wrong) = 0"
            )
            named = "array_to_string(list_transform(_wrong, lambda it: it.name), ', ')" if faults else "null"
            reasons = f"array_to_string({about}, '; ')" if faults else "''"
            self._duck.execute(
                f"insert into rejects select {origin}, _line, "
                f"case when _reason is null then {named} end, _raw, "
                f"coalesce(_reason, {reasons}) from judged where _reason is not null or len(_wrong) > 0"
            )
        given = {column: name_given for name_given, column in found.items()}
        if not fault:
            self._write(
                f"select * from {good}", list(found.values()), types, name, given, lambda column, _: identifier(column)
            )
        self._duck.execute(f"drop table {good}")

    def _reject(self, rows: list[tuple[Any, ...]]) -> None:
        if rows:
            self._duck.executemany("insert into rejects values (?, ?, ?, ?, ?)", rows)

    def _reject_relation(self, name: str, reader: str, reason: str) -> None:
        self._duck.execute(
            f"insert into rejects select '{quoted(name)}', row_number() over (), null, to_json(it), '{quoted(reason)}' "
            f"from ({reader}) as it"
        )

    def _digest_rejects(self) -> str:
        return self._one("select concat_ws('-', count(*), sum(hash(rejects))) from rejects")

    def _load(self, kind: Any, digest: str, state: dict[str, Any]) -> Load:
        table, counts = self._table, self._counts
        counts.rejected = int(self._one("select count(*) from rejects"))
        is_plain = not table.is_incremental and self._parts <= 1
        columns = counts.columns
        if kind == "changes" and self._newest:  # what these rows happen not to have stays a column of the table
            columns = self._newest.columns | columns
        return Load(
            load_id=self.draft.load_id,
            loaded_at=self._now,
            rows=counts.rows,
            kind=kind,
            fingerprint=digest,
            columns={} if is_plain else columns,
            key=[] if is_plain else list(table.key),
            rows_in=counts.rows + counts.rejected,
            rejected=counts.rejected,
            state=state,
        )

    def _finish(self, load: Load) -> Load:
        """Hold the load against its limits, and put its rejected rows beside it.

        Returns:
            The load as it is then.

        Raises:
            HubspokeError: Too many were rejected.
        """
        table, ingest = self._table, self._table.ingest
        if load.rejected:
            first = self._duck.execute("select file, line, reason from rejects order by file, line limit 1").fetchone()
            file, line, reason = first or ("", None, "")
            place = "offset" if self._stream else "line"
            told = f"the first: {file or table.table}{f', {place} {line}' if line is not None else ''}: {reason}"
            of = f"{load.rejected:,} of {load.rows_in:,} rows are rejected"
            if load.kind == "whole" and not load.rows:
                raise HubspokeError(f"{table.name}: no row can be landed, {of}; {told}. Nothing was landed")
            if ingest.max_rejected is not None and load.rejected > ingest.max_rejected:
                raise HubspokeError(
                    f"{table.name}: {of}, more than max_rejected: {ingest.max_rejected}; {told}. Nothing was landed"
                )
            share = ingest.max_rejected_share
            if share is not None and load.rejected > share * (load.rows_in or 0):
                raise HubspokeError(
                    f"{table.name}: {of}, more than max_rejected_share: {share}; {told}. Nothing was landed"
                )
            self._copy(f"select *{self._stamp} from rejects order by file, line", self.draft.folder / REJECTS)
        if load.kind == "whole" and table.key and table.load == "append":
            kept = self._keep_last()
            return load.model_copy(update={"rows": kept, "superseded": load.rows - kept})
        return load

    def _keep_last(self) -> int:
        """Of rows with the same key, keep that of the file that comes last; returns how many rows there are then."""
        files = ", ".join(
            f"'{quoted(path)}'" for path in sorted(self.draft.folder.glob("*.parquet")) if path.name != REJECTS
        )
        key = ", ".join(map(identifier, self._table.key))
        target = self.draft.folder / f"data{UNFINISHED}"
        kept = self._copy(
            f"select * from read_parquet([{files}], union_by_name = true) "
            f"qualify row_number() over (partition by {key} order by _file desc) = 1",
            target,
        )
        for path in self.draft.folder.glob("*.parquet"):
            if path.name != REJECTS:
                path.unlink()
        target.rename(self.draft.folder / "data.parquet")
        return kept

    def _copy(self, query: str, target: Path) -> int:
        sql = f"copy ({query}) to '{quoted(target)}' (format parquet)"
        return _watched(self._duck, sql, self._progress)

    def _not_written(self, error: duckdb.Error) -> HubspokeError | None:
        """Return the error for a person if it was the writing that failed."""
        reason = str(error).splitlines()[0]
        if str(self.draft.folder) in reason or "No space left" in reason:
            return HubspokeError(
                f"{self._table.name}: cannot write to {self.draft.folder.parent} ({reason}). Nothing was landed."
            )
        return None

    def _one(self, sql: str) -> str:
        row = self._duck.execute(sql).fetchone()
        return str(row[0]) if row and row[0] is not None else ""


def _nulls(names: Iterable[str]) -> str:
    return ", ".join(f"cast(null as varchar) as {identifier(name)}" for name in names)


def _json_kind(form: str, path: Path) -> str:
    if form == "jsonl":
        return "newline_delimited"
    with path.open("rb") as file:
        return "array" if file.read(4096).removeprefix(b"\xef\xbb\xbf").lstrip()[:1] == b"[" else "unstructured"


def _arrow(batch: list[Record], names: list[str]) -> pa.Table:
    columns: dict[str, Any] = {
        "_line": pa.array([record.line for record in batch], pa.int64()),
        "_raw": pa.array([record.raw for record in batch], pa.string()),
        "_reason": pa.array([record.reason or None for record in batch], pa.string()),
    }
    empty: dict[str, str | None] = {}
    for name in names:
        columns[name] = pa.array([(record.values or empty).get(name) for record in batch], pa.string())
    return pa.table(columns)


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
