"""Reading a release as one spoke may: its own file, opened so that a select is all that can be done to it.

Nothing that is opened here can be written to, and no file can be read but the Parquet files of the spoke's relations.
"""

import os
import shutil
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.location import Location
from hubspoke.release import Release, ReleaseStore
from hubspoke.sql import identifier, quoted

RELEASE = "hubspoke.release"
"""Key of a release's number in an Arrow schema's metadata."""
PINNED = "x-hubspoke-release"
"""Header by which a client of Flight asks for a release by its number."""
BATCH_ROWS = 16_384
"""Rows of a record batch: the quickest of several sizes, and small enough to be held in numbers."""
_POSITION = "file_row_number"


@dataclass(frozen=True)
class Limits:
    """What one spoke's queries may use together; ``None`` leaves a limit to DuckDB.

    Attributes:
        memory: As DuckDB writes it, for example ``1GB``.
        spill: Folder for what does not fit; made when needed.
        spill_size: At most so much in it, as DuckDB writes it.
    """

    memory: str | None = None
    spill: Path | None = None
    spill_size: str | None = None


def spokes_of(release: Release) -> list[str]:
    """Return the spokes that a release has relations for, by name."""
    return sorted({relation.spoke for relation in release.relations.values()})


def spoke_file(store: ReleaseStore, release: Release, spoke: str) -> Path:
    """Return a spoke's own file in a release.

    Raises:
        HubspokeError: The release has nothing for such a spoke.
    """
    known = spokes_of(release)
    if spoke not in known:
        raise HubspokeError(f"release {release.number} has no spoke {spoke}; it has {', '.join(known)}")
    return store.folder(release.number).resolve() / f"{spoke}.duckdb"


def relations_of(release: Release, spoke: str) -> list[str]:
    """Return the names of a spoke's relations in a release."""
    return sorted(name for name, relation in release.relations.items() if relation.spoke == spoke)


def make_sure_of(release: Release, spoke: str, relation: str) -> None:
    """Make sure that a relation is one of the spoke's.

    Raises:
        HubspokeError: It is not.
    """
    own = relations_of(release, spoke)
    if relation not in own:
        raise HubspokeError(f"spoke {spoke} has no relation {relation}; it has {', '.join(own)}")


def open_spoke(
    store: ReleaseStore, release: Release, spoke: str, limits: Limits | None = None
) -> duckdb.DuckDBPyConnection:
    """Open a spoke's file of a release in an engine of its own; ask through ``cursor``.

    The file is attached, not opened: another file that comes to lie at the same path is not taken for this one.

    Raises:
        HubspokeError: The release has nothing for such a spoke, or its file cannot be opened.
    """
    limits = limits or Limits()
    path = spoke_file(store, release, spoke)
    settings: dict[str, Any] = {
        "autoinstall_known_extensions": "false",
        "autoload_known_extensions": "false",
        "python_enable_replacements": "false",  # or a name that is no relation is looked for among Python's variables
        "memory_limit": limits.memory,
        # a folder of the spoke's own: DuckDB lets queries read it
        "temp_directory": str(limits.spill) if limits.spill else None,
        "max_temp_directory_size": limits.spill_size,
    }
    connection = duckdb.connect(config={name: value for name, value in settings.items() if value is not None})
    location = store.location
    folder = location.name(f"tables/{spoke}")
    # as the views name the files, and as the file system does
    folders = {folder, os.path.realpath(folder)} if location.is_local else {folder}
    allowed = ", ".join(f"'{quoted(name)}'" for name in sorted(folders))
    location.let_read(connection)
    try:
        connection.execute(f"attach '{quoted(path)}' as {identifier(spoke)} (read_only)")
        connection.execute(f"use {identifier(spoke)}; detach memory")
        connection.execute("set parquet_metadata_cache = true")
        connection.execute(f"set allowed_directories = [{allowed}]")
        connection.execute("set enable_external_access = false; set lock_configuration = true")
    except duckdb.Error as error:
        connection.close()
        raise HubspokeError(f"release {release.number} of spoke {spoke} cannot be opened: {error}") from None
    return connection


def cursor(connection: duckdb.DuckDBPyConnection, spoke: str) -> duckdb.DuckDBPyConnection:
    """Return a connection of its own to what ``open_spoke`` has opened."""
    own = connection.cursor()
    own.execute(f"use {identifier(spoke)}")
    return own


