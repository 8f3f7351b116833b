"""Development environments: warehouses that read the hub, and hold only what was built in them.

    <warehouse>/dev/<name>/hub.duckdb    for each relation of the hub a view; for what is built here, itself

Landing zone and release store are the warehouse's own. Sources stay at the loads that the hub was built from, so that
whatever differs comes from an edit. The hub is attached as ``base``, to be read only; what it notes of its builds is
copied, so a plan here knows them. Nothing is released from here: what is built is promoted into the hub, as it is.

To make one takes no parameter of a statement: for the first, DuckDB imports pandas, which takes longer than all else.
"""

import re
from pathlib import Path
from typing import Any

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.files import UNFINISHED, discard_folder
from hubspoke.manifest import Manifest
from hubspoke.project import Project
from hubspoke.sql import identifier, quoted

NAME = re.compile(r"[a-z][a-z0-9_-]{0,39}")

OF_THE_HUB = "Of the hub: nothing was built here."
"""The comment on an environment's view of what the hub holds; whatever takes its place has none."""

OWN = "run_id not in (from runs.base_runs)"
"""SQL: of an environment's notes, those of runs in it; of its hub's, those that it has not taken over yet."""

OWN_IN_DEV = OWN.replace("runs.", "dev.runs.")
"""SQL: the same, asked where an environment is attached as ``dev``."""

NOTES = {
    "runs.results": "true",
    "quality.measurements": f"model not in (select model from quality.measurements where {OWN})",
    "quality.results": "true",
    "quality.ledger": f"node_id not in (select node_id from runs.builds where {OWN})",
    "runs.builds": f"node_id not in (select node_id from runs.builds where {OWN})",
}
"""What runs note in a hub, and which of it an environment takes over: nothing about what was built in it.

Builds come last: the others are told by them.
"""

VIEWS_OF_A_SOURCE = ("", "__log", "__history")
"""What is added to a source's name for each of its views (``hubspoke.changelog``)."""

GATES = "quality.gates"
"""What is noted of the gate of each model, by its last run alone."""

REPLACED = {"runs.builds": "node_id", "quality.measurements": "model"}
"""Notes that those of a later run replace, and the column that says what they are about."""


def environments(project: Project) -> list[str]:
    """Return the names of the development environments of a warehouse."""
    found = [path.parent.name for path in project.warehouse.glob("dev/*/hub.duckdb")]
    return sorted(name for name in found if NAME.fullmatch(name))


def existing(project: Project, name: str) -> Project:
    """Return an environment's project.

    Raises:
        HubspokeError: There is no such environment.
    """
    if name not in environments(project):
        there = ", ".join(environments(project)) or "none"
        raise HubspokeError(f"there is no development environment {name}; there are: {there}")
    return Project(project.root, project.warehouse / "dev" / name)


def create(project: Project, name: str) -> Project:
    """Make an environment, or bring one up to what the hub holds now; copies no data.

    Raises:
        HubspokeError: It cannot be called so, there is no hub yet, or it is being built.
    """
    if not NAME.fullmatch(name):
        raise HubspokeError(
            f"{name} cannot be an environment's name. Take a letter, then letters, digits, - or _, all in lower case, "
            "at most 40 in all"
        )
    if not project.hub.is_file():
        raise HubspokeError("Nothing has been built yet, so there is nothing to read. Run: hubspoke build")
    made = Project(project.root, project.warehouse / "dev" / name)
    is_new = not made.hub.is_file()
    made.warehouse.mkdir(parents=True, exist_ok=True)
    try:
        with _open(made.hub) as hub:
            attach_base(made, hub)
    except HubspokeError:
        if is_new:
            _discard(made)
        raise
    return made


def remove(project: Project, name: str) -> None:
    """Remove an environment and what was built in it.

    Raises:
        HubspokeError: There is none, or it is in use.
    """
    found = existing(project, name)
    try:
        duckdb.connect(found.hub).close()
    except duckdb.IOException as error:
        if "lock" in str(error):  # anything else does not speak for keeping it
            raise HubspokeError(f"{name} is in use. Remove it when that has ended.") from None
    _discard(found)


def refuse_if_gone(project: Project) -> None:
    """Refuse to work in an environment that has been promoted or removed, or was never made.

    Raises:
        HubspokeError: It is not there.
    """
    if project.base and not project.hub.is_file():
        name = project.warehouse.name
        raise HubspokeError(
            f"there is no development environment {name}, or no more. Make it: hubspoke dev {name}; or go back to its "
            f"hub: export HUBSPOKE_WAREHOUSE={project.base.warehouse}"
        )


