"""``hubspoke build``: dbt's own build, with live progress on a terminal and a summary at the end."""

import threading
import time
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hubspoke.errors import HubspokeError
from hubspoke.project import Project
from hubspoke.release import ReleaseStore


@dataclass
class Watch:
    """What dbt's events told so far, kept for the display and the summary.

    Attributes:
        total: Nodes that this run will execute.
        done: Nodes that ended, by resource type.
        problems: One message for each node that failed or warned.
        running: Name of the node that each thread is at, by thread identifier.
        outcome: The release macro's sentence.
        invocation_id: dbt's name for the run.
    """

    total: int = 0
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    running: dict[int, str] = field(default_factory=dict)
    outcome: str = ""
    invocation_id: str = ""

    def __call__(self, event: Any) -> None:
        """Take one dbt event; dbt calls this on the thread that the event comes from."""
        info, data = event.info, event.data
        self.invocation_id = info.invocation_id
        if info.name == "ConcurrencyLine":
            self.total = data.node_count
        elif info.name == "NodeStart":
            self.running[threading.get_ident()] = data.node_info.node_name
        elif info.name == "NodeFinished":
            self.running.pop(threading.get_ident(), None)
            self.done[data.node_info.resource_type] += 1
            if data.node_info.node_status in {"error", "fail", "warn", "runtime error"}:
                self.problems.append(
                    f"{data.node_info.node_status}: {data.node_info.node_name} ({data.node_info.node_path})"
                )
                message = data.run_result.message.strip()
                if message:
                    self.problems += [f"    {line}" for line in message.splitlines()]
        elif info.name == "JinjaLogInfo" and ("elease" in data.msg):
            self.outcome = data.msg.strip()
        elif info.name in {"MainEncounteredError", "CatchableExceptionOnRun"}:
            self.problems += str(info.msg).splitlines()


def build(project: Project, select: tuple[str, ...], console: Console) -> bool:
    """Run ``dbt build`` on the project and print what came of it.

    Args:
        project: The project.
        select: dbt selectors; empty for everything.
        console: Where to print; a terminal gets a live display, anything else plain lines.

    Returns:
        Whether every result was green.

    Raises:
        HubspokeError: Nothing has landed, or dbt could not start.
    """
    # slow to import (1 s): only the command that runs dbt pays for it
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager
    from dbt.cli.main import dbtRunner

    watch = Watch()
    started = time.monotonic()
    arguments = [
        "build",
        "--quiet",
        "--project-dir",
        str(project.root),
        "--profiles-dir",
        str(project.root / "profiles"),
    ]
    if select:
        arguments += ["--select", *select]
    finished = threading.Event()
    display = threading.Thread(target=_show, args=(watch, console, finished))
    display.start()
    try:
        result = dbtRunner(callbacks=[watch]).invoke(arguments)
    finally:
        finished.set()
        display.join()
    # dbt keeps the hub open in this process, even after close_all_connections
    if DuckDBConnectionManager._ENV is not None:
        DuckDBConnectionManager._ENV.close()
    DuckDBConnectionManager.close_all_connections()
    for line in watch.problems:
        console.print(line, markup=False, highlight=False)
    if result.exception and not watch.problems:
        raise HubspokeError(str(result.exception))
    _summary(project, watch, time.monotonic() - started, console)
    return bool(result.success)


def _show(watch: Watch, console: Console, finished: threading.Event) -> None:
    """Show how far the run is: a bar and one line per running model, or a plain line every ten seconds."""
    if not console.is_terminal:
        while not finished.wait(10):
            if watch.total:
                console.print(f"building: {watch.done.total()} of {watch.total} nodes", highlight=False)
        return
    from hubspoke.dbt_plugin import cursors

    columns = (
        TextColumn("{task.description}"),
        BarColumn(),
        TextColumn("{task.percentage:>3.0f} %"),
        TimeElapsedColumn(),
    )
    with Progress(*columns, console=console, transient=True) as progress:
        whole = progress.add_task("parsing the project", total=None)
        tasks: dict[str, TaskID] = {}
        while not finished.wait(0.2):
            if watch.total:
                progress.update(whole, description="building", total=watch.total, completed=watch.done.total())
            for thread, name in list(watch.running.items()):
                cursor = cursors.get(thread)
                share = cursor.query_progress() if cursor is not None else -1
                if share >= 0:
                    tasks.setdefault(name, progress.add_task(f"  {name}", total=100))
                    progress.update(tasks[name], completed=share)
            for name in tasks.keys() - set(watch.running.values()):
                progress.remove_task(tasks.pop(name))


def _summary(project: Project, watch: Watch, seconds: float, console: Console) -> None:
    with duckdb.connect(project.hub, read_only=True) as hub:
        quarantined, dropped = hub.execute(
            """
            select coalesce(sum(rows_quarantined), 0), coalesce(sum(rows_dropped), 0)
            from (
                select * from quality.ledger
                qualify row_number() over (partition by model order by recorded_at desc) = 1
            )
            """
        ).fetchone() or (0, 0)
    from hubspoke.landing import LandingZone
    from hubspoke.sources import read_sources

    zone = LandingZone(project.landing)
    loads = [zone.current(table.source, table.table) for table in read_sources(project.root)]
    landed = [load for load in loads if load]
    checked = watch.done["test"] + watch.done["unit_test"]
    lines = [
        ("landed", f"{sum(load.rows for load in landed):,} rows in {len(landed)} tables"),
        ("built", f"{watch.done['model']} models in {seconds:.0f} s"),
        ("checked", f"{checked} rules, {sum(not line.startswith(' ') for line in watch.problems)} not green"),
        ("held back", f"{quarantined:,} rows quarantined, {dropped:,} dropped by a declared filter"),
        ("release", watch.outcome or "none"),
    ]
    current = ReleaseStore(project.release).current()
    if current and current.relations:
        spoke = min(relation.spoke for relation in current.relations.values())
        lines.append(
            (
                "next",
                f"hubspoke releases, or read {project.warehouse.name}/release/current/{spoke}.duckdb with DuckDB",
            )
        )
    for name, text in lines:
        console.print(f"{name:<10} {text}", highlight=False, markup=False, soft_wrap=True)
