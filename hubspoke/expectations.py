"""Great Expectations on DuckDB: judges the project's rules, and says of each how many rows break it.

It is slow to import (5 s), so only the command that audits imports this module. Great Expectations gets counts and
figures out of the data, never a row; it writes no file.
"""

import logging
import re
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from functools import partial
from itertools import pairwise
from typing import Any, ClassVar, Literal

import duckdb
import great_expectations as gx
import great_expectations.expectations as gxe
import sqlalchemy as sa
from duckdb_sqlalchemy import ConnectionWrapper
from great_expectations.data_context.types.base import (
    DataContextConfig,
    InMemoryStoreBackendDefaults,
    ProgressBarsConfig,
)
from great_expectations.datasource.fluent import SQLDatasource
from great_expectations.datasource.fluent.interfaces import Batch
from great_expectations.execution_engine import ExecutionEngine, SqlAlchemyExecutionEngine
from great_expectations.expectations.expectation import Expectation
from great_expectations.expectations.metrics import ColumnMapMetricProvider, column_condition_partial

from hubspoke.sql import identifier

# it logs what a finding's error says, rows' values with it
logging.getLogger("great_expectations").addHandler(logging.NullHandler())
logging.getLogger("great_expectations").propagate = False


@dataclass(frozen=True)
class Rule:
    """A rule as dbt's manifest has it.

    Attributes:
        name: The test's name.
        template: Its template.
        arguments: The template's arguments; ``column_name`` among them where it is on a column.
        where: SQL that the rows it is about satisfy, or None.
    """

    name: str
    template: str
    arguments: Mapping[str, Any]
    where: str | None = None


@dataclass(frozen=True)
class Finding:
    """What Great Expectations found for one rule.

    Attributes:
        failed: Rows that break it; for a rule on a whole table, 1 if it is broken. None if it could not be judged.
        observed: Figure of a rule on a whole table.
        error: Why the rule could not be judged.
    """

    failed: int | None = None
    observed: Any = None
    error: str | None = None


class DuckDBEngine(SqlAlchemyExecutionEngine):
    """Great Expectations' SQL engine on one connection that stays open.

    The stock engine hands its connection back before it fetches; that rolls back, DuckDB then has forgotten the rows,
    and every figure is empty.
    """

    @contextmanager
    def get_connection(self) -> Iterator[sa.Connection]:
        """Give the one connection, opened at the first call and never given back."""
        if self._connection is None:
            self._connection = self.engine.connect()
        yield self._connection


EngineClass = type[SqlAlchemyExecutionEngine]  # inside the class below, ``type`` is its field


class DuckDBDatasource(SQLDatasource):
    """Defining this class gives Great Expectations' contexts their ``data_sources.add_duckdb``."""

    type: Literal["duckdb"] = "duckdb"  # type: ignore[assignment]

    @property
    def execution_engine_type(self) -> EngineClass:
        """What runs the queries."""
        return DuckDBEngine


class MatchRegexOnDuckDB(ColumnMapMetricProvider):
    """Regular expressions, which Great Expectations does not have for DuckDB; matched anywhere in the text."""

    condition_metric_name = "column_values.match_regex"
    condition_value_keys = ("regex",)

    @column_condition_partial(engine=DuckDBEngine)
    def _duckdb(cls, column: sa.ColumnClause[str], regex: str, **_: Any) -> sa.ColumnElement[bool]:
        return sa.cast(column, sa.String).regexp_match(regex)


class ExpectNoBrokenRows(gxe.UnexpectedRowsExpectation):
    """Counts the rows that a query returns and reads none; its parent runs the query twice and fetches 200 rows."""

    metric_dependencies: ClassVar[tuple[str, ...]] = ("unexpected_rows_query.row_count", "table.row_count")

    def _validate(
        self,
        metrics: dict[str, Any],
        runtime_configuration: dict[str, Any] | None = None,
        execution_engine: ExecutionEngine[Any] | None = None,
    ) -> dict[str, Any]:
        broken = metrics["unexpected_rows_query.row_count"]
        counts = {"unexpected_count": broken, "element_count": metrics["table.row_count"]}
        return {"success": broken == 0, "result": counts}


