"""Change data capture: a PostgreSQL database is copied once, then its change log is landed as it is written.

A batch is what has come since the one before, whole transactions only: copies of tables that have none, and the changes
to the others. Its files are written while it comes, so that no transaction is too large for memory. It becomes visible
by one rename (``LandingZone.advance``), and only then the server is told that it need not keep that part of its log.
Whatever is killed in between leaves the batch to be read again, whole.

    <landing>/<source>/slot.json    the slot that this warehouse has made; nobody else's is ever dropped
"""

import json
import time
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import ExitStack, closing
from dataclasses import dataclass, field
from datetime import UTC, datetime

import duckdb
import numpy as np
import psycopg
import pyarrow as pa

from hubspoke.compaction import PILE, tidy
from hubspoke.connections import postgres_parameters
from hubspoke.errors import HubspokeError, first_line
from hubspoke.files import write_whole
from hubspoke.landing import Draft, LandingZone, Load, Outcome, Position
from hubspoke.pgoutput import AUDIT, Decoder, Messages, Relation
from hubspoke.postgres_source import Shape, SourceDatabase
from hubspoke.postgres_types import register, value
from hubspoke.project import Project
from hubspoke.replication import Stream, create_slot, written
from hubspoke.sources import SourceTable, read_sources
from hubspoke.sql import identifier, quoted

CHUNK_BYTES = 8 << 20
CHUNK_MESSAGES = 60_000
"""Bounds of what is in memory at once: a chunk becomes one file of each table that it changes."""

BATCH_CHUNKS = 50
"""A batch that has so many chunks ends with the transaction, however fast more comes."""

FLUSH_S = 10.0
"""Seconds after which what has come becomes visible."""

ATTEMPTS = 30
"""How often to try to begin where the slot's last reader is just going, or to copy a table that is being altered."""

Tell = Callable[[str], None]


class Writer:
    """Casts texts and writes them as Parquet."""

    def __init__(self) -> None:
        self._connection = duckdb.connect(config={"memory_limit": "128MB", "threads": 1})
        self._connection.execute("set TimeZone = 'UTC'")
        register(self._connection)

    def write(
        self, draft: Draft, name: str, rows: pa.Table, shape: Shape, missing: dict[str, str], loaded_at: datetime
    ) -> int:
        """Write some rows of a table and return how many of their values have become null, as their type has no room.

        Columns that are ``missing`` are null, in the type that is declared.

        Such a value stands as text in ``_uncast``, so a bad one stops nothing and is not lost.
        """
        columns = [column for column in shape.columns if column.name in rows.column_names]
        audit = [name for name in rows.column_names if name in AUDIT]

        def query(cast: str, uncast: str) -> str:
            values = [
                f"{value(column.name, column.type, column.oid, cast)} as {identifier(column.name)}"
                for column in columns
            ]
            nulls = [f"cast(null as {kind}) as {identifier(name)}" for name, kind in missing.items()]
            listed = ", ".join([*values, *nulls, *audit, uncast, draft.stamp(loaded_at)])
            return f"copy (select {listed} from rows) to '{quoted(draft.folder / name)}' (format parquet)"

        self._connection.register("rows", rows)
        try:
            try:
                self._connection.execute(query("cast", "cast(null as varchar) as _uncast"))
            except (duckdb.ConversionException, duckdb.InvalidInputException, duckdb.OutOfRangeException):
                bad = {
                    column.name: f"{identifier(column.name)} is not null "
                    f"and {value(column.name, column.type, column.oid, 'try_cast')} is null"
                    for column in columns
                }
                pairs = [
                    f"case when {test} then map {{'{quoted(name)}': {identifier(name)}}} else map {{}} end"
                    for name, test in bad.items()
                ]
                found = f"map_concat({', '.join(pairs)})"
                uncast = f"case when {' or '.join(bad.values())} then cast(to_json({found}) as varchar) end as _uncast"
                self._connection.execute(query("try_cast", uncast))
                counted = self._connection.execute(
                    f"select {' + '.join(f'count(*) filter ({test})' for test in bad.values())} from rows"
                ).fetchone()
                return int(counted[0]) if counted else 0
        finally:
            self._connection.unregister("rows")
        return 0


