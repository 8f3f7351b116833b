"""A plan as a person reads it: what is built and why, what of it others feel, and what is skipped."""

import json
from collections import Counter
from dataclasses import dataclass
from typing import Any

import duckdb

from hubspoke.breaking import Columns, Edit, judge
from hubspoke.errors import HubspokeError
from hubspoke.lineage import Lineage
from hubspoke.manifest import Manifest, Node, compile_project, spoke_of
from hubspoke.plan import WORDS, Plan, Step
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.release import last_builds

RULES_SHOWN = 10
"""More rules than these are counted, not listed."""


@dataclass(frozen=True)
class Effect:
    """What an edited model does to others.

    Attributes:
        model: Its name.
        edit: What of it changes.
        felt: Relations of spokes that rest on what changes, and their columns that do; no columns for all.
    """

    model: str
    edit: Edit
    felt: dict[str, list[str]]

    def __str__(self) -> str:
        """Say it in a line or two."""
        breaking = "breaking" if self.edit.is_breaking else "safe"
        felt = [f"{name} ({', '.join(columns) or 'every column'})" for name, columns in self.felt.items()]
        told = f"; felt by {'; '.join(felt)}" if felt else ""
        return f"{breaking}: {self.edit}{told if self.edit.is_breaking else ''}"


@dataclass(frozen=True)
class PlanReport:
    """A plan, and the effects of its edits by the model's unique id."""

    plan: Plan
    effects: dict[str, Effect]

    @property
    def is_breaking(self) -> bool:
        """Whether an edit breaks what others read."""
        return any(effect.edit.is_breaking for effect in self.effects.values())

    def as_text(self) -> str:
        """Return it for a terminal."""
        lines = []
        for why, steps in self._by_reason():
            lines.append(f"{_count(steps)}: {WORDS[why]}")
            for step in _shown(steps):
                lines.append(f"  {step.node['name']}  {step.cause}".rstrip())
                effect = self.effects.get(step.node["unique_id"])
                if effect and not effect.edit.is_nothing:
                    lines.append(f"    {effect}")
            if more := sum(step.is_test for step in steps) - sum(step.is_test for step in _shown(steps)):
                lines.append(f"  and {_many(more, 'rule')}")
        for node_id in self.plan.removed:
            lines.append(f"removed from the project; its relation stays in the hub: {node_id.split('.')[-1]}")
        return "\n".join([*lines, self._last_line()])

    def as_markdown(self) -> str:
        """Return it for a pull request."""
        lines = ["| what | why | for those who read it |", "|---|---|---|"]
        for _why, steps in self._by_reason():
            for step in _shown(steps):
                effect = self.effects.get(step.node["unique_id"])
                cells = [f"`{step.node['name']}`", step.reason, str(effect or "")]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        return "\n".join([*(lines if len(lines) > 2 else []), "", self._last_line()]).strip()

    def as_json(self) -> str:
        """Return all of it, for a program."""
        steps = [self._describe(step) for step in self.plan.steps]
        skipped = dict(zip(("models", "tests"), self.plan.skipped, strict=True))
        return json.dumps(
            {"steps": steps, "removed": self.plan.removed, "skipped": skipped, "is_breaking": self.is_breaking},
            indent=2,
        )

    def _describe(self, step: Step) -> dict[str, Any]:
        effect = self.effects.get(step.node["unique_id"])
        described: dict[str, Any] = {
            "id": step.node["unique_id"],
            "name": step.node["name"],
            "type": step.node["resource_type"],
            "why": step.why,
            "because": step.because,
        }
        if effect:
            edit = effect.edit
            described["edit"] = {
                "is_breaking": edit.is_breaking,
                "added": edit.added,
                "removed": edit.removed,
                "retyped": dict(edit.retyped),
                "changed": edit.changed,
                "rows": edit.rows,
            }
            described["felt"] = effect.felt
        return described

    def _by_reason(self) -> list[tuple[Any, list[Step]]]:
        found = [(why, [step for step in self.plan.steps if step.why == why]) for why in WORDS]
        return [(why, steps) for why, steps in found if steps]

    def _last_line(self) -> str:
        relations, tests = self.plan.skipped
        skipped = (
            f"{_many(relations, 'model')} and {_many(tests, 'rule')} are skipped: unchanged, and so is what they read"
        )
        if not self.plan.steps:
            return f"Nothing to build: {skipped}."
        return f"To do: {_count(self.plan.steps)}; {skipped}. Next: hubspoke build"


