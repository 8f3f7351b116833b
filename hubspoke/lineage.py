"""Where a column comes from, read off compiled SQL."""

import re
from functools import lru_cache

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.lineage import Node as Step
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope
from sqlglot.schema import MappingSchema

from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest, Node

Column = tuple[str, str]
"""A node's unique id, or what a relation is called in compiled SQL, and the name of one of its columns."""


@lru_cache(maxsize=1000)
def parse(sql: str, dialect: str = "duckdb") -> exp.Expr | None:
    """Parse SQL that was compiled for an engine; no SQL (a seed, a model not compiled) gives nothing.

    Copy the tree to change it.
    """
    return parse_one(sql, dialect=dialect) if sql else None


def relation_key(node: Node) -> str:
    """Return what a node's relation is called in compiled SQL, without quotes and in lower case."""
    return re.sub(r'["`]', "", str(node["relation_name"])).lower()


def table_key(table: exp.Table) -> str:
    """Return what a table in a query is called, in the words of ``relation_key``."""
    return ".".join(filter(None, (table.catalog, table.db, table.name))).lower()


class Lineage:
    """The way of every column of a project back to the sources.

    Args:
        manifest: The project.
        compiled: Compiled SQL of its models, by unique id.
    """

    def __init__(self, manifest: Manifest, compiled: dict[str, str]) -> None:
        self._manifest, self._compiled = manifest, compiled
        self._relations: dict[str, str] = {}
        described = []
        for node_id in manifest.ancestry([model["unique_id"] for model in manifest.models]):
            node = manifest.get(node_id)
            relation = relation_key(node)
            self._relations[relation] = node_id
            described.append((relation, tuple(map(str.lower, node["columns"]))))
        self._described = tuple(described)
        self._parents: dict[str, dict[str, set[Column]]] = {}

    def origins(self, model: Node) -> dict[str, set[Column]]:
        """Trace each column that a model's YAML names to the source columns that its values are made of.

        Raises:
            HubspokeError: A model on the way has no compiled SQL.
        """
        return {name: self._trace((model["unique_id"], name.lower())) for name in model["columns"]}

    def made_of(self, model: Node, columns: set[Column]) -> list[str]:
        """List the columns of a model whose values are made of some columns, whichever nodes those belong to.

        Raises:
            HubspokeError: A model on the way has no compiled SQL.
        """
        return [name for name in model["columns"] if self._reaches((model["unique_id"], name.lower()), columns)]

    def _reaches(self, column: Column, columns: set[Column]) -> bool:
        if column in columns:
            return True
        return any(self._reaches(parent, columns) for parent in self._columns_read(column))

    def _trace(self, column: Column) -> set[Column]:
        if column[0] in self._manifest.sources:
            return {column}
        return set().union(*map(self._trace, self._columns_read(column)))

    def _columns_read(self, column: Column) -> set[Column]:
        node_id, name = column
        if node_id in self._manifest.sources:
            return set()
        if node_id not in self._parents:
            self._parents[node_id] = self._read(node_id)
        return self._parents[node_id].get(name, set())

    def _read(self, node_id: str) -> dict[str, set[Column]]:
        """For each column that a node gives, find the columns of other nodes that it is computed from."""
        if self._manifest.get(node_id)["resource_type"] == "seed":
            return {}
        sql = self._compiled.get(node_id, "")
        if not sql:
            raise HubspokeError(
                f"{node_id} has not been compiled, so its columns cannot be traced. Run: hubspoke build"
            )
        try:
            read = _columns_of(sql, self._manifest.dialect, self._described)
        except SqlglotError as error:
            reason = str(error).split(" Line")[0].rstrip(".")
            file = self._manifest.get(node_id)["original_file_path"]
            raise HubspokeError(
                f"{file}: {reason}: describe the column in the YAML of the model or source that it comes from; "
                "only so can personal data be followed"
            ) from None
        return {
            name: {(self._relations[relation], column) for relation, column in leaves if relation in self._relations}
            for name, leaves in read.items()
        }


Described = tuple[tuple[str, tuple[str, ...]], ...]
"""Relations, as ``relation_key`` calls them, and the columns that are known of each, in lower case."""


@lru_cache(maxsize=1000)
def _columns_of(sql: str, dialect: str, described: Described) -> dict[str, frozenset[Column]]:
    """Return the columns that each column of a query is computed from, each with its relation.

    Raises:
        SqlglotError: It cannot be followed.
    """
    parsed = parse(sql, dialect)
    assert parsed  # noqa: S101 -- there is SQL
    schema = _schema(dialect, described)
    query = qualify(parsed.copy(), schema=schema, dialect=dialect)
    scope = build_scope(query)
    # trimming costs three times the rest, for text that nobody reads here
    steps = lineage(None, query, schema, dialect=dialect, scope=scope, copy=False, trim_selects=False)
    assert isinstance(steps, dict)  # noqa: S101 -- one step for each column, as no column was asked for
    return {name.lower(): frozenset(_leaves(step)) for name, step in steps.items()}


@lru_cache(maxsize=1)
def _schema(dialect: str, described: Described) -> MappingSchema:
    schema = MappingSchema(dialect=dialect)
    for relation, columns in described:
        schema.add_table(relation, dict.fromkeys(columns, "varchar"))
    return schema


def _leaves(step: Step) -> set[Column]:
    found: set[Column] = set()
    seen: set[int] = set()
    waiting = [step]
    while waiting:
        step = waiting.pop()
        if id(step) in seen:  # steps are shared between columns; step.walk() would take every path to each
            continue
        seen.add(id(step))
        waiting += step.downstream
        table = step.expression
        if isinstance(table, exp.Table) and not step.downstream:
            found.add((table_key(table), step.name.split(".")[-1].strip('"').lower()))
    return found
