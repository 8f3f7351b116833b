"""The release: what spokes read, made current at once and only when everything that must hold holds.

    release/
      catalog.db, store.json                   Iceberg catalog (SQLite), and where the store was made
      tables/<spoke>/<relation>/data/*.parquet  the data of every release that is kept
      000001/ manifest.json, <spoke>.duckdb    one folder per release, never changed once it is there
      current -> 000001                        what readers open; replaced in one atomic step

A spoke's DuckDB file holds views over that spoke's own data files and nothing else. The tables may lie elsewhere
(``hubspoke.location``).
"""

import hashlib
import json
import os
import subprocess
import threading
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import duckdb
from pydantic import BaseModel

from hubspoke.errors import HubspokeError
from hubspoke.fence import violations
from hubspoke.files import UNFINISHED, commit_folder, exclusive, point
from hubspoke.fingerprint import fingerprints
from hubspoke.freshness import History
from hubspoke.iceberg import IcebergTables
from hubspoke.location import Location, claim, read_location
from hubspoke.manifest import Manifest, Node, given_to_dbt, spoke_of
from hubspoke.orders import orders
from hubspoke.project import Project
from hubspoke.readiness import Obstacle, obstacles
from hubspoke.sql import columns_of, literal, quoted, rows_and_checksum, texts
from hubspoke.versions import Build, Result, held, judged

COMMITS_AT_ONCE = 4
"""Commits of Iceberg tables that run at the same time: each waits for the disk again and again."""

SAID = (
    *("unique_id", "original_file_path", "description", "columns", "config", "meta", "group", "access", "version"),
    *("depends_on", "owner", "type", "maturity", "label", "url"),
)
"""What the manifest says of a node beside its query: what readers see, and the rules of the house ask."""


class Relation(BaseModel):
    """One relation of a release.

    Attributes:
        spoke: Consumer that may read it.
        rows: Rows.
        checksum: Sum of DuckDB's row hashes; equal for equal rows in any order.
        contract: SHA-256 of its column names, types and descriptions.
        snapshot_id: Iceberg snapshot of ``<spoke>.<relation>``.
        files: Parquet files of that snapshot, relative to the release store.
        metadata: Iceberg metadata file as of that snapshot, relative to the release store.
        key: Columns that tests say no two rows share; empty if no test does.
        checks: How the tests on it and on all that it rests on did: their number by dbt's status.
    """

    spoke: str
    rows: int
    checksum: str
    contract: str
    snapshot_id: int = 0
    files: list[str] = []
    metadata: str = ""
    key: list[str] = []
    checks: dict[str, int] = {}


class Release(BaseModel):
    """One release (the content of ``manifest.json``).

    Attributes:
        number: Counts up from 1.
        released_at: UTC time.
        run_id: dbt invocation that made it.
        code: The project's commit, with ``(modified)`` where files differed from it; empty outside git.
        relations: By relation name.
    """

    number: int
    released_at: datetime
    run_id: str
    code: str = ""
    relations: dict[str, Relation]

    def relation(self, name: str) -> Relation:
        """Return one of its relations.

        Raises:
            HubspokeError: It has no such relation.
        """
        if name not in self.relations:
            known = ", ".join(self.relations)
            raise HubspokeError(f"release {self.number} has no relation {name}; it has {known}")
        return self.relations[name]


@dataclass(frozen=True)
class Evidence:
    """What a release tells of its relations that cannot be seen in them.

    Attributes:
        code: See ``Release.code``.
        keys: See ``Relation.key``, by relation name.
        checks: See ``Relation.checks``, by relation name.
    """

    code: str = ""
    keys: dict[str, list[str]] = field(default_factory=dict)
    checks: dict[str, dict[str, int]] = field(default_factory=dict)


