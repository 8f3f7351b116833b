"""Names and texts as they stand in SQL, and what a query gives."""

import duckdb


def identifier(name: str) -> str:
    """Return a name in the quotes of an identifier."""
    return '"' + name.replace('"', '""') + '"'


def quoted(text: object) -> str:
    """Return a text, for example a path, as it stands between the quotes of a SQL text."""
    return str(text).replace("'", "''")


def columns_of(connection: duckdb.DuckDBPyConnection, query: str) -> dict[str, str]:
    """Return the columns of a query or relation in order, and DuckDB's names of their types, without running it."""
    return {str(row[0]): str(row[1]) for row in connection.execute(f"describe {query}").fetchall()}
