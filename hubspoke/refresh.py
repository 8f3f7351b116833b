"""Brings the hub up to date with new data without dbt: what was built once is known, down to the SQL of every rule.

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
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, field
from typing import Any

import duckdb
from sqlglot import exp

from hubspoke.changelog import changes_since
from hubspoke.dbt_plugin import pinned_tables
from hubspoke.landing import LandingZone
from hubspoke.lineage import parse, relation_key, table_key
from hubspoke.maintenance import Changed, Maintenance, NotMaintainable, Query, Types, inlined
from hubspoke.manifest import Manifest, Node, takes_rows_out
from hubspoke.plan import IN_PLACE, Plan, Step
from hubspoke.project import Project
from hubspoke.release import last_builds, last_results, release_hub
from hubspoke.sql import columns_of, identifier
from hubspoke.versions import is_view
from hubspoke.volatility import volatile

HOUSE_HOOKS = {"{{ record_build() }}", "{{ quality_gate() }}"}
"""Hooks of which the work is done here, too."""

MOMENT = ("run_started_at", "_released(", "env_var(", "modules.")
"""What makes a rule's SQL another at each run."""

COMPARED_ROWS = 5_000_000
"""A larger relation that was computed anew is not compared with what it was: it is taken to be another."""

WORTHWHILE_SHARE = 0.3
"""Where changes touch more of a model's rows, it is quicker to run its query again."""


class NotRefreshable(Exception):
    """The work is dbt's; the message says why."""


@dataclass
class Refreshed:
    """What came of it.

    Attributes:
        run_id: Its name among the runs that the hub has noted.
        by_change: Tables of which only what changes touched was computed, by name: rows computed.
        again: Tables whose query ran again, by name: why.
        unchanged: Models that nothing new reached, or that came out as they were.
        rules: Rules that were judged.
        warned: Names of those that warned.
        outcome: What the release came to.
        left: Steps that are dbt's.
    """

    run_id: str = field(default_factory=lambda: str(uuid.uuid4()))
    by_change: dict[str, int] = field(default_factory=dict)
    again: dict[str, str] = field(default_factory=dict)
    unchanged: list[str] = field(default_factory=list)
    rules: int = 0
    warned: list[str] = field(default_factory=list)
    outcome: str = ""


def refresh(project: Project, plan: Plan, tell: Callable[[Step], None]) -> Refreshed:
    """Do what a plan says, and release.

    Args:
        project: The project; nobody else has the hub open.
        plan: What is to be done.
        tell: Is told of each step before it is done.

    Raises:
        NotRefreshable: It is not all new data, or a rule failed; the hub is as it was.
        HubspokeError: All was done, but the release was refused.
    """
    _refuse(plan)
    with closing(_open(project)) as hub:
        refreshed = Refreshed()
        try:
            with _transaction(hub):
                _Run(project, plan, hub, refreshed).run(tell)
        except duckdb.Error as error:
            raise NotRefreshable(str(error)) from error
        refreshed.outcome = release_hub(project, hub, plan.manifest, refreshed.run_id, plan.definitions)
    return refreshed


def _refuse(plan: Plan) -> None:
    """Raise if a step is dbt's."""
    manifest = plan.manifest
    taking_out = {test.get("attached_node") for test in manifest.tests if takes_rows_out(test)}
    for step in plan.steps:
        node, name = step.node, step.node["name"]
        if step.why not in {"data", "outdated"} and not (step.is_test and step.why == "volatile"):
            raise NotRefreshable(f"{name}: {step.reason}")
        if step.is_test:
            _refuse_test(manifest, node)
            continue
        config = node["config"]
        hooks = {hook["sql"] for kind in ("pre-hook", "post-hook") for hook in config.get(kind) or []}
        if node["resource_type"] != "model" or node.get("language") != "sql":
            raise NotRefreshable(f"{name} is no SQL")
        if config.get("materialized") not in {"view", "table"} or not hooks <= HOUSE_HOOKS or config.get("sql_header"):
            raise NotRefreshable(f"{name} is more than a query that is kept as a view or a table")
        if node["unique_id"] in taking_out:
            raise NotRefreshable(f"rules take rows out of {name}")
        if node["unique_id"] in volatile(manifest):
            raise NotRefreshable(f"{name} is volatile")


