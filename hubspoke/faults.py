"""Faults to plant in a copy of the data: for each template, what its rules are there to find.

A fault is a query over two relations: ``data``, the rows of a model, and ``judged``, those of them that the rule's
``where`` selects. A template has several, the likeliest first, and the engine says which of them a rule finds.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from functools import cached_property
from itertools import combinations, product
from typing import Any

from sqlglot import exp
from sqlglot.errors import SqlglotError

from hubspoke.lineage import parse
from hubspoke.sql import identifier

NUMBERS = {"TINYINT", "SMALLINT", "INTEGER", "BIGINT", "HUGEINT", "FLOAT", "DOUBLE", "DECIMAL"} | {
    "UTINYINT",
    "USMALLINT",
    "UINTEGER",
    "UBIGINT",
    "UHUGEINT",
}
EXTREMES = {
    "number": ["-1000000007", "1000000007"],
    "time": ["date '1000-01-01'", "date '9999-12-31'"],
    "text": ["''", "'?'"],
    "truth": ["true", "false"],
}
"""Values that few rules accept, by kind of type."""

NEIGHBOURS = {
    "number": ["{} + 1", "{} - 1", "-{} - 1", "0", "99", "-99"],
    "time": ["{} + interval 1 day", "{} - interval 1 day"],
    "text": ["{} || '?'", "' '", "'0'", "'a'", "'A'", "upper({})", "lower({})", "repeat('?', 1000)"],
    "truth": ["not {}"],
}
"""Values near to the one that is there, or inside of small types, by kind of type."""


@dataclass(frozen=True)
class Fault:
    """Something wrong with the rows of a model.

    Attributes:
        says: What it is, for people.
        sql: The rows with it: a query over ``data`` and ``judged``.
    """

    says: str
    sql: str


@dataclass(frozen=True)
class Target:
    """A rule, and a relation in which to plant what it should find.

    Attributes:
        columns: The relation's columns in lower case, and their types.
        sql: What the rule computes, as far as it tells which columns matter.
        arguments: The rule's own.
    """

    columns: dict[str, str]
    sql: str = ""
    arguments: dict[str, Any] = field(default_factory=dict)

    @property
    def column(self) -> str:
        """The column that the rule is on, in lower case."""
        return str(self.arguments["column_name"]).lower()

    @property
    def listed(self) -> list[str]:
        """The columns that the rule lists, in lower case."""
        return [str(column).lower() for column in self.arguments["columns"]]

    @cached_property
    def parsed(self) -> exp.Expr | None:
        """The rule's SQL; nothing if there is none, or none that can be parsed."""
        try:
            return parse(self.sql)
        except SqlglotError:
            return None

    @property
    def mentioned(self) -> list[str]:
        """Columns of the relation that the rule's SQL names; all of them if it names none."""
        names = {column.name.lower() for column in self.parsed.find_all(exp.Column)} if self.parsed else set()
        return [column for column in self.columns if column in names] or list(self.columns)

    def literals(self, column: str) -> list[str]:
        """Return the literals of the rule's SQL that a column may hold: what it must not be is often one of them."""
        found = list(self.parsed.find_all(exp.Literal)) if self.parsed else []
        if self.kind(column) == "number":
            numbers = [literal.name for literal in found if not literal.is_string]
            return numbers + [f"-{number}" for number in numbers]
        if self.kind(column) in ("text", "time"):
            return [literal.sql(dialect="duckdb") for literal in found if literal.is_string]
        return []

    def kind(self, column: str) -> str:
        """Return the kind of a column's type: number, time, text, truth, or empty for any other."""
        data_type = self.columns[column].split("(")[0]
        if data_type in NUMBERS:
            return "number"
        if data_type == "DATE" or data_type.startswith("TIMESTAMP"):
            return "time"
        return {"VARCHAR": "text", "BOOLEAN": "truth"}.get(data_type, "")

    def extremes(self, column: str) -> list[str]:
        """Return values for a column, as SQL, that few rules accept."""
        return [*EXTREMES.get(self.kind(column), []), *self.literals(column)]

    def others(self, column: str) -> list[str]:
        """Return values for a column, as SQL, that it may well not hold; null comes last."""
        near = [value.format(identifier(column)) for value in NEIGHBOURS.get(self.kind(column), [])]
        return [*self.extremes(column), *near, "null"]

    def beyond(self) -> list[str]:
        """Return values outside of the rule's min_value and max_value, as SQL."""
        least, most = self.arguments.get("min_value"), self.arguments.get("max_value")
        return [f"({least}) - 1"] * (least is not None) + [f"({most}) + 1"] * (most is not None)

    def replaced(self, values: dict[str, str], rows: str) -> str:
        """Return the query for some rows with other values in some columns, each as its column's type can hold it."""
        replacements = ", ".join(
            f"try_cast(try({value}) as {self.columns[column]}) as {identifier(column)}"
            for column, value in values.items()
        )
        return f"select * replace ({replacements}) from {rows}"


EMPTIED = Fault("no rows", "from data where false")
ONE_TWICE = Fault("one row twice", "from data union all (from judged limit 1)")
EVERY_THRICE = Fault("every row three times", "select data.* from data, range(3)")