class ReleaseStore:
    """The releases under one folder."""

    def __init__(self, root: Path) -> None:
        self.root = root

    @property
    def location(self) -> Location:
        """Where the relations' files are."""
        return read_location(self.root)

    @property
    def tables(self) -> IcebergTables:
        """The Iceberg tables that the files belong to."""
        return IcebergTables(self.root, self.location)

    def releases(self) -> list[Release]:
        """List the releases, oldest first."""
        return [_read(self.folder(number) / "manifest.json") for number in self.numbers()]

    def numbers(self) -> list[int]:
        """List the releases' numbers, oldest first."""
        folders = [path.parent.name for path in self.root.glob("[0-9]*/manifest.json")]
        return sorted(int(name) for name in folders if UNFINISHED not in name)

    def newest(self) -> Release | None:
        """Return the release that was made last, whichever readers see; None before the first."""
        numbers = self.numbers()
        return _read(self.folder(numbers[-1]) / "manifest.json") if numbers else None

    def folder(self, number: int) -> Path:
        """Return where a release's manifest and the spokes' files are."""
        return self.root / f"{number:06d}"

    def current(self) -> Release | None:
        """Return the release that readers see, or None before the first."""
        manifest = self.root / "current" / "manifest.json"
        return _read(manifest) if manifest.is_file() else None

    def get(self, number: int | None = None) -> Release:
        """Return a release by its number; without one, the release that readers see.

        Raises:
            HubspokeError: There is no such release, or none at all.
        """
        current = self.current()
        if current is None:
            raise HubspokeError("There is no release yet. Run: hubspoke build")
        if number is None:
            return current
        numbers = self.numbers()
        if number not in numbers:
            raise HubspokeError(f"There is no release {number}. Releases: {', '.join(map(str, numbers))}")
        return _read(self.folder(number) / "manifest.json")

    def open_file(self, release: Release, spoke: str) -> duckdb.DuckDBPyConnection:
        """Open a spoke's own file of a release, read-only."""
        file = duckdb.connect((self.folder(release.number) / f"{spoke}.duckdb").resolve(), read_only=True)
        self.location.let_read(file)
        return file

    def connect(self, number: int | None = None) -> duckdb.DuckDBPyConnection:
        """Open a release: a DuckDB connection in memory with one view for each of its relations.

        Args:
            number: Release to read; default: the one that readers see.

        Raises:
            HubspokeError: There is no such release.
        """
        connection = duckdb.connect()
        self.location.let_read(connection)
        for name, relation in self.get(number).relations.items():
            connection.execute(f"create view {name} as {self.rows_of(relation)}")
        connection.execute(f"set allowed_directories = ['{quoted(self.location.name('tables'))}']")
        connection.execute("set enable_external_access = false; set lock_configuration = true")
        return connection

    def select(self, name: str) -> str:
        """Return SQL that reads a relation as readers see it now; empty text if it has not been released."""
        current = self.current()
        relation = current.relations.get(name) if current else None
        return self.rows_of(relation) if relation else ""

    def rows_of(self, relation: Relation) -> str:
        """Return SQL that reads a relation, on a connection that the location was let into."""
        files = ", ".join(f"'{quoted(self.location.name(name))}'" for name in relation.files)
        return f"select * from read_parquet([{files}])"

    def rollback(self, number: int | None = None) -> Release:
        """Make an earlier release current again, at once and without touching data.

        Args:
            number: Release to return to; default: the one before the current one.

        Raises:
            HubspokeError: There is no such release.
        """
        with exclusive(self.root, "releasing"):
            current = self.get()
            if number is None:
                earlier = [known for known in self.numbers() if known < current.number]
                if not earlier:
                    raise HubspokeError(f"Release {current.number} is the first one: there is none to go back to.")
                number = max(earlier)
            release = self.get(number)
            point(self.root / "current", self.folder(number).name)
            return release

    def publish(
        self, hub: duckdb.DuckDBPyConnection, spokes: list[Node], run_id: str, evidence: Evidence | None = None
    ) -> tuple[Release, list[str]]:
        """Release the spokes' relations as the hub holds them now; only those that changed are written.

        A crash at any instant leaves the current release as it was.

        Args:
            hub: Connection to the hub.
            spokes: Manifest nodes of the relations.
            run_id: dbt invocation that built them.
            evidence: What the release is to say of them beside what is in them.

        Returns:
            The release that is current afterwards, and the names of the relations that were written. If nothing
            changed, the current release stays and the list is empty.
        """
        with exclusive(self.root, "releasing"):
            newest = self.newest()
            is_at_home = claim(self.root, self.tables.forget)
            tables = self.tables
            self.location.let_in(hub)
            self._clear()
            evidence = evidence or Evidence()
            before = newest.relations if newest and is_at_home else {}
            after: dict[str, Relation] = {}
            number = newest.number + 1 if newest else 1
            folder = self.folder(number)
            unfinished = folder.with_name(folder.name + UNFINISHED)
            commits: dict[str, Future[tuple[int, str]]] = {}
            with ThreadPoolExecutor(COMMITS_AT_ONCE) as pool:
                for node in spokes:
                    name, columns = node["name"], columns_of(hub, node["relation_name"])
                    fresh = _measured(hub, node, columns)
                    kept = before.get(name)
                    now = (fresh.rows, fresh.checksum, fresh.contract)
                    if kept and (kept.rows, kept.checksum, kept.contract) == now:
                        after[name] = kept.model_copy()
                        continue
                    fresh.files = [tables.write(hub, fresh.spoke, name, node["relation_name"], columns)]
                    commits[name] = pool.submit(tables.commit, fresh.spoke, name, columns, *fresh.files)
                    after[name] = fresh
                current = self.current()
                if current and not commits and before.keys() == after.keys():
                    return current, []
                unfinished.mkdir()
                for spoke in sorted({relation.spoke for relation in after.values()}):
                    self._write_spoke_file(unfinished / f"{spoke}.duckdb", spoke, spokes, after)
            for name, commit in commits.items():
                after[name].snapshot_id, after[name].metadata = commit.result()
            for name, relation in after.items():
                relation.key, relation.checks = evidence.keys.get(name, []), evidence.checks.get(name, {})
            release = Release(
                number=number, released_at=datetime.now(UTC), run_id=run_id, code=evidence.code, relations=after
            )
            (unfinished / "manifest.json").write_text(release.model_dump_json(indent=2) + "\n")
            commit_folder(unfinished, folder)
            point(self.root / "current", folder.name)
            return release, [*commits]

    def prune(self, keep: int) -> tuple[list[int], int]:
        """Remove all but the newest releases; the one that readers see is kept, whatever its age.

        What a kept release holds is not touched. May be killed and run again.

        Args:
            keep: Releases to keep, at least 1.

        Returns:
            The numbers of the removed releases, and the bytes of data that are free now.
        """
        with exclusive(self.root, "releasing"):
            current = self.get()
            gone = [number for number in self.numbers()[:-keep] if number != current.number]
            for number in gone:
                folder = self.folder(number)
                folder.rename(folder.with_name(folder.name + UNFINISHED))  # the lock's holder removes it
            return gone, self._clear()

    def _clear(self) -> int:
        """Remove data that is of no release: of those that were pruned, and of those that a kill left half-made."""
        kept: dict[tuple[str, str], list[tuple[int, list[str], str]]] = {}
        for release in self.releases():
            for name, relation in release.relations.items():
                version = (relation.snapshot_id, relation.files, relation.metadata)
                kept.setdefault((relation.spoke, name), []).append(version)
        return self.tables.clear(kept)

    def _write_spoke_file(self, path: Path, spoke: str, nodes: list[Node], relations: dict[str, Relation]) -> None:
        with duckdb.connect(path) as file:
            self.location.let_in(file)
            file.begin()
            for node in nodes:
                relation = relations[node["name"]]
                if relation.spoke != spoke:
                    continue
                file.execute(f"create view {node['name']} as {self.rows_of(relation)}")
                file.execute(f"comment on view {node['name']} is '{quoted(node['description'])}'")
                for column in node["columns"].values():
                    file.execute(
                        f"comment on column {node['name']}.{column['name']} is '{quoted(column['description'])}'"
                    )
            file.commit()
        path.chmod(0o444)


