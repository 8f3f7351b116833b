"""A plan as a person reads it: what is built and why, what of it others feel, and what is skipped."""

import json
from collections import Counter
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

import duckdb

from hubspoke.breaking import Columns, Edit, judge
from hubspoke.diff_report import Diff
from hubspoke.errors import HubspokeError
from hubspoke.lineage import Lineage
from hubspoke.manifest import Manifest, compile_project, spoke_of
from hubspoke.plan import WORDS, Plan, Step, counted
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.release import last_builds
from hubspoke.sql import columns_of

RULES_SHOWN = 10
"""More rules than these are counted, not listed."""


@dataclass(frozen=True)
class Effect:
    """What an edited model does to others.

    Attributes:
        edit: What of it changes.
        felt: Relations of spokes that rest on what changes, and their columns that do; no columns for all.
    """

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
    """A plan, the effects of its edits by the model's unique id, and its effect on rows if that was asked for."""

    plan: Plan
    effects: dict[str, Effect]
    diff: Diff | None = None

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
                lines.append(f"  and {counted(more, 'rule')}")
        for node_id in self.plan.removed:
            lines.append(f"removed from the project; its relation stays in the hub: {node_id.split('.')[-1]}")
        rows = self.diff.as_lines() if self.diff else []
        return "\n".join([*lines, *rows, self._last_line()])

    def as_markdown(self) -> str:
        """Return it for a pull request."""
        lines = ["| what | why | for those who read it |", "|---|---|---|"]
        for _why, steps in self._by_reason():
            for step in _shown(steps):
                effect = self.effects.get(step.node["unique_id"])
                cells = [f"`{step.node['name']}`", step.reason, str(effect or "")]
                lines.append("| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |")
        rows = ["", *self.diff.as_markdown()] if self.diff else []
        return "\n".join([*(lines if len(lines) > 2 else []), *rows, "", self._last_line()]).strip()

    def as_json(self) -> str:
        """Return all of it, for a program."""
        steps = [self._describe(step) for step in self.plan.steps]
        skipped = dict(zip(("models", "tests"), self.plan.skipped, strict=True))
        told = {"steps": steps, "removed": self.plan.removed, "skipped": skipped, "is_breaking": self.is_breaking}
        return json.dumps(told | ({"diff": self.diff.as_dict()} if self.diff else {}), indent=2)

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
        skipped = f"{self.plan.skipped_in_words} are skipped: unchanged, and so is what they read."
        if not self.plan.steps:
            return f"Nothing to build: {skipped}"
        told = f"; {skipped}" if self.plan.skipped_in_words else "."
        fix = "put right what fails, then: " if self.diff and self.diff.is_red else ""
        return f"To do: {_count(self.plan.steps)}{told} Next: {fix}hubspoke build"


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
        lineage = Lineage(plan.manifest, before)
        for node in edited:
            node_id = node["unique_id"]
            held = _columns(hub, node["relation_name"])
            in_yaml = {name: str(one.get("data_type") or held.get(name, "")) for name, one in node["columns"].items()}
            # a query may read what is not there yet
            edit = judge(before[node_id], compiled[node_id], held, _columns(hub, compiled[node_id]) or in_yaml)
            felt = _felt(plan.manifest, lineage, node_id, edit) if edit.is_breaking else {}
            effects[node_id] = Effect(edit, felt)
    return PlanReport(plan, effects)


def _felt(manifest: Manifest, lineage: Lineage, node_id: str, edit: Edit) -> dict[str, list[str]]:
    """List the spokes' relations that may feel an edit of a model, and of each the columns that are made of it.

    No columns where all may: where rows change, or a column is only filtered or joined by.
    """
    found: dict[str, list[str]] = {}
    for spoke in manifest.spokes:
        if node_id not in manifest.ancestry([spoke["unique_id"]]):
            continue
        columns: list[str] = []
        if edit.touched is not None:
            with suppress(HubspokeError):  # it cannot be told which
                columns = lineage.made_of(spoke, {(node_id, name) for name in edit.touched})
        found[f"{spoke['name']} of {spoke_of(spoke)}"] = columns
    return found


def _columns(hub: duckdb.DuckDBPyConnection, query: str) -> Columns:
    """Return the columns of a relation or a query; none if there is no such relation, or it reads one that is not."""
    try:
        return {name: kind.lower() for name, kind in columns_of(hub, query).items()}
    except duckdb.Error:
        return {}


def _shown(steps: list[Step]) -> list[Step]:
    """Leave out rules where there are many, or models to be seen instead."""
    tests = [step for step in steps if step.is_test]
    is_clear = len(tests) <= RULES_SHOWN and steps[0].why not in {"data", "ancestor"}
    return [step for step in steps if not step.is_test or is_clear]


def _count(steps: list[Step] | tuple[Step, ...]) -> str:
    kinds = Counter(step.node["resource_type"] for step in steps)
    names = {"model": "model", "seed": "seed", "test": "rule", "unit_test": "unit test"}
    return ", ".join(counted(kinds[kind], name) for kind, name in names.items() if kinds[kind])
