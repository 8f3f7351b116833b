"""PostgreSQL's types in DuckDB, and the SQL that makes a value of them out of PostgreSQL's text.

They are the types that DuckDB's own PostgreSQL scanner reads, so that a table has the same ones however it is ingested.
Text instead are those that Parquet cannot hold whole (an interval loses its sign, a time its zone), and those that are
made of parts (composite and geometric types).
"""

import json
import re

import duckdb

from hubspoke.sql import identifier

TYPES = {
    16: "BOOLEAN",
    17: "BLOB",
    20: "BIGINT",
    21: "SMALLINT",
    23: "INTEGER",
    26: "UINTEGER",
    700: "FLOAT",
    701: "DOUBLE",
    1082: "DATE",
    1083: "TIME",
    1114: "TIMESTAMP",
    1184: "TIMESTAMP WITH TIME ZONE",
    2950: "UUID",
}
"""By PostgreSQL's number of the type; what is not here is text."""

NUMERIC, PADDED = 1700, 1042

SETTINGS = "-c TimeZone=UTC -c DateStyle=ISO -c IntervalStyle=postgres -c extra_float_digits=3 -c bytea_output=hex"
"""How a session has to write its values for ``value`` to read them."""


def duckdb_type(oid: int, modifier: int, element: int = 0, dimensions: int = 0) -> str:
    """Return the type in DuckDB of a column in PostgreSQL.

    Args:
        oid: Number of its type.
        modifier: Modifier of its type.
        element: Number of the elements' type, if it is an array.
        dimensions: How many dimensions the array is declared with.
    """
    if element:
        return duckdb_type(element, modifier) + "[]" * max(dimensions, 1)
    if oid == NUMERIC:
        precision, scale = (modifier - 4) >> 16, (modifier - 4) & 0x7FF
        return f"DECIMAL({precision},{scale})" if modifier >= 4 and scale <= precision <= 38 else "DOUBLE"
    return TYPES.get(oid, "VARCHAR")


def value(column: str, data_type: str, oid: int, cast: str = "cast") -> str:
    """Return SQL for a column's value out of its text; ``cast`` may be ``try_cast``, which gives null for a bad one."""
    text = identifier(column)
    if data_type.endswith("[]"):
        return f"{cast}({cast}(hubspoke_array({text}) as json) as {data_type})"
    if data_type == "VARCHAR":
        return f"rtrim({text}, ' ')" if oid == PADDED else text
    if data_type == "BLOB":
        return f"unhex(substr({text}, 3))"
    if data_type in ("DATE", "TIMESTAMP", "TIMESTAMP WITH TIME ZONE"):
        before_christ = f"regexp_replace({text}, '^([^ ]+)(.*) BC$', '\\1 (BC)\\2')"
        return f"{cast}(case when suffix({text}, ' BC') then {before_christ} else {text} end as {data_type})"
    return f"{cast}({text} as {data_type})"


def register(connection: duckdb.DuckDBPyConnection) -> None:
    """Give a connection the function that ``value`` needs for arrays."""
    connection.create_function("hubspoke_array", array_as_json, ["VARCHAR"], "VARCHAR")


def array_as_json(text: str) -> str:
    """Return an array, as PostgreSQL writes it, as JSON: lists of texts and nulls."""
    parts = []
    # bounds that do not begin at 1 stand before the array
    for token in re.finditer(r'[{},]|"((?:[^"\\]|\\.)*)"|[^{},"]+', text[text.index("{") :], flags=re.DOTALL):
        word = token.group()
        if word in "{},":
            parts.append(word.translate({123: "[", 125: "]"}))
        elif token.group(1) is not None:
            parts.append(json.dumps(re.sub(r"\\(.)", r"\1", token.group(1), flags=re.DOTALL)))
        else:
            parts.append("null" if word.upper() == "NULL" else json.dumps(word))
    return "".join(parts)