@dataclass(frozen=True)
class Premises:
    """What a run takes from files beside the manifest, as it was when the run began.

    Attributes:
        variables: dbt's variables.
        exceptions: Lines of ``seeds/rule_exceptions.csv``.
    """

    variables: dict[str, Any]
    exceptions: list[list[str]]

    @classmethod
    def read(cls, project: Project) -> "Premises":
        """Read them as they are now."""
        return cls(project.variables(), project.rule_exceptions())


def release_run(
    project: Project,
    hub: duckdb.DuckDBPyConnection,
    run_id: str,
    given_variables: dict[str, Any] | None = None,
    premises: Premises | None = None,
) -> str:
    """Release what a dbt run left in the hub, if it may be released.

    Args:
        project: The project that ran.
        hub: A connection to the hub on which nothing is open.
        run_id: dbt's invocation id; its results are in ``runs.results``.
        given_variables: dbt variables that were given on the command line; what was built with another value than the
            project's own is not released.
        premises: What the run began with; default: as it is now.

    Returns:
        One sentence for the person who ran it: what was released, or why nothing was; where an exposure orders
        PostgreSQL, a second line: what its readers see.

    Raises:
        HubspokeError: The run was green, but the project breaks a rule of the house, or another process is releasing.
    """
    manifest = Manifest.read(project.root)
    if manifest.run_id not in {run_id, *given_to_dbt}:
        readers_see = _seen(ReleaseStore(project.release).current())
        return f"Not released: dbt did not write target/manifest.json in this run; {readers_see}."
    began = premises or Premises.read(project)
    expected = fingerprints(manifest, began.variables, began.exceptions)
    ran = fingerprints(manifest, began.variables | given_variables, began.exceptions) if given_variables else expected
    return release_hub(project, hub, manifest, run_id, expected, ran)


