"""A PostgreSQL database that is followed: whether it can be, what its tables look like, and a copy of one."""

import time
from collections.abc import Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any

import psycopg
import pyarrow as pa
import pyarrow.csv
from psycopg.sql import SQL, Identifier, Literal
from pydantic import BaseModel

from hubspoke.errors import HubspokeError, first_line
from hubspoke.pgoutput import Relation
from hubspoke.postgres_types import duckdb_type
from hubspoke.replication import Connection, connect
from hubspoke.sources import SourceTable

OLDEST_SERVER = 13
CHUNK_BYTES = 8 << 20

COLUMNS = """
select a.attname, a.attnum, a.atttypid::bigint, a.atttypmod, a.attndims,
       case when t.typcategory = 'A' then t.typelem::bigint else 0 end,
       a.atthasdef or a.atthasmissing
from pg_attribute a join pg_type t on t.oid = a.atttypid
where a.attrelid = %s::regclass and a.attnum > 0 and not a.attisdropped and a.attgenerated = ''
order by a.attnum
"""
# pg_relation_filenode() does not look at the snapshot: it says what is there now
TREE = """
select c.relreplident::text,
       coalesce((select string_agg(concat_ws(' ', leaf.oid, leaf.relfilenode, leaf.relreplident), ', '
                                   order by leaf.oid)
                 from pg_partition_tree(c.oid) tree join pg_class leaf on leaf.oid = tree.relid where tree.isleaf),
                concat_ws(' ', c.oid, c.relfilenode, c.relreplident))
from pg_class c where c.oid = %s::regclass
"""
INDEX = """
select a.attname from pg_index i join pg_attribute a on a.attrelid = i.indrelid and a.attnum = any(i.indkey)
where i.indrelid = %s::regclass and case when %s then i.indisreplident else i.indisprimary end order by a.attnum
"""
SLOT = """
select plugin, database, active, coalesce(active_pid, 0), coalesce(wal_status, ''),
       coalesce(confirmed_flush_lsn - '0/0', 0)::bigint, coalesce(restart_lsn - '0/0', 0)::bigint
from pg_replication_slots where slot_name = %s
"""


class ShapeColumn(BaseModel):
    """A column of a table.

    Attributes:
        name: Its name.
        number: PostgreSQL's number of it, which outlasts a renaming and is never used again.
        oid: Number of its type.
        modifier: Modifier of its type.
        type: Its type in DuckDB.
        has_default: Whether rows that were there before it may have a value of it.
    """

    name: str
    number: int
    oid: int
    modifier: int
    type: str
    has_default: bool


class Shape(BaseModel):
    """What a table looks like.

    Attributes:
        columns: Its columns, those left out that are not in the log.
        key: Columns that tell its rows apart.
        files: The files that hold it, and what their old rows carry: others once the table was rewritten.
    """

    columns: list[ShapeColumn]
    key: list[str]
    files: str

    @property
    def types(self) -> dict[str, str]:
        """Columns and their types in DuckDB."""
        return {column.name: column.type for column in self.columns}

    def describes(self, relation: Relation) -> bool:
        """Whether the log describes the table just so."""
        mine = [(column.name, column.oid, column.modifier) for column in self.columns]
        return mine == [(column.name, column.type_oid, column.modifier) for column in relation.columns]

    def is_same(self, other: "Shape") -> bool:
        """Whether rows of the one are rows of the other."""
        return self.key == other.key and [(c.number, c.name, c.oid, c.modifier) for c in self.columns] == [
            (c.number, c.name, c.oid, c.modifier) for c in other.columns
        ]

    def grows_into(self, other: "Shape") -> bool:
        """Whether rows of this shape become rows of another by columns that fall away and columns that are null."""
        before = {column.number: column for column in self.columns}
        for column in other.columns:
            old = before.get(column.number)
            if old and (old.name, old.oid, old.modifier) != (column.name, column.oid, column.modifier):
                return False
            if old is None and (column.has_default or column.name in self.types or self.files != other.files):
                return False
        return self.key == other.key


