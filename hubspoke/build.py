"""``hubspoke build``: does what a plan says, without dbt or by it, with live progress and a summary at the end."""

import gc
import importlib
import os
import re
import shutil
import sys
import threading
import time
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import BarColumn, Progress, TaskID, TextColumn, TimeElapsedColumn

from hubspoke.dbt_events import without_debug_events
from hubspoke.development import follow
from hubspoke.errors import HubspokeError
from hubspoke.landing import LandingZone
from hubspoke.manifest import close_hub, load_for_dbt
from hubspoke.plan import Plan, Step, counted, make
from hubspoke.project import Project
from hubspoke.quality import held_back, open_hub, scans
from hubspoke.refresh import LandedMeanwhile, NotRefreshable, Refreshed, in_use, refresh
from hubspoke.release import ReleaseStore, publication
from hubspoke.sources import read_sources

WATCHED = frozenset({"NodeStart", "NodeFinished", "CatchableExceptionOnRun"})
"""Events of level ``debug`` that ``Watch`` takes."""


@dataclass
class Watch:
    """What dbt's events told so far, kept for the display and the summary.

    Attributes:
        total: Nodes that this run will execute.
        ended: Nodes that ended, by resource type, those that were skipped included.
        done: Nodes that ran to their end, whatever they found, by resource type.
        problems: One message for each node that failed or warned.
        running: Name of the node that each thread is at, by thread identifier.
        failed: Nodes that failed, by resource type.
        warned: Nodes that warned.
        outcome: The release macro's sentence.
        reason: Why new data alone, or a full build, is left to dbt.
        invocation_id: dbt's name for the run.
    """

    total: int = 0
    ended: Counter[str] = field(default_factory=Counter)
    done: Counter[str] = field(default_factory=Counter)
    problems: list[str] = field(default_factory=list)
    failed: Counter[str] = field(default_factory=Counter)
    warned: int = 0
    running: dict[int, str] = field(default_factory=dict)
    outcome: str = ""
    reason: str = ""
    invocation_id: str = ""

    @property
    def finished(self) -> int:
        """Nodes that ended, out of ``total``; dbt runs a model's unit tests with the model and counts them there."""
        return self.ended.total() - self.ended["unit_test"] - self.ended["operation"]

    def __call__(self, event: Any) -> None:
        """Take one dbt event; dbt calls this on the thread that the event comes from."""
        info, data = event.info, event.data
        self.invocation_id = info.invocation_id
        if info.name == "ConcurrencyLine":
            self.total = data.node_count
            _import_iceberg()
        elif info.name == "NodeStart":
            self.running[threading.get_ident()] = data.node_info.node_name
        elif info.name == "NodeFinished":
            self.running.pop(threading.get_ident(), None)
            node, status = data.node_info, data.node_info.node_status
            self.ended[node.resource_type] += 1
            if status in {"success", "pass", "warn", "fail"}:
                self.done[node.resource_type] += 1
            if status in {"error", "fail", "warn", "runtime error"}:
                if status == "warn":
                    self.warned += 1
                else:
                    self.failed[node.resource_type] += 1
                self._tell(f"{status}: {node.node_name}", data.run_result.message)
        elif info.name == "JinjaLogInfo" and data.msg.startswith(("Release", "Not released")):
            self.outcome = data.msg
        elif info.name in {"MainEncounteredError", "CatchableExceptionOnRun"}:
            self._tell("", str(info.msg))

    def _tell(self, heading: str, message: str) -> None:
        """Keep a message once, without colours and without the list of macros that it came through."""
        lines = re.sub(r"\x1b\[[0-9;]*m", "", message.strip()).splitlines()
        told = [f"    {line}" if heading else line for line in lines if not line.strip().startswith("> ")]
        if not any(line.strip() and line.strip() in "\n".join(self.problems) for line in told[1:2]):
            self.problems += [heading, *told] if heading else told