@dataclass
class _Open:
    """A load that is being written.

    Attributes:
        draft: Where.
        shape: What its rows look like; the newest, if the table has grown meanwhile.
        kind: Whether it is the table or changes to it.
        rows: How many there are so far.
        parts: How many files.
        unchanged: Columns of which some changes do not say the value.
        position: The place in the log at which a copy was taken; 0 for changes.
    """

    draft: Draft
    shape: Shape
    kind: str
    rows: int = 0
    parts: int = 0
    unchanged: set[str] = field(default_factory=set)
    position: int = 0


@dataclass
class _Followed:
    """A table that is followed.

    Attributes:
        table: Its declaration.
        names: Its schema and name in the database.
        next_sequence: Number of its next load.
        shape: What it looks like; nothing until it is copied.
        since: Changes that were committed earlier are in its copy.
        relation: How the log described it last.
        changes: The load that its next changes go to.
        done: Loads of this batch that are complete.
        known: Names of all columns that it has had since its copy.
        landed: Rows and changes that this run has landed.
    """

    table: SourceTable
    names: tuple[str, str]
    next_sequence: int
    shape: Shape | None = None
    since: int = 0
    relation: Relation | None = None
    changes: _Open | None = None
    done: list[_Open] = field(default_factory=list)
    known: set[str] = field(default_factory=set)
    landed: int = 0

    def missing(self, shape: Shape) -> dict[str, str]:
        """Return the declared columns that a shape of it does not have, and their types."""
        return {name: kind for name, kind in self.table.columns.items() if name not in shape.types}


