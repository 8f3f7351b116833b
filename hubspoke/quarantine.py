"""Rows that a rule has held back: what they are, and letting some of them through, for a reason."""

import csv
from dataclasses import dataclass
from datetime import date
from typing import Any

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.lineage import Lineage
from hubspoke.manifest import Manifest
from hubspoke.project import Project
from hubspoke.quality import CURRENT_LEDGER, open_hub
from hubspoke.sql import identifier

MASK = "•••"
"""What stands for a value that describes a person."""


@dataclass(frozen=True)
class Held:
    """Rows of one model that broke one set of rules.

    Attributes:
        model: The model.
        rules: The rules that each of the rows broke.
        rows: How many rows.
    """

    model: str
    rules: list[str]
    rows: int


class Quarantine:
    """The quarantine of a project's hub, only read.

    Args:
        project: The project; nothing may be building in it.

    Raises:
        HubspokeError: The hub has not been built, or is being built.
    """

    def __init__(self, project: Project) -> None:
        self._project = project
        self._hub = open_hub(project)

    def held(self) -> list[Held]:
        """List what is held back, by model and broken rules, most rows first."""
        found = []
        for model in self._models():
            rows = self._hub.execute(
                f"select _rules_broken, count(*) from {self._rows(model)} group by all order by all"
            ).fetchall()
            found += [Held(model, rules.split(", "), count) for rules, count in rows]
        return sorted(found, key=lambda held: -held.rows)

    def show(self, model: str, limit: int) -> duckdb.DuckDBPyRelation:
        """Return rows of one model whole, with the rules that they broke; values that describe a person are masked.

        Args:
            model: Name of a model with a quarantine.
            limit: Rows at most.

        Raises:
            HubspokeError: Nothing of the model is held back.
        """
        self._known(model)
        personal = self._personal_columns(model)
        columns = self._hub.execute(f"select * from {self._rows(model)} limit 0").description or []
        shown = ", ".join(f"'{MASK}' as \"{name}\"" if name in personal else f'"{name}"' for name, *_ in columns)
        return self._hub.sql(f"select {shown} from {self._rows(model)} limit {limit}")

    def release(self, model: str, rule: str, condition: str, reason: str) -> int:
        """Let rows through a rule from the next build on, by a line in ``seeds/rule_exceptions.csv``.

        Args:
            model: Name of a model with a quarantine.
            rule: Rule that holds the rows back.
            condition: SQL over a row of the model; rows for which it is true are let through.
            reason: Why, for who reads it later.

        Returns:
            How many of the rows that are held back now it is true for.

        Raises:
            HubspokeError: There is no such rule, the condition is not SQL over the model's columns, or no row fits it.
        """
        self._known(model)
        rules = sorted({name for held in self.held() if held.model == model for name in held.rules})
        if rule not in rules:
            raise HubspokeError(f"no row of {model} is held back by {rule}; the rules are {', '.join(rules)}")
        try:
            row: Any = self._hub.execute(
                f"select count(*) from {self._rows(model)} "
                f"where list_contains(string_split(_rules_broken, ', '), ?) and ({condition}\n)",
                [rule],
            ).fetchone()
        except duckdb.Error as error:
            raise HubspokeError(f"{condition!r} is not a condition on {model}: {error}") from None
        if not row[0]:
            raise HubspokeError(f"no row that {rule} holds back fits {condition!r}")
        with self._project.exceptions_file.open("a", newline="") as file:
            csv.writer(file, lineterminator="\n").writerow([model, rule, condition, reason, date.today().isoformat()])
        return int(row[0])

    def _models(self) -> list[str]:
        rows = self._hub.execute(
            f"select model from ({CURRENT_LEDGER}) where rows_quarantined > 0 order by all"
        ).fetchall()
        return [name for (name,) in rows]

    def _rows(self, model: str) -> str:
        """Return the relation of a model's rows; of one that a development environment has not built, in its hub."""
        if self._project.base is None:
            return f"quarantine.{identifier(model)}"
        is_here = self._hub.execute(
            "select 1 from duckdb_tables() where database_name = current_database() and schema_name = 'quarantine' "
            "and table_name = ?",
            [model],
        ).fetchone()
        return f"{'' if is_here else 'base.'}quarantine.{identifier(model)}"

    def _known(self, model: str) -> None:
        if model not in self._models():
            raise HubspokeError(f"{model} has no quarantine; models that have: {', '.join(self._models()) or 'none'}")

    def _personal_columns(self, model: str) -> set[str]:
        manifest = Manifest.read(self._project.root)
        compiled = dict(self._hub.execute("select node_id, compiled_sql from runs.builds").fetchall())
        [node] = [node for node in manifest.models if node["name"] == model]
        origins = Lineage(manifest, compiled).origins(node)
        personal = manifest.personal_columns
        return {column for column, sources in origins.items() if sources & personal}