def release_hub(
    project: Project,
    hub: duckdb.DuckDBPyConnection,
    manifest: Manifest,
    run_id: str,
    expected: dict[str, str],
    ran: dict[str, str] | None = None,
) -> str:
    """Note what a run made of what, and release what it left in the hub, if that may be released.

    Args:
        project: The project.
        hub: A connection to the hub on which nothing is open.
        manifest: The project as it was when the run began.
        run_id: The run's name in ``runs.builds`` and ``runs.results``.
        expected: Fingerprint of each model, seed and test.
        ran: Those that the run had, if it was given variables of its own.

    Returns:
        See ``release_run``.

    Raises:
        HubspokeError: See ``release_run``.
    """
    store = ReleaseStore(project.release)
    current = store.current()
    readers_see = _seen(current)
    _note(hub, manifest, run_id, ran or expected)
    if project.base:
        return f"Not released: {project.warehouse.name} is a development environment; {readers_see}."
    if not manifest.spokes:
        return "Not released: models/spokes/ holds no model, so nobody has ordered anything."
    builds, results = last_builds(hub), last_results(hub)
    found = obstacles(manifest, builds, results, expected)
    if found:
        return f"Not released: {_explain(manifest, found)}; {readers_see}."
    faults = violations(manifest, {node_id: build.compiled for node_id, build in builds.items()})
    if faults:
        raise HubspokeError("\n".join([f"the project breaks its own rules; {readers_see}.", *map(str, faults)]))
    before = store.newest()
    with _writing_down(hub):
        release, changed = store.publish(hub, manifest.spokes, run_id, _evidence(project, manifest, results))
    newest = max(store.numbers())
    if release.number != newest:
        told = (
            f"Release {release.number} stays current: readers were taken back to it, and nothing has changed since "
            f"release {newest}."
        )
    elif current and release.number == current.number:
        told = f"Release {release.number} is still current: no relation changed."
    else:
        gone = len((before.relations if before else {}).keys() - release.relations.keys())
        removed = f", {gone} removed" if gone else ""
        told = f"Released {release.number}: {len(changed)} of {len(release.relations)} relations changed{removed}."
    told = f"{told}\n{publication(project, manifest)}".strip()
    loads = {node_id: build.fingerprint or "" for node_id, build in builds.items() if node_id in manifest.sources}
    History(project).note_release(manifest, loads, *_course(hub, manifest, run_id))
    hub.execute(
        f"create or replace table runs.released as select {literal(state_of(manifest, builds))} as state, "
        f"{literal(run_id)} as run_id, now() as released_at"
    )
    return told


@contextmanager
def _writing_down(hub: duckdb.DuckDBPyConnection) -> Iterator[None]:
    """Have what the hub's log holds written into its file meanwhile: who closes the hub would wait for that."""
    cursor = hub.cursor()

    def checkpoint() -> None:
        with suppress(duckdb.Error):  # closing the hub does it, then
            cursor.execute("checkpoint")

    thread = threading.Thread(target=checkpoint)
    thread.start()
    try:
        yield
    finally:
        thread.join()
        cursor.close()


