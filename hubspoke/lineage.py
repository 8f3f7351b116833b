"""Where a column comes from, read off compiled SQL."""

from sqlglot import exp, parse_one
from sqlglot.lineage import lineage
from sqlglot.optimizer.qualify import qualify
from sqlglot.optimizer.scope import Scope, build_scope

from hubspoke.manifest import Manifest, Node


def origins(manifest: Manifest, compiled: dict[str, str], model: Node) -> dict[str, set[tuple[str, str]]]:
    """Trace each column of a model to the source columns that its values are made of.

    Args:
        manifest: The project.
        compiled: Compiled SQL of the model and of every model above it, by unique id.
        model: Manifest node of the model; its YAML names its columns.

    Returns:
        For each column, the ``(source unique id, column name)`` pairs it is computed from.
    """
    above = manifest.ancestry([model["unique_id"]])
    relations = {_key(manifest.get(node_id)["relation_name"]): node_id for node_id in above}
    columns = {
        _key(manifest.get(node_id)["relation_name"]): dict.fromkeys(manifest.get(node_id)["columns"], "varchar")
        for node_id in above
    }
    schema = _nested(columns)
    # one per model: resolving its names is what costs, and every column of it needs the same
    scopes: dict[str, Scope | None] = {}
    memo: dict[tuple[str, str], set[tuple[str, str]]] = {}

    def trace(node_id: str, column: str) -> set[tuple[str, str]]:
        if node_id in manifest.sources:
            return {(node_id, column)}
        if not compiled.get(node_id):
            return set()
        if (node_id, column) not in memo:
            if node_id not in scopes:
                qualified = qualify(parse_one(compiled[node_id], dialect="duckdb"), schema=schema, dialect="duckdb")
                scopes[node_id] = build_scope(qualified)
            found: set[tuple[str, str]] = set()
            root = lineage(column, compiled[node_id], schema, scope=scopes[node_id], dialect="duckdb")
            for leaf in root.walk():
                if isinstance(leaf.expression, exp.Table) and not leaf.downstream:
                    parent = relations.get(_key(leaf.expression.sql(dialect="duckdb", comments=False).split(" AS ")[0]))
                    if parent:
                        found |= trace(parent, leaf.name.split(".")[-1].strip('"'))
            memo[node_id, column] = found
        return memo[node_id, column]

    return {column: trace(model["unique_id"], column) for column in model["columns"]}


def _key(relation_name: str) -> str:
    return relation_name.replace('"', "").lower()


def _nested(columns: dict[str, dict[str, str]]) -> dict[str, dict[str, dict[str, dict[str, str]]]]:
    nested: dict[str, dict[str, dict[str, dict[str, str]]]] = {}
    for relation, types in columns.items():
        database, schema, table = relation.split(".")
        nested.setdefault(database, {}).setdefault(schema, {})[table] = types
    return nested
