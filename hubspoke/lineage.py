"""Where a column comes from, read off compiled SQL."""

from sqlglot import exp, parse_one
from sqlglot.lineage import Node as Step
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import build_scope
from sqlglot.schema import MappingSchema

from hubspoke.manifest import Manifest, Node

Column = tuple[str, str]
"""A node's unique id and the name of one of its columns."""


class Lineage:
    """The way of every column of a project back to the sources.

    Args:
        manifest: The project.
        compiled: Compiled SQL of its models, by unique id.
    """

    def __init__(self, manifest: Manifest, compiled: dict[str, str]) -> None:
        self._manifest, self._compiled = manifest, compiled
        self._relations: dict[str, str] = {}
        self._schema = MappingSchema(dialect="duckdb")
        for node_id in manifest.ancestry([model["unique_id"] for model in manifest.models]):
            node = manifest.get(node_id)
            relation = node["relation_name"].replace('"', "").lower()
            self._relations[relation] = node_id
            self._schema.add_table(relation, dict.fromkeys(node["columns"], "varchar"))
        self._parents: dict[str, dict[str, set[Column]]] = {}

    def origins(self, model: Node) -> dict[str, set[Column]]:
        """Trace each column that a model's YAML names to the source columns that its values are made of."""
        return {name: self._trace((model["unique_id"], name)) for name in model["columns"]}

    def _trace(self, column: Column) -> set[Column]:
        node_id, name = column
        if node_id in self._manifest.sources:
            return {column}
        if node_id not in self._parents:
            self._parents[node_id] = self._read(self._compiled.get(node_id, ""))
        return set().union(*map(self._trace, self._parents[node_id].get(name, set())))

    def _read(self, sql: str) -> dict[str, set[Column]]:
        """For each column that a query gives, find the columns of other nodes that it is computed from."""
        if not sql:  # a seed
            return {}
        query = qualify(parse_one(sql, dialect="duckdb"), schema=self._schema, dialect="duckdb")
        steps = lineage(
            None, query, self._schema, dialect="duckdb", scope=build_scope(query), copy=False, trim_selects=False
        )
        assert isinstance(steps, dict)  # noqa: S101 -- one step for each column, as no column was asked for
        return {name: self._leaves(step) for name, step in steps.items()}

    def _leaves(self, step: Step) -> set[Column]:
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
                node_id = self._relations.get(f"{table.catalog}.{table.db}.{table.name}".lower())
                if node_id:
                    found.add((node_id, step.name.split(".")[-1].strip('"')))
        return found