def publication(project: Project, manifest: Manifest) -> str:
    """Publish the current release to PostgreSQL, and say in one line what came of it; empty if nobody orders that."""
    if not orders(manifest) and not os.environ.get("HUBSPOKE_POSTGRES"):
        return ""
    # publishes what this module makes
    from hubspoke import postgres

    return postgres.outcome(project, manifest)


def _seen(current: Release | None) -> str:
    """Say what readers see where nothing is released."""
    return f"readers keep release {current.number}" if current else "there is no release yet"


def _course(hub: duckdb.DuckDBPyConnection, manifest: Manifest, run_id: str) -> tuple[float, str, str]:
    """Tell how a run went: its seconds until now, what kept earlier ones from a release, and its slowest model."""
    row: Any = hub.execute(
        f"select coalesce(epoch(now() - min(built_at)), 0) from runs.builds where run_id = {literal(run_id)}"
    ).fetchone()
    since = "(select max(released_at) from runs.released)" if released_state(hub) else "now()"
    red = hub.execute(
        "select node_id from runs.results "
        f"where status in ('error', 'fail') and run_id <> {literal(run_id)} and recorded_at > {since}"
    ).fetchall()
    names = [
        manifest.get(node_id)["name"] for (node_id,) in red if node_id in {**manifest.nodes, **manifest.unit_tests}
    ]
    slowest = hub.execute(
        f"select node_id, round(seconds, 1) from runs.results where run_id = {literal(run_id)} "
        "order by seconds desc limit 1"
    ).fetchone()
    longest = f"{slowest[0].split('.')[2]} ({slowest[1]} s)" if slowest else ""
    return row[0], f"a build was red: {names[0]}" if names else "", longest


def state_of(manifest: Manifest, builds: dict[str, Build]) -> str:
    """Tell what a release is made of, as one hash: what the spokes' relations hold, and what is said of everything."""
    versions = held(manifest, builds)
    said = [
        {name: value for name, value in node.items() if name in SAID}
        for group in (manifest.nodes, manifest.sources, manifest.exposures)
        for _, node in sorted(group.items())
    ]
    content = [{spoke["unique_id"]: versions[spoke["unique_id"]] for spoke in manifest.spokes}, said]
    return hashlib.sha256(json.dumps(content, sort_keys=True, default=str).encode()).hexdigest()


def released_state(hub: duckdb.DuckDBPyConnection) -> str:
    """Return the state that the last release was made of, or found to be equal to; empty text if there was none."""
    if not hub.execute(
        "select 1 from duckdb_tables() where database_name = current_database() and schema_name = 'runs' "
        "and table_name = 'released'"
    ).fetchall():
        return ""
    row = hub.execute("select state from runs.released").fetchone()
    return str(row[0]) if row else ""


def _read(manifest: Path) -> Release:
    return Release.model_validate_json(manifest.read_text())


def _evidence(project: Project, manifest: Manifest, results: dict[str, Result]) -> Evidence:
    checks = {}
    for node in manifest.spokes:
        scope = set(manifest.ancestry([node["unique_id"]]))
        on_it = [test_id for test_id, tested in manifest.tested.items() if scope.intersection(tested)]
        checks[node["name"]] = dict(Counter(results[test_id].status for test_id in on_it if test_id in results))
    keys = {node["name"]: list(manifest.tested_key(node)[0]) for node in manifest.spokes}
    return Evidence(_code(project.root), keys, checks)


def _code(root: Path) -> str:
    """Name the commit that the project is at; empty where git knows of none."""
    try:
        described = subprocess.run(
            ["git", "describe", "--always", "--abbrev=12", "--dirty= (modified)"],  # noqa: S607 -- the user's own
            cwd=root,
            capture_output=True,
            text=True,
            check=True,
        )
    except (OSError, subprocess.CalledProcessError):
        return ""
    return described.stdout.strip()