class Auditor:
    """Great Expectations over a DuckDB connection, which it leaves open.

    Args:
        connection: Where the relations are; it may be read-only.
        moment: UTC time, without a zone, at which rules about time are judged.
    """

    def __init__(self, connection: duckdb.DuckDBPyConnection, moment: datetime) -> None:
        self._connection = connection.cursor()
        self._moment = moment
        self._views = 0
        context = gx.get_context(
            mode="ephemeral",
            project_config=DataContextConfig(
                store_backend_defaults=InMemoryStoreBackendDefaults(),  # without a folder for pages of its own
                progress_bars=ProgressBarsConfig(globally=False),
                analytics_enabled=False,
            ),
        )
        self._source = context.data_sources.add_duckdb(
            "audited",
            connection_string="duckdb://",
            kwargs={
                "creator": lambda: ConnectionWrapper(self._connection),
                "poolclass": sa.StaticPool,  # every checkout is that connection, so temporary views are seen
                "isolation_level": "AUTOCOMMIT",  # else the first query that fails ends all that follow
            },
        )

    def judge(self, relation: str, rules: list[Rule]) -> list[Finding]:
        """Judge rules over a relation, each over the rows that its ``where`` selects.

        Args:
            relation: What can stand behind ``from``: a qualified name, or ``read_parquet('…')``.
            rules: Rules of the templates in ``EXPECTATIONS``.

        Returns:
            A finding for each rule, in their order.
        """
        found: dict[int, Finding] = {}
        for where in dict.fromkeys(rule.where for rule in rules):
            numbered = {number: rule for number, rule in enumerate(rules) if rule.where == where}
            try:
                view = self._view(relation, where)
            except duckdb.Error as error:
                found |= dict.fromkeys(numbered, Finding(error=_without_values(str(error))))
            else:
                asset = self._source.add_table_asset(view, table_name=view)
                batch: Batch = asset.add_batch_definition_whole_table("whole").get_batch()
                found |= self._judge(batch, view, numbered)
        return [found[number] for number in range(len(rules))]

    def _view(self, relation: str, where: str | None) -> str:
        """Name the rows as a temporary view: nothing is copied, and any SQL can be the condition."""
        self._views += 1
        view = f"audited_{self._views}"
        condition = f" where ({where}\n)" if where else ""
        self._connection.execute(f"create or replace temp view {view} as select * from {relation}{condition}")
        return view

    def _judge(self, batch: Batch, view: str, rules: Mapping[int, Rule]) -> dict[int, Finding]:
        found: dict[int, Finding] = {}
        expectations = []
        for number, rule in rules.items():
            try:
                expectation = EXPECTATIONS[rule.template](self._moment, **rule.arguments)
            except (duckdb.Error, TypeError, ValueError) as error:  # pydantic's errors are ValueErrors
                found[number] = Finding(error=f"the rule's arguments do not fit its template: {_first_line(error)}")
            else:
                expectation.meta = {"rule": number}  # results come back in another order
                expectations.append(expectation)
        if not expectations:
            return found
        counts_only = {"result_format": "BASIC", "partial_unexpected_count": 0}
        results = batch.validate(gx.ExpectationSuite("rules", expectations), result_format=counts_only).results
        for result in map(_in_json_types, results):
            number = result["expectation_config"]["meta"]["rule"]
            found[number] = self._finding(view, rules[number], result)
        failed = [number for number, finding in found.items() if finding.error]
        if len(rules) > 1:  # rules share a query, and one may have been given another's error
            for number in failed:
                found |= self._judge(batch, view, {number: rules[number]})
        return found

    def _finding(self, view: str, rule: Rule, result: Mapping[str, Any]) -> Finding:
        error = _error(result["exception_info"])
        if error:
            return Finding(error=error)
        figures = result["result"]
        if "unexpected_count" in figures:
            return Finding(failed=figures["unexpected_count"] or 0)  # of no rows the count is None
        observed = figures.get("observed_value")
        # of no values Great Expectations has no figure, or one that fails
        if observed in (None, 0) and "column_name" in rule.arguments and self._is_of_nothing(view, rule):
            return Finding(failed=int(_is_broken_by_nothing(rule)))
        return Finding(failed=int(not result["success"]), observed=observed)

    def _is_of_nothing(self, view: str, rule: Rule) -> bool:
        """Whether there is nothing that the rule's figure is of: no value or, for a share of rows, no row."""
        counted = "*" if rule.template == "null_share" else identifier(rule.arguments["column_name"])
        row = self._connection.execute(f"select count({counted}) = 0 from {view}").fetchone()
        return bool(row and row[0])