class Follower:
    """Lands one source; made anew after every lost connection."""

    def __init__(
        self, project: Project, source: str, tables: list[SourceTable], tell: Tell = lambda line: None
    ) -> None:
        """Take note of what to follow.

        Args:
            project: The project.
            source: The source.
            tables: All its tables.
            tell: Told what a person should know.
        """
        ingest = tables[0].ingest
        self.source = source
        self._project = project
        self.zone = LandingZone(project.landing)
        self.slot = ingest.slot or f"hubspoke_{source}"
        self.publication = ingest.publication or f"hubspoke_{source}"
        self._parameters = postgres_parameters(project, ingest.connection or source)
        self._tables = tables
        self._tell = tell
        self._note = self.zone.root / source / "slot.json"
        self._writer = Writer()
        self._decoder = Decoder()
        self._messages = Messages()
        self._chunks = 0
        self._reach = 0
        self._stream: Stream | None = None
        self._followed: list[_Followed] = []
        self._by_names: dict[tuple[str, str], _Followed] = {}

    def follow(self, once: bool, flush_s: float = FLUSH_S) -> list[Outcome]:
        """Copy what has no copy, then land the log.

        Args:
            once: Stop at what is the end of the log now; else never.
            flush_s: Seconds after which what has come becomes visible.

        Returns:
            For each table the rows that were copied or the changes that were landed.

        Raises:
            HubspokeError: The database cannot be followed, or not from where it was left; what landed is as it was.
            psycopg.OperationalError: The connection is gone; what is visible is whole, and the next run goes on.
        """
        with self.zone.following(self.source), ExitStack() as stack:
            self._database = SourceDatabase(self.source, self._parameters)
            stack.callback(self._database.close)
            self._database.check(self._tables, self.publication)
            system = self._database.system()
            self._followed = [self._take_up(table) for table in self._tables]
            self._by_names = {followed.names: followed for followed in self._followed}
            self._position = self._resume(system)
            for followed in self._followed:
                if followed.shape is None:
                    self._copy_again(followed)
            self._stream = self._start(stack.enter_context(closing(self._database.replication())))
            self._land(once, flush_s)
        return [
            Outcome(followed.table.name, followed.landed, is_new=followed.landed > 0) for followed in self._followed
        ]

    def _take_up(self, table: SourceTable) -> _Followed:
        """Find out where the landing zone has left a table."""
        sequence = self.zone.next_sequence(table.source, table.table)
        followed = _Followed(table, self._database.names(table), sequence)
        content = self.zone.content(table.source, table.table)
        if content and content.whole and content.whole.position is not None:
            followed.since = content.whole.position
            followed.shape = Shape.model_validate(content.newest.state["shape"])
            followed.known = {name for load in [content.whole, *content.changes] for name in load.columns}
        return followed

    def _resume(self, system: str) -> Position:
        """Return where to go on; if nothing has landed, make the slot and copy all tables.

        Raises:
            HubspokeError: The log from there on is not to be had.
        """
        position = self.zone.position(self.source)
        slot = self._database.slot(self.slot)
        anew = f"Land everything anew: hubspoke cdc snapshot {self.source}"
        if position is None:
            if slot and not self._is_ours(system):
                raise HubspokeError(
                    f"{self.source}: the database has a slot {self.slot} that this warehouse has not made. If another "
                    f"one follows it, name one of your own: config: {{ meta: {{ ingest: {{ slot: … }} }} }}. If nobody "
                    f"does, drop it: select pg_drop_replication_slot('{self.slot}')"
                )
            return self._copy_all(system)
        if position.state.get("system") != system:
            raise HubspokeError(f"{self.source}: this is another database than the one that has landed so far. {anew}")
        if slot is None:
            raise HubspokeError(
                f"{self.source}: the database has no slot {self.slot} any more, so what has changed since "
                f"{position.as_of:%Y-%m-%d %H:%M:%S} UTC is not known. {anew}"
            )
        if slot.status == "lost":
            raise HubspokeError(
                f"{self.source}: slot {self.slot} is lost: the server has thrown away log that had not landed "
                f"(max_slot_wal_keep_size is too small for how long nobody followed). {anew}"
            )
        if slot.confirmed > position.position:
            raise HubspokeError(
                f"{self.source}: slot {self.slot} is at {written(slot.confirmed)}, past what has landed "
                f"({written(position.position)}): somebody else has read it, or the landing zone is an older copy. "
                f"{anew}"
            )
        return position

    def _is_ours(self, system: str) -> bool:
        try:
            note = json.loads(self._note.read_text())
        except FileNotFoundError:
            return False
        return bool(note == {"slot": self.slot, "system": system})

    def _copy_all(self, system: str) -> Position:
        """Make the slot, and copy every table as it is where the slot begins."""
        self._note.parent.mkdir(parents=True, exist_ok=True)
        for attempt in range(ATTEMPTS):
            # noted before it is made: what a kill leaves behind is known as ours
            write_whole(self._note, json.dumps({"slot": self.slot, "system": system}) + "\n")
            self._database.drop_slot(self.slot)
            if self._copy(self._followed, self.slot, temporary=False):
                return self._commit(Position(position=self._reach, as_of=self._copied_at, state={"system": system}))
            self._tell(f"{self.source}: a table was altered while it was copied; once more")
            time.sleep(min(attempt, 5))
        raise HubspokeError(f"{self.source}: its tables are altered too often to be copied. Try again later")

    def _copy_again(self, followed: _Followed) -> None:
        """Copy one table in mid-stream: its changes count from there on."""
        for attempt in range(ATTEMPTS):
            if self._copy([followed], f"{self.slot}_copy", temporary=True):
                return
            time.sleep(min(attempt, 5))
        raise HubspokeError(f"{followed.table.name} is altered too often to be copied. Try again later")

    def _copy(self, tables: Sequence[_Followed], slot: str, temporary: bool) -> bool:
        """Copy some tables as they are where a new slot begins.

        Returns:
            Whether no table was altered in between: a snapshot does not have the rows of a table that was written anew
            after it was taken.
        """
        with closing(self._database.replication()) as connection:
            self._copied_at = self._database.clock().replace(microsecond=0)
            start = create_slot(connection, slot, temporary)
            with self._database.reading(start.snapshot) as reader:
                shapes = []
                for followed in tables:
                    reader.execute(f"lock table {followed.table.relation} in access share mode")
                for followed in tables:
                    shape = self._database.shape(followed.table, self.publication, reader)
                    now = self._database.shape(followed.table, self.publication)
                    if not shape.is_same(now) or shape.files != now.files:
                        return False
                    self._judge(followed, shape)
                    shapes.append(shape)
                for followed, shape in zip(tables, shapes, strict=True):
                    self._close(followed)
                    self._copy_table(followed, shape, start.position, reader)
        self._reach = max(self._reach, start.position)
        return True

    def _copy_table(self, followed: _Followed, shape: Shape, position: int, reader: psycopg.Connection) -> None:
        load = self._open(followed, shape, "whole")
        load.position = position
        rows = self._database.copy(followed.table, shape, self.publication, reader)
        for chunk in rows:
            self._write(followed, load, chunk)
        if not load.parts:
            names = [column.name for column in shape.columns]
            self._write(followed, load, pa.table([pa.array([], pa.string())] * len(names), names=names))
        followed.shape, followed.since, followed.relation = shape, position, None
        followed.known = set(shape.types)
        followed.done.append(load)

    def _start(self, connection: psycopg.Connection) -> Stream:
        for attempt in range(ATTEMPTS):
            try:
                return Stream(connection, self.slot, self.publication, self._position.position)
            except psycopg.errors.ObjectInUse as error:
                # the reader before this one may just have been killed
                if attempt == ATTEMPTS - 1:
                    raise HubspokeError(f"{self.source}: {str(error).strip()}. Stop that reader first") from None
                time.sleep(1)
        raise AssertionError

    def _land(self, once: bool, flush_s: float) -> None:
        """Land the log, batch by batch: while a chunk is decoded and written, the next one is read."""
        assert self._stream is not None  # noqa: S101
        end = self._database.end_of_log() if once else 0
        flush_at = time.monotonic() + flush_s
        batches = 0
        with ThreadPoolExecutor(1) as worker, ThreadPoolExecutor(1) as tidier:
            work: Future[None] = worker.submit(lambda: None)
            while True:
                now = time.monotonic()
                patience = now + 0.1 if once else max(flush_at, now + 0.1)
                self._stream.read(self._messages, patience, CHUNK_BYTES, CHUNK_MESSAGES)
                self._await(work)
                is_more = self._messages.is_full(CHUNK_BYTES, CHUNK_MESSAGES)
                taken = self._messages.take_transactions()
                work = worker.submit(self._take, taken)
                is_due = self._stream.is_asked or self._chunks >= BATCH_CHUNKS or time.monotonic() >= flush_at
                if is_more and not is_due:
                    continue
                self._await(work)
                position, as_of = self._decoder.position, self._decoder.committed_at
                is_whole = not self._decoder.is_open
                if is_whole and not self._messages.lengths and self._stream.idle_position > position:
                    position, as_of = self._stream.idle_position, self._stream.idle_at
                is_at_end = once and position >= end
                if is_whole and (is_due or is_at_end) and position >= max(self._reach, self._position.position):
                    if position > self._position.position:
                        clock = datetime.fromtimestamp(as_of / 1e6, UTC)
                        self._commit(Position(position=position, as_of=clock, state=self._position.state))
                        if not once and batches % PILE == 0:
                            tidier.submit(tidy, self._project, self._tables, self._tell, holds_lock=True)
                        batches += 1
                    self._stream.confirm(position)
                    flush_at = time.monotonic() + flush_s
                    if is_at_end:
                        return
                elif once and not taken.lengths:
                    self._stream.confirm(self._position.position, ask=True)

    def _await(self, work: "Future[None]") -> None:
        """Wait until a chunk is written; a table may be copied meanwhile, so the server hears from here."""
        while True:
            try:
                return work.result(timeout=1)
            except TimeoutError:
                if work.done():
                    raise
                if self._stream:
                    self._stream.stay()

    def _take(self, messages: Messages) -> None:
        """Decode some messages and write what they change."""
        if not messages.lengths:
            return
        if not self._chunks:
            self._batch_at = datetime.now(UTC).replace(microsecond=0)
        self._chunks += 1
        keys = {f.names: f.shape.key for f in self._followed if f.shape}
        for changes in self._decoder.decode(messages, keys):
            relation = changes.relation
            followed = self._by_names.get((relation.schema, relation.table))
            if followed is None:
                continue  # published, and not declared here
            if relation != followed.relation:
                self._see(followed, relation)
            rows = changes.rows
            lsns = rows["_lsn"].to_numpy()
            if len(lsns) and lsns[0] < followed.since:
                rows = rows.slice(int(np.searchsorted(lsns, followed.since)))
            if not rows.num_rows or followed.shape is None:
                continue
            if followed.changes is None:
                followed.changes = self._open(followed, followed.shape, "changes")
            self._write(followed, followed.changes, rows)

    def _see(self, followed: _Followed, relation: Relation) -> None:
        """Take note that the log describes a table otherwise than before; copy it again if that says too little."""
        assert followed.shape is not None  # noqa: S101
        now = self._database.shape(followed.table, self.publication)
        if followed.shape.is_same(now) and followed.shape.describes(relation):
            followed.relation = relation
            return
        self._judge(followed, now)
        fresh = {c.name for c in now.columns} - set(followed.shape.types)
        if now.describes(relation) and followed.shape.grows_into(now) and not fresh & followed.known:
            self._tell(f"{followed.table.name}: its columns are now {', '.join(now.types)}")
            followed.known |= set(now.types)
            followed.shape, followed.relation = now, relation
            if followed.changes:
                followed.changes.shape = now
            return
        self._tell(f"{followed.table.name}: its columns or its key were altered; it is copied again")
        self._copy_again(followed)
        followed.relation = relation

    def _judge(self, followed: _Followed, shape: Shape) -> None:
        """Hold a table's columns against those declared, or, if none are, those that it had.

        Raises:
            HubspokeError: They differ, and the source says freeze.
        """
        table, before = followed.table, followed.shape.types if followed.shape else shape.types
        expected = table.columns or before
        differences = [f"{name} is not declared" for name in shape.types if name not in expected]
        differences += [f"{name} is missing" for name in expected if name not in shape.types]
        if differences and table.ingest.on_schema_change == "freeze":
            raise HubspokeError(
                f"{table.name}: its columns have changed: {'; '.join(differences)}. Nothing lands from there on, as "
                f"{table.declared_in} says on_schema_change: freeze; the database keeps its log. Declare them as they "
                "are, or say evolve"
            )

    def _open(self, followed: _Followed, shape: Shape, kind: str) -> _Open:
        suffix = f"{self._position.position if kind == 'changes' else 0:x}"
        draft = self.zone.begin(self.source, followed.table.table, followed.next_sequence, suffix)
        followed.next_sequence += 1
        return _Open(draft, shape, kind)

    def _close(self, followed: _Followed) -> None:
        if followed.changes:
            followed.done.append(followed.changes)
            followed.changes = None

    def _write(self, followed: _Followed, load: _Open, rows: pa.Table) -> None:
        load.parts += 1
        name = "data.parquet" if load.kind == "whole" and load.parts == 1 else f"data-{load.parts:05d}.parquet"
        moment = self._copied_at if load.kind == "whole" else self._batch_at
        nulled = self._writer.write(load.draft, name, rows, load.shape, followed.missing(load.shape), moment)
        load.rows += rows.num_rows
        followed.landed += rows.num_rows
        if "_unchanged" in rows.column_names and rows["_unchanged"].null_count < rows.num_rows:
            load.unchanged |= set(rows["_unchanged"].combine_chunks().flatten().unique().to_pylist())
        if nulled:
            self._tell(
                f"{followed.table.name}: {nulled} values do not fit the type of their column; they are null there, and "
                "as text in _uncast"
            )

    def _commit(self, position: Position) -> Position:
        """Make the batch visible."""
        loads = []
        for followed in self._followed:
            self._close(followed)
            for load in followed.done:
                loads.append((load.draft, self._describe(followed, load, position)))
            followed.done = []
        self.zone.advance(self.source, loads, position)
        self._position = position
        self._decoder.restart_numbers()
        self._chunks = 0
        return position

    def _describe(self, followed: _Followed, load: _Open, position: Position) -> Load:
        return Load(
            load_id=load.draft.load_id,
            loaded_at=self._copied_at if load.kind == "whole" else self._batch_at,
            rows=load.rows,
            kind="whole" if load.kind == "whole" else "changes",
            columns=load.shape.types | followed.missing(load.shape),
            key=load.shape.key,
            unchanged=sorted(load.unchanged),
            position=load.position or position.position,
            state={"shape": load.shape.model_dump(), "ends": written(position.position)},
        )


