"""The second opinion: what Great Expectations says of the rules, beside what the quality gate has counted.

Files are judged by the rules on their source, before they land. A release is judged in each spoke's own file, by the
rules of the spoke's models and by those of the models that they read, which a thin spoke passes on.
"""

import hashlib
import json
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

import duckdb
import sqlglot
from sqlglot import exp

from hubspoke.errors import HubspokeError
from hubspoke.expectations import EXPECTATIONS, Auditor, Finding, Rule
from hubspoke.manifest import Manifest, Node, meta
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.release import Relation, ReleaseStore
from hubspoke.sources import SourceTable
from hubspoke.sql import columns_of, quoted, rows_and_checksum

ADDED_BY_LANDING = {"_load_id", "_loaded_at"}


@dataclass(frozen=True)
class Verdict:
    """One rule over one relation, by Great Expectations and by the gate.

    Attributes:
        relation: Source table, or relation of the release.
        rule: The rule's name.
        template: Its template.
        status: ``kept``, ``warned`` (broken, and the project only warns of it), ``broken``, ``error`` (it could not be
            judged) or ``none`` (Great Expectations has no say).
        rows: Rows of the relation.
        failed: Rows that break the rule by Great Expectations' count; for a rule on a whole table, 1 if it is broken.
        observed: Figure of a rule on a whole table.
        gate_failed: The same by the gate's count, where the gate judged the same rule on the same rows.
        note: Why there is no second opinion, or nothing to compare it with.
    """

    relation: str
    rule: str
    template: str
    status: str
    rows: int | None = None
    failed: int | None = None
    observed: Any = None
    gate_failed: int | None = None
    note: str = ""

    @property
    def agreement(self) -> str:
        """``agrees`` or ``differs``; nothing where there are not two counts."""
        if self.gate_failed is None or self.failed is None:
            return ""
        return "agrees" if self.gate_failed == self.failed else "differs"

    @property
    def is_fault(self) -> bool:
        """Whether it must not stay so."""
        return self.status in {"broken", "error"} or self.agreement == "differs"


@dataclass(frozen=True)
class _Count:
    """What the gate noted of a rule."""

    rows: int
    failed: int


@dataclass(frozen=True)
class _Case:
    """A rule to be judged over a relation, and its test's node; or why Great Expectations has no say in it."""

    test: Node
    rule: Rule
    no_opinion: str = ""
    gate: _Count | None = None
    note: str = ""


def audit_files(manifest: Manifest, tables: Iterable[SourceTable], progress: Callable[[str], None]) -> list[Verdict]:
    """Judge the files that sources name, as they lie there now, by the rules on their tables.

    Args:
        manifest: The project as parsed.
        tables: What to judge.
        progress: Told the name of each table before it is judged.

    Raises:
        HubspokeError: A file is missing or is not Parquet.
    """
    verdicts = []
    moment = datetime.now(UTC).replace(tzinfo=None)
    for table in tables:
        progress(table.name)
        relation = f"read_parquet('{quoted(table.path)}')"
        cases = []
        for test in manifest.tests:
            subject = manifest.subject(test)
            if (subject.get("source_name"), subject.get("name")) == (table.source, table.table):
                rule = _rule(test)
                added = ADDED_BY_LANDING & _columns_of(rule)
                reason = f"landing adds {', '.join(sorted(added))}" if added else _why_no_opinion(rule)
                cases.append(_Case(test, rule, reason))
        with duckdb.connect() as connection:
            try:
                connection.execute(f"select 1 from {relation} limit 0")
            except duckdb.Error as error:
                raise HubspokeError(
                    f"{table.name}: {table.path} cannot be read as Parquet ({str(error).splitlines()[0]}); "
                    f"it is named in {table.declared_in}"
                ) from None
            verdicts += _judge(connection, table.name, relation, moment, cases)
    return verdicts