@dataclass(frozen=True)
class Slot:
    """A replication slot.

    Attributes:
        plugin: What decodes its log.
        database: The database that it is of.
        is_active: Whether somebody reads it.
        pid: The server's process that serves the reader.
        status: Whether its log is still there: ``reserved``, ``extended``, ``unreserved`` or ``lost``.
        confirmed: Its reader has told that everything before this place is safe.
        restart: The server keeps the log from this place on.
    """

    plugin: str
    database: str
    is_active: bool
    pid: int
    status: str
    confirmed: int
    restart: int


class SourceDatabase:
    """A PostgreSQL database."""

    def __init__(self, source: str, parameters: dict[str, str]) -> None:
        """Connect to it.

        Raises:
            HubspokeError: It is too old, or its settings do not allow it to be followed.
            psycopg.OperationalError: It cannot be reached.
        """
        self.source = source
        self.parameters = parameters
        self.connection = connect(parameters)
        self.role = self.connection.info.user
        if self.connection.info.server_version < OLDEST_SERVER * 10_000:
            raise HubspokeError(f"{source}: PostgreSQL {OLDEST_SERVER} or newer is needed; this server is older")
        level, encoding = self._row("select current_setting('wal_level'), current_setting('server_encoding')")
        if level != "logical":
            raise HubspokeError(
                f"{source}: the server's wal_level is {level}, so its log does not say what changes. As its superuser: "
                "alter system set wal_level = logical; then restart it"
            )
        if encoding == "SQL_ASCII":
            raise HubspokeError(f"{source}: the database's encoding is SQL_ASCII, so nothing says what its texts are")

    def close(self) -> None:
        """Close the connection."""
        self.connection.close()

    def replication(self) -> Connection:
        """Connect for replication.

        Raises:
            HubspokeError: The role may not.
        """
        try:
            return connect(self.parameters, replication="database")
        except psycopg.OperationalError as error:
            may = self._row("select rolsuper or rolreplication from pg_roles where rolname = current_user")[0]
            if may:
                raise
            raise HubspokeError(
                f"{self.source}: role {self.role} may not read the change log ({first_line(error)}). As a superuser: "
                f'alter role "{self.role}" replication'
            ) from None

    def system(self) -> str:
        """Return what tells this database from any other: its server's number, which a copy keeps, and its name."""
        with self.replication() as connection:
            row = connection.execute("IDENTIFY_SYSTEM").fetchone()
        return f"{row[0]}/{row[3]}" if row else ""

    def slot(self, name: str) -> Slot | None:
        """Return a replication slot, if it is there."""
        row = self.connection.execute(SLOT, [name]).fetchone()
        return Slot(*row) if row else None

    def drop_slot(self, name: str) -> None:
        """Drop a replication slot, waiting some seconds for a reader that is just going."""
        for attempt in range(20):
            try:
                self.connection.execute("select pg_drop_replication_slot(%s)", [name])
            except psycopg.errors.UndefinedObject:
                return
            except psycopg.errors.ObjectInUse as error:
                if attempt == 19:
                    raise HubspokeError(f"{self.source}: {first_line(error)}; stop its reader first") from None
                time.sleep(0.5)
            else:
                return

    def end_of_log(self) -> int:
        """Return the place up to which the log is written."""
        return int(self._row("select (pg_current_wal_flush_lsn() - '0/0')::bigint")[0])

    def clock(self) -> datetime:
        """Return the server's time, in UTC."""
        now: datetime = self._row("select clock_timestamp()")[0]
        return now

    def check(self, tables: list[SourceTable], publication: str) -> None:
        """Make sure that the log says all that is needed of some tables.

        Raises:
            HubspokeError: It does not; the message has the SQL that changes that.
        """
        row = self.connection.execute(
            "select pubinsert and pubupdate and pubdelete and pubtruncate, pubviaroot from pg_publication "
            "where pubname = %s",
            [publication],
        ).fetchone()
        listed = ", ".join(table.relation for table in tables)
        if row is None:
            raise HubspokeError(
                f"{self.source}: the database has no publication {publication}. As the owner of the tables: "
                f"create publication {publication} for table {listed} with (publish_via_partition_root = true)"
            )
        if not row[0]:
            raise HubspokeError(
                f"{self.source}: publication {publication} leaves out some kinds of changes. As its owner: "
                f"alter publication {publication} set (publish = 'insert, update, delete, truncate')"
            )
        published = {
            (entry["schemaname"], entry["tablename"]) for entry in self._published(publication, self.connection)
        }
        for table in tables:
            oid = self._row("select to_regclass(%s)::oid::bigint", [table.relation])[0]
            if oid is None:
                raise HubspokeError(
                    f"{table.name}: the database has no table {table.relation} (named in {table.declared_in}), or role "
                    f"{self.role} may not use its schema"
                )
            if not self._row("select has_table_privilege(%s::oid, 'select')", [oid])[0]:
                raise HubspokeError(
                    f"{table.name}: role {self.role} may not read it. As its owner: "
                    f'grant select on {table.relation} to "{self.role}"'
                )
            if self.names(table) not in published:
                is_partitioned = self._row("select relkind = 'p' from pg_class where oid = %s::oid", [oid])[0]
                raise HubspokeError(
                    f"{table.name}: publication {publication} is without {table.relation}. As its owner: "
                    + (
                        f"alter publication {publication} set (publish_via_partition_root = true)"
                        if is_partitioned and not row[1]
                        else f"alter publication {publication} add table {table.relation}"
                    )
                )
            self.shape(table, publication)

    def names(self, table: SourceTable) -> tuple[str, str]:
        """Return a table's schema and name, as the database writes them."""
        schema, name = self._row(
            "select n.nspname, c.relname from pg_class c join pg_namespace n on n.oid = c.relnamespace "
            "where c.oid = %s::regclass",
            [table.relation],
        )
        return schema, name

    def shape(self, table: SourceTable, publication: str, connection: Connection | None = None) -> Shape:
        """Return what a table looks like, as a connection's transaction sees it (default: now).

        Raises:
            HubspokeError: Its rows cannot be told apart by what the log says of old ones.
        """
        asked = connection or self.connection
        tree = asked.execute(TREE, [table.relation]).fetchone()
        if tree is None:
            raise HubspokeError(f"{table.name}: the database has no table {table.relation} any more")
        identity, files = tree
        listed = self._entry(table, publication, asked).get("attnames")
        columns = [
            ShapeColumn(
                name=name,
                number=number,
                oid=oid,
                modifier=modifier,
                type=duckdb_type(oid, modifier, element, dimensions),
                has_default=has_default,
            )
            for name, number, oid, modifier, dimensions, element, has_default in asked.execute(
                COLUMNS, [table.relation]
            )
            if listed is None or name in listed
        ]
        key = self._key(table, identity, asked)
        missing = [name for name in key if name not in {column.name for column in columns}]
        if missing:
            raise HubspokeError(f"{table.name}: {table.relation} has no published column {', '.join(missing)}, its key")
        others = {part.rpartition(" ")[2] for part in files.split(", ")} - {identity}
        if others:
            raise HubspokeError(
                f"{table.name}: partitions of {table.relation} have another replica identity than it has. For each: "
                "alter table <partition> replica identity "
                + {"f": "full", "d": "default"}.get(identity, "using index <index>")
            )
        return Shape(columns=columns, key=key, files=files)

    def _key(self, table: SourceTable, identity: str, asked: Connection) -> list[str]:
        if identity in "dfi":
            found = [name for (name,) in asked.execute(INDEX, [table.relation, identity == "i"])]
            if identity == "f" and table.key:
                return list(table.key)
            if found:
                return found
        if identity == "f":
            raise HubspokeError(
                f"{table.name}: {table.relation} has no primary key. Say which columns tell its rows apart: "
                f"config: {{ meta: {{ key: [column, column] }} }} (in {table.declared_in})"
            )
        why = "replica identity nothing" if identity == "n" else "no primary key"
        raise HubspokeError(
            f"{table.name}: {table.relation} has {why}, so the log does not say which rows change, and PostgreSQL "
            f"refuses updates and deletes while it is published. As its owner, give it a primary key, or: "
            f"alter table {table.relation} replica identity full"
        )

    @contextmanager
    def reading(self, snapshot: str) -> Iterator[Connection]:
        """Connect and see the database as a snapshot has it."""
        # closed, not left in order: an error may come from amid a copy
        with closing(connect(self.parameters)) as reader:
            reader.execute("begin transaction isolation level repeatable read read only")
            reader.execute(SQL("set transaction snapshot {}").format(Literal(snapshot)))
            yield reader

    def copy(self, table: SourceTable, shape: Shape, publication: str, reader: Connection) -> Iterator[pa.Table]:
        """Copy a table as a transaction sees it.

        Args:
            table: The table.
            shape: What it looks like.
            publication: The publication; what its row filter leaves out is left out here.
            reader: The transaction.

        Returns:
            Its rows, some at a time, every value as text.
        """
        names = [column.name for column in shape.columns]
        kind = self._row("select relkind::text from pg_class where oid = %s::regclass", [table.relation])[0]
        schema, name = self.names(table)
        row_filter = self._entry(table, publication, self.connection).get("rowfilter")
        query = SQL("copy (select {} from {}{}{}) to stdout (format csv)").format(
            SQL(", ").join(map(Identifier, names)),
            SQL("" if kind == "p" else "only "),
            Identifier(schema, name),
            SQL(f" where {row_filter}" if row_filter else ""),
        )
        read = pa.csv.ReadOptions(column_names=names)
        convert = pa.csv.ConvertOptions(
            column_types=dict.fromkeys(names, pa.string()),
            null_values=[""],
            strings_can_be_null=True,
            quoted_strings_can_be_null=False,
        )
        with reader.cursor().copy(query) as rows:
            for chunk in _chunks(iter(rows)):
                # all of it in one block: a row may not lie across two
                read.block_size = len(chunk) + 1
                yield pa.csv.read_csv(
                    pa.BufferReader(chunk),
                    read,
                    pa.csv.ParseOptions(newlines_in_values=True, ignore_empty_lines=False),
                    convert,
                )

    def _entry(self, table: SourceTable, publication: str, asked: Connection) -> dict[str, Any]:
        """Return what a publication says of a table; nothing if it is without it."""
        names = self.names(table)
        entries = self._published(publication, asked)
        return next((entry for entry in entries if names == (entry["schemaname"], entry["tablename"])), {})

    def _published(self, publication: str, asked: Connection) -> list[dict[str, Any]]:
        # as JSON, since older servers have fewer columns
        rows = asked.execute(
            "select to_jsonb(published) from pg_publication_tables published where pubname = %s", [publication]
        )
        return [row[0] for row in rows]

    def _row(self, sql: str, values: list[Any] | None = None) -> tuple[Any, ...]:
        row: tuple[Any, ...] | None = self.connection.execute(sql, values).fetchone()
        return row or ()


def _chunks(rows: Iterator[Any]) -> Iterator[bytes]:
    """Put rows together, whole ones: the server sends each as one piece."""
    chunk = bytearray()
    for row in rows:
        chunk += row
        if len(chunk) >= CHUNK_BYTES:
            yield bytes(chunk)
            chunk.clear()
    if chunk:
        yield bytes(chunk)