def followed_sources(project: Project) -> list[str]:
    """List the sources that are followed by their change log."""
    tables = read_sources(project.root)
    return list(dict.fromkeys(table.source for table in tables if table.ingest.mechanism == "cdc"))


def _tables(project: Project, source: str) -> list[SourceTable]:
    tables = [table for table in read_sources(project.root) if table.source == source]
    if not tables or tables[0].ingest.mechanism != "cdc":
        known = ", ".join(followed_sources(project)) or "none"
        raise HubspokeError(f"no source {source} with mechanism: cdc; there are: {known}")
    return tables


def catch_up(project: Project, source: str, tell: Tell) -> list[Outcome]:
    """Land a source's change log up to its end now.

    Raises:
        HubspokeError: The database cannot be followed or reached; what is visible is whole.
    """
    try:
        return Follower(project, source, _tables(project, source), tell).follow(once=True)
    except psycopg.Error as error:
        raise HubspokeError(f"{source}: {_reason(error)}. Nothing is half landed; run this again") from None


def run(project: Project, source: str, flush_s: float, tell: Tell) -> None:
    """Land a source's change log as it is written; a connection that is lost is made again.

    Raises:
        HubspokeError: The database cannot be followed.
    """
    tables = _tables(project, source)
    pause = 1.0
    while True:
        began = time.monotonic()
        try:
            Follower(project, source, tables, tell).follow(once=False, flush_s=flush_s)
        except (psycopg.OperationalError, psycopg.InterfaceError) as error:
            pause = 1.0 if time.monotonic() - began > 60 else min(pause * 2, 30)
            tell(f"{source}: {_reason(error)}. Again in {pause:.0f} s")
            time.sleep(pause)
        except psycopg.Error as error:
            raise HubspokeError(f"{source}: {_reason(error)}. Nothing is half landed") from None