def build(project: Project, select: tuple[str, ...], is_full: bool, console: Console) -> bool:
    """Build what the hub lacks, or what is asked for, and print what came of it.

    Args:
        project: The project.
        select: dbt selectors; empty for what ``hubspoke.plan`` says.
        is_full: Compute everything anew, whatever has changed.
        console: Where to print; a terminal gets a live display, anything else plain lines.

    Returns:
        Whether every result was green.

    Raises:
        HubspokeError: Another process has the hub open, or dbt could not start.
    """
    # a parsed project is some 185,000 objects that live to the end: the collector would walk them again and again
    gc.set_threshold(200_000, 50, 100)
    watch = Watch()
    started = time.monotonic()
    with display(watch, console):
        plan = None if select or not project.hub.is_file() else make(project, is_full)
        refreshed = None
        if plan and plan.steps:
            plan, refreshed = _refresh(project, plan, watch)
            if is_full and not refreshed:
                plan = None  # dbt does all of it, seeds and unit tests, too
        if not refreshed and (plan is None or plan.steps):
            _refuse_if_busy(project)
            selected = ["--select", *select] if select else plan.selectors if plan else []
            result = run_dbt(project, watch, selected, load_for_dbt(project.root))
    if plan and not plan.steps:
        _tell_that_nothing_changed(project, plan, console)
        return True
    if plan and refreshed:
        _tell_of_refresh(project, plan, refreshed, time.monotonic() - started, console)
        return True
    for line in watch.problems:
        console.print(line, markup=False, highlight=False, soft_wrap=True)
    if result.exception and not watch.problems:
        raise HubspokeError(str(result.exception))
    if not watch.ended and result.success:
        raise HubspokeError(
            f"nothing in the project matches: {' '.join(select)}. Try: dbt ls --select {' '.join(select)}"
        )
    if watch.ended["model"] or plan:
        _summarise(project, watch, plan, time.monotonic() - started, console)
    return bool(result.success)


def _import_iceberg() -> None:
    """Import what a release writes tables with while models are built: it would wait for that, for a second or two."""

    def import_both() -> None:
        for module in ("pyiceberg.catalog.sql", "pyiceberg.io.pyarrow"):
            importlib.import_module(module)

    threading.Thread(target=import_both, daemon=True).start()


def _refresh(project: Project, plan: Plan, watch: Watch, attempts: int = 5) -> tuple[Plan, Refreshed | None]:
    """Do it without dbt, if it can be; plan anew where more lands meanwhile."""
    watch.total = len(plan.steps)
    _import_iceberg()

    def tell(step: Step) -> None:
        watch.ended[str(step.node["resource_type"])] += 1
        watch.running[threading.get_ident()] = step.node["name"]

    try:
        return plan, refresh(project, plan, tell)
    except LandedMeanwhile:
        if attempts > 1:
            return _refresh(project, make(project, plan.is_full), watch, attempts - 1)
        return plan, None
    except NotRefreshable as reason:
        if plan.is_full or all(step.why == "data" for step in plan.built):
            watch.reason = str(reason)
        return plan, None
    finally:
        watch.running.clear()
        watch.ended.clear()
        watch.total = 0


def run_dbt(project: Project, watch: Watch, arguments: list[str], parsed: Any) -> Any:
    """Have dbt build.

    Args:
        project: The project.
        watch: Told what happens.
        arguments: Further ones of ``dbt build``: what to build, for example.
        parsed: The project as dbt has parsed it (``hubspoke.manifest.load_for_dbt``).

    Returns:
        dbt's own result: ``success``, and the ``exception`` if it could not run.
    """
    # slow to import (1 s)
    from dbt.cli.main import dbtRunner

    os.chdir(project.root)  # where dbt looks for its project and its profile
    try:
        # plain dbt makes events of every statement, a seventh of a build, and writes them to dbt.log, a tenth more
        with without_debug_events(WATCHED):
            return dbtRunner(parsed, callbacks=[watch]).invoke(
                ["build", "--log-level", "none", "--log-level-file", "info", *arguments]
            )
    finally:
        close_hub()


@contextmanager
def display(watch: Watch, console: Console) -> Iterator[None]:
    """Show how far dbt is while this lasts: a bar on a terminal, a line now and then elsewhere."""
    finished = threading.Event()
    display = threading.Thread(target=_show, args=(watch, console, finished))
    display.start()
    try:
        yield
    finally:
        finished.set()
        display.join()


def _tell_that_nothing_changed(project: Project, plan: Plan, console: Console) -> None:
    """Say so; and publish where an earlier run could not."""
    built = f"nothing: {plan.skipped_in_words} are as they were built, and so is all that they read"
    if project.base:
        _print_lines({"built": built, "next": _promotion(project)}, console)
        return
    current = ReleaseStore(project.release).current()
    lines = {
        "built": built,
        "release": f"Release {current.number} is still current."
        if current
        else "There is none: nobody orders anything.",
    }
    _print_lines(lines | _named(publication(project, plan.manifest).splitlines()), console)


def _tell_of_refresh(project: Project, plan: Plan, refreshed: Refreshed, seconds: float, console: Console) -> None:
    for name in refreshed.warned:
        console.print(f"warn: {name}", markup=False, highlight=False, soft_wrap=True)
    by_change, again = counted(refreshed.by_change, "model"), refreshed.again
    same = f"{len(plan.built) - refreshed.by_change - again} as they were"
    name, done = "refreshed", f"{by_change} by change, {again} again, {same},"
    skipped = f"{plan.skipped_in_words}: unchanged, and so is what they read"
    if plan.is_full:
        seeds, unit_tests = plan.skipped
        name, done = "built", counted(len(plan.built), "model")
        skipped = f"{counted(seeds, 'seed')} and {counted(unit_tests, 'unit test')}: unchanged, and they read no data"
    released, *further = refreshed.outcome.splitlines() or [""]
    lines = {
        "landed": _landed(project),
        name: f"{done} in {seconds:.0f} s",
        "checked": f"{counted(refreshed.rules, 'rule')}: 0 failed, {len(refreshed.warned)} warned",
        "skipped": skipped,
        "held back": _held_back(*refreshed.held_back),
        "release": released,
        **_named(further),
    }
    _print_lines({name: text for name, text in lines.items() if text}, console)