def follow(project: Project) -> None:
    """Bring an environment up to what its hub holds now.

    Raises:
        HubspokeError: It is not there; or that hub, or the environment, is being built.
    """
    refuse_if_gone(project)
    with _open(project.hub) as hub:
        attach_base(project, hub)


def attach_base(project: Project, hub: duckdb.DuckDBPyConnection) -> None:
    """Let an environment's connection read the hub that it rests on, and take over what was built there since.

    Raises:
        HubspokeError: That hub is being built, or never was.
    """
    attach(project, hub)
    if not _has_notes(hub, "base"):
        raise HubspokeError(
            "The hub has no notes of a build, or an older version of hubspoke made them. Build it first: hubspoke build"
        )
    hub.execute("create schema if not exists runs")
    hub.execute("create table if not exists runs.base (build_number bigint, run_id varchar)")
    hub.execute("create table if not exists runs.base_runs (run_id varchar)")
    newest = _newest(hub, "base")
    if hub.execute("from runs.base").fetchall() == [newest]:
        return
    hub.execute("begin")
    _take_over_notes(hub)
    read_relations(hub)
    hub.execute("delete from runs.base")
    hub.execute(f"insert into runs.base values {newest}")
    hub.execute("commit")


def attach(project: Project, hub: duckdb.DuckDBPyConnection) -> None:
    """Let an environment's connection read the hub that it rests on, as ``base``.

    Raises:
        HubspokeError: That hub is being built.
    """
    assert project.base is not None  # noqa: S101 -- asked of environments only
    _attach(hub, project.base.hub, "base")


def read_relations(hub: duckdb.DuckDBPyConnection) -> None:
    """Make a view of each relation of the hub that is not built here: of a table a view, of a view the same view.

    A view that cannot be made now is left out: it reads a database that is attached only when a build needs it.
    """
    here = _database(hub)
    theirs, ours = _relations(hub, "base"), _relations(hub, here)
    views = {}
    for key, (kind, sql, _) in theirs.items():
        if ours.get(key, ("", "", OF_THE_HUB))[2] == OF_THE_HUB:
            is_view = kind == "view"
            text = sql if is_view else f"CREATE VIEW {_name(*key)} AS FROM base.{_name(*key)}"
            views[key] = text.replace("CREATE VIEW", "CREATE OR REPLACE VIEW", 1)
    for schema, name in ours.keys() - theirs.keys():
        if ours[schema, name][2] == OF_THE_HUB:
            hub.execute(f"drop view {_name(schema, name)}")
    for schema in {schema for schema, _ in views}:
        hub.execute(f"create schema if not exists {identifier(schema)}")
    waiting = list(views)
    while waiting:  # a view can be made once all that it reads is there
        left = [key for key in waiting if not _make_view(hub, key, views[key])]
        if len(left) == len(waiting):
            break
        waiting = left
    for schema, name in waiting:
        hub.execute(f"drop view if exists {_name(schema, name)}")