def selection(connection: duckdb.DuckDBPyConnection, sql: str) -> duckdb.Statement:
    """Return the one select that a text consists of.

    Raises:
        HubspokeError: It is not SQL, is more than one statement, or does anything else than to select.
    """
    try:
        statements = connection.extract_statements(sql)
    except duckdb.Error as error:
        raise HubspokeError(str(error)) from None
    kinds = [statement.type.name for statement in statements]
    if kinds == ["SELECT"] and _first_word(sql) != "pragma":
        return statements[0]
    what = "nothing" if not kinds else _first_word(sql).upper() if len(kinds) == 1 else f"{len(kinds)} statements"
    raise HubspokeError(f"a release is only read: write one select (this is {what})")


def _first_word(sql: str) -> str:
    """Return the first word behind comments, in lower case."""
    tokens = duckdb.tokenize(sql)
    start = next((place for place, kind in tokens if kind != duckdb.token_type.comment), 0)
    words = sql.encode()[start:].decode(errors="replace").split(maxsplit=1)
    return words[0].strip("(;").lower() if words else ""


def schema_of(connection: duckdb.DuckDBPyConnection, sql: str, parameters: list[Any] | None = None) -> Any:
    """Return the Arrow schema of a select's result without running it.

    Raises:
        HubspokeError: It is no select.
        duckdb.Error: It names what does not exist, or its types do not fit.
    """
    selection(connection, sql)
    try:
        columns = connection.execute(f"describe {sql}", parameters or []).fetchall()
    except duckdb.Error as error:
        raise type(error)(_without_describe(str(error))) from None
    nothing = ", ".join(f"cast(null as {row[1]}) as {identifier(row[0])}" for row in columns)
    return plain(connection.execute(f"select {nothing} where false").to_arrow_table().schema)


def plain(schema: Any) -> Any:
    """Return an Arrow schema with texts for DuckDB's enums, whose dictionaries do not travel over Flight."""
    import pyarrow as pa

    def of(kind: Any) -> Any:
        if pa.types.is_dictionary(kind):
            return kind.value_type
        if pa.types.is_list(kind):
            return pa.list_(kind.value_field.with_type(of(kind.value_type)))
        if pa.types.is_fixed_size_list(kind):
            return pa.list_(kind.value_field.with_type(of(kind.value_type)), kind.list_size)
        if pa.types.is_map(kind):
            return pa.map_(kind.key_field.with_type(of(kind.key_type)), kind.item_field.with_type(of(kind.item_type)))
        if pa.types.is_struct(kind):
            return pa.struct([field.with_type(of(field.type)) for field in kind])
        return kind

    return pa.schema([field.with_type(of(field.type)) for field in schema], schema.metadata)


def _without_describe(text: str) -> str:
    """Point at the place in what was written, not in what was made of it."""
    head, mark, tail = text.partition("LINE 1: describe ")
    if not mark:
        return text
    line, _, pointer = tail.partition("\n")
    return f"{head}LINE 1: {line}\n{pointer.removeprefix(' ' * len('describe '))}"


def tagged(schema: Any, number: int, **more: str) -> Any:
    """Return an Arrow schema whose metadata says which release the rows come from."""
    return schema.with_metadata({**(schema.metadata or {}), RELEASE: str(number), **more})


def relation_schema(connection: duckdb.DuckDBPyConnection, release: Release, name: str) -> Any:
    """Return a relation's Arrow schema with what the release knows of it as metadata.

    The schema carries the release's number, ``hubspoke.rows`` and ``hubspoke.description``; each field its DuckDB type
    and its description under the names that Flight SQL gives to them.
    """
    schema = schema_of(connection, f"from {identifier(name)}")
    described: Any = connection.execute(
        "select comment from duckdb_views() where view_name = ? and not internal", [name]
    ).fetchone()
    columns = connection.execute(
        "select column_name, data_type, comment, numeric_precision, numeric_scale from duckdb_columns() "
        "where table_name = ? and not internal",
        [name],
    ).fetchall()
    known = {row[0]: row[1:] for row in columns}
    fields = []
    for field in schema:
        kind, comment, precision, scale = known[field.name]
        comment = comment.strip() if comment else None
        said = {
            "TYPE_NAME": kind,
            "TABLE_NAME": name,
            "DB_SCHEMA_NAME": "main",
            "IS_READ_ONLY": "1",
            "IS_SEARCHABLE": "1",
            "REMARKS": comment,
            "PRECISION": precision,
            "SCALE": scale,
        }
        fields.append(
            field.with_metadata(
                {f"ARROW:FLIGHT:SQL:{key}": str(value) for key, value in said.items() if value is not None}
            )
        )
    import pyarrow as pa

    more = {"hubspoke.rows": str(release.relations[name].rows), "hubspoke.description": (described[0] or "").strip()}
    return tagged(pa.schema(fields), release.number, **more)


