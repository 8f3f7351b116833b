"""The release of a hub on Spark: what its runs have noted, taken into DuckDB beside views over its tables' files.

``<warehouse>/spark.duckdb`` is what ``hub.duckdb`` is where DuckDB builds, but for its tables, which it shows in
Spark's own files: whatever reads a hub reads this one.
"""

import re
from datetime import datetime
from typing import Any

import duckdb
from jinja2 import Environment

from hubspoke.errors import HubspokeError
from hubspoke.fingerprint import fingerprints
from hubspoke.manifest import Manifest, target_folder
from hubspoke.project import Project
from hubspoke.release import release_hub
from hubspoke.spark import Note, SparkHub
from hubspoke.sql import identifier, literal, texts

MAKES_LOG = "macro.hubspoke.default___create_run_log"


def release(project: Project, hub: SparkHub) -> str:
    """Release what dbt has left on Spark, if it may be released; see ``hubspoke.release.release_run``.

    Raises:
        HubspokeError: Nothing has been built there, the last run has not ended, or the release itself failed.
    """
    manifest = Manifest.read(project.root)
    notes = hub.notes()
    if not notes:
        raise HubspokeError("nothing has been built on Spark yet. Run: dbt build --target spark")
    last = notes[-1]
    if last.kind != "ended":
        raise HubspokeError(
            f"the build that began at {last.noted_at:%Y-%m-%d %H:%M:%S} UTC has not ended, or was killed. "
            "When none runs: dbt build --target spark"
        )
    if [note.run_id for note in notes[-2:]] != [last.run_id] * 2:
        raise HubspokeError("two builds have run at the same time. When none runs: dbt build --target spark")
    if manifest.run_id != last.run_id:
        raise HubspokeError(
            f"{target_folder(project.root)}/manifest.json is not of the run that has built last, {last.run_id}. "
            "Release where dbt ran, or run dbt build --target spark here."
        )
    if last.content["state"] == "sample":
        return "Not released: a run on a sample, or on no rows, is to try things out."
    exceptions = project.rule_exceptions()
    if last.content["exceptions"] != exceptions:
        raise HubspokeError(
            f"{project.exceptions_file} is not what the build let through. Run: hubspoke spark land, and then "
            "dbt build --target spark"
        )
    settings = project.root / "dbt_project.yml"
    if settings.stat().st_mtime > notes[-2].noted_at.timestamp():
        raise HubspokeError(f"{settings} has been changed since the build began. Run: dbt build --target spark")
    given = last.content["variables"]
    expected = fingerprints(manifest, project.variables(), exceptions)
    ran = fingerprints(manifest, project.variables() | given, exceptions) if given else expected
    with duckdb.connect(project.spark_hub) as connection:
        hub.location.let_in(connection)
        take_in(connection, manifest, notes)
        show(connection, hub, manifest)
        # from here on, what is released are these files, whatever is built
        if [(note.run_id, note.kind) for note in hub.notes()] != [(note.run_id, note.kind) for note in notes]:
            raise HubspokeError("a build has begun meanwhile. When it has ended: hubspoke spark release")
        return release_hub(project, connection, manifest, last.run_id, expected, ran)


def take_in(connection: duckdb.DuckDBPyConnection, manifest: Manifest, notes: list[Note]) -> None:
    """Add to the tables of a hub's log what runs have noted since the last time."""
    for statement in _statements(manifest):
        connection.execute(statement)
    connection.execute("create table if not exists runs.taken_in (run_id varchar, kind varchar)")
    known = set(connection.execute("select run_id, kind from runs.taken_in").fetchall())
    for place, note in enumerate(notes):
        if (note.run_id, note.kind) in known:
            continue
        connection.execute("begin")
        if note.kind == "began":
            _begin(connection, note)
        else:
            # what two runs have built at the same time is nobody's
            _end(connection, note, note.content["state"] if notes[place - 1].run_id == note.run_id else "unfinished")
        connection.execute(f"insert into runs.taken_in values ({literal(note.run_id)}, {literal(note.kind)})")
        connection.execute("commit")