def audit_release(
    project: Project, manifest: Manifest, names: tuple[str, ...], progress: Callable[[str], None]
) -> list[Verdict]:
    """Judge the current release, each relation in its spoke's own file.

    A rule's count is compared with what the gate noted of it last, if the rule is what it was then, the hub still holds
    the rows that were released, and the gate saw as many rows as the spoke shows.

    Args:
        project: The project; nothing may be building in it.
        manifest: The project as parsed.
        names: Relations to judge; without any, all.
        progress: Told the name of each relation before it is judged.

    Raises:
        HubspokeError: There is no release, or not such a relation in it; or the hub is being built.
    """
    store = ReleaseStore(project.release)
    release = store.get()
    unknown = set(names) - release.relations.keys()
    if unknown:
        raise HubspokeError(
            f"release {release.number} has no {', '.join(sorted(unknown))}; there are {', '.join(release.relations)}"
        )
    exceptions = project.rule_exceptions()
    models = {model["name"]: model for model in manifest.spokes}
    with open_hub(project) as hub:
        counts = _counts(hub, manifest)
        still_there = {name for name, relation in release.relations.items() if _is_in(hub, models.get(name), relation)}
    moment = release.released_at.astimezone(UTC).replace(tzinfo=None)
    verdicts = []
    for name, relation in release.relations.items():
        if names and name not in names:
            continue
        progress(name)
        with store.open_file(release, relation.spoke) as connection:
            columns = {column.lower() for column in columns_of(connection, f"main.{name}")}
            cases = [_as_released(relation)]
            for test in _tests_shown_by(manifest, models.get(name)):
                let_through = []
                if test["test_metadata"]["name"] in manifest.row_templates:
                    on = [manifest.subject(test)["name"], test["name"]]
                    let_through = [line[2] for line in exceptions if line[:2] == on]
                rule = _rule(test, let_through)
                hidden = _columns_of(rule) - columns
                reason = f"the spoke does not show {', '.join(sorted(hidden))}" if hidden else _why_no_opinion(rule)
                gate, note = _comparable(counts.get(test["unique_id"]), relation.rows, name in still_there)
                cases.append(_Case(test, rule, reason, gate, note))
            verdicts += _judge(connection, name, f"main.{name}", moment, cases)
    return verdicts


def _judge(
    connection: duckdb.DuckDBPyConnection, name: str, relation: str, moment: datetime, cases: list[_Case]
) -> list[Verdict]:
    if not cases:
        return [Verdict(name, "", "", "none", note="it has no rules")]
    row = connection.execute(f"select count(*) from {relation}").fetchone()
    rows = int(row[0]) if row else 0
    judged = [case for case in cases if not case.no_opinion]
    findings = Auditor(connection, moment).judge(relation, [case.rule for case in judged])
    verdicts = [_verdict(name, rows, case, finding) for case, finding in zip(judged, findings, strict=True)]
    return verdicts + [
        Verdict(name, case.rule.name, case.rule.template, "none", rows, note=case.no_opinion)
        for case in cases
        if case.no_opinion
    ]


def _verdict(name: str, rows: int, case: _Case, finding: Finding) -> Verdict:
    rule, failed = case.rule, finding.failed
    if failed is None:
        return Verdict(name, rule.name, rule.template, "error", rows, note=finding.error or "")
    return Verdict(
        relation=name,
        rule=rule.name,
        template=rule.template,
        status=_status(case.test, failed, rows),
        rows=rows,
        failed=failed,
        observed=finding.observed,
        gate_failed=case.gate.failed if case.gate else None,
        note=case.note,
    )


def _status(test: Node, failed: int, rows: int) -> str:
    """Say what so many failures mean, as dbt does: by max_failed_share, severity, error_if and warn_if."""
    share = meta(test).get("max_failed_share")
    reported = failed if share is None or failed > share * rows else 0
    config = test["config"]
    if config["severity"].lower() != "warn" and _holds(f"{reported} {config['error_if']}"):
        return "broken"
    return "warned" if _holds(f"{reported} {config['warn_if']}") else "kept"


def _holds(condition: str) -> bool:
    with duckdb.connect() as connection:
        row = connection.execute(f"select {condition}").fetchone()
    return bool(row and row[0])