def _refuse_test(manifest: Manifest, test: Node) -> None:
    config = test["config"]
    if test["resource_type"] != "test":
        raise NotRefreshable(f"{test['name']} is a unit test")
    if config.get("store_failures"):
        raise NotRefreshable(f"{test['name']} stores its failures")
    macros = [
        manifest.macros[macro]["macro_sql"]
        for macro in test["depends_on"].get("macros", [])
        if macro in manifest.macros
    ]
    name = str((test.get("test_metadata") or {}).get("name"))
    own = [macro["macro_sql"] for macro in manifest.macros.values() if macro["name"].startswith(f"{name}__")]
    text = "\n".join([test.get("raw_code") or "", str(test.get("test_metadata")), *macros, *own])
    if any(word in text for word in MOMENT):
        raise NotRefreshable(f"{test['name']} is another at each run")


def _open(project: Project) -> duckdb.DuckDBPyConnection:
    """Open the hub as dbt would, with all that the profile says."""
    # slow to import (1 s)
    from dbt.adapters.duckdb.environments import Environment
    from dbt.cli.resolvers import default_profiles_dir
    from dbt.config.runtime import load_profile
    from dbt.flags import set_from_args
    from dbt_common.context import set_invocation_context

    os.chdir(project.root)  # where dbt looks for its profile, and what paths in it are relative to
    set_invocation_context(os.environ)
    said = os.environ.get
    set_from_args(Namespace(PROFILES_DIR=said("DBT_PROFILES_DIR") or default_profiles_dir()), None)
    profile = load_profile(str(project.root), {}, said("DBT_PROFILE"), said("DBT_TARGET"))
    credentials: Any = profile.credentials
    connection: duckdb.DuckDBPyConnection = Environment.initialize_db(credentials)
    Environment.initialize_cursor(credentials, connection)
    return connection


def _leaves(sql: str) -> set[str]:
    """Name the relations that a query reads (see ``Types``)."""
    query = parse(sql)
    return {table_key(table) for table in query.find_all(exp.Table) if table.args.get("db")} if query else set()


@contextmanager
def _transaction(hub: duckdb.DuckDBPyConnection) -> Iterator[None]:
    hub.begin()
    try:
        yield
    except BaseException:
        hub.rollback()
        raise
    hub.commit()