def show(connection: duckdb.DuckDBPyConnection, hub: SparkHub, manifest: Manifest) -> None:
    """Make a view of each table that Spark keeps, quarantined rows included, over its files as they are now."""
    kept = [
        (node["schema"], node["alias"])
        for node in manifest.nodes.values()
        if node["resource_type"] in {"model", "seed"} and node["config"]["materialized"] in {"table", "seed"}
    ]
    connection.execute("begin")
    for schema, name in [*kept, *(("quarantine", name) for name in hub.quarantined())]:
        rows = hub.select(schema, name)
        if rows:
            connection.execute(f"create schema if not exists {identifier(schema)}")
            connection.execute(f"create or replace view {identifier(schema)}.{identifier(name)} as {rows}")
    connection.execute("commit")


def _statements(manifest: Manifest) -> list[str]:
    """Return the statements of the macro that makes the log's tables: they are described there alone."""
    found: list[str] = []
    template = Environment(extensions=["jinja2.ext.do"], autoescape=False).from_string(  # noqa: S701 -- is SQL
        manifest.macros[MAKES_LOG]["macro_sql"] + "{{ default___create_run_log() }}"
    )
    template.render(run_statement=found.append)
    return found


def _begin(connection: duckdb.DuckDBPyConnection, note: Note) -> None:
    """Note which loads a run reads, and that what it is to build is unfinished."""
    for node_id, load_id in note.content["loads"].items():
        last: Any = connection.execute(
            f"select fingerprint from runs.builds where node_id = {literal(node_id)} order by build_number desc limit 1"
        ).fetchone()
        if not last or last[0] != load_id:
            _insert_build(connection, note, node_id, "finished", load_id)
    for node_id in note.content["selected"]:
        if re.match(r"(model|seed)\.", node_id):
            _insert_build(connection, note, node_id, "unfinished")


def _end(connection: duckdb.DuckDBPyConnection, note: Note, state: str) -> None:
    """Note what a run has built and tested; what it has skipped is as it was."""
    content, results = note.content, note.content["results"]
    # what dbt calls skipped because another failed (--fail-fast) may have been half-way
    skipped = [result["node_id"] for result in results if result["status"] == "skipped" and not result["was_stopped"]]
    connection.execute(
        f"delete from runs.builds where run_id = {literal(note.run_id)} and state = 'unfinished' "
        f"and node_id in (select unnest({texts(skipped)}))"
    )
    for result in results:
        if result["status"] == "success" and re.match(r"(model|seed)\.", result["node_id"]):
            _insert_build(connection, note, result["node_id"], state, None, result["compiled_sql"] or "")
    measured = {}
    for model in {line["model"] for line in content["measurements"]}:
        connection.execute(f"delete from quality.measurements where model = {literal(model)}")
    for line in content["measurements"]:
        measured[line["test_id"]] = line
        _insert(
            connection,
            "quality.measurements",
            *(note.run_id, line["model"], line["test_id"], line["definition"], line["rows_tested"]),
            *(line["rows_failed"], line["failures"], line["observed"], note.noted_at),
        )
    for line in content["ledger"]:
        values = [line[name] for name in ("rows_in", "rows_out", "rows_quarantined", "rows_dropped")]
        connection.execute(
            f"insert into quality.ledger select {literal(note.run_id)}, nextval('runs.build_number'), "
            f"{', '.join(map(literal, [line['node_id'], line['model'], *values]))}, {literal(str(note.noted_at))}"
        )
    for result in results:
        status, failures = result["status"], result["failures"]
        _insert(
            connection,
            "runs.results",
            *(note.run_id, result["node_id"], status, None, failures, result["seconds"], note.noted_at, None),
            result["compiled_sql"] if result["rule"] else None,
        )
        if result["rule"]:
            line = measured.get(result["node_id"], {})
            failed = line.get("rows_failed", failures)
            values = [note.run_id, *result["rule"], status, line.get("rows_tested"), failed, line.get("observed")]
            connection.execute(
                f"insert into quality.results values ({', '.join(map(literal, values))}, {literal(str(note.noted_at))})"
            )


def _insert_build(
    connection: duckdb.DuckDBPyConnection,
    note: Note,
    node_id: str,
    state: str,
    fingerprint: str | None = None,
    compiled_sql: str = "",
) -> None:
    _insert(
        connection,
        "runs.builds",
        *(note.run_id, node_id, state, fingerprint, compiled_sql, note.noted_at, None),
    )


def _insert(connection: duckdb.DuckDBPyConnection, table: str, *values: Any) -> None:
    """Insert a row whose first column is the next number in the order of all that runs do."""
    listed = ", ".join(literal(str(value) if isinstance(value, datetime) else value) for value in values)
    connection.execute(f"insert into {table} values (nextval('runs.build_number'), {listed})")
