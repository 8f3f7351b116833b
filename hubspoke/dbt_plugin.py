"""What dbt runs of ours, in its own process and on its own connection (named in ``profiles/profiles.yml``).

It gives SQL two functions, called by ``macros/release/``, and lets a progress display see which statement a thread
runs.
"""

import json
import threading
from typing import Any
from weakref import WeakValueDictionary

import duckdb
from dbt.adapters.duckdb.plugins import BasePlugin

from hubspoke.errors import HubspokeError
from hubspoke.landing import LandingZone
from hubspoke.project import Project
from hubspoke.release import ReleaseStore, release_run

cursors: WeakValueDictionary[int, duckdb.DuckDBPyConnection] = WeakValueDictionary()
"""The cursor that each of dbt's threads opened last, by thread identifier."""


class Plugin(BasePlugin):
    """Registered by dbt-duckdb when it opens the hub."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Find the project; dbt runs in its root."""
        self.project = Project.find()
        self.project.warehouse.mkdir(parents=True, exist_ok=True)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Register the functions that the macros call; both give JSON, and a person's error as part of it."""
        store = ReleaseStore(self.project.release)
        store.location.let_in(conn)

        def landed() -> str:
            return json.dumps(landed_files(self.project))

        def release(run_id: str, variables: str) -> str:
            try:
                with conn.cursor() as cursor:
                    return json.dumps({"outcome": release_run(self.project, cursor, run_id, json.loads(variables))})
            except HubspokeError as error:
                return json.dumps({"error": f"Not released: {error}"})

        def released(relation: str) -> str:
            return store.select(relation)

        def fault(relation: str, expressions: str) -> str:
            with conn.cursor() as cursor:
                return json.dumps(first_fault(cursor, relation, json.loads(expressions)))

        conn.create_function("hubspoke_fault", fault, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_released", released, ["VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_landed", landed, [], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_release", release, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True)

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Remember the cursor, so that its progress can be asked for from another thread."""
        cursor.execute("set enable_progress_bar = true; set enable_progress_bar_print = false")
        cursors[threading.get_ident()] = cursor


def first_fault(cursor: duckdb.DuckDBPyConnection, relation: str, expressions: list[str]) -> dict[str, Any]:
    """Find the first of some SQL expressions that the engine refuses over a relation, without running them.

    Returns:
        ``{"place": …, "error": …}``, the place counted from 0; nothing if there is none.
    """
    try:
        cursor.execute(f"explain select {', '.join(expressions)} from {relation}")
    except duckdb.Error:
        for place, expression in enumerate(expressions):
            try:
                cursor.execute(f"explain select {expression} from {relation}")
            except duckdb.Error as error:
                return {"place": place, "error": f"{str(error).splitlines()[0]} in: {expression}"}
    return {}


def landed_files(project: Project) -> dict[str, dict[str, Any]]:
    """Return the current load of every landed table: ``{"pos.transactions": {"load_id": …, "files": […]}}``."""
    zone = LandingZone(project.landing)
    found: dict[str, dict[str, Any]] = {}
    for folder in sorted(project.landing.glob("*/*/")):
        source, table = folder.parent.name, folder.name
        load = zone.current(source, table)
        if load:
            found[f"{source}.{table}"] = {"load_id": load.load_id, "files": [str(zone.data(source, table, load))]}
    return found
