"""Sources that stay where they are: the build asks them in place, through databases that DuckDB attaches.

What is attached is known to the running process only: the hub's file holds the names of tables and no address.
"""

from datetime import UTC, datetime

import duckdb

from hubspoke.connections import Address, address, attach, relation
from hubspoke.errors import HubspokeError
from hubspoke.project import Project
from hubspoke.sources import SourceTable, read_sources
from hubspoke.sql import columns_of, identifier, quoted

LOAD_ID = "in place"
"""What stands in ``_load_id`` where nothing was loaded."""


def federated_views(project: Project, connection: duckdb.DuckDBPyConnection, names: list[str]) -> dict[str, str]:
    """Attach what some tables need, and return the SQL of their views.

    A source that does not answer gets views that fail when they are read, so that its own models fail and no others.

    Args:
        project: The project.
        connection: Where the hub is open.
        names: The tables, ``<source>.<table>``.

    Returns:
        SQL by name.

    Raises:
        HubspokeError: A source file has a mistake.
    """
    now = datetime.now(UTC).replace(microsecond=0, tzinfo=None)
    attached: dict[str, Address | HubspokeError] = {}
    views = {}
    for table in read_sources(project.root):
        if table.name not in names:
            continue
        name = str(table.ingest.connection)
        if name not in attached:
            attached[name] = _attach(project, connection, name)
        found = attached[name]
        if isinstance(found, Address):
            views[table.name] = _view(connection, table, found, now)
        else:
            views[table.name] = _failing(table, str(found))
    return views


def _attach(project: Project, connection: duckdb.DuckDBPyConnection, name: str) -> Address | HubspokeError:
    try:
        found = address(project, name)
        if found.kind == "rest":
            return HubspokeError(f"connection {name} is no database; a REST interface is landed: mechanism: export")
        attach(connection, found, _alias(name))
    except HubspokeError as error:
        return error
    return found


def _alias(name: str) -> str:
    return f"source_{name}"


def _view(connection: duckdb.DuckDBPyConnection, table: SourceTable, source: Address, now: datetime) -> str:
    there = relation(source, _alias(source.name), table.relation or table.table)
    try:
        found = columns_of(connection, f"select * from {there}")
    except duckdb.Error as error:
        return _failing(table, source.scrub(error))
    # what is landed comes as text, too: Parquet has no such type
    columns = [
        f"cast({identifier(name)} as varchar) as {identifier(name)}" if kind.startswith("ENUM") else identifier(name)
        for name, kind in found.items()
    ]
    columns += [
        f"cast(null as {data_type}) as {identifier(name)}"
        for name, data_type in table.columns.items()
        if name not in found and table.ingest.on_schema_change == "evolve"
    ]
    missing = [name for name in table.columns if name not in found]
    unknown = [name for name in found if table.columns and name not in table.columns]
    if table.ingest.on_schema_change != "evolve" and (missing or unknown):
        return _failing(table, f"its columns have changed: {', '.join(missing + unknown)}")
    return f"select {', '.join(columns)}, '{LOAD_ID}' as _load_id, timestamp '{now}' as _loaded_at from {there}"


def _failing(table: SourceTable, reason: str) -> str:
    """Return a view with the declared columns that fails whenever it is read, whatever is asked of it."""
    columns = table.columns | {"_load_id": "varchar", "_loaded_at": "timestamp"}
    values = ", ".join(f"cast(null as {data_type}) as {identifier(name)}" for name, data_type in columns.items())
    text = (
        f"{table.name}: {reason}. It is read where it is, so what rests on it cannot be built now; bring it back and "
        f"build again, or have a copy landed: pin: true (in {table.declared_in})"
    )
    return f"select {values} where cast(error('{quoted(text)}') as boolean)"