def _is_broken_by_nothing(rule: Rule) -> bool:
    if rule.template == "recency":
        return True
    if rule.template in {"average", "distinct_share"}:  # no figure is no fault
        return False
    return not _lies_between(0, **_bounds(rule.arguments))


def _lies_between(figure: float, min_value: float | None = None, max_value: float | None = None) -> bool:
    return (min_value is None or figure >= min_value) and (max_value is None or figure <= max_value)


def _in_json_types(result: Any) -> dict[str, Any]:
    converted: dict[str, Any] = result.to_json_dict()
    return converted


def _error(info: Mapping[str, Any]) -> str | None:
    """Return the first error; the information is flat, or one entry for each figure."""
    entries = [info] if "raised_exception" in info else list(info.values())
    messages = [entry["exception_message"] for entry in entries if entry["raised_exception"]]
    return _without_values(str(messages[0])) if messages else None


def _without_values(message: str) -> str:
    """Return an error's first line; of an error about a value only its kind, because the line quotes the value."""
    about_a_value = re.search(r"(Conversion|Invalid Input|Out of Range|Constraint) Error", message)
    if about_a_value:
        return f"{about_a_value.group()}: a value is not of the kind that the rule expects"
    return message.strip().splitlines()[0] if message.strip() else "no reason given"


def _first_line(error: Exception) -> str:
    return _without_values(str(error).replace("\n", " "))


def _verbatim(sql: Any) -> str:
    """Write SQL so that str.format (braces) and sqlalchemy.text (a colon before a word) leave it as it is."""
    return re.sub(r"(?<![:\w\\]):(?=\w)", r"\\:", str(sql)).replace("{", "{{").replace("}", "}}")


def _column(name: str) -> str:
    return _verbatim(identifier(name))


def _columns(names: list[str]) -> str:
    return ", ".join(map(_column, names))


def _rows(query: str) -> Expectation:
    """Expect a query over {batch} to return nothing; its other braces are doubled."""
    return ExpectNoBrokenRows(unexpected_rows_query=query)


def _no_row_with(condition: str) -> Expectation:
    return _rows(f"select * from {{batch}} where {condition}")


def _repeats(keys: list[str], of: list[str]) -> Expectation:
    """Every row after the first of its key breaks it, as the gate counts; Great Expectations itself counts that too."""
    known = " and ".join(f"{_column(column)} is not null" for column in of)
    ranked = f"select row_number() over (partition by {', '.join(keys)}) as _nth from {{batch}} where {known}"
    return _rows(f"select * from ({ranked}) as ranked where _nth > 1")


def _unique(columns: list[str]) -> Expectation:
    return _repeats([_column(column) for column in columns], of=columns)


def _not_similar(moment: datetime, columns: list[str]) -> Expectation:
    """Compare letters and digits only: what is left out is what the template leaves out."""
    bare = r"lower(regexp_replace(cast({} as varchar), '[ .,;\:\-_/()&'']', '', 'g'))"
    return _repeats([bare.replace("{}", _column(column)) for column in columns], of=columns)