def shard_sql(store: ReleaseStore, release: Release, relation: str, shards: int, shard: int) -> str:
    """Return SQL that reads one of ``shards`` disjoint parts of a relation; together they are all of its rows.

    A part is a run of whole Parquet row groups where there are as many groups as shards, else a run of rows.

    Args:
        store: The store.
        release: The release to read; every reader of one set of shards must name the same.
        relation: One of the release's relations.
        shards: Parts, at least 1.
        shard: Which one, from 0.

    Raises:
        HubspokeError: There is no such relation or shard, or the relation's columns do not allow it.
    """
    if shards < 1 or not 0 <= shard < shards:
        raise HubspokeError(
            f"there is no shard {shard} of {shards}: shards are numbered from 0 to {max(shards - 1, 0)}"
        )
    location = store.location
    files = release.relation(relation).files
    groups = [_row_groups(location, file) for file in files]
    sizes = [rows for of_file in groups for rows in of_file]
    if len(sizes) >= shards:
        first, last = shard * len(sizes) // shards, (shard + 1) * len(sizes) // shards
        begin, end = sum(sizes[:first]), sum(sizes[:last])
    else:
        begin, end = shard * sum(sizes) // shards, (shard + 1) * sum(sizes) // shards
    parts = []
    offset = 0
    for file, of_file in zip(files, groups, strict=True):
        rows = sum(of_file)
        low, high = max(begin - offset, 0), min(end - offset, rows)
        offset += rows
        if low >= high:
            continue
        is_whole = (low, high) == (0, rows)
        if not is_whole and _POSITION in _columns(location, file):
            raise HubspokeError(f"{relation} cannot be read in shards: it has a column {_POSITION}; rename it")
        where = "" if is_whole else f" where {_POSITION} >= {low} and {_POSITION} < {high}"
        parts.append(f"select * from read_parquet('{quoted(location.name(file))}'){where}")
    return " union all ".join(parts) or f"select * from read_parquet('{quoted(location.name(files[0]))}') where false"


@cache
def _row_groups(location: Location, file: str) -> tuple[int, ...]:
    """Return the rows of each row group; a released file never changes."""
    import pyarrow.parquet as parquet

    metadata = parquet.read_metadata(location.name(file), filesystem=location.filesystem)
    return tuple(metadata.row_group(number).num_rows for number in range(metadata.num_row_groups))


def _columns(location: Location, file: str) -> list[str]:
    import pyarrow.parquet as parquet

    return list(parquet.read_schema(location.name(file), filesystem=location.filesystem).names)


def write_rows(reader: Any, kind: str, output: Path) -> int:
    """Write record batches to a file that is there when it is whole, and not before.

    Args:
        reader: The batches.
        kind: ``arrow`` (an IPC file), ``parquet`` or ``csv``.
        output: The file; one that is there is replaced.

    Returns:
        Rows.
    """
    import pyarrow as pa
    import pyarrow.csv as csv
    import pyarrow.parquet as parquet

    openers = {"arrow": pa.ipc.new_file, "parquet": parquet.ParquetWriter, "csv": csv.CSVWriter}
    unfinished = output.with_name(f"{output.name}.unfinished")
    rows = 0
    try:
        with openers[kind](str(unfinished), reader.schema) as writer:
            for batch in reader:
                writer.write_batch(batch)
                rows += batch.num_rows
        unfinished.replace(output)
    finally:
        unfinished.unlink(missing_ok=True)
    return rows


def clear(folder: Path) -> None:
    """Remove a spill folder that nobody uses any more."""
    shutil.rmtree(folder, ignore_errors=True)
