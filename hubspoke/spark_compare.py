"""Whether Spark has built the same as DuckDB: every relation of both hubs, row by row."""

from dataclasses import dataclass
from functools import cached_property
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest, Node
from hubspoke.profile import rendered_target
from hubspoke.project import Project
from hubspoke.spark import SparkHub
from hubspoke.sql import columns_of, identifier, quoted, rows_and_checksum

KINDS = {"model", "seed"}
OF_THE_RUN = ("_run_id", "_quarantined_at")
"""Columns of quarantined rows that two builds never have in common."""


@dataclass(frozen=True)
class Comparison:
    """One relation of both hubs.

    Attributes:
        name: ``<schema>.<relation>``.
        rows: Rows in DuckDB's, in Spark's; None where there is no such relation.
        only: Rows that only DuckDB's has, and only Spark's.
        columns: How their columns differ; empty if they do not.
    """

    name: str
    rows: tuple[int | None, int | None]
    only: tuple[int, int] = (0, 0)
    columns: str = ""

    @property
    def is_equal(self) -> bool:
        """Whether they are the same."""
        return self.rows[0] == self.rows[1] and self.only == (0, 0) and not self.columns


def compare(project: Project, console: Console) -> bool:
    """Compare the hub on Spark with the one that DuckDB has built in this warehouse, and print a table.

    Returns:
        Whether they are equal.

    Raises:
        HubspokeError: One of them has not been built.
    """
    built = project.duckdb_hub
    if not built.is_file():
        raise HubspokeError(f"{built} is missing: DuckDB has built nothing to compare with. Run: hubspoke build")
    hub = SparkHub.find()
    built_here = [node for node in Manifest.read(project.root).nodes.values() if node["resource_type"] in KINDS]
    nodes = sorted(built_here, key=lambda node: (node["schema"], node["alias"]))
    copies = _Copies(project, hub)
    try:
        with duckdb.connect(built, read_only=True) as connection:
            connection.execute("set timezone = 'UTC'")
            hub.location.let_in(connection)
            found = [
                _compare(connection, node["schema"], node["alias"], copies.select(node))
                for node in track(nodes, "comparing", console=console, disable=not console.is_terminal)
            ]
            held_back = {*hub.quarantined(), *_quarantined(connection)} & {node["alias"] for node in nodes}
            found += [
                _compare(connection, "quarantine", name, hub.select("quarantine", name)) for name in sorted(held_back)
            ]
    finally:
        copies.remove()
    _show(found, console)
    return all(one.is_equal for one in found)


class _Copies:
    """Rows of Spark's relations for DuckDB: a table's files as they are, a view's rows as Spark writes them."""

    def __init__(self, project: Project, hub: SparkHub) -> None:
        self.project, self.hub = project, hub
        self.folder = "compared"

    @cached_property
    def _session(self) -> Any:
        """Spark's session, as the profile has it; begun when the first view is read."""
        target = rendered_target(self.project, "spark")
        if target is None:
            raise HubspokeError("profiles.yml has no target spark that can be read")
        from pyspark.sql import SparkSession

        builder = SparkSession.builder
        for name, value in target["server_side_parameters"].items():
            builder = builder.config(name, value)
        session = builder.getOrCreate()
        session.sparkContext.setLogLevel("ERROR")
        return session

    def select(self, node: Node) -> str:
        if node["config"]["materialized"] != "view":
            return self.hub.select(node["schema"], node["alias"])
        place = f"{self.folder}/{node['schema']}/{node['alias']}"
        url = self.hub.location.name(place)
        self._session.table(f"{node['schema']}.{node['alias']}").write.mode("overwrite").parquet(url)
        return f"select * from read_parquet('{quoted(url)}/*.parquet')"

    def remove(self) -> None:
        self.hub.location.remove_folder(self.folder)


def _compare(connection: duckdb.DuckDBPyConnection, schema: str, name: str, on_spark: str) -> Comparison:
    full = f"{schema}.{name}"
    here = f"{identifier(schema)}.{identifier(name)}"
    try:
        columns = columns_of(connection, here)
    except duckdb.CatalogException:
        return Comparison(full, (None, _count(connection, on_spark) if on_spark else None))
    if not on_spark:
        return Comparison(full, (_count(connection, f"from {here}"), None))
    kept = [column for column in columns if column not in OF_THE_RUN]
    listed = ", ".join(map(identifier, kept))
    there = columns_of(connection, on_spark)
    faults = [
        f"{column}: {columns.get(column, 'missing')}, {there.get(column, 'missing')}"
        for column in {**columns, **there}
        if columns.get(column) != there.get(column)
    ]
    one, other = f"select {listed} from {here}", f"select {listed} from ({on_spark})"
    if set(kept) - set(there):
        return Comparison(full, (_count(connection, one), _count(connection, on_spark)), (0, 0), "; ".join(faults))
    sums = [rows_and_checksum(connection, f"({rows})") for rows in (one, other)]
    only = (0, 0)
    if sums[0] != sums[1]:
        only = (
            _count(connection, f"({one}) except all ({other})"),
            _count(connection, f"({other}) except all ({one})"),
        )
    return Comparison(full, (sums[0][0], sums[1][0]), only, "; ".join(faults))


def _quarantined(connection: duckdb.DuckDBPyConnection) -> list[str]:
    rows = connection.execute("select table_name from duckdb_tables() where schema_name = 'quarantine'").fetchall()
    return [name for (name,) in rows]


def _count(connection: duckdb.DuckDBPyConnection, rows: str) -> int:
    [[count]] = connection.execute(f"select count(*) from ({rows})").fetchall()
    return int(count)


def _show(found: list[Comparison], console: Console) -> None:
    console.width = max(console.width, 120)  # where it is no terminal, for the names
    different = [one for one in found if not one.is_equal]
    rows = sum(one.rows[0] or 0 for one in found)
    table = Table(title=f"{len(found)} relations, {rows:,} rows: {len(different)} differ")
    for heading in ("relation", "DuckDB", "Spark", "DuckDB alone", "Spark alone"):
        table.add_column(heading, justify="left" if heading == "relation" else "right", no_wrap=True)
    for one in found:
        counts = ["none" if count is None else f"{count:,}" for count in one.rows]
        table.add_row(one.name, *counts, *(f"{count:,}" if count else "" for count in one.only))
    console.print(table)
    for one in found:
        if one.columns:
            console.print(f"{one.name}: types in DuckDB and on Spark: {one.columns}", soft_wrap=True)
