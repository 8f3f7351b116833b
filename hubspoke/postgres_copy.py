"""One relation into one PostgreSQL table: types, rows, keys, indexes, comments and statistics."""

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import duckdb
import psycopg

from hubspoke.orders import Ordered
from hubspoke.sql import columns_of, identifier, quoted

Connection = psycopg.Connection[tuple[Any, ...]]

SAME_NAME = {"BOOLEAN", "SMALLINT", "INTEGER", "BIGINT", "REAL", "DATE", "TIME", "UUID", "INTERVAL", "TIMESTAMP"}

TYPES = {
    "TINYINT": "smallint",
    "UTINYINT": "smallint",
    "USMALLINT": "integer",
    "UINTEGER": "bigint",
    "UBIGINT": "numeric(20,0)",
    "HUGEINT": "numeric(38,0)",
    "UHUGEINT": "numeric(39,0)",
    "BIGNUM": "numeric",
    "FLOAT": "real",
    "DOUBLE": "double precision",
    "VARCHAR": "text",
    "BLOB": "bytea",
    "BIT": "bit varying",
    "JSON": "jsonb",
    "TIME WITH TIME ZONE": "timetz",
    "TIME_NS": "time",
    "TIMESTAMP WITH TIME ZONE": "timestamptz",
    "TIMESTAMP_S": "timestamp",
    "TIMESTAMP_MS": "timestamp",
    "TIMESTAMP_NS": "timestamp",
} | {name: name.lower() for name in SAME_NAME}
"""PostgreSQL's type for each of DuckDB's that has no parameters; units below a microsecond are cut off."""


def postgres_type(duckdb_type: str) -> str:
    """Return the type that holds a DuckDB type's values in PostgreSQL: nested ones are jsonb, unknown ones text."""
    if duckdb_type.endswith("]") or duckdb_type.startswith(("STRUCT(", "MAP(", "UNION(", "VARIANT")):
        return "jsonb"
    if duckdb_type.startswith("DECIMAL("):
        return duckdb_type.replace("DECIMAL", "numeric")
    return TYPES.get(duckdb_type, "text")


def _as_csv(name: str, duckdb_type: str) -> str:
    """Return the expression that writes a DuckDB column as PostgreSQL reads it in CSV."""
    column, target = identifier(name), postgres_type(duckdb_type)
    expressions = {
        "jsonb": f"cast(to_json({column}) as varchar)",
        "bytea": rf"'\x' || hex({column})",
        "text": f"cast({column} as varchar)",
        "timestamp": f"cast({column} as timestamp)",
        "time": f"cast({column} as time)",
    }
    return f"{expressions.get(target, column)} as {column}"


@contextmanager
def csv_rows(source: duckdb.DuckDBPyConnection, select: str, columns: dict[str, str]) -> Iterator[Iterator[bytes]]:
    """Have DuckDB write a query's rows as CSV into a pipe, so that no more than a piece of it is ever in memory.

    Args:
        source: Connection to read with; nothing else may use it meanwhile.
        select: The query.
        columns: DuckDB type by name, of all its columns.

    Yields:
        The pieces. After the last one, an error of DuckDB's is raised.
    """
    reading, writing = os.pipe()
    problems: list[Exception] = []
    # what is quoted is never null, and never PostgreSQL's end of the data
    texts = [identifier(name) for name, kind in columns.items() if postgres_type(kind) in {"text", "jsonb"}]
    force_quote = f", force_quote ({', '.join(texts)})" if texts else ""
    expressions = ", ".join(_as_csv(name, kind) for name, kind in columns.items())

    def write() -> None:
        try:
            source.execute(
                f"copy (select {expressions} from ({select})) to '/dev/fd/{writing}' "
                f"(format csv, header false, use_tmp_file false{force_quote})"
            )
        except duckdb.Error as error:
            problems.append(error)
        finally:
            os.close(writing)

    def pieces() -> Iterator[bytes]:
        while piece := os.read(reading, 1 << 20):
            yield piece
        if problems:
            raise problems[0]

    writer = threading.Thread(target=write)
    writer.start()
    try:
        yield pieces()
    finally:
        os.close(reading)
        writer.join()


def build_table(
    connection: Connection,
    source: duckdb.DuckDBPyConnection,
    select: str,
    table: str,
    ordered: Ordered,
    descriptions: dict[str, str],
    further: list[str],
) -> int:
    """Make a table of a DuckDB query's rows, in one transaction.

    Args:
        connection: Where to make it.
        source: Where the query runs.
        select: The query.
        table: Name as it stands in SQL, schema included.
        ordered: Keys and indexes.
        descriptions: Comments by column; the table's own under the empty text.
        further: Statements to run at the end of the transaction.

    Returns:
        Rows.
    """
    columns = columns_of(source, select)
    listed = ", ".join(f"{identifier(name)} {postgres_type(kind)}" for name, kind in columns.items())
    with connection.transaction(), connection.cursor() as cursor:
        # written once and analysed below: autovacuum would only come between the table and its swap
        cursor.execute(f"create table {table} ({listed}) with (autovacuum_enabled = false)")
        with (
            csv_rows(source, select, columns) as pieces,
            # frozen: visible to a reader whose snapshot is older than the table, who would find it empty otherwise
            cursor.copy(f"copy {table} from stdin (format csv, freeze)") as copy,
        ):
            for piece in pieces:
                copy.write(piece)
        rows = cursor.rowcount
        _add_keys(connection, cursor, table, ordered)
        if descriptions.get(""):
            cursor.execute(f"comment on table {table} is '{quoted(descriptions[''].strip())}'")
        for name in columns:
            if descriptions.get(name):
                cursor.execute(
                    f"comment on column {table}.{identifier(name)} is '{quoted(descriptions[name].strip())}'"
                )
        for statement in further:
            cursor.execute(statement)
        cursor.execute(f"analyze {table}")
    return rows


def _add_keys(connection: Connection, cursor: psycopg.Cursor[Any], table: str, ordered: Ordered) -> None:
    def listed(columns: tuple[str, ...] | list[str]) -> str:
        return ", ".join(identifier(column) for column in columns)

    broken = (psycopg.errors.UniqueViolation, psycopg.errors.NotNullViolation, psycopg.errors.UndefinedColumn)
    if ordered.is_declared:
        cursor.execute(f"alter table {table} add primary key ({listed(ordered.primary_key)})")
    else:
        for columns, statement in (
            (ordered.primary_key, f"alter table {table} add primary key"),
            (ordered.key, f"create unique index on {table}"),
        ):
            try:
                with connection.transaction():
                    if columns:
                        cursor.execute(f"{statement} ({listed(columns)})")
            except broken:  # tests promise a key, and a rule that only warns may not keep it
                continue
    for index in ordered.indexes:
        unique = "unique " if index.unique else ""
        cursor.execute(f"create {unique}index on {table} ({listed(index.columns)})")
