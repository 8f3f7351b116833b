"""The hub on Apache Spark: its Iceberg tables, seen from this side, where nothing of Spark is needed.

``landing.<source>__<table>`` is what has landed, registered where it lies (``hubspoke spark land``); everything else
is what ``dbt build --target spark`` makes of it. Where the catalog and the files are is said by the variables of the
environment that ``profiles/profiles.yml`` reads.
"""

import json
import os
import re
import uuid
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from hubspoke.changelog import table_views
from hubspoke.errors import HubspokeError
from hubspoke.landing import LandingZone
from hubspoke.location import Location
from hubspoke.manifest import Manifest, Node
from hubspoke.project import Project
from hubspoke.release import ReleaseStore
from hubspoke.sql import columns_of, identifier, quoted

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

RUNS_PINNED = 10
"""Notes of so many last runs are looked at for loads that may still be read."""
CATALOG = "hub"
"""Name of the catalog, in Spark and among its own tables."""


@dataclass(frozen=True)
class Note:
    """What a run of dbt has written down on Spark (macros/release/).

    Attributes:
        run_id: dbt's invocation.
        kind: ``began`` (what it reads, what it is to build) or ``ended`` (what came of it).
        noted_at: When.
        content: The rest, as the macro says it.
    """

    run_id: str
    kind: str
    noted_at: datetime
    content: dict[str, Any]