def changed(target: Target, changes: list[dict[str, str]]) -> Iterator[Fault]:
    """Put other values into one row, and into every row: one may be fewer than the rule lets pass."""
    for values in changes:
        told = " and ".join(f"{value} in {column}" for column, value in values.items())
        one = target.replaced(values, "judged limit 1")
        yield Fault(f"{told}, in one row", f"from data union all ({one})")
        yield Fault(f"{told}, in every row", target.replaced(values, "data"))


def _other_values(target: Target, *columns: str, first: list[str] | None = None) -> Iterator[Fault]:
    for column in columns:
        yield from changed(target, [{column: value} for value in [*(first or []), *target.others(column)]])


def _missing(target: Target) -> Iterator[Fault]:
    yield from changed(target, [{target.column: "null"}])


def _wrong(target: Target) -> Iterator[Fault]:
    yield from _other_values(target, target.column)


def _out_of_range(target: Target) -> Iterator[Fault]:
    yield from _other_values(target, target.column, first=target.beyond())


def _too_long_or_short(target: Target) -> Iterator[Fault]:
    yield from _other_values(target, target.column, first=[f"repeat('?', {length})" for length in target.beyond()])


def _false(target: Target) -> Iterator[Fault]:
    # one column is changed at a time, then two
    yield from _other_values(target, *target.mentioned)
    yield from _in_pairs(target, target.mentioned)


def _in_pairs(target: Target, columns: list[str]) -> Iterator[Fault]:
    for one, other in combinations(columns, 2):
        values = product([*target.extremes(one), "null"], [*target.extremes(other), "null"])
        yield from changed(target, [{one: first, other: second} for first, second in values])


def _disordered(target: Target) -> Iterator[Fault]:
    yield from _other_values(target, *target.listed)
    yield from _in_pairs(target, target.listed)


def _repeated(target: Target) -> Iterator[Fault]:
    yield from (ONE_TWICE, EVERY_THRICE)


def _miscounted(target: Target) -> Iterator[Fault]:
    yield from (EMPTIED, EVERY_THRICE)
    most = target.arguments.get("max_value")
    if most is not None:
        yield Fault(f"one row ({most}) + 1 times more", f"from data union all ({_one_repeated(most)})")


def _one_repeated(most: str) -> str:
    """Return the query for one row, more often than ``most``."""
    return f"select one.* from (from judged limit 1) as one, range(cast(({most}) + 1 as bigint))"


def _few_or_many_values(target: Target) -> Iterator[Fault]:
    column = target.column
    number = "cast(row_number() over () as integer)"
    own = {"time": f"date '1500-01-01' + {number}"}.get(target.kind(column), number)
    # not through try(), which no window function may stand in
    value = f"try_cast({own} as {target.columns[column]}) as {identifier(column)}"
    yield Fault(f"a value of its own in {column}, in every row", f"select * replace ({value}) from data")
    yield from _other_values(target, column)
    yield EMPTIED
    most = target.arguments.get("max_value")
    if most is not None:
        yield Fault(
            f"one row ({most}) + 1 times, each with a value of its own in {column}",
            f"select * replace ({value}) from ({_one_repeated(most)})",
        )


def _shifted(target: Target) -> Iterator[Fault]:
    yield from _other_values(target, target.column, first=target.beyond())
    yield from (EMPTIED, EVERY_THRICE)


def _other_rows(target: Target) -> Iterator[Fault]:
    yield from (EMPTIED, EVERY_THRICE)


def _second_partner(target: Target) -> Iterator[Fault]:
    for column in target.listed:
        for value in target.others(column):
            again = target.replaced({column: value}, "data")
            yield Fault(f"every row again with {value} in {column}", f"from data union all ({again})")


def _busy_day(target: Target) -> Iterator[Fault]:
    day = f"cast({identifier(target.column)} as date)"
    last = f"from judged where {day} = (select max({day}) from judged)"
    yield Fault(
        "the last day's rows a thousand times more",
        f"from data union all (select last_day.* from ({last}) as last_day, range(1000))",
    )


def _another_column(target: Target) -> Iterator[Fault]:
    yield Fault("a column more", "select *, 1 as planted from data")


def anything(target: Target) -> Iterator[Fault]:
    """Plant whatever fits any relation: for tests of which nothing is known but their SQL."""
    yield from (EMPTIED, ONE_TWICE, EVERY_THRICE)
    yield from _other_values(target, *target.mentioned)


FAULTS: dict[str, Callable[[Target], Iterator[Fault]]] = {
    "accepted_range": _out_of_range,
    "accepted_values": _wrong,
    "average": _shifted,
    "cardinality": _second_partner,
    "castable": _wrong,
    "distinct_count": _few_or_many_values,
    "distinct_share": _few_or_many_values,
    "expression_is_true": _false,
    "matches_pattern": _wrong,
    "no_gaps": _wrong,
    "no_overlaps": _repeated,
    "not_empty": _wrong,
    "not_in_future": _wrong,
    "not_null": _missing,
    "not_similar": _repeated,
    "null_share": _wrong,
    "ordered": _disordered,
    "quantile": _shifted,
    "recency": _shifted,
    "relationships": _wrong,
    "row_count": _miscounted,
    "row_count_as_released": _other_rows,
    "row_count_equals": _other_rows,
    "rows_conserved": _other_rows,
    "schema_as_released": _another_column,
    "text_length": _too_long_or_short,
    "total": _shifted,
    "total_equals": _shifted,
    "unique": _repeated,
    "unique_combination": _repeated,
    "values_as_released": _wrong,
    "volume_as_usual": _busy_day,
}
"""What to plant for a rule of each template."""