class _Run:
    """One run, in a transaction of the hub."""

    def __init__(self, project: Project, plan: Plan, hub: duckdb.DuckDBPyConnection, refreshed: Refreshed) -> None:
        self._project, self._plan, self._hub, self._done = project, plan, hub, refreshed
        self._manifest = plan.manifest
        self._builds, self._results = last_builds(hub), last_results(hub)
        self._changes: dict[str, Changed | None] = {}
        self._numbers = 0
        self._types: Types = {}
        for *names, column, data_type in hub.execute(
            "select database_name, schema_name, table_name, column_name, data_type from duckdb_columns() "
            "where not internal"
        ).fetchall():
            self._types.setdefault(".".join(names).lower(), {})[column] = data_type
        self._nodes = {
            relation_key(node): node
            for node in [*self._manifest.nodes.values(), *self._manifest.sources.values()]
            if node.get("relation_name")
        }
        self._gates: dict[str, dict[str, Any]] = {}
        self._measured: dict[str, tuple[str, int]] = {}
        self._queries: dict[str, str | None] = {}

    def run(self, tell: Callable[[Step], None]) -> None:
        """Do all of it, and tell of each step."""
        self._pin()
        self._read_rules()
        for step in self._plan.built:
            begun = time.monotonic()
            tell(step)
            if not is_view(step.node):
                self._bring_up_to_date(step.node)
            self._note_build(step.node, time.monotonic() - begun)
        for step in self._plan.tested:
            tell(step)
            self._judge(step)

    # --- sources

    def _pin(self) -> None:
        """Point the sources of the plan at what has landed, and find the rows that this changes."""
        landed = pinned_tables(self._project, self._hub)
        read = set(self._manifest.ancestry([step.node["unique_id"] for step in self._plan.steps]))
        for node_id, source in self._manifest.sources.items():
            name = f"{source['source_name']}.{source['name']}"
            if node_id not in read or name not in landed:
                if node_id in read and self._plan.loads.get(node_id) == IN_PLACE:
                    raise NotRefreshable(f"{name} is read where it is")
                continue
            if landed[name]["load_id"] != self._plan.loads.get(node_id):
                raise NotRefreshable(f"{name} has landed again meanwhile")
            if node_id not in self._builds:
                raise NotRefreshable(f"{name} has not been read before")
            before = self._builds[node_id].fingerprint or ""
            if before != landed[name]["load_id"]:
                self._pin_source(source, landed[name], before)

    def _pin_source(self, source: Node, load: dict[str, Any], before: str) -> None:
        view = source["relation_name"]
        columns = columns_of(self._hub, view)
        news = changes_since(LandingZone(self._project.landing), source["source_name"], source["name"], before)
        if news and self._count(f"select 1 from {news.relation} where _change = 'truncate'"):
            news = None
        rows, removed = "", ""
        if news and news.key:
            keys = self._keep(f"select distinct {', '.join(news.key)} from {news.relation}")
            same = " and ".join(f"_keys.{column} is not distinct from _rows.{column}" for column in news.key)
            rows = f"select _rows.* from {view} as _rows semi join {keys} as _keys on {same}"
            removed = self._keep(rows)
        elif news:
            rows = f"select {', '.join(map(identifier, columns))} from {news.relation}"
            removed = self._keep(f"from {view} limit 0")
        for suffix, sql in load["views"].items():
            name = f"{identifier(source['schema'])}.{identifier(source['identifier'] + suffix)}"
            self._hub.execute(f"create or replace view {name} as {sql}")
        if columns_of(self._hub, view) != columns:
            raise NotRefreshable(f"{source['name']} has other columns")
        key = tuple(column[1:-1].lower() for column in news.key) if news else ()
        self._changes[relation_key(source)] = Changed(removed, self._keep(rows), key) if news else None
        self._insert_build(source["unique_id"], load["load_id"], "")

    # --- models

    def _bring_up_to_date(self, model: Node) -> None:
        """Compute what has changed in a table, and write it."""
        name, number = model["name"], self._builds[model["unique_id"]].number
        sql = self._inlined(self._builds[model["unique_id"]].compiled)
        changed = {
            leaf: self._changes[leaf] if self._is_known_since(leaf, number) else None
            for leaf in _leaves(sql)
            if leaf in self._changes or not self._is_known_since(leaf, number)
        }
        if not changed:
            self._done.unchanged.append(name)
            return
        change: Changed | None
        try:
            change = self._by_change(model, sql, changed)
        except NotMaintainable as reason:
            self._done.again[name] = str(reason)
            change = self._again(model, sql)
        if change is None or self._is_change(change):
            self._changes[relation_key(model)] = change
        else:
            self._done.again.pop(name, None)
            self._done.unchanged.append(name)

    def _is_known_since(self, leaf: str, number: int) -> bool:
        """Whether a relation holds what a build of that number read, but for what this run has changed."""
        node = self._nodes.get(leaf)
        build = self._builds.get(node["unique_id"]) if node else None
        return build is not None and build.number < number

    def _by_change(self, model: Node, sql: str, changed: dict[str, Changed | None]) -> Changed:
        """Compute the rows that changes touch."""
        changes = {leaf: change for leaf, change in changed.items() if change}
        for leaf in changed.keys() - changes.keys():
            raise NotMaintainable(f"what changed in {leaf.rpartition('.')[2]} is not known")
        query = Query(sql, self._types)
        felt = self._felt(query, changes)
        relation = model["relation_name"]
        if not felt:
            nothing = self._keep(f"from {relation} limit 0")
            return Changed(nothing, nothing)
        maintenance = Maintenance(query, set(felt), self._manifest.tested_key(model)[0])
        keys = self._keep(maintenance.touched(felt))
        stale = self._keep(f"select _rows.* from {relation} as _rows semi join {maintenance.matches(keys, '_rows')}")
        touched, whole = self._count(f"from {stale}"), self._count(f"from {relation}")
        if touched > WORTHWHILE_SHARE * whole:
            raise NotMaintainable(f"{100 * touched // whole} % of its rows are touched")
        fresh = self._filled_like(relation, maintenance.recomputed(keys, {leaf: changes[leaf] for leaf in felt}))
        change = self._compared(stale, fresh)
        if self._is_change(change):
            self._hub.execute(
                f"delete from {relation} where rowid in "
                f"(select _rows.rowid from {relation} as _rows semi join {maintenance.matches(keys, '_rows')})"
            )
            self._hub.execute(f"insert into {relation} from {fresh}")
        self._done.by_change[model["name"]] = self._count(f"from {fresh}")
        return change

    def _felt(self, query: Query, changes: dict[str, Changed]) -> dict[str, Changed]:
        """Narrow changes to the columns that a query reads; those in other columns alone are none to it."""
        found = {}
        for leaf, change in changes.items():
            used = [identifier(name) for name in self._types[leaf] if name.lower() in query.used(leaf)]
            if used and len(used) < len(self._types[leaf]):
                removed, added = (f"select {', '.join(used)} from {part}" for part in (change.removed, change.added))
                change = Changed(
                    self._keep(f"({removed}) except all ({added})"), self._keep(f"({added}) except all ({removed})")
                )
            if self._is_change(change):
                found[leaf] = change
        return found

    def _again(self, model: Node, sql: str) -> Changed | None:
        relation = model["relation_name"]
        if self._count(f"from {relation}") > COMPARED_ROWS:
            self._hub.execute(f"delete from {relation}")
            self._hub.execute(f"insert into {relation} by name select * from ({sql}\n)")
            return None
        fresh = self._filled_like(relation, sql)
        change = self._compared(relation, fresh)
        if self._is_change(change):
            self._hub.execute(f"delete from {relation}")
            self._hub.execute(f"insert into {relation} from {fresh}")
        return change

    def _compared(self, stale: str, fresh: str) -> Changed:
        return Changed(
            self._keep(f"from {stale} except all from {fresh}"), self._keep(f"from {fresh} except all from {stale}")
        )

    def _filled_like(self, relation: str, sql: str) -> str:
        """Keep the rows of a query as a table would hold them."""
        table = self._keep(f"from {relation} limit 0")
        self._hub.execute(f"insert into {table} by name select * from ({sql}\n)")
        return table

    def _inlined(self, sql: str) -> str:
        return inlined(sql, self._view)

    def _view(self, relation: str) -> str | None:
        node = self._nodes.get(relation)
        if node is None or node["resource_type"] != "model" or not is_view(node):
            return None
        return self._builds[node["unique_id"]].compiled or None

    # --- rules

    def _read_rules(self) -> None:
        """Read what was noted of every rule: its SQL, and what was counted last."""
        rows = self._hub.execute(
            "select node_id, compiled_sql from runs.results where status <> 'skipped' "
            "qualify row_number() over (partition by node_id order by build_number desc) = 1"
        )
        self._queries = dict(rows.fetchall())
        for (rules,) in self._hub.execute("select rules from quality.gates").fetchall():
            self._gates |= {rule["test_id"]: rule for rule in json.loads(rules)}
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
        gate = self._gates.get(test["unique_id"])
        rows_tested, observed = None, None
        if query is not None:
            failed = self._failures(test, query)
            reported = failed
        elif gate is not None:
            about = self._manifest.get(test["attached_node"])
            rows_tested = self._count(f"from {about['relation_name']}")
            failed, observed = self._measure(gate, about)
            share = gate["max_failed_share"]
            is_reported = failed > share * rows_tested if share is not None else gate["is_reported"]
            reported = failed if is_reported else 0
            self._insert_measurement(gate, about, rows_tested, failed, reported, observed)
        else:
            raise NotRefreshable(f"nobody noted what {test['name']} runs")
        row: Any = self._hub.execute(
            f"select {reported} {config.get('error_if') or '!= 0'}, {reported} {config.get('warn_if') or '!= 0'}"
        ).fetchone()
        severity = str(config.get("severity") or "error").lower()
        status = "fail" if severity == "error" and row[0] else "warn" if row[1] else "pass"
        if status == "fail":
            raise NotRefreshable(f"{test['name']} fails")
        if status == "warn":
            self._done.warned.append(test["name"])
        self._done.rules += 1
        if query is not None and status == "pass":
            failed = 0  # as dbt tells of it
        self._note_test(test, status, 0 if status == "pass" else reported, query, time.monotonic() - begun)
        self._note_rule(test, status, rows_tested, failed, observed)

    def _failures(self, test: Node, sql: str) -> int:
        """Count what a rule's own query finds."""
        config = test["config"]
        limit = f" limit {config['limit']}" if config.get("limit") else ""
        last = self._results.get(test["unique_id"])
        is_plain = not limit and (config.get("fail_calc") or "count(*)") == "count(*)"
        thresholds = {str(config.get(name) or "!= 0") for name in ("warn_if", "error_if")}
        if is_plain and thresholds == {"!= 0"} and last is not None and last.status == "pass":
            failed = self._found_by_change(sql, last.number)
            if failed is not None:
                return failed
        return self._value(f"select {config.get('fail_calc') or 'count(*)'} from (select * from ({sql}\n){limit})")

    def _found_by_change(self, sql: str, number: int) -> int | None:
        """Count the rows of a query that gave none until a number, where only what changed since can have made some."""
        query = self._inlined(sql)
        leaves = _leaves(query)
        if not all(self._is_known_since(leaf, number) for leaf in leaves):
            return None
        changes = {leaf: self._changes[leaf] for leaf in leaves if leaf in self._changes}
        known = {leaf: change for leaf, change in changes.items() if change}
        if len(known) < len(changes):
            return None
        try:
            read = Query(query, self._types)
            felt = self._felt(read, known)
            if not felt:
                return 0
            maintenance = Maintenance(read, set(felt))
        except NotMaintainable:
            return None
        keys = self._keep(maintenance.touched(felt))
        return self._count(maintenance.recomputed(keys, {leaf: known[leaf] for leaf in felt}))

    def _measure(self, gate: dict[str, Any], about: Node) -> tuple[int, str | None]:
        """Count the rows that break a rule which the gate knows, or look at a figure of the whole."""
        relation, sql = about["relation_name"], gate["sql"]
        if gate["kind"] == "whole":
            row: Any = self._hub.execute(sql).fetchone()
            return int(bool(row[2])), None if row[1] is None else str(row[1])
        keys = ", ".join(gate["key"])
        definition, before = self._measured.get(gate["test_id"], ("", -1))
        change = self._changes.get(relation_key(about))
        is_clean = before == 0 and definition == gate["definition"]
        if is_clean and not gate["others"] and not is_view(about):
            if relation_key(about) not in self._changes:
                return 0, None
            if change is not None:
                if gate["kind"] == "row":
                    return self._count(f"select 1 from {change.added} as _gated where {sql}"), None
                numbers = range(len(gate["key"]))
                added = ", ".join(
                    f"{column} as _key_{number}" for column, number in zip(gate["key"], numbers, strict=True)
                )
                same = " and ".join(
                    f"_keys._key_{number} is not distinct from _gated.{column}"
                    for column, number in zip(gate["key"], numbers, strict=True)
                )
                relation = (
                    f"(select _gated.* from {relation} as _gated semi join "
                    f"(select {added} from {change.added} as _gated) as _keys on {same})"
                )
        if gate["kind"] == "key":
            repeated = (
                f"select count(*) - 1 as more from {relation} as _gated where {sql} group by {keys} having count(*) > 1"
            )
            return self._value(f"select coalesce(sum(more), 0) from ({repeated})"), None
        query = f"select 1 from {relation} as _gated where {sql}"
        found = None
        if is_clean:
            last = self._results[gate["test_id"]]
            found = self._found_by_change(f"select * from {relation} as _gated where {sql}", last.number)
        return self._count(query) if found is None else found, None

    # --- notes

    def _note_build(self, node: Node, seconds: float) -> None:
        node_id = node["unique_id"]
        self._insert_build(node_id, self._plan.definitions[node_id], self._builds[node_id].compiled)
        self._hub.execute(
            "insert into runs.results (build_number, run_id, node_id, status, seconds, recorded_at) "
            "values (nextval('runs.build_number'), ?, ?, 'success', ?, now())",
            [self._done.run_id, node_id, seconds],
        )

    def _insert_build(self, node_id: str, fingerprint: str, compiled: str) -> None:
        self._hub.execute(
            "insert into runs.builds values (nextval('runs.build_number'), ?, ?, 'finished', ?, ?, now(), null)",
            [self._done.run_id, node_id, fingerprint, compiled],
        )

    def _note_test(self, test: Node, status: str, failures: int, query: str | None, seconds: float) -> None:
        self._hub.execute(
            "insert into runs.results "
            "(build_number, run_id, node_id, status, failures, seconds, recorded_at, compiled_sql) "
            "values (nextval('runs.build_number'), ?, ?, ?, ?, ?, now(), ?)",
            [self._done.run_id, test["unique_id"], status, failures, seconds, query],
        )

    def _note_rule(self, test: Node, status: str, rows_tested: int | None, failed: int, observed: str | None) -> None:
        about = self._manifest.nodes.get(test.get("attached_node") or "")
        action = (test["config"].get("meta") or {}).get("on_failure")
        severity = "warn" if str(test["config"].get("severity")).lower() == "warn" else "fail"
        template = (test.get("test_metadata") or {}).get("name", "singular")
        self._hub.execute(
            "insert into quality.results values (?, ?, ?, ?, ?, ?, ?, ?, ?, now())",
            [
                *(self._done.run_id, about["name"] if about else "", test["name"], template, action or severity),
                *(status, rows_tested, failed, observed),
            ],
        )

    def _insert_measurement(
        self, gate: dict[str, Any], about: Node, rows: int, failed: int, reported: int, observed: str | None
    ) -> None:
        self._hub.execute("delete from quality.measurements where test_id = ?", [gate["test_id"]])
        self._hub.execute(
            "insert into quality.measurements values (nextval('runs.build_number'), ?, ?, ?, ?, ?, ?, ?, ?, now())",
            [
                *(self._done.run_id, about["name"], gate["test_id"], gate["definition"]),
                *(rows, failed, reported, observed),
            ],
        )

    # --- the hub

    def _keep(self, sql: str) -> str:
        """Keep what a query gives until the run ends, and return what it is called."""
        self._numbers += 1
        name = f"temp._refresh_{self._numbers}"
        self._hub.execute(f"create temp table _refresh_{self._numbers} as {sql}")
        return name

    def _count(self, sql: str) -> int:
        return self._value(f"select count(*) from ({sql})")

    def _is_change(self, change: Changed) -> bool:
        return self._count(f"(select 1 from {change.removed}) union all (select 1 from {change.added})") > 0

    def _value(self, sql: str) -> int:
        row: Any = self._hub.execute(sql).fetchone()
        return int(row[0])
