"""Brings the hub up to date without dbt, or computes all anew: what was built is known, down to the SQL of every rule.

A model whose query can be computed for the keys that a change touches alone (``hubspoke/maintenance.py``) is kept up to
date by that; any other runs its query again, and is found unchanged where that gives the same rows. What changed in a
model is known row by row, and goes on to those that read it; where nothing did, those that read it are done.

All of it is one transaction: a rule that fails, an error or a kill leaves the hub as it was, and dbt's own build then
does the work and tells of it.
"""

import json
import os
import time
import uuid
from argparse import Namespace
from collections.abc import Callable, Collection, Iterable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
from sqlglot import exp
from sqlglot.errors import SqlglotError

from hubspoke.changelog import News, changes_since
from hubspoke.edits import compiled
from hubspoke.errors import HubspokeError
from hubspoke.fingerprint import is_text_alone
from hubspoke.landing import LandingZone
from hubspoke.lineage import parse, relation_key, table_key
from hubspoke.maintenance import (
    Changed,
    Keys,
    Maintenance,
    NotMaintainable,
    Query,
    Types,
    added_up,
    difference,
    inlined,
    key_of,
    nulls,
    query_of,
    repeated,
)
from hubspoke.manifest import TAKING_OUT, Manifest, Node
from hubspoke.pins import pinned_tables
from hubspoke.plan import IN_PLACE, Plan, Step, elsewhere
from hubspoke.profile import read_target
from hubspoke.project import Project
from hubspoke.quality import held_back
from hubspoke.release import last_builds, last_results, release_hub
from hubspoke.sql import columns_of, identifier, literal, quoted
from hubspoke.versions import Build, is_view
from hubspoke.volatility import volatile, written_anew

HOUSE_HOOKS = {"{{ record_build() }}", "{{ quality_gate() }}"}
"""Hooks of which the work is done here, too."""

NUMBER = "nextval('runs.build_number')"

FILLED_IN = {
    "runs.builds": {"build_number": NUMBER, "built_at": "now()"},
    "runs.results": {"build_number": NUMBER, "recorded_at": "now()"},
    "quality.ledger": {"build_number": NUMBER, "recorded_at": "now()"},
    "quality.measurements": {"build_number": NUMBER, "measured_at": "now()"},
    "quality.results": {"recorded_at": "now()"},
}
"""Columns that the hub itself has values for, of its tables about its runs."""

ALL_BUT_NONE = "!= 0"
"""dbt's own threshold of failures, from which on a test warns or fails."""

COMPARED_ROWS = 5_000_000
"""A larger relation that was computed anew is not compared with what it was: it is taken to be another."""

READ_WHOLE = 1_000_000
"""Rows of what new rows are joined to, up to which that is read for them, and no key is sought."""

MANY_ROWS = 50_000
"""Where changes touch more rows of a model, keys of more columns are looked for, though that takes a join."""

ALIKE_SHARE = 0.3
"""Where more of the rows that went came again as they were, they are left out of what changed."""

WORTHWHILE_SHARE = 0.3
"""Where changes touch more of a model's rows, it is quicker to run its query, or to write all of them, again."""


class NotRefreshable(Exception):
    """The work is dbt's; the message says why."""


class LandedMeanwhile(NotRefreshable):
    """More has landed since the plan was made; the hub is as it was."""


@dataclass
class Refreshed:
    """What came of it.

    Attributes:
        run_id: Its name among the runs that the hub has noted.
        by_change: Tables of which only what changes touched was computed.
        again: Tables whose query ran again, and that came out otherwise.
        rules: Rules that were judged.
        warned: Names of those that warned.
        held_back: Rows that are held back: quarantined, and dropped by a declared filter.
        outcome: What the release came to.
    """

    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    by_change: int = 0
    again: int = 0
    rules: int = 0
    warned: list[str] = field(default_factory=list)
    held_back: tuple[int, int] = (0, 0)
    outcome: str = ""


def refresh(project: Project, plan: Plan, tell: Callable[[Step], None]) -> Refreshed:
    """Do what a plan says, and release.

    Args:
        project: The project; nobody else has the hub open.
        plan: What is to be done.
        tell: Is told of each step before it is done.

    Raises:
        NotRefreshable: Some of it is dbt's, or a rule failed; the hub is as it was.
        LandedMeanwhile: Another plan is to be made; the hub is as it was.
        HubspokeError: Another process has the hub open; or all was done, but the release was refused.
    """
    if project.base:
        raise NotRefreshable("a development environment reads no new data")
    _refuse(plan)
    try:
        opened = _open(project)
    except duckdb.IOException as error:
        raise in_use(project, error) from None
    with closing(opened) as hub:
        hub.execute("set parquet_metadata_cache = true")  # what has landed stays as it is, and several views read it
        refreshed = Refreshed()
        try:
            with _transaction(hub):
                _Run(project, plan, hub, refreshed).run(tell)
        except (duckdb.Error, SqlglotError, RecursionError, NotMaintainable) as error:
            raise NotRefreshable(str(error)) from error
        refreshed.held_back = held_back(hub)
        refreshed.outcome = release_hub(project, hub, plan.manifest, refreshed.run_id, plan.definitions)
    return refreshed