def _note(hub: duckdb.DuckDBPyConnection, manifest: Manifest, run_id: str, now: dict[str, str]) -> None:
    """Add to what a run has built and tested what it was made of, and which data that was."""
    run = literal(run_id)
    hub.execute(
        f"""
        update runs.builds set fingerprint = now.fingerprint
        from (select unnest({texts(now)}) as node_id, unnest({texts(now.values())}) as fingerprint) as now
        where builds.node_id = now.node_id and builds.run_id = {run} and state = 'finished'
        """
    )
    rows = hub.execute(f"select distinct node_id from runs.builds where run_id = {run} and fingerprint is not null")
    fresh = frozenset(node_id for (node_id,) in rows.fetchall() if node_id not in manifest.sources)
    versions = held(manifest, last_builds(hub), fresh)
    built = {node_id: version for node_id, version in versions.items() if node_id in fresh}
    hub.execute(
        f"""
        update runs.builds set version = now.version
        from (select unnest({texts(built)}) as node_id, unnest({texts(built.values())}) as version) as now
        where builds.node_id = now.node_id and builds.run_id = {run}
        """
    )
    looked_at = {test_id: judged(manifest, test_id, now, versions) for test_id in manifest.tested}
    hub.execute(
        f"""
        update runs.results set fingerprint = now.fingerprint, version = now.version
        from (
            select
                unnest({texts(now)}) as node_id,
                unnest({texts(now.values())}) as fingerprint,
                unnest({texts(looked_at.get(node_id) for node_id in now)}) as version
        ) as now
        where results.node_id = now.node_id and results.run_id = {run}
        """
    )
    # a relation may come back under the name of what has replaced it: what was noted of it then says nothing any more
    known = texts([*manifest.nodes, *manifest.sources])
    hub.execute(f"delete from runs.builds where node_id not in (select unnest({known}))")


def last_builds(hub: duckdb.DuckDBPyConnection) -> dict[str, Build]:
    """Read the last build of each model and seed and the last pin of each source, by unique id."""
    rows = hub.execute(
        """
        select node_id, build_number, fingerprint, version, compiled_sql
        from runs.builds
        qualify row_number() over (partition by node_id order by build_number desc) = 1
        """
    ).fetchall()
    return {node_id: Build(*rest) for node_id, *rest in rows}


def last_results(hub: duckdb.DuckDBPyConnection) -> dict[str, Result]:
    """Read the last result of each node that was not skipped, by unique id."""
    rows = hub.execute(
        """
        select node_id, build_number, status, fingerprint, version
        from runs.results
        where status != 'skipped'
        qualify row_number() over (partition by node_id order by build_number desc) = 1
        """
    ).fetchall()
    return {node_id: Result(*rest) for node_id, *rest in rows}


def _explain(manifest: Manifest, found: list[Obstacle]) -> str:
    failed = [manifest.get(obstacle.node_id)["name"] for obstacle in found if obstacle.kind == "red"]
    if failed:
        return f"{failed[0]} failed{f' (and {len(failed) - 1} more)' if len(failed) > 1 else ''}"
    first = found[0]
    why = {
        "missing": "has never been built" if first.node_id.startswith(("model", "seed")) else "has not run yet",
        "edited": "was not built, or not to the end, from what the project says of it now",
        "outdated": "is older than what it reads",
        "red": "failed",
    }[first.kind]
    if first.kind == "edited" and not first.node_id.startswith(("model", "seed")):
        why = "has not run as the project says it now"
    others = f" (and {len(found) - 1} more)" if len(found) > 1 else ""
    name = manifest.get(first.node_id)["name"]
    return f"this run leaves out what a release rests on: {name} {why}{others}. Run: dbt build"


def _measured(hub: duckdb.DuckDBPyConnection, node: Node, columns: dict[str, str]) -> Relation:
    """Describe a relation as the hub holds it now, in the words of a release; it has no snapshot and no files yet."""
    described = {name: column["description"] for name, column in node["columns"].items()}
    promised = [columns, node["description"], described]
    contract = hashlib.sha256(json.dumps(promised).encode()).hexdigest()
    rows, checksum = rows_and_checksum(hub, node["relation_name"])
    return Relation(spoke=spoke_of(node), rows=rows, checksum=checksum, contract=contract)