def forget(project: Project, name: str) -> None:
    """Have a source, or one table of it, copied anew the next time that it is landed.

    Args:
        project: The project.
        name: ``<source>`` or ``<source>.<table>``.

    Raises:
        HubspokeError: There is no such source or table, or another process is landing it.
    """
    source, _, table = name.partition(".")
    tables = [one.table for one in _tables(project, source)]
    if table and table not in tables:
        raise HubspokeError(f"source {source} has no table {table}; it has {', '.join(tables)}")
    zone = LandingZone(project.landing)
    with zone.following(source):
        zone.seal(source, [table] if table else tables)
        if not table:
            (zone.root / source / "position.json").unlink(missing_ok=True)


def drop(project: Project, source: str) -> str:
    """Drop the slot that this warehouse has made in a source's database.

    Returns:
        What was done.

    Raises:
        HubspokeError: Another process follows the source, or the slot is not this warehouse's.
    """
    follower = Follower(project, source, _tables(project, source))
    with follower.zone.following(source), closing(SourceDatabase(source, follower._parameters)) as database:
        if database.slot(follower.slot) is None:
            return f"{source}: the database has no slot {follower.slot}."
        if not follower._is_ours(database.system()):
            raise HubspokeError(f"{source}: slot {follower.slot} was not made by this warehouse; it is left alone")
        database.drop_slot(follower.slot)
        return f"{source}: slot {follower.slot} is dropped. To follow it again: hubspoke cdc snapshot {source}"