def _refuse(plan: Plan) -> None:
    """Raise if a step is dbt's."""
    for step in plan.steps:
        node, name = step.node, step.node["name"]
        is_ours = step.why == "volatile" if step.is_test else step.why == "edited"
        if step.why not in {"asked", "data", "outdated", "ancestor"} and not is_ours:
            raise NotRefreshable(f"{name}: {step.reason}")
        if obstacle := left_to_dbt(plan.manifest, node):
            raise NotRefreshable(f"{name} {obstacle}")


def left_to_dbt(manifest: Manifest, node: Node) -> str:
    """Say why only dbt can do what a model, seed or test asks for; empty if new data can be taken in without it."""
    config = node["config"]
    if node["resource_type"] == "test":
        if word := written_anew(manifest).get(node["unique_id"]):
            return f"is written anew at each run ({word})"
        return "stores its failures" if config.get("store_failures") else ""
    hooks = {hook["sql"] for kind in ("pre-hook", "post-hook") for hook in config.get(kind) or []}
    if node["resource_type"] != "model" or node.get("language") != "sql":
        return "is no model in SQL"
    if config.get("materialized") not in {"view", "table"} or not hooks <= HOUSE_HOOKS or config.get("sql_header"):
        return "is more than a query that is kept as a view or a table"
    if word := volatile(manifest).get(node["unique_id"]):
        return f"is volatile ({word})"
    return ""


def in_use(project: Project, error: duckdb.IOException) -> HubspokeError:
    """Return what to raise where the hub cannot be opened to write to it."""
    return HubspokeError(
        f"{project.hub} cannot be opened, most likely because another build runs; wait for it to end. {error}"
    )


def _open(project: Project) -> duckdb.DuckDBPyConnection:
    """Open the hub as dbt would, with all that the profile says."""
    connection: duckdb.DuckDBPyConnection
    os.chdir(project.root)  # what paths in the profile are relative to
    if target := read_target(project):
        connection = duckdb.connect(target["path"], config=target.get("config_options") or {})
        for name, value in (target.get("settings") or {}).items():
            connection.execute(f"set {name} = '{quoted(value)}'")
        return connection
    # slow to import (1 s)
    from dbt.adapters.duckdb.environments import Environment
    from dbt.cli.resolvers import default_profiles_dir
    from dbt.config.runtime import load_profile
    from dbt.flags import set_from_args
    from dbt_common.context import set_invocation_context

    set_invocation_context(os.environ)
    said = os.environ.get
    set_from_args(Namespace(PROFILES_DIR=said("DBT_PROFILES_DIR") or default_profiles_dir()), None)
    profile = load_profile(str(project.root), {}, said("DBT_PROFILE"), said("DBT_TARGET"))
    credentials: Any = profile.credentials
    connection = Environment.initialize_db(credentials)
    Environment.initialize_cursor(credentials, connection)
    return connection


@contextmanager
def _transaction(hub: duckdb.DuckDBPyConnection) -> Iterator[None]:
    hub.begin()
    try:
        yield
    except BaseException:
        hub.rollback()
        raise
    hub.commit()


class Relations:
    """What the hub's relations are, by what they are called in compiled SQL (see ``Types``).

    Args:
        manifest: The project.
        builds: Last builds.
        hub: A connection to the hub.

    Attributes:
        nodes: Nodes.
        types: Columns.
        sizes: Rows of tables as the engine knows them without reading any; deleted ones may be among them.
    """

    def __init__(self, manifest: Manifest, builds: dict[str, Build], hub: duckdb.DuckDBPyConnection) -> None:
        self._builds = builds
        self.types: Types = {}
        for *names, column, data_type in hub.execute(
            "select database_name, schema_name, table_name, column_name, data_type from duckdb_columns() "
            "where not internal"
        ).fetchall():
            self.types.setdefault(".".join(names).lower(), {})[column] = data_type
        sizes = hub.execute("select database_name, schema_name, table_name, estimated_size from duckdb_tables()")
        self.sizes: dict[str, int] = {".".join(names).lower(): size for *names, size in sizes.fetchall()}
        self.nodes = {
            relation_key(node): node
            for node in [*manifest.nodes.values(), *manifest.sources.values()]
            if node.get("relation_name")
        }

    def written_out(self, sql: str) -> str:
        """Write the queries of the hub's views into a query, in place of their names."""
        return inlined(sql, self._view)

    def read_by(self, sql: str) -> set[str]:
        """Name what a query reads."""
        query = parse(sql)
        return {table_key(table) for table in query.find_all(exp.Table) if table.args.get("db")} if query else set()

    def query(self, sql: str) -> Query:
        """Read a query with the columns of what it reads.

        Raises:
            NotMaintainable: It cannot be read.
        """
        known = sorted(self.read_by(sql) & self.types.keys())
        return query_of(sql, tuple((relation, tuple(self.types[relation].items())) for relation in known))

    def alone(self, query: Query, changed: Iterable[str]) -> str:
        """Name what has changed if it is one relation, and all others that the query reads are small; empty if not."""
        [leaf, *more] = changed
        others = {scan.relation for scan in query.scans} - {leaf}
        is_quick = sum(self.sizes.get(other, READ_WHOLE + 1) for other in others) <= READ_WHOLE
        return leaf if is_quick and not more else ""

    def _view(self, relation: str) -> str | None:
        node = self.nodes.get(relation)
        if node is None or node["resource_type"] != "model" or not is_view(node):
            return None
        return self._builds[node["unique_id"]].compiled or None


