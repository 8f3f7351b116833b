"""Texts that become values: as DuckDB reads them, but never another value than what was written.

DuckDB alone makes 6 of ``5.5`` where a whole number is asked for, and forgets the offset of a time. Here both are: no
whole number, and the time in UTC.
"""

import re

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.sql import identifier

WHOLE = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?")
AS_READ = {"VARCHAR", "DOUBLE", "FLOAT", "BOOLEAN"}
"""Types that DuckDB's own readers read just so."""
EXACT = 2**53
"""Whole numbers up to this are doubles too, each another."""


def canonical(connection: duckdb.DuckDBPyConnection, data_type: str, about: str) -> str:
    """Return DuckDB's own name of a type.

    Raises:
        HubspokeError: It is no type.
    """
    try:
        row = connection.execute(f"select typeof(cast(null as {data_type}))").fetchone()
    except duckdb.Error:
        raise HubspokeError(f"{about}: {data_type} is no type; there are bigint, double, decimal(18,2), …") from None
    return str(row[0]) if row else ""


def lenient(column: str, data_type: str) -> str:
    """Return SQL that reads a text column as a type: null where that is not possible."""
    text = identifier(column)
    cast = f"try_cast({text} as {data_type})"
    if WHOLE.fullmatch(data_type):
        # that two doubles are equal is told faster than that a text has no point, but for the largest numbers wrongly
        is_equal = f"try_cast({text} as double) = cast({cast} as double) and {cast} between -{EXACT} and {EXACT}"
        is_plain = " and ".join(f"not contains({text}, '{mark}')" for mark in ".eE")
        is_equal_for_sure = f"try_cast({text} as decimal(38, 4)) = {cast}"
        return f"case when {is_equal} or {is_plain} or {is_equal_for_sure} then {cast} end"
    if decimal := re.fullmatch(r"DECIMAL\((\d+),(\d+)\)", data_type):
        digits, scale = map(int, decimal.groups())
        wide = f"decimal(38,{min(scale + 8, 38 - digits + scale)})"
        return f"case when try_cast({text} as {wide}) = {cast} then {cast} end"
    if data_type == "TIMESTAMP":
        # most have this form, which leaves no room for an offset, and are read in a third of the time so
        with_offset = f"cast(try_cast({text} as timestamptz) as timestamp)"
        return f"case when {text} like '____-__-_____:__:__' then try_cast({text} as timestamp) else {with_offset} end"
    if data_type == "DATE":
        return f"case when try_cast({text} as timestamp) = {cast} then {cast} end"
    return text if data_type == "VARCHAR" else cast


def strict(column: str, data_type: str) -> str:
    """Return SQL that reads a text column as a type, and ends the statement where that is not possible."""
    if data_type in AS_READ:
        return identifier(column)
    return f"coalesce({lenient(column, data_type)}, {_refusal(column, data_type)})"


def strict_from_number(column: str, data_type: str) -> str:
    """Return the same as ``strict`` where whole numbers have been read as doubles, which takes less time than texts.

    It ends the statement, too, for a number beyond ``EXACT``, of which a double does not tell which it was.
    """
    if not WHOLE.fullmatch(data_type):
        return strict(column, data_type)
    number = identifier(column)
    is_exact = f"{number} = trunc({number}) and {number} between -{EXACT - 1} and {EXACT - 1}"
    return f"case when {is_exact} then cast({number} as {data_type}) else {_refusal(column, data_type)} end"


def _refusal(column: str, data_type: str) -> str:
    """Return SQL that ends the statement for any value; a null stays one."""
    return (
        f"case when {identifier(column)} is not null then cast(error('a value is not {data_type}') as {data_type}) end"
    )