@dataclass(frozen=True)
class SparkHub:
    """The tables of a catalog that Spark writes to, too.

    Attributes:
        uri: The catalog's database, as SQLAlchemy writes it; without a password, which is PGPASSFILE's.
        location: Where the tables' files are.
    """

    uri: str
    location: Location

    @classmethod
    def find(cls) -> "SparkHub":
        """Find it as the environment says.

        Raises:
            HubspokeError: A variable is missing, or is none that is understood here.
        """
        wanted = ("CATALOG", "CATALOG_USER", "WAREHOUSE")
        given = {name: os.environ.get(f"HUBSPOKE_SPARK_{name}", "") for name in wanted}
        for name, value in given.items():
            if not value:
                raise HubspokeError(
                    f"HUBSPOKE_SPARK_{name} is not set. To start a cluster here and see its settings: "
                    'hubspoke spark start, then eval "$(hubspoke spark env)"'
                )
        database = re.fullmatch(r"jdbc:postgresql://(.+)", given["CATALOG"])
        if not database:
            raise HubspokeError(f"HUBSPOKE_SPARK_CATALOG must be jdbc:postgresql://…, not {given['CATALOG']}")
        place = given["WAREHOUSE"].rstrip("/")
        if not re.match(r"file://|/", place):
            raise HubspokeError(f"HUBSPOKE_SPARK_WAREHOUSE must be a folder, as file:///mnt/warehouse, not {place}")
        url = place if place.startswith("file://") else f"file://{place}"
        return cls(f"postgresql+psycopg://{given['CATALOG_USER']}@{database[1]}", Location(url))

    @cached_property
    def catalog(self) -> "Catalog":
        """The catalog, opened once."""
        from pyiceberg.catalog import load_catalog

        return load_catalog(CATALOG, type="sql", uri=self.uri, warehouse=self.location.url)

    def land(self, project: Project) -> dict[str, bool]:
        """Show Spark what has landed by now, what is let through the rules, and what is released.

        A load that is the whole table is registered where it lies. What change logs come to, and a load whose columns
        are others than its table's by now, is written anew, by DuckDB.

        Returns:
            By table, whether it was another before.
        """
        zone = LandingZone(project.landing)
        sources = Manifest.read_current(project.root).sources.values()
        # asked once: all tables of a source are from one instant, whatever lands meanwhile
        reached = {source["source_name"]: zone.reached(source["source_name"]) for source in sources}
        contents = {
            (source["source_name"], source["name"]): zone.content(
                source["source_name"], source["name"], reached[source["source_name"]]
            )
            for source in sources
        }
        # before their files are named anywhere; those from before may be read by a build that runs
        before = {row["folder"] for row in self._rows("landing._loads")} | self._being_read(sources)
        now = {"/".join([*name, content.newest.load_id]) for name, content in contents.items() if content}
        zone.pin(before | now, "spark")
        found: dict[str, bool] = {}
        loads = []
        for source in sources:
            names = source["source_name"], source["name"]
            content = contents[names]
            if content is None:
                continue
            for suffix, sql in table_views(zone, *names, content).items():
                relation = f"{source['identifier']}{suffix}"
                name = f"{source['source_name']}__{relation}"
                files = [] if suffix or content.changes else zone.files(*names, content.newest)
                table, found[name] = self._show(name, sql, files, content.newest.load_id)
                snapshot = table.current_snapshot()
                assert snapshot is not None  # noqa: S101 -- its rows have just been put there, or have been before
                loads.append(
                    {
                        "name": f"{source['schema']}.{relation}",
                        "table_name": name,
                        "snapshot_id": snapshot.snapshot_id,
                        "load_id": content.newest.load_id,
                        "folder": "/".join([*names, content.newest.load_id]),
                    }
                )
        self._put("landing._loads", ["name", "table_name", "snapshot_id", "load_id", "folder"], loads)
        current = ReleaseStore(project.release).current()
        released = [
            {"name": name, "file": f"{ReleaseStore(project.release).location.url}/{file}"}
            for name, relation in (current.relations if current else {}).items()
            for file in relation.files
        ]
        self._put("landing._released", ["name", "file"], released)
        columns = ["model", "rule", "condition", "reason", "decided_on"]
        lines = [dict(zip(columns, line, strict=True)) for line in project.rule_exceptions()]
        self._put("quality.exceptions", columns, lines)
        return found

    def _being_read(self, sources: Iterable[Node]) -> set[str]:
        """Return the loads that the last builds read: one may still run, and views show what it has read."""
        names = {source["unique_id"]: (source["source_name"], source["name"]) for source in sources}
        began = [note.content["loads"] for note in self.notes()[-RUNS_PINNED:] if note.kind == "began"]
        return {
            "/".join([*names[node_id], load_id])
            for loads in began
            for node_id, load_id in loads.items()
            if node_id in names
        }

    def notes(self) -> list["Note"]:
        """Read what dbt's runs have written down, oldest first."""
        rows = sorted(self._rows("runs.notes"), key=lambda row: row["noted_at"])
        return [Note(row["run_id"], row["kind"], row["noted_at"], json.loads(row["content"])) for row in rows]

    def quarantined(self) -> list[str]:
        """List the models that have a quarantine."""
        from pyiceberg.exceptions import NoSuchNamespaceError

        try:
            names = sorted(name for _, name in self.catalog.list_tables("quarantine"))
        except NoSuchNamespaceError:
            return []
        return [name for name in names if not name.startswith("gate_")]  # left by a gate that was killed

    def select(self, schema: str, name: str) -> str:
        """Return DuckDB's SQL for the rows that a table has now, read from its files; empty if there is no such table.

        Raises:
            HubspokeError: Somebody has had rows deleted by marks beside the files, which are not read here.
        """
        from pyiceberg.exceptions import NoSuchTableError

        try:
            table = self.catalog.load_table((schema, name))
        except NoSuchTableError:
            return ""
        found = list(table.scan().plan_files())
        if any(task.delete_files for task in found):
            raise HubspokeError(
                f"{schema}.{name} has delete files beside its data. In Spark SQL: alter table {schema}.{name} set "
                "tblproperties ('write.delete.mode' = 'copy-on-write'); then build it again"
            )
        if not found:
            empty = duckdb.from_arrow(table.scan().to_arrow())
            nothing = ", ".join(
                f"cast(null as {kind}) as {identifier(column)}"
                for column, kind in zip(empty.columns, empty.types, strict=True)
            )
            return f"select {nothing} where false"
        files = ", ".join(f"'{quoted(self._path(task.file.file_path))}'" for task in found)
        return f"select * from read_parquet([{files}])"

    def _path(self, url: str) -> str:
        """Return what DuckDB calls a file that Spark has named."""
        return re.sub(r"^file:/*", "/", url)

    def _rows(self, name: str) -> list[dict[str, Any]]:
        """Read a small table; none if it is not there."""
        from pyiceberg.exceptions import NoSuchTableError

        try:
            table = self.catalog.load_table(name)
        except NoSuchTableError:
            return []
        rows: list[dict[str, Any]] = table.scan().to_arrow().to_pylist()
        return rows

    def _show(self, name: str, sql: str, landed: list[Path], load_id: str) -> tuple["Table", bool]:
        """Make the rows of ``landing.<name>`` those of a query: of the files that it reads, if it reads no more."""
        import pyarrow.parquet as parquet
        from pyiceberg.exceptions import NoSuchTableError

        from hubspoke.iceberg_commit import replace_rows

        self.catalog.create_namespace_if_not_exists("landing")
        try:
            table = self.catalog.load_table(("landing", name))
            if table.properties.get("load_id") == load_id:
                return table, False
        except NoSuchTableError:
            table = None
        place = f"landing/{name}"
        with duckdb.connect() as connection:
            connection.execute("set timezone = 'UTC'")
            self.location.let_in(connection)
            columns = columns_of(connection, sql)
            listed = ", ".join(f"'{quoted(file)}'" for file in landed)
            files = [f"file://{file.absolute()}" for file in landed]
            if not files or columns_of(connection, f"select * from read_parquet([{listed}])") != columns:
                self.location.make(f"{place}/data")
                file = f"{place}/data/{uuid.uuid4()}.parquet"
                connection.execute(f"copy ({sql}) to '{quoted(self.location.name(file))}' (format parquet)")
                files = [f"{self.location.url}/{file}"]
        schema = parquet.read_schema(self._path(files[0]))
        if table is None:
            table = self.catalog.create_table(("landing", name), schema, location=f"{self.location.url}/{place}")
        # whoever expires its snapshots must not remove the landing zone's own files
        replace_rows(table, schema, columns, files, **{"load_id": load_id, "gc.enabled": "false"})
        return table, True

    def _put(self, name: str, columns: list[str], rows: list[dict[str, Any]]) -> None:
        """Make the rows of a small table these."""
        import pyarrow as pa

        schema = pa.schema([(column, pa.int64() if column == "snapshot_id" else pa.string()) for column in columns])
        self.catalog.create_namespace_if_not_exists(name.split(".")[0])
        table = self.catalog.create_table_if_not_exists(name, schema)
        before = self._rows(name)
        if before != rows:
            content = pa.Table.from_pylist(rows, schema)
            table.overwrite(content) if before else table.append(content)