def _landed(project: Project) -> str:
    zone = LandingZone(project.landing)
    contents = [zone.content(table.source, table.table) for table in read_sources(project.root)]
    landed = [content for content in contents if content]
    rows = sum(load.rows for content in landed for load in [content.whole, *content.changes] if load)
    return f"{rows:,} rows in {len(landed)} tables"


def _held_back(quarantined: int, dropped: int) -> str:
    return f"{quarantined:,} rows quarantined, {dropped:,} dropped by a declared filter"


def _command() -> str:
    """Return what to type to run us."""
    here = Path(sys.executable).parent
    is_active = shutil.which("hubspoke") == str(here / "hubspoke")
    return "hubspoke" if is_active else f"{os.path.relpath(here)}/hubspoke"


def _promotion(project: Project) -> str:
    return f"{_command()} dev {project.warehouse.name} --promote"


def _named(lines: list[str]) -> dict[str, str]:
    """Read the lines of a release's outcome that have a name."""
    return {name: text for line in lines for name, text in [line.split(": ", 1)]}


def _print_lines(lines: dict[str, str], console: Console) -> None:
    for name, text in lines.items():
        console.print(f"{name:<10} {text}", highlight=False, markup=False, soft_wrap=True)


def _refuse_if_busy(project: Project) -> None:
    """Say in one line what dbt would say in a stack trace."""
    if project.base:
        follow(project)
    if not project.hub.is_file():
        return
    try:
        duckdb.connect(project.hub).close()
    except duckdb.IOException as error:
        raise in_use(project, error) from None


def _show(watch: Watch, console: Console, finished: threading.Event) -> None:
    """Show how far the run is: a bar and one line per running model, or a plain line every ten seconds."""
    if not console.is_terminal:
        while not finished.wait(10):
            if watch.total:
                console.print(f"building: {watch.finished} of {watch.total} nodes", highlight=False)
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
                progress.update(whole, description="building", total=watch.total, completed=watch.finished)
            for thread, name in list(watch.running.items()):
                share = _share_done(cursors.get(thread))
                if share >= 0:
                    if name not in tasks:
                        tasks[name] = progress.add_task(f"  {name}", total=100)
                    progress.update(tasks[name], completed=share)
            for name in tasks.keys() - set(watch.running.values()):
                progress.remove_task(tasks.pop(name))


def _share_done(cursor: duckdb.DuckDBPyConnection | None) -> float:
    """Per cent of the statement that a cursor runs; negative where it runs none, or has just been closed."""
    try:
        return cursor.query_progress() if cursor is not None else -1
    except duckdb.Error:
        return -1


def _summarise(project: Project, watch: Watch, plan: Plan | None, seconds: float, console: Console) -> None:
    with open_hub(project) as hub:
        held = _held_back(*held_back(hub))
        scanned = scans(hub, watch.invocation_id)
    current = ReleaseStore(project.release).current()
    command = _command()
    rules_failed = watch.failed["test"] + watch.failed["unit_test"]
    not_built = watch.failed.total() - rules_failed
    readers_see = f"readers keep release {current.number}" if current else "there is none yet"
    skipped = plan.skipped_in_words if plan else ""
    released, *further = watch.outcome.splitlines() or [""]
    lines = {
        "landed": _landed(project),
        "built": f"{counted(watch.done['model'], 'model')} in {seconds:.0f} s"
        + (f", {not_built} failed" if not_built else ""),
        **({"by dbt": watch.reason} if watch.reason else {}),
        "checked": f"{counted(watch.done['test'], 'rule')} in {counted(scanned, 'scan')} "
        f"and {counted(watch.done['unit_test'], 'unit test')}: "
        f"{rules_failed} failed, {watch.warned} warned",
        **({"skipped": f"{skipped}: unchanged, and so is what they read"} if skipped else {}),
        "held back": held,
        "release": released or f"None was made; {readers_see}.",
    }
    lines |= _named(further)
    if watch.problems and not watch.outcome.startswith("Release"):
        lines["next"] = f"put right what is named above, then: {command} build"
    elif project.base:
        lines["next"] = _promotion(project)
    elif current and watch.outcome.startswith("Release"):
        lines["next"] = f'{command} query "select * from {min(current.relations)} limit 10"'
    else:
        lines["next"] = f"{command} build"
    _print_lines(lines, console)
