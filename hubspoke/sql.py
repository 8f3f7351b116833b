"""Names and values as they stand in SQL, and what a query gives."""

from collections.abc import Iterable

import duckdb


def identifier(name: str) -> str:
    """Return a name in the quotes of an identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: object) -> str:
    """Return a text, for example a path, as it stands between the quotes of a SQL text."""
    return str(text).replace("'", "''")


def literal(value: str | float | None) -> str:
    """Return a value as it stands in SQL.

    A statement's parameters would do as well, but for the first of them DuckDB's client imports pandas: that alone is
    longer (0.6 s) than what a small build has to do.
    """
    if value is None:
        return "null"
    return f"'{quoted(value)}'" if isinstance(value, str) else repr(value)


def texts(values: Iterable[str | None]) -> str:
    """Return a list of texts as it stands in SQL; see ``literal``."""
    return f"cast([{', '.join(map(literal, values))}] as varchar[])"


def columns_of(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Return the columns of a query or relation in order, and DuckDB's names of their types, without running it."""
    return {str(row[0]): str(row[1]) for row in connection.execute(f"describe {query}").fetchall()}


def rows_and_checksum(connection: duckdb.DuckDBPyConnection, relation: str) -> tuple[int, str]:
    """Count a relation's rows, and add up DuckDB's hashes of them: equal for equal rows in any order."""
    [[rows, checksum]] = connection.execute(
        f"select count(*), coalesce(sum(hash(_whole_row)::hugeint), 0) from {relation} as _whole_row"
    ).fetchall()
    return int(rows), str(checksum)