def report(project: Project, plan: Plan) -> PlanReport:
    """Tell what those who read the edited models feel of it.

    Raises:
        HubspokeError: dbt cannot compile what was edited, or the hub is being built.
    """
    edited = [step.node for step in plan.built if step.why == "edited" and step.node["resource_type"] == "model"]
    if not edited:
        return PlanReport(plan, {})
    compiled = compile_project(project.root, " ".join(node["name"] for node in edited))
    effects = {}
    with open_hub(project) as hub:
        before = {node_id: build.compiled for node_id, build in last_builds(hub).items()}
        felt = _Felt(plan.manifest, before)
        for node in edited:
            node_id = node["unique_id"]
            columns = _held_columns(hub, node)
            edit = judge(
                before[node_id], compiled[node_id], columns, _columns_after(hub, node, compiled[node_id], columns)
            )
            effects[node_id] = Effect(node["name"], edit, felt.by(node_id, edit) if edit.is_breaking else {})
    return PlanReport(plan, effects)


class _Felt:
    """Which columns of the spokes' relations are made of a model's, as the hub holds them."""

    def __init__(self, manifest: Manifest, compiled: dict[str, str]) -> None:
        self._manifest, self._compiled = manifest, compiled

    def by(self, node_id: str, edit: Edit) -> dict[str, list[str]]:
        """List the relations that may feel an edit, and of each the columns that are made of it.

        None where all may: where rows change, or a column is only filtered or joined by.
        """
        found: dict[str, list[str]] = {}
        lineage: Lineage | None = None
        for spoke in self._manifest.spokes:
            if node_id not in self._manifest.ancestry([spoke["unique_id"]]):
                continue
            columns: list[str] = []
            if edit.touched is not None:
                lineage = lineage or Lineage(self._manifest, self._compiled)
                try:
                    columns = lineage.made_of(spoke, {(node_id, name) for name in edit.touched})
                except HubspokeError:  # it cannot be told which
                    columns = []
            found[f"{spoke['name']} of {spoke_of(spoke)}"] = columns
        return found


def _held_columns(hub: duckdb.DuckDBPyConnection, node: Node) -> Columns:
    rows = hub.execute(
        "select column_name, lower(data_type) from duckdb_columns() where schema_name = ? and table_name = ?",
        [node["schema"], node.get("alias") or node["name"]],
    ).fetchall()
    return dict(rows)


def _columns_after(hub: duckdb.DuckDBPyConnection, node: Node, sql: str, before: Columns) -> Columns:
    """Return the columns that a model's query gives now; where it reads what is not there yet, those of its YAML."""
    try:
        described = hub.execute(f"describe {sql}").fetchall()
    except duckdb.Error:
        return {name: str(column.get("data_type") or before.get(name, "")) for name, column in node["columns"].items()}
    return {row[0]: str(row[1]).lower() for row in described}


def _shown(steps: list[Step]) -> list[Step]:
    """Leave out rules where there are many, or models to be seen instead."""
    tests = [step for step in steps if step.is_test]
    is_clear = len(tests) <= RULES_SHOWN and steps[0].why not in {"data", "ancestor"}
    return [step for step in steps if not step.is_test or is_clear]


def _count(steps: list[Step] | tuple[Step, ...]) -> str:
    counted = Counter(step.node["resource_type"] for step in steps)
    names = {"model": "model", "seed": "seed", "test": "rule", "unit_test": "unit test"}
    return ", ".join(_many(counted[kind], name) for kind, name in names.items() if counted[kind])


def _many(number: int, thing: str) -> str:
    return f"{number} {thing}{'' if number == 1 else 's'}"
