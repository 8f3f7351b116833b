"""Rules that cannot fail: plant a fault for each rule in a copy of the data, and see which rules stay green."""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass
from enum import StrEnum
from tempfile import TemporaryDirectory

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.faults import FAULTS, Fault, Target, anything
from hubspoke.manifest import Manifest, Node, compile_project
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.sql import quoted

ROWS_SAMPLED = 200_000
"""Rows of a model that a rule on rows is tried on; only a rule that stays green there is tried on all of them."""

FAULTS_SHOWN = 3
"""Faults that a survivor is told with."""


class Verdict(StrEnum):
    """What came out for a rule, in the order in which it is shown."""

    SURVIVED = "survived"
    NOT_TRIED = "not tried"
    KILLED = "killed"


@dataclass(frozen=True)
class Outcome:
    """What came out for one rule.

    Attributes:
        rule: Its name.
        subject: Model, seed or source's table that it is on; empty for a singular test.
        file: File that it stands in, from the project's root.
        verdict: Killed by a fault as it should be, survived all of them, or not tried.
        says: The fault that killed it, those that it survived, or why it was not tried.
    """

    rule: str
    subject: str
    file: str
    verdict: Verdict
    says: str


def mutate(project: Project, names: Collection[str], report: Callable[[int, int], None]) -> list[Outcome]:
    """Plant faults for every rule, one after the other, in views over the hub; the hub itself is only read.

    Args:
        project: The project; nothing may be building in it.
        names: Models, seeds and sources' tables whose rules are tried; none means every rule, singular tests included.
        report: Called after each rule with how many are done, and how many there are.

    Returns:
        Survivors first, then what was not tried, each by file and name.

    Raises:
        HubspokeError: The hub has not been built or is being built, dbt could not compile the tests, or a name is that
            of no model with rules.
    """
    open_hub(project).close()  # dbt would only say that it cannot
    compiled = compile_project(project.root, "resource_type:test")
    manifest = Manifest.read(project.root)
    on = {test["unique_id"]: _name(manifest.subject(test)) for test in manifest.tests}
    unknown = set(names) - set(on.values())
    if unknown:
        raise HubspokeError(
            f"no rule is on {', '.join(sorted(unknown))}; there are rules on "
            f"{', '.join(sorted(set(on.values()) - {''}))}"
        )
    tests = [test for test in manifest.tests if not names or on[test["unique_id"]] in names]
    exceptions = project.rule_exceptions()
    outcomes = []
    with _Laboratory(project, manifest) as laboratory:
        for done, test in enumerate(tests, start=1):
            subject = on[test["unique_id"]]
            let_through = [line[2] for line in exceptions if line[:2] == [subject, test["name"]]]
            verdict, says = laboratory.judge(test, compiled[test["unique_id"]], let_through)
            outcomes.append(Outcome(test["name"], subject, test["original_file_path"], verdict, says))
            report(done, len(tests))
    return sorted(outcomes, key=lambda outcome: (list(Verdict).index(outcome.verdict), outcome.file, outcome.rule))


def _name(node: Node) -> str:
    """Return what people call a node: a source's table with its source, as ``hubspoke ingest`` does."""
    name = str(node.get("name", ""))
    return f"{node['source_name']}.{name}" if node.get("source_name") else name


@dataclass(frozen=True)
class _Bed:
    """Where faults are planted.

    Attributes:
        relation: The relation whose rows are replaced, as dbt writes it.
        rows: SQL of the rows before a fault is planted.
        where: Condition of the rows that the rule judges, if it has one.
        faults: What is planted there, one at a time.
        place: The relation's name, where there is more than one bed.
    """

    relation: str
    rows: str
    where: str | None
    faults: Iterator[Fault]
    place: str = ""


