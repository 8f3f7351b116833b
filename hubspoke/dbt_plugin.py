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

from hubspoke.development import attach_base, base_tables, read_relations, refuse_if_gone
from hubspoke.errors import HubspokeError
from hubspoke.federated import federated_views
from hubspoke.pins import pinned_tables
from hubspoke.project import Project
from hubspoke.release import Premises, ReleaseStore, release_run
from hubspoke.sources import read_sources

cursors: WeakValueDictionary[int, duckdb.DuckDBPyConnection] = WeakValueDictionary()
"""The cursor that each of dbt's threads opened last, by thread identifier."""


class Plugin(BasePlugin):
    """Registered by dbt-duckdb when it opens the hub."""

    def initialize(self, plugin_config: dict[str, Any]) -> None:
        """Find the project; dbt runs in its root."""
        self.project = Project.find()
        refuse_if_gone(self.project)
        self.project.warehouse.mkdir(parents=True, exist_ok=True)

    def configure_connection(self, conn: duckdb.DuckDBPyConnection) -> None:
        """Register the functions that the macros call; those that give JSON have a person's error as part of it."""
        if self.project.base:
            attach_base(self.project, conn)
        store = ReleaseStore(self.project.release)
        store.location.let_in(conn)
        premises: list[Premises] = []

        def landed() -> str:
            try:
                premises[:] = [Premises.read(self.project)]  # the first that a run asks
                declared = {table.name: table.is_landed for table in read_sources(self.project.root)}
                with conn.cursor() as cursor:
                    if self.project.base:
                        declared |= reread_in_place(self.project, cursor, declared)
                    return json.dumps({"declared": declared, "landed": pinned_tables(self.project, cursor)})
            except HubspokeError as error:
                return json.dumps({"error": str(error)})

        def federated(names: str) -> str:
            try:
                with conn.cursor() as cursor:
                    return json.dumps({"views": federated_views(self.project, cursor, json.loads(names))})
            except HubspokeError as error:
                return json.dumps({"error": str(error)})

        def release(run_id: str, variables: str) -> str:
            try:
                with conn.cursor() as cursor:
                    told = release_run(self.project, cursor, run_id, json.loads(variables), *premises)
                    return json.dumps({"outcome": told})
            except HubspokeError as error:
                return json.dumps({"error": f"Not released: {error}"})

        def released(relation: str) -> str:
            return store.select(relation)

        def fault(relation: str, selections: str) -> str:
            with conn.cursor() as cursor:
                return json.dumps(first_fault(cursor, relation, json.loads(selections)))

        conn.create_function("hubspoke_fault", fault, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_released", released, ["VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_federated", federated, ["VARCHAR"], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_landed", landed, [], "VARCHAR", side_effects=True)
        conn.create_function("hubspoke_release", release, ["VARCHAR", "VARCHAR"], "VARCHAR", side_effects=True)

    def configure_cursor(self, cursor: duckdb.DuckDBPyConnection) -> None:
        """Remember the cursor, so that its progress can be asked for from another thread."""
        cursor.execute("set enable_progress_bar = true; set enable_progress_bar_print = false")
        cursors[threading.get_ident()] = cursor


def first_fault(cursor: duckdb.DuckDBPyConnection, relation: str, selections: list[list[str]]) -> dict[str, Any]:
    """Find the first of some SQL expressions that the engine refuses over a relation, without running them.

    Args:
        cursor: A connection to the hub.
        relation: What they are about.
        selections: Lists of expressions; those of one list can stand in one select.

    Returns:
        ``{"place": …, "error": …}``, the place among all, counted from 0; nothing if there is none.
    """
    place = 0
    for expressions in filter(None, selections):
        try:
            cursor.execute(f"explain select {', '.join(expressions)} from {relation}")
        except duckdb.Error:
            for further, expression in enumerate(expressions):
                try:
                    cursor.execute(f"explain select {expression} from {relation}")
                except duckdb.Error as error:
                    return {"place": place + further, "error": f"{str(error).splitlines()[0]} in: {expression}"}
        place += len(expressions)
    return {}


def reread_in_place(project: Project, cursor: duckdb.DuckDBPyConnection, declared: dict[str, bool]) -> dict[str, bool]:
    """Attach to a development environment the databases that views of its hub read.

    Args:
        project: The environment.
        cursor: A connection to it.
        declared: Whether each declared table is landed; the others are read where they are.

    Returns:
        Those of the others that the hub reads, as landed: they are to be pinned no further than there.
    """
    in_place = [name for name in base_tables(cursor) if declared.get(name) is False]
    if in_place:
        federated_views(project, cursor, in_place)
        read_relations(cursor)
    return dict.fromkeys(in_place, True)