def _accepted_values(moment: datetime, column_name: str, values: list[Any], quote: bool = True) -> Expectation:
    if quote or not any(isinstance(value, str) for value in values):
        return gxe.ExpectColumnValuesToBeInSet(column=column_name, value_set=values)
    return _no_row_with(f"{_column(column_name)} not in ({', '.join(map(_verbatim, values))})")


def _accepted_range(moment: datetime, column_name: str, min_value: Any = None, max_value: Any = None) -> Expectation:
    """Great Expectations compares with floats; SQL and numbers that a float cannot hold are compared in SQL."""
    bounds = {"min_value": min_value, "max_value": max_value}
    given = {name: bound for name, bound in bounds.items() if bound is not None}
    if all(isinstance(bound, int | float) and abs(bound) <= 2**53 for bound in given.values()):
        return gxe.ExpectColumnValuesToBeBetween(column=column_name, **given)
    value = _column(column_name)
    sides = {"min_value": f"{value} < ", "max_value": f"{value} > "}
    return _no_row_with(" or ".join(sides[name] + _verbatim(bound) for name, bound in given.items()))


def _castable(moment: datetime, column_name: str, data_type: str) -> Expectation:
    text = _column(column_name)
    return _no_row_with(f"{text} is not null and try_cast({text} as {_verbatim(data_type)}) is null")


def _ordered(moment: datetime, columns: list[str], strictly: bool = False) -> Expectation:
    if len(columns) == 2:
        return gxe.ExpectColumnPairValuesAToBeGreaterThanB(
            column_A=columns[1],
            column_B=columns[0],
            or_equal=not strictly,
            ignore_row_if="either_value_is_missing",
        )
    sign = ">=" if strictly else ">"
    return _no_row_with(
        " or ".join(f"{_column(first)} {sign} {_column(second)}" for first, second in pairwise(columns))
    )


def _bounds(arguments: Mapping[str, Any]) -> dict[str, Any]:
    """Return the bounds of a figure as numbers; what is written as SQL is worked out."""
    found = {name: arguments[name] for name in ("min_value", "max_value") if arguments.get(name) is not None}
    for name, bound in found.items():
        if isinstance(bound, str):
            with duckdb.connect() as connection:
                row = connection.execute(f"select cast({bound} as double)").fetchone()
            found[name] = row and row[0]
    return found


def _figure(
    kind: Callable[..., Expectation], moment: datetime, column_name: str | None = None, **bounds: Any
) -> Expectation:
    column = {"column": column_name} if column_name else {}
    return kind(**column, **_bounds(bounds))


def _null_share(moment: datetime, column_name: str, **bounds: Any) -> Expectation:
    """Great Expectations has the share of values; it is rounded, because 1 - 0.42 is more than 0.58."""
    shares = {name: round(1 - bound, 12) for name, bound in _bounds(bounds).items()}
    return gxe.ExpectColumnProportionOfNonNullValuesToBeBetween(
        column=column_name, min_value=shares.get("max_value"), max_value=shares.get("min_value")
    )


def _quantile(moment: datetime, column_name: str, share: float, **bounds: Any) -> Expectation:
    """Compared in SQL: Great Expectations takes the nearest value, the template interpolates between two."""
    given = _bounds(bounds)
    sides = [f"figure < {given['min_value']}"] if "min_value" in given else []
    sides += [f"figure > {given['max_value']}"] if "max_value" in given else []
    figure = f"select quantile_cont({_column(column_name)}, {share}) as figure from {{batch}}"
    return _rows(f"select * from ({figure}) as figures where {' or '.join(sides)}")


def _recency(moment: datetime, column_name: str, count: int, period: str) -> Expectation:
    with duckdb.connect() as connection:
        oldest: Any = connection.execute(f"select timestamp '{moment}' - interval {count} {period}").fetchone()
    return gxe.ExpectColumnMaxToBeBetween(column=column_name, min_value=oldest[0])