class _Run:
    """One run, in a transaction of the hub."""

    def __init__(self, project: Project, plan: Plan, hub: duckdb.DuckDBPyConnection, refreshed: Refreshed) -> None:
        self._project, self._plan, self._hub, self._done = project, plan, hub, refreshed
        self._manifest = plan.manifest
        self._builds, self._results = last_builds(hub), last_results(hub)
        self._relations = Relations(plan.manifest, self._builds, hub)
        self._types = self._relations.types
        # of what is computed anew whatever has changed, nobody asks what that is
        self._changes: dict[str, Changed | None] = dict.fromkeys(self._relations.nodes) if plan.is_full else {}
        self._sizes = self._relations.sizes
        self._kept: dict[str, int] = {}
        self._gates: dict[str, list[dict[str, Any]]] = {}
        self._taken: dict[str, int] = {}
        self._rows_in: dict[str, int] = {}
        self._dropped: dict[str, int] = {}
        self._measured: dict[str, tuple[str, int]] = {}
        self._broken_rows: dict[str, int] = {}
        self._queries: dict[str, str | None] = {}
        self._notes: dict[tuple[str, str], list[str]] = {}
        self._edited: dict[str, str] = {}
        self._remeasured: list[str] = []

    def run(self, tell: Callable[[Step], None]) -> None:
        """Do all of it, and tell of each step."""
        self._read_edits()
        self._pin()
        self._read_rules()
        for step in self._plan.built:
            begun = time.monotonic()
            tell(step)
            if not is_view(step.node):
                self._bring_up_to_date(step.node)
            self._note_build(step.node, time.monotonic() - begun)
            self._keep_ledger(step.node)
        self._write_notes()  # rules read them
        for step in self._plan.tested:
            tell(step)
            self._judge(step)
        self._write_notes()

    def _read_edits(self) -> None:
        """Tell what edited tables compile to, where nothing but SQL is another than when they were built."""
        manifest = self._manifest
        for step in self._plan.built:
            node, node_id = step.node, step.node["unique_id"]
            if step.why != "edited":
                continue
            sql = compiled(node, [manifest.get(parent) for parent in manifest.parents(node_id)])
            before, now = self._builds[node_id].fingerprint or "", self._plan.definitions[node_id]
            if is_view(node) or sql is None or not is_text_alone(before, now):
                raise NotRefreshable(f"{node['name']}: {step.reason}")
            self._edited[node_id] = sql

    # --- sources

    def _pin(self) -> None:
        """Point the sources of the plan at what has landed, and find the rows that this changes."""
        if moved := elsewhere(self._hub, self._project, self._manifest):
            raise NotRefreshable(f"{moved[0].split('.', 2)[-1]} was read from another landing zone")
        landed = pinned_tables(self._project, self._hub)
        read = set(self._manifest.ancestry([step.node["unique_id"] for step in self._plan.steps]))
        for node_id, source in self._manifest.sources.items():
            name = f"{source['source_name']}.{source['name']}"
            if node_id not in read or name not in landed:
                if node_id in read and self._plan.loads.get(node_id) == IN_PLACE:
                    raise NotRefreshable(f"{name} is read where it is")
                continue
            if landed[name]["load_id"] != self._plan.loads.get(node_id):
                raise LandedMeanwhile(f"{name} has landed again meanwhile")
            if node_id not in self._builds:
                raise NotRefreshable(f"{name} has not been read before")
            before = self._builds[node_id].fingerprint or ""
            if before != landed[name]["load_id"]:
                self._pin_source(source, landed[name], before)

    def _pin_source(self, source: Node, load: dict[str, Any], before: str) -> None:
        view = source["relation_name"]
        columns = self._types[relation_key(source)]
        zone = LandingZone(self._project.landing)
        news = None if self._plan.is_full else changes_since(zone, source["source_name"], source["name"], before)
        if news and self._count(f"from {news.changes} where _change = 'truncate'"):
            news = None
        before_sql, now_sql = self._rows_of(news, view, list(columns)) if news else ("", "")
        removed = self._keep(before_sql) if news else ""
        for suffix, sql in load["views"].items():
            name = f"{identifier(source['schema'])}.{identifier(source['identifier'] + suffix)}"
            self._hub.execute(f"create or replace view {name} as {sql}")
        if columns_of(self._hub, view) != columns:
            raise NotRefreshable(f"{source['name']} has other columns")
        key = tuple(map(str.lower, news.key)) if news else ()
        self._changes[relation_key(source)] = Changed(removed, self._keep(now_sql), key) if news else None
        pinned = {"state": "finished", "fingerprint": load["load_id"], "compiled_sql": ""}
        self._note("runs.builds", node_id=source["unique_id"], **pinned)

    def _rows_of(self, news: News, view: str, columns: list[str]) -> tuple[str, str]:
        """Return SQL for the rows of a source that went, to run while its view shows them, and for those that came."""
        listed = ", ".join(map(identifier, columns))
        if not news.key:
            return f"from {view} limit 0", f"select {listed} from {news.changes}"
        key = list(map(identifier, news.key))
        keys = self._keep(f"select distinct {', '.join(key)} from {news.changes}")
        if news.is_by_key:
            is_each_once = self._kept[keys] == self._count(f"from {news.changes}")
            now = f"{news.changes} where _change <> 'delete'" if is_each_once else f"({news.now})"
            return f"select {listed} from ({news.before(keys)})", f"select {listed} from {now}"
        same = " and ".join(f"_keys.{column} = _rows.{column}" for column in key)
        rows = f"select _rows.* from {view} as _rows semi join {keys} as _keys on {same}"
        return rows, rows

    # --- models

    def _bring_up_to_date(self, model: Node) -> None:
        """Compute what has changed in a table, and write it."""
        if edited := self._edited.get(model["unique_id"]):
            self._compute_again(model, self._of_same_columns(model, edited))
            return
        if any(rule["others"] for rule in self._taking_out(model)):
            self._compute_again(model, self._relations.written_out(self._builds[model["unique_id"]].compiled))
            return
        number = self._builds[model["unique_id"]].number
        sql = self._relations.written_out(self._builds[model["unique_id"]].compiled)
        changed = {
            leaf: self._changes[leaf] if self._is_known_since(leaf, number) else None
            for leaf in self._relations.read_by(sql)
            if leaf in self._changes or not self._is_known_since(leaf, number)
        }
        if not changed:
            return
        try:
            change = self._by_change(model, sql, changed)
        except NotMaintainable:
            self._compute_again(model, sql)
            return
        if self._is_change(change):
            self._changes[relation_key(model)] = change
            self._done.by_change += 1

    def _of_same_columns(self, model: Node, sql: str) -> str:
        """Return an edited query to run for a table that stays as it is, but for its rows."""
        query = self._relations.written_out(sql)
        now, before = columns_of(self._hub, f"(\n{query}\n)"), self._types.get(relation_key(model), {})
        # a contract says the order, whatever the query's is
        order = list(model["columns"]) if model["config"]["contract"]["enforced"] else list(now)
        if now != before or [name.lower() for name in order] != [name.lower() for name in before]:
            raise NotRefreshable(f"{model['name']} has other columns")
        if any("INTERVAL" in data_type for data_type in now.values()):
            raise NotRefreshable(f"{model['name']} has intervals, of which equal ones may differ")
        return query

    def _compute_again(self, model: Node, sql: str) -> None:
        """Compute all of a table, and see whether it is another."""
        change = self._again(model, sql)
        if change is None or self._is_change(change):
            self._changes[relation_key(model)] = change
            self._done.again += 1

    def _is_known_since(self, leaf: str, number: int) -> bool:
        """Whether a relation holds what a build of that number read, but for what this run has changed."""
        node = self._relations.nodes.get(leaf)
        build = self._builds.get(node["unique_id"]) if node else None
        return build is not None and build.number < number

    def _by_change(self, model: Node, sql: str, changed: dict[str, Changed | None]) -> Changed:
        """Compute the rows that changes touch."""
        changes = {leaf: change for leaf, change in changed.items() if change}
        for leaf in changed.keys() - changes.keys():
            raise NotMaintainable(f"what changed in {leaf.rpartition('.')[2]} is not known")
        query = self._relations.query(sql)
        felt = self._felt(query, changes)
        relation = model["relation_name"]
        if not felt:
            nothing = self._empty_like(relation)
            return Changed(nothing, nothing)
        leaf = self._relations.alone(query, felt)
        if leaf and not self._kept[changes[leaf].removed] and not self._taking_out(model):
            if query.is_by_row(leaf):
                rows = query.of_rows(leaf, changes[leaf].added)
                change = Changed(self._empty_like(relation), self._filled_like(relation, rows))
                self._hub.execute(f"insert into {relation} from {change.added}")
                return change
            if united := query.united(leaf, self._types[relation_key(model)]):
                return self._add_up(model, query.of_rows(leaf, changes[leaf].added), united)
        maintenance = Maintenance(query, set(felt), self._manifest.tested_key(model)[0])
        keys = self._keys(maintenance.touched(felt), maintenance.key)
        most = int(WORTHWHILE_SHARE * self._sizes[relation_key(model)])
        few = min(most, MANY_ROWS)
        stale = self._stale(relation, keys, few + 1)
        if self._kept[stale] > few and few < most:
            if finer := maintenance.finer():
                maintenance, keys = finer, self._keys(finer.touched(felt), finer.key)
            stale = self._stale(relation, keys, most + 1)
        if self._kept[stale] > most:
            raise NotMaintainable(f"more than {most:,} of its rows are touched")
        self._refuse_split_keys(model, maintenance.key)
        fresh = self._filled_like(relation, maintenance.recomputed(keys, {leaf: changes[leaf] for leaf in felt}))
        self._take_out(model, fresh, keys)
        return self._replace(model, keys, stale, fresh)

    def _add_up(self, model: Node, rows: str, united: dict[str, str]) -> Changed:
        """Add what rows that came give to the groups that are there."""
        relation = model["relation_name"]
        came = self._filled_like(relation, rows)
        key = tuple(name for name, aggregate in united.items() if not aggregate)
        keys = self._keys(key_of(came, key), key)
        stale = self._stale(relation, keys)
        fresh = self._filled_like(relation, added_up(stale, came, united))
        return self._replace(model, keys, stale, fresh)

    def _keys(self, sql: str, columns: tuple[str, ...]) -> Keys:
        """Keep the keys that changes touch."""
        name = self._keep(sql)
        has_null: Any = self._hub.execute(nulls(name, columns)).fetchone()
        return Keys(name, columns, has_null)

    def _stale(self, relation: str, keys: Keys, at_most: int | None = None) -> str:
        """Keep the rows of a table that have some keys, or so many of them."""
        limit = "" if at_most is None else f" limit {at_most}"
        return self._keep(
            f"select _rows.* from {relation} as _rows semi join {keys.name} as _keys on {keys.match('_rows')}{limit}"
        )

    def _replace(self, model: Node, keys: Keys, stale: str, fresh: str) -> Changed:
        """Put fresh rows in the place of those that have some keys, if they differ."""
        relation = model["relation_name"]
        change = self._without_alike(Changed(stale, fresh), self._types[relation_key(model)])
        if self._is_change(change):
            self._hub.execute(f"delete from {relation} as _rows using {keys.name} as _keys where {keys.match('_rows')}")
            self._hub.execute(f"insert into {relation} from {fresh}")
        return change

    def _felt(self, query: Query, changes: dict[str, Changed]) -> dict[str, Changed]:
        """Narrow changes to the columns that a query reads; those in other columns alone are none to it."""
        felt = {leaf: change for leaf, change in changes.items() if self._is_change(change)}
        for leaf, change in felt.items():
            columns = query.felt(leaf)
            if len(columns) < len(self._types[leaf]):
                felt[leaf] = self._without_alike(change, columns)
        return {leaf: change for leaf, change in felt.items() if self._is_change(change)}

    def _again(self, model: Node, sql: str) -> Changed | None:
        relation = model["relation_name"]
        rows_before = 0 if self._plan.is_full else self._count(f"from {relation}")
        if self._plan.is_full or rows_before > COMPARED_ROWS:
            self._hub.execute(f"delete from {relation}")
            if not self._taking_out(model):
                self._hub.execute(f"insert into {relation} by name select * from ({sql}\n)")
                return None
            # a commit sends all of a large table through the log if its transaction has deleted some of its rows
            staged = "runs.staged_rows"
            self._hub.execute(f"create table {staged} as from {relation} limit 0")
            self._kept[staged] = self._value(f"insert into {staged} by name select * from ({sql}\n)")
            self._take_out(model, staged)
            self._hub.execute(f"insert into {relation} from {staged}")
            self._hub.execute(f"drop table {staged}")
            return None
        fresh = self._filled_like(relation, sql)
        self._take_out(model, fresh)
        change = self._difference(relation, fresh, self._types[relation_key(model)])
        if self._is_change(change):
            went, came = self._kept[change.removed], change.added
            same = self._alike(self._types[relation_key(model)], "_rows", "_went")
            some = f"delete from {relation} as _rows using {change.removed} as _went where {same}"
            # of rows that are like others, not all may have gone
            if went > WORTHWHILE_SHARE * rows_before or self._value(some) != went:
                self._hub.execute(f"delete from {relation}")
                came = fresh
            self._hub.execute(f"insert into {relation} from {came}")
        return change

    def _without_alike(self, change: Changed, columns: Collection[str]) -> Changed:
        """Leave out of a change the rows that went and came again, as far as some columns tell, if they are many."""
        same = self._alike(columns, "_came", "_went")
        is_possible = self._kept[change.removed] and self._kept[change.added]
        alike = f"from {change.removed} as _went semi join {change.added} as _came on {same}"
        # few of them are not worth counting all row by row: to take what has not changed for changed is no fault
        if not is_possible or self._count(alike) <= ALIKE_SHARE * self._kept[change.removed]:
            return change
        return self._difference(change.removed, change.added, columns)

    @staticmethod
    def _alike(columns: Collection[str], one: str, other: str) -> str:
        """Return the condition that rows are the same in some columns."""
        return " and ".join(f"{one}.{name} is not distinct from {other}.{name}" for name in map(identifier, columns))

    def _difference(self, before: str, after: str, columns: Collection[str]) -> Changed:
        """Keep how rows differ."""
        names = list(columns)
        differing = self._keep(difference(before, after, names))
        if not self._kept[differing]:
            return Changed(differing, differing)
        went, came = (self._keep(repeated(differing, names, times)) for times in ("-_times", "_times"))
        return Changed(went, came)

    def _empty_like(self, relation: str) -> str:
        """Keep an empty table with a relation's columns."""
        return self._keep(f"from {relation} limit 0")

    def _filled_like(self, relation: str, sql: str) -> str:
        """Keep the rows of a query as a table would hold them."""
        table = self._empty_like(relation)
        self._kept[table] = self._value(f"insert into {table} by name select * from ({sql}\n)")
        return table

    # --- rows that rules take out

    def _taking_out(self, model: Node) -> list[dict[str, Any]]:
        """List the rules that take rows out of a model."""
        return [rule for rule in self._gates.get(model["unique_id"], []) if rule["on_failure"] in TAKING_OUT]

    def _refuse_split_keys(self, model: Node, key: tuple[str, ...]) -> None:
        """Refuse to take rows out by keys alone, where that hangs on other rows, or where nobody kept what went."""
        for rule in self._taking_out(model):
            if rule["on_failure"] == "drop":
                raise NotMaintainable(f"{rule['name']} drops rows of it for good")
            if rule["kind"] == "key" and not set(map(identifier, key)) <= {column.lower() for column in rule["key"]}:
                raise NotMaintainable(f"{rule['name']} compares rows of several {', '.join(key)}")

    def _take_out(self, model: Node, rows: str, some: Keys | None = None) -> None:
        """Take out of a model's new rows what its rules say, as its gate does.

        Args:
            model: The model.
            rows: Name of a table that is kept for this run; it holds them, and afterwards those that stay.
            some: Keys of the rows that these take the place of; default: of all.
        """
        taking = self._taking_out(model)
        if not taking:
            return
        every = [rule for rule in self._gates[model["unique_id"]] if rule["kind"] != "whole"]
        faulty = " or ".join(f"({rule['sql']})" for rule in every if rule["kind"] == "row") or "false"
        flags = []
        for number, rule in enumerate(every):
            if rule["kind"] == "row":
                flag = f"coalesce({rule['sql']}, false)"
            else:
                first = f"{rule['first_by']}, " if rule["first_by"] else ""
                others = (
                    f"partition by {', '.join(rule['key'])}, {rule['sql']} order by ({faulty}) is true, {first}rowid"
                )
                flag = f"coalesce({rule['sql']}, false) and row_number() over ({others}) > 1"
            flags.append(f"{flag} as _rule_{number}")
        suspect = " or ".join([f"({faulty})", *(_may_repeat(rule, rows) for rule in every if rule["kind"] == "key")])
        judged = self._keep(
            f"select _gated.*, _gated.rowid as _row, {', '.join(flags)} from {rows} as _gated where {suspect}"
        )

        def breaks(*actions: str) -> str:
            return (
                " or ".join(f"_rule_{place}" for place, rule in enumerate(every) if rule["on_failure"] in actions)
                or "false"
            )

        names = ", ".join(
            f"case when _rule_{place} then '{quoted(rule['name'])}' end" for place, rule in enumerate(every)
        )
        columns = ", ".join(f"_judged.{identifier(name)}" for name in self._types[relation_key(model)])
        held = f"quarantine.{identifier(model['alias'])}"
        narrowed = f"using {some.name} as _keys where {some.match('_rows')}" if some else ""
        self._hub.execute(f"delete from {held} as _rows {narrowed}")
        self._hub.execute(
            f"insert into {held} by name select {columns}, concat_ws(', ', null, {names}) as _rules_broken, "
            f"'{quoted(model['name'])}' as _model, '{self._done.run_id}' as _run_id, now() as _quarantined_at "
            f"from {judged} as _judged where {breaks('quarantine')}"
        )
        if not some:
            self._dropped[model["unique_id"]] = self._count(
                f"select 1 from {judged} where ({breaks('drop')}) and not ({breaks('quarantine')})"
            )
        for place, rule in enumerate(every):
            if rule in taking:
                named = f"list_contains(string_split(_rules_broken, ', '), '{quoted(rule['name'])}')"
                counted = (
                    f"select 1 from {held} where {named}" if some else f"select 1 from {judged} where _rule_{place}"
                )
                self._taken[rule["test_id"]] = self._count(counted)
        out = f"_gated.rowid = _judged._row and ({breaks('quarantine', 'drop')})"
        taken = self._value(f"delete from {rows} as _gated using {judged} as _judged where {out}")
        self._kept[rows] -= taken

    def _keep_ledger(self, model: Node) -> None:
        """Note where every row of a model went."""
        if not self._taking_out(model):
            return
        node_id, held = model["unique_id"], f"quarantine.{identifier(model['alias'])}"
        before = self._hub.execute(
            f"select rows_dropped from quality.ledger where node_id = {literal(node_id)} "
            "order by build_number desc limit 1"
        ).fetchone()
        dropped = self._dropped.get(node_id, before[0] if before else 0)
        kept, quarantined = self._count(f"from {model['relation_name']}"), self._count(f"from {held}")
        self._rows_in[node_id] = kept + quarantined + dropped
        counted = {"rows_in": self._rows_in[node_id], "rows_out": kept, "rows_quarantined": quarantined}
        self._note("quality.ledger", node_id=node_id, model=model["name"], **counted, rows_dropped=dropped)

    # --- rules

    def _read_rules(self) -> None:
        """Read what was noted of every rule: its SQL, and what was counted last."""
        rows = self._hub.execute(
            "select node_id, compiled_sql from runs.results where status <> 'skipped' "
            "qualify row_number() over (partition by node_id order by build_number desc) = 1"
        )
        self._queries = dict(rows.fetchall())
        for node_id, rules in self._hub.execute("select node_id, rules from quality.gates").fetchall():
            self._gates[node_id] = [rule for rule in json.loads(rules) if rule["test_id"] in self._manifest.nodes]
        rows = self._hub.execute(
            "select test_id, definition, rows_failed from quality.measurements "
            "qualify row_number() over (partition by test_id order by build_number desc) = 1"
        )
        self._measured = {test_id: (definition, failed) for test_id, definition, failed in rows.fetchall()}

    def _judge(self, step: Step) -> None:
        """Run a rule as dbt would, and note its result; a rule that fails ends the run."""
        test, begun = step.node, time.monotonic()
        config = test["config"]
        query = self._queries[test["unique_id"]]
        gates = self._gates.get(test.get("attached_node") or "", [])
        gate = next((rule for rule in gates if rule["test_id"] == test["unique_id"]), None)
        rows_tested, observed = None, None
        if query is not None:
            failed = self._failures(test, query)
            reported = failed
        elif gate is not None:
            about = self._manifest.get(test["attached_node"])
            rows_tested = self._rows_of_model(about)
            failed, observed = self._measure(gate, about)
            share = gate["max_failed_share"]
            is_reported = failed > share * rows_tested if share is not None else gate["is_reported"]
            reported = failed if is_reported else 0
            measured = {"rows_tested": rows_tested, "rows_failed": failed, "failures": reported}
            known = {"model": about["name"], "test_id": gate["test_id"], "definition": gate["definition"]}
            self._remeasured.append(gate["test_id"])
            self._note("quality.measurements", **known, **measured, observed=observed)
        else:
            raise NotRefreshable(f"nobody noted what {test['name']} runs")
        is_error, is_warning = (self._is_over(reported, config.get(name)) for name in ("error_if", "warn_if"))
        severity = str(config.get("severity") or "error").lower()
        status = "fail" if severity == "error" and is_error else "warn" if is_warning else "pass"
        if status == "fail":
            raise NotRefreshable(f"{test['name']} fails")
        if status == "warn":
            self._done.warned.append(test["name"])
        self._done.rules += 1
        if query is not None and status == "pass":
            failed = 0  # as dbt tells of it
        told = {"status": status, "compiled_sql": query}
        counted = {"seconds": time.monotonic() - begun, "failures": 0 if status == "pass" else reported}
        self._note("runs.results", node_id=test["unique_id"], **told, **counted)
        self._note_rule(test, status, rows_tested, failed, observed)

    def _is_over(self, failures: int, threshold: str | None) -> bool:
        """Whether so many failures are too many by a test's ``error_if`` or ``warn_if``."""
        if threshold in {None, ALL_BUT_NONE}:
            return failures != 0
        return bool(self._value(f"select {failures} {threshold}"))

    def _failures(self, test: Node, sql: str) -> int:
        """Count what a rule's own query finds."""
        config = test["config"]
        limit = f" limit {config['limit']}" if config.get("limit") else ""
        last = self._results.get(test["unique_id"])
        is_plain = not limit and (config.get("fail_calc") or "count(*)") == "count(*)"
        thresholds = {config.get(name) or ALL_BUT_NONE for name in ("warn_if", "error_if")}
        is_steady = test["unique_id"] not in volatile(self._manifest)
        if is_steady and is_plain and thresholds == {ALL_BUT_NONE} and last is not None and last.status == "pass":
            failed = self._found_by_change(sql, last.number)
            if failed is not None:
                return failed
        return self._value(f"select {config.get('fail_calc') or 'count(*)'} from (select * from ({sql}\n){limit})")

    def _found_by_change(self, sql: str, number: int) -> int | None:
        """Count the rows of a query that gave none until a number, where only what changed since can have made some."""
        query = self._relations.written_out(sql)
        leaves = self._relations.read_by(query)
        if not all(self._is_known_since(leaf, number) for leaf in leaves):
            return None
        changes = {leaf: self._changes[leaf] for leaf in leaves if leaf in self._changes}
        known = {leaf: change for leaf, change in changes.items() if change}
        if len(known) < len(changes):
            return None
        try:
            read = self._relations.query(query)
            felt = self._felt(read, known)
            # what was not missing is not, however much has come
            missed = {leaf for leaf in felt if not self._kept[felt[leaf].removed] and read.is_only_missed(leaf)}
            felt = {leaf: change for leaf, change in felt.items() if leaf not in missed}
            if not felt:
                return 0
            alone = self._relations.alone(read, felt)
            if alone and read.is_by_row(alone):
                return self._count(read.of_rows(alone, known[alone].added))
            maintenance = Maintenance(read, set(felt))
        except NotMaintainable:
            return None
        keys = self._keys(maintenance.touched(felt), maintenance.key)
        return self._count(maintenance.recomputed(keys, {leaf: known[leaf] for leaf in felt}))

    def _rows_of_model(self, model: Node) -> int:
        """Count the rows of a model, those included that were taken out; once, as it is not written again."""
        node_id = model["unique_id"]
        if node_id not in self._rows_in:
            self._rows_in[node_id] = self._count(f"from {model['relation_name']}")
        return self._rows_in[node_id]

    def _measure(self, gate: dict[str, Any], about: Node) -> tuple[int, str | None]:
        """Count the rows that break a rule which the gate knows, or look at a figure of the whole."""
        test_id, sql = gate["test_id"], gate["sql"]
        if gate["kind"] == "whole":
            row: Any = self._hub.execute(sql).fetchone()
            return int(bool(row[2])), None if row[1] is None else str(row[1])
        if gate["on_failure"] in TAKING_OUT:
            return self._taken.get(test_id, self._measured.get(test_id, ("", -1))[1]), None
        found = self._broken_by_change(gate, about) if self._is_clean(gate) else None
        return self._broken_in_all(gate, about) if found is None else found, None

    def _is_clean(self, gate: dict[str, Any]) -> bool:
        """Whether nothing broke a rule before this run: then only a row that came can, but where the clock decides."""
        known = self._measured.get(gate["test_id"])
        return known == (gate["definition"], 0) and gate["test_id"] not in volatile(self._manifest)

    def _broken_by_change(self, gate: dict[str, Any], about: Node) -> int | None:
        """Count what breaks a rule that nothing broke before this run; None if that is not told by what changed."""
        relation, name = about["relation_name"], relation_key(about)
        if gate["others"] or is_view(about):
            query = f"select * from {relation} as _gated where {gate['sql']}"
            return (
                self._found_by_change(query, self._results[gate["test_id"]].number) if gate["kind"] == "row" else None
            )
        if name not in self._changes:
            return 0
        change = self._changes[name]
        if change is None:
            return None
        if gate["kind"] == "row":
            others = [
                rule
                for rule in self._gates[about["unique_id"]]
                if not rule["others"] and rule["on_failure"] not in TAKING_OUT and self._is_clean(rule)
            ]
            return self._broken_rows_of(gate, others, change.added)
        came = ", ".join(f"{column} as _key_{number}" for number, column in enumerate(gate["key"]))
        same = " and ".join(f"_keys._key_{number} = _gated.{column}" for number, column in enumerate(gate["key"]))
        keys = f"(select {came} from {change.added} as _gated) as _keys on {same}"
        return self._repeated_keys(gate, f"(select _gated.* from {relation} as _gated semi join {keys})")

    def _broken_in_all(self, gate: dict[str, Any], about: Node) -> int:
        """Count which rows of a model break a rule; if all is computed anew, for all its rules on rows in one scan."""
        relation = about["relation_name"]
        if gate["kind"] == "key":
            return self._repeated_keys(gate, f"(select * from {relation} where {_may_repeat(gate, relation)})")
        return self._broken_rows_of(gate, self._gates[about["unique_id"]] if self._plan.is_full else [], relation)

    def _broken_rows_of(self, gate: dict[str, Any], others: list[dict[str, Any]], rows: str) -> int:
        """Count which of some rows break a rule on rows, and in the same scan which break other such rules."""
        if gate["test_id"] not in self._broken_rows:
            rules = {rule["test_id"]: rule["sql"] for rule in [gate, *others] if rule["kind"] == "row"}
            counts = ", ".join(f"coalesce(count_if({sql}), 0)" for sql in rules.values())
            row: Any = self._hub.execute(f"select {counts} from {rows} as _gated").fetchone()
            self._broken_rows |= dict(zip(rules, row, strict=True))
        return self._broken_rows[gate["test_id"]]

    def _repeated_keys(self, gate: dict[str, Any], rows: str) -> int:
        """Count how many of some rows repeat a key."""
        repeated = f"from {rows} as _gated where {gate['sql']} group by {', '.join(gate['key'])} having count(*) > 1"
        return self._value(f"select coalesce(sum(more), 0) from (select count(*) - 1 as more {repeated})")

    # --- notes

    def _note_build(self, node: Node, seconds: float) -> None:
        node_id = node["unique_id"]
        sql = self._edited.get(node_id, self._builds[node_id].compiled)
        built = {"fingerprint": self._plan.definitions[node_id], "compiled_sql": sql}
        self._note("runs.builds", node_id=node_id, state="finished", **built)
        self._note("runs.results", node_id=node_id, status="success", seconds=seconds)

    def _note_rule(self, test: Node, status: str, rows_tested: int | None, failed: int, observed: str | None) -> None:
        about = self._manifest.nodes.get(test.get("attached_node") or "")
        action = (test["config"].get("meta") or {}).get("on_failure")
        severity = "warn" if str(test["config"].get("severity")).lower() == "warn" else "fail"
        template = (test.get("test_metadata") or {}).get("name", "singular")
        said = {"model": about["name"] if about else "", "rule": test["name"], "template": template}
        found = {"status": status, "rows_tested": rows_tested, "rows_failed": failed, "observed": observed}
        self._note("quality.results", **said, on_failure=action or severity, **found)

    def _note(self, table: str, **values: str | float | None) -> None:
        """Add a line of this run to one of the hub's tables about its runs, to be written with the others."""
        line = {"run_id": literal(self._done.run_id), **{name: literal(value) for name, value in values.items()}}
        line |= FILLED_IN[table]
        self._notes.setdefault((table, ", ".join(line)), []).append(f"({', '.join(line.values())})")

    def _write_notes(self) -> None:
        """Write what was noted, in the order of the tables' first lines: what a rule is told of comes after builds."""
        listed = ", ".join(map(literal, self._remeasured)) or "null"
        self._hub.execute(f"delete from quality.measurements where test_id in ({listed})")
        self._remeasured.clear()
        for (table, columns), lines in self._notes.items():
            self._hub.execute(f"insert into {table} ({columns}) values {', '.join(lines)}")
        self._notes.clear()

    # --- the hub

    def _keep(self, sql: str) -> str:
        """Keep what a query gives until the run ends, and return what it is called."""
        number = len(self._kept) + 1
        name = f"temp._refresh_{number}"
        self._kept[name] = self._value(f"create temp table _refresh_{number} as {sql}")
        return name

    def _count(self, sql: str) -> int:
        return self._value(f"select count(*) from ({sql})")

    def _is_change(self, change: Changed) -> bool:
        return self._kept[change.removed] + self._kept[change.added] > 0

    def _value(self, sql: str) -> int:
        row: Any = self._hub.execute(sql).fetchone()
        return int(row[0])


def _may_repeat(rule: dict[str, Any], rows: str) -> str:
    """Return SQL that tells of a row whether another of some rows has the same hash of a rule's key.

    Few have. To find them by sorting hashes takes less than half the time of grouping all rows by their keys; the gate
    (``macros/quality/quality_gate.sql``) does the same.
    """
    hashes = f"select hash({', '.join(rule['key'])}) as _hash from {rows} where {rule['sql']}"
    sorted_hashes = f"select _hash, lag(_hash) over (order by _hash) as _hash_before from ({hashes})"
    return f"hash({', '.join(rule['key'])}) in (select _hash from ({sorted_hashes}) where _hash = _hash_before)"
