"""A trial of a plan: what spokes would hold if it were carried out now, held against what readers see.

    <warehouse>/trial/hub.unfinished/    a warehouse of views of the hub, in which what the plan names is built

It is a development environment, but that its sources are at the newest loads, as a build's are. The hub is only read,
nothing is released, and the folder is removed at the end; one that a kill leaves is removed by the next trial.
"""

import os
from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import replace

import duckdb
from rich.console import Console

from hubspoke.build import Watch, display, run_dbt
from hubspoke.changes import Counts, count, is_shared
from hubspoke.development import attach, attach_base
from hubspoke.diff_report import Diff, RelationDiff
from hubspoke.errors import HubspokeError
from hubspoke.federated import federated_views
from hubspoke.files import UNFINISHED, exclusive
from hubspoke.manifest import Manifest, Node, load_for_dbt, meta, raise_if_stopped, spoke_of
from hubspoke.plan import Plan
from hubspoke.project import Project
from hubspoke.release import Relation, Release, ReleaseStore
from hubspoke.sources import read_sources
from hubspoke.sql import columns_of, identifier
from hubspoke.stopping import remembering_stop


def refuse_in_environment(project: Project) -> None:
    """Refuse to compare what a development environment holds: a release is made from its hub.

    Raises:
        HubspokeError: The project is one.
    """
    if project.base:
        raise HubspokeError(
            f"{project.warehouse} is a development environment, and a release is made from its hub: unset "
            "HUBSPOKE_WAREHOUSE, then the same edits are compared with what readers see"
        )


def diff(project: Project, plan: Plan, console: Console) -> Diff:
    """Build what a plan says beside the hub, and compare the spokes' relations with the current release.

    Args:
        project: The project, which is no development environment.
        plan: What a build would do.
        console: Shows how far it is, if it is a terminal.

    Raises:
        HubspokeError: The hub is being built, another trial runs, or dbt could not start.
        KeyboardInterrupt: It was stopped.
    """
    store = ReleaseStore(project.release)
    release, newest = store.current(), store.newest()
    if release is None or newest is None:
        return Diff(None, note="there is no release yet to compare with")
    names = {spoke["name"] for spoke in plan.manifest.spokes}
    gone = [
        RelationDiff(name, relation.spoke, relation.rows, None, (), Counts(removed=relation.rows))
        for name, relation in release.relations.items()
        if name not in names
    ]
    needed, spokes = _needed(plan)
    if release.number != newest.number:  # readers were taken back: what a plan skips is another for them, too
        spokes = plan.manifest.spokes
    if not spokes:
        return Diff(release.number, tuple(gone))
    if not project.hub.is_file():
        return Diff(release.number, note="the hub holds nothing yet, so all of it would have to be built to compare")
    folder = project.warehouse / "trial"
    trial = Project(project.root, folder / f"hub{UNFINISHED}")
    with remembering_stop(), exclusive(folder, "trying a plan out"):  # removes what is unfinished, also at the end
        trial.warehouse.mkdir()
        # as profiles.yml says of the hub
        with duckdb.connect(trial.hub, config={"storage_compatibility_version": "latest"}) as hub:
            attach_base(trial, hub)
            _copy_snapshots(hub, needed)
        if needed.steps and (faults := _build(project, trial, needed, console)):
            return Diff(release.number, faults=faults)
        return Diff(release.number, (*_compare(project, trial, release, plan.manifest, spokes), *gone))


def _needed(plan: Plan) -> tuple[Plan, list[Node]]:
    """Find the spokes' relations that a plan changes, and cut the plan to what they rest on and its tests."""
    manifest, planned = plan.manifest, {step.node["unique_id"] for step in plan.built}
    spokes = [spoke for spoke in manifest.spokes if planned.intersection(_rests_on(manifest, spoke["unique_id"]))]
    above = {node_id for spoke in spokes for node_id in _rests_on(manifest, spoke["unique_id"])}
    later = planned - above
    steps = [
        step
        for step in plan.steps
        if step.node["unique_id"] in above
        or (
            step.is_test
            and above.intersection(_about(plan, step.node))
            and not later.intersection(_about(plan, step.node))
        )
    ]
    return replace(plan, steps=tuple(steps)), spokes


def _about(plan: Plan, test: Node) -> list[str]:
    return plan.manifest.tested[test["unique_id"]]