def _no_gaps(moment: datetime, column_name: str, by: list[str] | None = None) -> Expectation:
    """A value breaks it if it is not the last of its group and the next day or number is not there."""
    value, groups = _column(column_name), "".join(f"{_column(column)}, " for column in by or [])
    partition = f"partition by {groups.removesuffix(', ')}" if groups else ""
    distinct = f"select distinct {groups}{value} as _value from {{batch}} where {value} is not null"
    following = f"select *, lead(_value) over ({partition} order by _value) as _next from ({distinct}) as kept"
    return _rows(f"select * from ({following}) as followed where _next <> _value + 1")


def _no_overlaps(moment: datetime, valid_from: str, valid_to: str, by: list[str]) -> Expectation:
    """A row breaks it if an earlier one of its group, by start and then by end, has not ended when it starts."""
    start, end, forever = _column(valid_from), _column(valid_to), r"timestamp '9999-12-31 00\:00\:00'"
    ends = f"max(coalesce(cast({end} as timestamp), {forever}))"
    earlier = f"partition by {_columns(by)} order by {start} nulls last, {end} nulls last"
    spans = f"{earlier} rows between unbounded preceding and 1 preceding"
    followed = f"select cast({start} as timestamp) as _start, {ends} over ({spans}) as _earlier_end from {{batch}}"
    return _rows(f"select * from ({followed}) as followed where _start < _earlier_end")


def _cardinality(moment: datetime, columns: list[str], **arguments: str) -> Expectation:
    first, second = columns
    one_second = [(first, second)] if arguments["is"] in {"one-to-one", "many-to-one"} else []
    one_first = [(second, first)] if arguments["is"] in {"one-to-one", "one-to-many"} else []
    counted = [
        f"select 1 from {{batch}} where {_column(key)} is not null"
        f" group by {_column(key)} having count(distinct {_column(other)}) > 1"
        for key, other in one_second + one_first
    ]
    return _rows(" union all ".join(counted))


EXPECTATIONS: dict[str, Callable[..., Expectation]] = {
    "not_null": lambda moment, column_name: gxe.ExpectColumnValuesToNotBeNull(column=column_name),
    # what SQL's trim takes for a space is Unicode's class Zs
    "not_empty": lambda moment, column_name: gxe.ExpectColumnValuesToMatchRegex(column=column_name, regex=r"[^\p{Zs}]"),
    "unique": lambda moment, column_name, **_: _unique([column_name]),
    "unique_combination": lambda moment, columns, **_: _unique(columns),
    "accepted_values": _accepted_values,
    "accepted_range": _accepted_range,
    "text_length": lambda moment, column_name, **bounds: gxe.ExpectColumnValueLengthsToBeBetween(
        column=column_name, **bounds
    ),
    "matches_pattern": lambda moment, column_name, pattern: gxe.ExpectColumnValuesToMatchRegex(
        column=column_name, regex=pattern
    ),
    "castable": _castable,
    "expression_is_true": lambda moment, expression: _no_row_with(f"not ({_verbatim(expression)}\n)"),
    "ordered": _ordered,
    "not_in_future": lambda moment, column_name: gxe.ExpectColumnValuesToBeBetween(
        column=column_name, max_value=moment
    ),
    "row_count": partial(_figure, gxe.ExpectTableRowCountToBeBetween),
    "distinct_count": partial(_figure, gxe.ExpectColumnUniqueValueCountToBeBetween),
    "distinct_share": partial(_figure, gxe.ExpectColumnProportionOfUniqueValuesToBeBetween),
    "average": partial(_figure, gxe.ExpectColumnMeanToBeBetween),
    "total": partial(_figure, gxe.ExpectColumnSumToBeBetween),
    "null_share": _null_share,
    "quantile": _quantile,
    "recency": _recency,
    "no_gaps": _no_gaps,
    "no_overlaps": _no_overlaps,
    "cardinality": _cardinality,
    "not_similar": _not_similar,
}
"""What Great Expectations makes of each template, at a moment; a rule of another template has no second opinion."""
