"""How the rules have done, run by run: what ``quality.results`` holds, for the terminal and as a page."""

from dataclasses import dataclass
from datetime import datetime

import duckdb

from hubspoke.development import attach, refuse_if_gone
from hubspoke.errors import HubspokeError
from hubspoke.pages import sparkline
from hubspoke.project import Project

RUNS_SHOWN = 30
"""Runs that a sparkline goes back."""


@dataclass(frozen=True)
class RuleHistory:
    """One rule and its last runs.

    Attributes:
        model: Model that it is on; empty for a singular test.
        rule: Its name.
        template: Its template.
        on_failure: What happens to what fails: warn, quarantine, drop or fail.
        status: dbt's last status: pass, warn, fail, error or skipped.
        rows_tested: Rows of the model in the last run; None where a test scanned by itself.
        rows_failed: Rows that broke the rule in the last run, those that were taken out included; for a rule on a whole
            table, 1 if it was broken.
        observed: Figure of a rule on a whole table.
        recorded_at: Time of the last run, UTC.
        failures: rows_failed of the last runs, oldest first.
    """

    model: str
    rule: str
    template: str
    on_failure: str
    status: str
    rows_tested: int | None
    rows_failed: int
    observed: str | None
    recorded_at: datetime
    failures: list[int]

    @property
    def sparkline(self) -> str:
        """The failures of the last runs as a line of bars, scaled to the worst."""
        return sparkline(self.failures)


def histories(project: Project) -> list[RuleHistory]:
    """Read the history of every rule, those that failed last first.

    Args:
        project: The project; nothing may be building in it.

    Raises:
        HubspokeError: The hub has not been built, or is being built.
    """
    with open_hub(project) as hub:
        rows = hub.execute(
            """
            select
                model,
                rule,
                arg_max(template, recorded_at),
                arg_max(on_failure, recorded_at),
                arg_max(status, recorded_at),
                arg_max(rows_tested, recorded_at),
                coalesce(arg_max(rows_failed, recorded_at), 0),
                arg_max(observed, recorded_at),
                max(recorded_at),
                list_reverse(list(coalesce(rows_failed, 0) order by recorded_at desc)[:?])
            from quality.results
            group by all
            order by
                arg_max(status, recorded_at) in ('fail', 'error') desc,
                coalesce(arg_max(rows_failed, recorded_at), 0) desc,
                model,
                rule
            """,
            [RUNS_SHOWN],
        ).fetchall()
    return [RuleHistory(*row) for row in rows]


CURRENT_LEDGER = """
    select * from quality.ledger
    where build_number > (select max(build_number) from runs.builds where builds.node_id = ledger.node_id)
"""
"""SQL: the ledger's rows of each model's last build; a model that rules take nothing out of any more has none."""


def held_back(hub: duckdb.DuckDBPyConnection) -> tuple[int, int]:
    """Count the rows that are held back now: quarantined, and dropped by a declared filter."""
    row = hub.execute(
        f"select coalesce(sum(rows_quarantined), 0), coalesce(sum(rows_dropped), 0) from ({CURRENT_LEDGER})"
    ).fetchone()
    return row or (0, 0)


def scans(hub: duckdb.DuckDBPyConnection, run_id: str) -> int:
    """Count the statements that a run scanned its models with to check their rules.

    A gate runs one for all rules on rows and keys and one for all on the whole table; where rules may take rows out,
    one more for each key, and where they did, one that finds those rows. Any other rule is one of its own.
    """
    row = hub.execute(
        """
        with gated as (select * from quality.ledger where run_id = $run_id)

        select
            count(distinct model) filter (where rows_tested is not null and observed is null)
            + count(distinct model) filter (where observed is not null)
            + count(*) filter (where rows_tested is null)
            + count(*) filter (where template like 'unique%' and model in (select model from gated))
            + (select count(*) from gated where rows_quarantined + rows_dropped > 0)
        from quality.results
        where run_id = $run_id and status <> 'skipped'
        """,
        {"run_id": run_id},
    ).fetchone()
    return row[0] if row else 0


def open_hub(project: Project) -> duckdb.DuckDBPyConnection:
    """Open the hub's file to read it and what runs have noted in it.

    Raises:
        HubspokeError: The hub has not been built, or is being built.
    """
    refuse_if_gone(project)
    if not project.hub.is_file():
        raise HubspokeError("Nothing has been built yet. Run: hubspoke build")
    try:
        hub = duckdb.connect(project.hub, read_only=True)
    except duckdb.IOException:
        raise HubspokeError(f"{project.hub} is being built. Run this again when the build has ended.") from None
    if project.base:
        attach(project, hub)
    return hub