@dataclass(frozen=True)
class Status:
    """How a source is being followed.

    Attributes:
        slot: What the slot is doing.
        position: How far the log has landed.
        lag_bytes: Log written since.
        lag_s: Seconds for which there has been something to land.
        retained_bytes: Log that the server keeps for the slot.
        alarms: What somebody should look at.
    """

    slot: str
    position: int
    lag_bytes: int
    lag_s: float
    retained_bytes: int
    alarms: list[str]

    def __str__(self) -> str:
        """One line."""
        return (
            f"slot {self.slot:<10} landed up to {written(self.position)}, {self.lag_bytes / 1e6:,.1f} MB and "
            f"{self.lag_s:,.0f} s behind; {self.retained_bytes / 1e6:,.1f} MB of log kept"
        )


def status(project: Project, source: str) -> Status:
    """Look how a source is being followed.

    Raises:
        HubspokeError: Its database cannot be reached or followed.
    """
    tables = _tables(project, source)
    ingest = tables[0].ingest
    zone = LandingZone(project.landing)
    name = ingest.slot or f"hubspoke_{source}"
    try:
        with closing(SourceDatabase(source, postgres_parameters(project, ingest.connection or source))) as database:
            slot, end, now = database.slot(name), database.end_of_log(), database.clock()
    except psycopg.Error as error:
        raise HubspokeError(f"{source}: {_reason(error)}") from None
    position = zone.position(source)
    landed = position.position if position else 0
    lag = max(end - landed, 0) if position else 0
    lag_s = max((now - position.as_of).total_seconds(), 0.0) if position and lag else 0.0
    retained = max(end - slot.restart, 0) if slot and slot.restart else 0
    alarms = []
    if position is None:
        alarms.append(f"nothing has landed yet. Run: hubspoke ingest {source}")
    if position and slot is None:
        alarms.append(f"slot {name} is gone. Land everything anew: hubspoke cdc snapshot {source}")
    if slot and slot.status == "lost":
        alarms.append(f"slot {name} is lost. Land everything anew: hubspoke cdc snapshot {source}")
    if slot and slot.status == "unreserved":
        alarms.append(
            f"slot {name} is about to be lost: the server may throw its log away. Run: hubspoke cdc run {source}"
        )
    if retained > ingest.retained_wal_limit:
        alarms.append(
            f"the database keeps {retained / 1e6:,.1f} MB of log, more than retained_wal_limit "
            f"({ingest.retained_wal_limit / 1e6:,.1f} MB). Run: hubspoke cdc run {source}; or give it up: "
            f"hubspoke cdc drop {source}"
        )
    state = "missing" if slot is None else "lost" if slot.status == "lost" else "active" if slot.is_active else "idle"
    return Status(state, landed, lag, lag_s, retained, alarms)


def _reason(error: psycopg.Error) -> str:
    """Return what the server or libpq says, in one line; neither repeats a password."""
    return first_line(error).rstrip(".")