class _Laboratory:
    """A database in memory that is called as the hub is and has a view for each of its relations.

    A test's compiled SQL runs here as dbt wrote it; to plant a fault, one view is replaced.
    """

    def __init__(self, project: Project, manifest: Manifest) -> None:
        self._hub, self._manifest = project.hub, manifest
        self._relations: set[str] = set()

    def __enter__(self) -> "_Laboratory":
        self._folder = TemporaryDirectory(prefix="hubspoke-mutate-")
        memory = os.environ.get("HUBSPOKE_MEMORY_LIMIT", "3GB")
        self._engine = duckdb.connect(config={"memory_limit": memory, "temp_directory": self._folder.name})
        self._engine.execute(f"set TimeZone = 'UTC'; attach '{quoted(self._hub)}' as built (read_only)")
        self._engine.execute(f"attach ':memory:' as {self._hub.stem}; use {self._hub.stem}")
        nodes = self._manifest.ancestry(list(self._manifest.nodes))
        in_order = [self._manifest.get(node_id).get("relation_name") for node_id in nodes]
        for kind in ("table", "view"):
            found = self._engine.execute(
                f"select schema_name, {kind}_name from duckdb_{kind}s() where database_name = 'built' and not internal"
            ).fetchall()
            for schema in {schema for schema, _ in found}:
                self._engine.execute(f'create schema if not exists {self._hub.stem}."{schema}"')
            relations = {f'"{self._hub.stem}"."{schema}"."{name}"' for schema, name in found}
            # a view is bound as it is made, and reads views that have to be there; dbt knows no notes of the runs
            for relation in in_order if kind == "view" else relations:
                if relation in relations:
                    self._show(relation, self._built(relation))
                    self._relations.add(relation)
        return self

    def __exit__(self, *_: object) -> None:
        self._engine.close()
        self._folder.cleanup()

    def judge(self, test: Node, sql: str, let_through: list[str]) -> tuple[Verdict, str]:
        """Plant faults until a test finds one.

        Args:
            test: The test.
            sql: Its compiled SQL.
            let_through: Conditions of the rows that an exception lets through it.

        Returns:
            The verdict, and what was planted or why nothing was.
        """
        question = _question(test, sql, let_through)
        template = (test.get("test_metadata") or {}).get("name", "")
        subject = self._manifest.subject(test)
        read = [self._manifest.get(node_id) for node_id in test["depends_on"]["nodes"]]
        missing = [node["name"] for node in read if node["relation_name"] not in self._relations]
        if missing:
            return Verdict.NOT_TRIED, f"{', '.join(missing)} has not been built. Run: hubspoke build"
        if "nothing_released" in sql:
            return Verdict.NOT_TRIED, "nothing has been released to compare with"
        try:
            if not subject or template not in FAULTS:
                return self._hunt(question, [self._bed_of_anything(node, sql) for node in read])
            return self._hunt_on(question, subject, test, template)
        except duckdb.Error as error:
            return Verdict.NOT_TRIED, f"the engine refuses it: {str(error).splitlines()[0]}"

    def _hunt_on(self, question: str, subject: Node, test: Node, template: str) -> tuple[Verdict, str]:
        """Plant a template's own faults in what its rule is on: first in a sample, if the rule is on rows."""
        relation, where = subject["relation_name"], test["config"].get("where")
        arguments = test["test_metadata"]["kwargs"]
        target = Target(self._columns(relation), str(arguments.get("expression", "")), arguments)
        rows = self._built(relation)
        judged = f"{rows} where {where}" if where else rows
        if not self._has_rows(rows):
            return Verdict.NOT_TRIED, f"{_name(subject)} holds no row to plant a fault in"
        if not self._has_rows(judged):
            return Verdict.SURVIVED, f"its where selects no row: {where}"
        if template in self._manifest.row_templates:
            self._engine.execute(f"create or replace table memory.sample as {judged} limit {ROWS_SAMPLED}")
            found = self._hunt(question, [_Bed(relation, "from memory.sample", where, FAULTS[template](target))])
            (sampled,) = self._engine.execute("select count(*) from memory.sample").fetchall()[0]
            if found[0] is Verdict.KILLED or sampled < ROWS_SAMPLED:
                return found
        return self._hunt(question, [_Bed(relation, rows, where, FAULTS[template](target))])

    def _hunt(self, question: str, beds: list[_Bed]) -> tuple[Verdict, str]:
        planted, refused = [], "no fault is known for the types of its columns"
        try:
            for bed in beds:
                self._show(bed.relation, bed.rows)
            if self._is_red(question):
                return Verdict.NOT_TRIED, "it fails without a fault"
            for bed in beds:
                for fault in bed.faults:
                    says = f"{bed.place}{fault.says}"
                    try:
                        self._show(bed.relation, _planted(bed, fault))
                        if self._is_red(question):
                            return Verdict.KILLED, says
                        planted.append(says)
                    except duckdb.Error as error:  # the next fault may suit the types better
                        refused = f"the engine refuses {says}: {str(error).splitlines()[0]}"
                self._show(bed.relation, bed.rows)
        finally:
            for bed in beds:
                self._show(bed.relation, self._built(bed.relation))
        if not planted:
            return Verdict.NOT_TRIED, refused
        more = f"; and {len(planted) - FAULTS_SHOWN} more" if len(planted) > FAULTS_SHOWN else ""
        return Verdict.SURVIVED, f"it passes {'; '.join(planted[:FAULTS_SHOWN])}{more}"

    def _bed_of_anything(self, node: Node, sql: str) -> _Bed:
        relation = node["relation_name"]
        faults = anything(Target(self._columns(relation), sql))
        return _Bed(relation, self._built(relation), None, faults, f"{node['name']}: ")

    def _built(self, relation: str) -> str:
        """Return the query for a relation's rows in the hub."""
        return "from built" + relation.removeprefix(f'"{self._hub.stem}"')

    def _show(self, relation: str, sql: str) -> None:
        self._engine.execute(f"create or replace view {relation} as {sql}")

    def _columns(self, relation: str) -> dict[str, str]:
        described = self._engine.execute(f"describe {self._built(relation)}").fetchall()
        return {str(name).lower(): str(data_type) for name, data_type, *_ in described}

    def _has_rows(self, sql: str) -> bool:
        return bool(self._engine.execute(f"{sql} limit 1").fetchall())

    def _is_red(self, question: str) -> bool:
        return bool(self._engine.execute(question).fetchall()[0][0])


def _planted(bed: _Bed, fault: Fault) -> str:
    """Return the query for the rows of a bed with a fault."""
    judged = f"from data where {bed.where}" if bed.where else "from data"
    # not materialized: a copy of a large relation would not fit into memory
    return f"with data as not materialized ({bed.rows}), judged as not materialized ({judged}) {fault.sql}"


def _question(test: Node, sql: str, let_through: list[str]) -> str:
    """Return the query whose one value tells whether a test fails or warns, as dbt decides it."""
    config = test["config"]
    calculated = config["fail_calc"]
    conditions = [f"{calculated} {config['warn_if']}"]
    if config["severity"].lower() == "error":
        conditions.append(f"{calculated} {config['error_if']}")
    passed = " or ".join(f"coalesce({condition}, false)" for condition in let_through)
    return (
        f"select coalesce({' or '.join(conditions)}, false) from (\n{sql}\n) as failing"
        f"{f' where not ({passed})' if passed else ''}"
    )