def base_tables(hub: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Return the loads that the hub's sources are at, as ``hubspoke.pins.landed_tables`` does, without views."""
    rows = hub.execute(
        "select split_part(node_id, '.', 3) || '.' || split_part(node_id, '.', 4), fingerprint "
        "from base.runs.builds where node_id like 'source.%' order by build_number"
    ).fetchall()
    return {name: {"load_id": load_id, "views": {}} for name, load_id in rows}


def promote(project: Project, name: str, manifest: Manifest) -> list[str]:
    """Put what was built in an environment into the hub, in one transaction, and remove the environment.

    A kill before the transaction's end leaves the hub as it was; one after it leaves an environment that begins anew.

    Args:
        project: The hub's project.
        name: The environment; all of it is built and green.
        manifest: The project as it is.

    Returns:
        Names of the models and seeds that were put there.

    Raises:
        HubspokeError: There is no such environment, the hub is being built, or was built since.
    """
    made = existing(project, name)
    with _open(project.hub) as hub:
        _attach(hub, made.hub, "dev")
        newest = _newest(hub, _database(hub))
        if hub.execute("from dev.runs.base").fetchall() != [newest]:
            raise HubspokeError(
                f"{project.hub} was built since; see first what that means for {name}: "
                f"HUBSPOKE_WAREHOUSE={made.warehouse} hubspoke build"
            )
        rows = hub.execute(f"select distinct node_id from dev.runs.builds where {OWN_IN_DEV}").fetchall()
        own = {node_id for (node_id,) in rows}
        node_ids = [node_id for node_id in manifest.ancestry([*manifest.nodes]) if node_id in own]
        hub.execute("begin")
        for node_id in node_ids:
            node = manifest.get(node_id)
            relation = str(node.get("alias") or node.get("identifier") or node["name"])
            for suffix in VIEWS_OF_A_SOURCE if node_id in manifest.sources else ("",):
                _move(hub, str(node["schema"]), relation + suffix)
            _move(hub, "quarantine", relation)
        _add_notes(hub)
        hub.execute("commit")
    _discard(made)
    return [str(manifest.get(node_id)["name"]) for node_id in node_ids if node_id not in manifest.sources]


def _open(file: Path) -> duckdb.DuckDBPyConnection:
    try:
        # as profiles.yml says of the hub
        return duckdb.connect(file, config={"storage_compatibility_version": "latest"})
    except duckdb.IOException:
        raise HubspokeError(f"{file} is being built. Run this again when the build has ended.") from None


def _attach(hub: duckdb.DuckDBPyConnection, file: Path, alias: str) -> None:
    try:
        hub.execute(f"attach if not exists '{quoted(file)}' as {alias} (read_only)")
    except duckdb.IOException:
        raise HubspokeError(f"{file} is being built. Run this again when the build has ended.") from None


def _discard(made: Project) -> None:
    doomed = made.warehouse.with_name(made.warehouse.name + UNFINISHED)
    if doomed.exists():  # left by a kill
        discard_folder(doomed)
    discard_folder(made.warehouse)


def _database(hub: duckdb.DuckDBPyConnection) -> str:
    row = hub.execute("select current_database()").fetchone()
    return str(row[0]) if row else ""


def _name(schema: str, name: str) -> str:
    return f"{identifier(schema)}.{identifier(name)}"


def _has_notes(hub: duckdb.DuckDBPyConnection, database: str) -> bool:
    """Whether a run has begun in a hub: there is where to note what it does."""
    there = hub.execute(
        f"select count(*) from duckdb_tables() where database_name = '{quoted(database)}' "
        f"and schema_name || '.' || table_name in {(*NOTES, GATES)}"
    ).fetchone()
    return there == (len(NOTES) + 1,)


def _newest(hub: duckdb.DuckDBPyConnection, database: str) -> tuple[int, str]:
    """Return the number of the last build or result that a hub has noted, and its run: no other state has both."""
    row = hub.execute(
        f"select build_number, run_id from (select build_number, run_id from {identifier(database)}.runs.builds "
        f"union all select build_number, run_id from {identifier(database)}.runs.results) "
        "order by build_number desc limit 1"
    ).fetchone()
    return (int(row[0]), str(row[1])) if row else (0, "")


def _runs(database: str) -> str:
    """Return SQL that lists the runs that a hub has noted anything of."""
    return " union ".join(f"select run_id from {identifier(database)}.{table}" for table in NOTES)


def _shift(hub: duckdb.DuckDBPyConnection, database: str, added: str) -> int:
    """Return what to add to the numbers of some notes of a database, so that they come after all that are here."""
    row = hub.execute(
        f"select min(build_number) from (select build_number, run_id from {database}.runs.builds "
        f"union all select build_number, run_id from {database}.runs.results) where {added}"
    ).fetchone()
    return max(0, _newest(hub, _database(hub))[0] + 1 - row[0]) if row and row[0] is not None else 0


def _relations(hub: duckdb.DuckDBPyConnection, database: str) -> dict[tuple[str, str], tuple[str, str, str]]:
    """Return kind, SQL and comment of each table and view of the project in a database, by schema and name."""
    found: dict[tuple[str, str], tuple[str, str, str]] = {}
    for kind in ("table", "view"):
        rows = hub.execute(
            f"select schema_name, {kind}_name, sql, coalesce(comment, '') from duckdb_{kind}s() "
            f"where database_name = '{quoted(database)}' and not internal "
            "and schema_name not in ('runs', 'quality', 'quarantine')"
        ).fetchall()
        found |= {(schema, name): (kind, sql, comment) for schema, name, sql, comment in rows}
    return found


def _make_view(hub: duckdb.DuckDBPyConnection, key: tuple[str, str], sql: str) -> bool:
    try:
        hub.execute(sql)
    except duckdb.Error:
        return False
    hub.execute(f"comment on view {_name(*key)} is '{quoted(OF_THE_HUB)}'")
    return True


def _take_over_notes(hub: duckdb.DuckDBPyConnection) -> None:
    """Copy what the hub notes, but of what is built here.

    The order of builds tells what is older than what it reads, so what the hub has built since gets numbers above those
    of what was built here before.
    """
    here = _database(hub)
    for table in (*NOTES, GATES):
        hub.execute(f"create schema if not exists {table.split('.')[0]}")
        hub.execute(f"create table if not exists {table} as from base.{table} limit 0")
    if hub.execute(f"select 1 from ({_runs('base')}) where run_id in ({_runs(here)}) and {OWN} limit 1").fetchone():
        _begin_anew(hub)  # it was promoted, and a kill has left it here
    elif not hub.execute(f"select 1 from runs.base where run_id in ({_runs('base')})").fetchone():
        for table in NOTES:  # the hub is another: it was made anew, or came from a backup
            hub.execute(f"delete from {table} where not {OWN}")
        hub.execute("delete from runs.base_runs")
    for table, subject in REPLACED.items():
        hub.execute(
            f"delete from {table} where not {OWN} and ({subject}, run_id) not in "
            f"(select ({subject}, run_id) from base.{table})"
        )
    shift = _shift(hub, "base", OWN)
    for table, is_taken in NOTES.items():
        hub.execute(f"insert into {table} by name {_renumbered(f'base.{table}', shift)} where {OWN} and {is_taken}")
    hub.execute(f"insert into runs.base_runs select run_id from ({_runs('base')}) where {OWN}")
    is_other = f"node_id not in (select node_id from runs.builds where {OWN})"
    hub.execute(f"delete from {GATES} where {is_other}")
    hub.execute(f"insert into {GATES} by name from base.{GATES} where {is_other}")
    _count_on(hub)


def _begin_anew(hub: duckdb.DuckDBPyConnection) -> None:
    """Forget what was built here."""
    for (schema, name), (kind, _, _) in _relations(hub, _database(hub)).items():
        hub.execute(f"drop {kind} {_name(schema, name)}")
    hub.execute("drop schema if exists quarantine cascade")
    for table in (*NOTES, GATES, "runs.base", "runs.base_runs"):
        hub.execute(f"delete from {table}")


def _renumbered(table: str, shift: int) -> str:
    """Return SQL that reads notes with numbers that are higher by some."""
    is_numbered = not table.endswith("quality.results")
    return f"select *{f' replace (build_number + {shift} as build_number)' if is_numbered else ''} from {table}"


def _count_on(hub: duckdb.DuckDBPyConnection) -> None:
    """Let the next build have a number above all others."""
    hub.execute(f"create or replace sequence runs.build_number start with {_newest(hub, _database(hub))[0] + 1}")


def _add_notes(hub: duckdb.DuckDBPyConnection) -> None:
    """Add to the hub's notes those of what is put into it, after all others."""
    shift = _shift(hub, "dev", OWN_IN_DEV)
    for table in NOTES:
        new = f"{_renumbered(f'dev.{table}', shift)} where {OWN_IN_DEV}"
        if table in REPLACED:
            subject = REPLACED[table]
            about = f"select {subject} from dev.{table} where {OWN_IN_DEV}"
            hub.execute(f"delete from {table} where {subject} in ({about})")
        if table == "runs.results":  # where the hub has a later one, that one counts
            last = f"select (node_id, max(build_number)) from dev.{table} where status <> 'skipped' group by node_id"
            new += f" and (node_id, build_number) in ({last})"
        hub.execute(f"insert into {table} by name {new}")
    is_own = f"node_id in (select node_id from dev.runs.builds where {OWN_IN_DEV})"
    hub.execute(f"delete from {GATES} where {is_own}")
    hub.execute(f"insert into {GATES} by name from dev.{GATES} where {is_own}")
    _count_on(hub)


def _move(hub: duckdb.DuckDBPyConnection, schema: str, name: str) -> None:
    """Make a relation of the hub what it is in the environment; nothing if it was not built there."""
    found: dict[str, tuple[str, str]] = {}
    for kind in ("table", "view"):
        rows = hub.execute(
            f"select database_name, sql from duckdb_{kind}s() where schema_name = ? and {kind}_name = ? "
            "and comment is distinct from ?",
            [schema, name, OF_THE_HUB],
        ).fetchall()
        found |= {database: (kind, sql) for database, sql in rows}
    if "dev" not in found:
        return
    if here := found.get(_database(hub)):
        hub.execute(f"drop {here[0]} {_name(schema, name)}")
    hub.execute(f"create schema if not exists {identifier(schema)}")
    kind, sql = found["dev"]
    hub.execute(sql)
    if kind == "table":
        hub.execute(f"insert into {_name(schema, name)} from dev.{_name(schema, name)}")
        indexes = "select sql from duckdb_indexes() where database_name = 'dev' and schema_name = ? and table_name = ?"
        for (index,) in hub.execute(indexes, [schema, name]).fetchall():
            hub.execute(index)