def _rests_on(manifest: Manifest, node_id: str) -> set[str]:
    """Find a node and all that its rows come from: what is read, and what rules read that take rows out."""
    found: set[str] = set()
    waiting = [node_id]
    while waiting:
        above = waiting.pop()
        if above not in found:
            found.add(above)
            waiting += [*manifest.parents(above), *manifest.read_by_rules.get(above, [])]
    return found


def _copy_snapshots(hub: duckdb.DuckDBPyConnection, plan: Plan) -> None:
    """Give a trial a copy of each snapshot that it takes: what is new is added to what is there, so no view will do."""
    for step in plan.built:
        schema, name = step.node["schema"], step.node.get("alias") or step.node["name"]
        there = "select 1 from duckdb_tables() where database_name = 'base' and schema_name = ? and table_name = ?"
        if step.node["resource_type"] == "snapshot" and hub.execute(there, [schema, name]).fetchone():
            relation = f"{identifier(schema)}.{identifier(name)}"
            hub.execute(f"drop view if exists {relation}")
            hub.execute(f"create table {relation} as from base.{relation}")


def _build(project: Project, trial: Project, plan: Plan, console: Console) -> tuple[str, ...]:
    """Build what a plan says in a trial's warehouse; returns what failed, in lines."""
    # parsed in the project's own warehouse: to dbt another one is another profile, and it would begin anew
    parsed = load_for_dbt(project.root)
    watch = Watch()
    folders = ["--target-path", str(trial.warehouse / "target"), "--log-path", str(trial.warehouse / "logs")]
    with _at(trial), display(watch, console) if console.is_terminal else nullcontext():
        result = run_dbt(project, watch, [*folders, *plan.selectors], parsed)
    raise_if_stopped(result)
    if result.success:
        return ()
    if result.exception and not watch.problems:
        raise HubspokeError(str(result.exception))
    return tuple(watch.problems)


@contextmanager
def _at(trial: Project) -> Iterator[None]:
    """Let dbt, in this process, work in a trial's warehouse."""
    before = os.environ.get("HUBSPOKE_WAREHOUSE")
    os.environ["HUBSPOKE_WAREHOUSE"] = str(trial.warehouse)
    try:
        yield
    finally:
        if before is None:
            del os.environ["HUBSPOKE_WAREHOUSE"]
        else:
            os.environ["HUBSPOKE_WAREHOUSE"] = before


def _compare(
    project: Project, trial: Project, release: Release, manifest: Manifest, spokes: list[Node]
) -> list[RelationDiff]:
    store = ReleaseStore(project.release)
    above = set().union(*(_rests_on(manifest, spoke["unique_id"]) for spoke in spokes))
    read = {
        f"{source['source_name']}.{source['name']}" for node_id, source in manifest.sources.items() if node_id in above
    }
    in_place = [table.name for table in read_sources(project.root) if not table.is_landed and table.name in read]
    found = []
    with duckdb.connect(trial.hub, read_only=True) as connection:
        connection.execute("set TimeZone = 'UTC'")  # as profiles.yml says of the hub
        attach(trial, connection)
        federated_views(project, connection, in_place)  # attaches the databases that they are in
        store.location.let_read(connection)
        for spoke in spokes:
            known = release.relations.get(spoke["name"])
            try:
                found.append(_compare_one(connection, store, known, manifest, spoke))
            except duckdb.Error as error:
                raise HubspokeError(f"{spoke['name']} cannot be compared: {str(error).splitlines()[0]}") from None
    return found


def _compare_one(
    connection: duckdb.DuckDBPyConnection,
    store: ReleaseStore,
    known: Relation | None,
    manifest: Manifest,
    spoke: Node,
) -> RelationDiff:
    name, reader, after = spoke["name"], spoke_of(spoke), spoke["relation_name"]
    # a spoke's relation is a view: it would be computed at each reading
    connection.execute(f"create or replace temp table _after as from {after}")
    (rows,) = connection.execute("select count(*) from _after").fetchone() or (0,)
    if known is None:
        return RelationDiff(name, reader, None, rows, (), Counts(added=rows))
    connection.execute(f"create or replace temp view _before as {store.rows_of(known)}")
    keys = meta(spoke).get("primary_key") or manifest.tested_key(spoke)[0] or known.key
    sides = ("_before", "_after")
    is_key = all(set(keys) <= columns_of(connection, side).keys() for side in sides) and not any(
        is_shared(connection, side, keys) for side in sides if keys
    )
    key = tuple(keys) if is_key else ()
    return RelationDiff(name, reader, known.rows, rows, key, count(connection, "_before", "_after", key))