def _as_released(relation: Relation) -> _Case:
    """The rule that a spoke's file shows as many rows as the release's manifest says."""
    bounds = {"min_value": relation.rows, "max_value": relation.rows}
    test = {"config": {"severity": "error", "error_if": "!= 0", "warn_if": "!= 0"}}
    return _Case(test, Rule("as_many_rows_as_the_release_says", "row_count", bounds))


def _rule(test: Node, let_through: Iterable[str] = ()) -> Rule:
    """Read a rule from its test's node; it is not about rows that were let through, by their conditions."""
    metadata = test["test_metadata"]
    arguments = {name: value for name, value in metadata["kwargs"].items() if name != "model"}
    conditions = [f"({test['config']['where']})"] if test["config"].get("where") else []
    conditions += [f"not coalesce(({condition}), false)" for condition in let_through]
    return Rule(test["name"], metadata["name"], arguments, " and ".join(conditions) or None)


def _why_no_opinion(rule: Rule) -> str:
    if rule.template not in EXPECTATIONS:
        return "Great Expectations sees this relation alone, and has nothing like it"
    if "{{" in str(rule.arguments) + str(rule.where):
        return "its arguments are Jinja, which only dbt knows"
    return ""


def _columns_of(rule: Rule) -> set[str]:
    """List the columns that a rule speaks of, in lower case; none for SQL that cannot be read."""
    arguments = rule.arguments
    names = {arguments[name] for name in ("column_name", "valid_from", "valid_to") if arguments.get(name)}
    names |= {*(arguments.get("columns") or []), *(arguments.get("by") or [])}
    sql = [arguments.get("expression"), arguments.get("min_value"), arguments.get("max_value"), rule.where]
    for text in sql:
        if isinstance(text, str):
            try:
                names |= {column.name for column in sqlglot.parse_one(text, dialect="duckdb").find_all(exp.Column)}
            except sqlglot.errors.SqlglotError:
                continue  # the engine has its say when the rule is judged
    return {name.lower() for name in names}


def _tests_shown_by(manifest: Manifest, model: Node | None) -> list[Node]:
    """List the rules of a spoke's model and of the models that it reads."""
    about = {model["unique_id"], *manifest.parents(model["unique_id"])} if model else set()
    return [test for test in manifest.tests if test.get("attached_node") in about and test.get("test_metadata")]


def _counts(hub: duckdb.DuckDBPyConnection, manifest: Manifest) -> dict[str, _Count]:
    """Read what the gate counted in each model's last build, by test id; of rules that have not changed since."""
    now = {test["unique_id"]: _definition(test) for test in manifest.tests if test.get("test_metadata")}
    rows = hub.execute(
        """
        select test_id, definition, rows_tested, rows_failed
        from quality.measurements
        qualify row_number() over (partition by test_id order by build_number desc) = 1
        """
    ).fetchall()
    return {row[0]: _Count(row[2], row[3]) for row in rows if row[1] == now.get(row[0])}


def _definition(test: Node) -> str:
    """Hash a rule as the gate does (``macros/quality/rule.sql``)."""
    said = [test["test_metadata"]["kwargs"], test["config"].get("where"), meta(test)]
    return hashlib.md5(json.dumps(said, sort_keys=True).encode(), usedforsecurity=False).hexdigest()


def _is_in(hub: duckdb.DuckDBPyConnection, node: Node | None, relation: Relation) -> bool:
    """Whether the hub shows the very rows that were released; it has moved on if a later build was not released."""
    try:
        return node is not None and rows_and_checksum(hub, node["relation_name"])[1] == relation.checksum
    except duckdb.Error:  # not built under this name
        return False


def _comparable(gate: _Count | None, rows: int, still_there: bool) -> tuple[_Count | None, str]:
    """Return the gate's count if it is of the same rows, and else why there is none to compare with."""
    if not still_there:
        return None, "the hub holds other rows by now"
    if gate is None:
        return None, "the gate has not measured this rule as it is now"
    if gate.rows != rows:
        return None, f"the gate saw {gate.rows:,} rows"
    return gate, ""
