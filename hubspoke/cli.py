"""The commands, in the order in which data moves."""

import csv
import os
import shlex
import shutil
import sys
import tempfile
import time
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from itertools import groupby
from pathlib import Path
from typing import TYPE_CHECKING

import click
import duckdb
from rich.console import Console
from rich.progress import Progress

from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest, target_folder
from hubspoke.pages import write_page
from hubspoke.project import Project
from hubspoke.quality import RUNS_SHOWN, histories

if TYPE_CHECKING:  # slow to import: each where it is used
    from hubspoke.quarantine import Quarantine
    from hubspoke.release import ReleaseStore
    from hubspoke.sources import SourceTable


class _InOrder(click.Group):
    """Lists commands in the order in which they are written here, not by name."""

    def list_commands(self, context: click.Context) -> list[str]:
        return list(self.commands)


@click.group(cls=_InOrder, context_settings={"help_option_names": ["-h", "--help"]})
@click.version_option(package_name="hubspoke")
def cli() -> None:
    """A hub-and-spoke data warehouse: land, build, release.

    Run it anywhere inside the project. HUBSPOKE_WAREHOUSE names another folder for everything that a run writes.
    """


@cli.command()
@click.argument("tables", nargs=-1, metavar="[SOURCE[.TABLE]]...")
@click.option("--every", type=click.FloatRange(min=0), metavar="SECONDS", help="Again and again, until stopped.")
@click.option("--new-stream", is_flag=True, help="Take up a stream that was made anew; what has landed stays.")
def ingest(tables: tuple[str, ...], every: float | None, new_stream: bool) -> None:
    """Land what is new in the sources: files, databases, interfaces, change logs, streams.

    What has landed before adds nothing. Rows that cannot be read are kept beside the load, each with the reason. With
    --every, a source that declares a schedule is landed when that says so and any other at each turn; only what is new
    is told, and a source that is down is tried again at the next turn.
    """
    from hubspoke.schedule import due

    project = _hub_project()
    chosen = [table for table in _chosen(project, tables) if table.is_landed]
    if every is None:
        if faults := _land(project, chosen, new_stream, is_quiet=False):
            raise HubspokeError("\n".join(faults))
        return
    while True:
        began = time.monotonic()
        for fault in _land(project, due(project, chosen, datetime.now(UTC)), new_stream, is_quiet=True):
            _to_stderr(f"Error: {fault}")
        time.sleep(max(0.0, began + every - time.monotonic()))


def _land(project: Project, chosen: "list[SourceTable]", new_stream: bool, is_quiet: bool) -> list[str]:
    """Land some tables, source by source, and return what went wrong."""
    from hubspoke.cdc import catch_up
    from hubspoke.compaction import tidy
    from hubspoke.exports import ingest as run
    from hubspoke.schedule import note

    faults, landed = [], []
    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        exported = [table for table in chosen if table.ingest.mechanism != "cdc"]  # a log tells no share
        tasks = {table.name: progress.add_task(table.name, total=1.0) for table in exported}
        for source, group in groupby(chosen, key=lambda table: table.source):
            tables, began = list(group), datetime.now(UTC)
            try:
                if tables[0].ingest.mechanism == "cdc":
                    landed += [(outcome, " or changes") for outcome in catch_up(project, source, _to_stderr)]
                else:
                    outcomes = run(
                        project, tables, lambda name, share: progress.update(tasks[name], completed=share), new_stream
                    )
                    landed += [(outcome, "") for outcome in outcomes]
            except HubspokeError as error:
                faults.append(str(error))
                continue
            note(project, tables, began)
    for outcome, kind in landed:
        for line in outcome.notes:
            _to_stderr(line)
        if outcome.is_new or not is_quiet:
            state = "landed" if outcome.is_new else "unchanged since its last load"
            rejected = f", {outcome.rejected:,} rejected" if outcome.rejected else ""
            click.echo(f"{outcome.name:<32} {outcome.rows:>12,} rows{kind}  {state}{rejected}")
    tidy(project, chosen, _to_stderr)
    return faults


@cli.command()
@click.argument(
    "systems", nargs=-1, metavar="[pos | crm | marketing]...", type=click.Choice(["pos", "crm", "marketing"])
)
@click.option(
    "--from",
    "begin",
    type=click.DateTime(["%Y-%m-%d"]),
    default="2017-12-01",
    show_default=True,
    metavar="DATE",
    help="pos: what was sold before is there at once, the rest comes as it was sold; 2018-01-02: all is there.",
)
@click.option(
    "--speed",
    type=click.FloatRange(0, min_open=True),
    default=100.0,
    show_default=True,
    metavar="ROWS",
    help="pos: rows that are written each second.",
)
def demo(systems: tuple[str, ...], begin: datetime, speed: float) -> None:
    """Run systems that hold the running example, to land it from there instead of from files.

    pos is a PostgreSQL database that is written to while this runs, and is followed by its change log; crm is a SQL
    database (SQLite); marketing is a REST interface. Default: all three. Ctrl-C stops them; run it again to go on.

    It prints what to type in another terminal. Nothing in the project is edited: HUBSPOKE_SOURCES names a file that
    says where the sources are.
    """
    from hubspoke.demo import SYSTEMS
    from hubspoke.demo import run as run_demo

    chosen = tuple(system for system in SYSTEMS if not systems or system in systems)
    run_demo(Project.find(), chosen, begin, speed, Console())


@cli.group(cls=_InOrder)
def sources() -> None:
    """What is declared of the sources, and whether they are so."""


@sources.command(name="check")
@click.argument("names", nargs=-1, metavar="[SOURCE[.TABLE]]...")
def sources_check(names: tuple[str, ...]) -> None:
    """Check the YAML of all sources, and ask each source: does it answer, are its columns as declared?

    Nothing is landed. Ends with 1 if one does not answer.
    """
    from hubspoke.probe import check as run

    project = Project.find()
    asked = [table for table in _chosen(project, names) if table.ingest.mechanism != "cdc"]
    with tempfile.TemporaryDirectory(prefix="hubspoke-") as scratch:
        findings = run(project, asked, Path(scratch))
    for finding in findings:
        state = "no answer" if not finding.is_reached else "differs" if finding.says else "as declared"
        click.echo(f"{finding.table:<32} {state:<12} {finding.says}".rstrip())
    away = sum(not finding.is_reached for finding in findings)
    if away:
        raise HubspokeError(f"{away} of {len(findings)} tables did not answer")


@cli.group(cls=_InOrder)
def landing() -> None:
    """What has landed, and whether it is tidy."""


@landing.command(name="report")
@click.argument("names", nargs=-1, metavar="[SOURCE[.TABLE]]...")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to this file instead.")
@click.option("--strict", is_flag=True, help="End with 1 if there is a finding.")
def landing_report(names: tuple[str, ...], html: Path | None, strict: bool) -> None:
    """Show what has landed, how it grows, and what is not as it should be, with what to do about it.

    Reads metadata only. Bars are rows that landed, day by day, today on the right.
    """
    from hubspoke.landing_report import report

    tables = report(Project.find(), names)
    if html:
        write_page("landing.html", html, tables=tables, now=datetime.now(UTC))
        click.echo(f"Wrote {html}. Open it in a browser.")
    for table in tables if not html else []:
        click.echo(str(table))
    findings = sum(len(table.findings) for table in tables)
    click.echo(f"{len(tables)} tables, {sum(table.size for table in tables) / 1e6:,.1f} MB; {findings} findings")
    if strict and findings:
        sys.exit(1)


@landing.command(name="compact")
@click.argument("names", nargs=-1, metavar="[SOURCE[.TABLE]]...")
@click.option("--grace", default=60.0, show_default=True, metavar="MINUTES", help="How long replaced loads stay.")
def landing_compact(names: tuple[str, ...], grace: float) -> None:
    """Merge small loads and files, and remove what a declared retention gives up.

    Tables show the same rows as before, and nothing is built again for it. It may run beside ingestion and builds; what
    the hub's last build reads is never removed. Nothing is said of tables that are tidy.
    """
    from hubspoke.compaction import compact

    project = _hub_project()
    for done in compact(project, _chosen(project, names), timedelta(minutes=grace)):
        if not done.is_nothing:
            click.echo(str(done))


@cli.group(cls=_InOrder)
def new() -> None:
    """Write the files of something new, in the project's style."""


@new.command(name="source")
@click.argument("source")
@click.argument("table")
@click.option("--owner", prompt="Who answers for this data", help="Team that answers for the data.")
@click.option("--location", help="Folder of its files, or an address that fsspec knows.")
@click.option("--file", help="The file that holds the table.")
@click.option("--files", help="A pattern for several files, each of which adds rows.")
@click.option("--delimiter", help="Of a text file; default: a comma.")
@click.option("--connection", help="Name of the connection to a database or a stream.")
@click.option("--relation", help="The table in the database; default: TABLE.")
@click.option("--topic", help="The topic of a stream, in NATS a subject.")
@click.option("--cursor", help="Column that rises with every new or changed row.")
@click.option("--key", multiple=True, help="Column that tells rows apart; may be given more than once.")
@click.option("--federated", is_flag=True, help="Leave it in the database and ask it there.")
def new_source(
    source: str,
    table: str,
    owner: str,
    location: str | None,
    file: str | None,
    files: str | None,
    delimiter: str | None,
    connection: str | None,
    relation: str | None,
    topic: str | None,
    cursor: str | None,
    key: tuple[str, ...],
    federated: bool,
) -> None:
    """Ask TABLE of a new SOURCE what it looks like, and write its YAML, a staging model and that one's YAML."""
    from hubspoke.scaffold import new_source as write

    if not location and not connection:
        if click.prompt("Files or a database", type=click.Choice(["files", "database"])) == "files":
            location = click.prompt("Folder of the files")
        else:
            connection = click.prompt("Name of the connection (HUBSPOKE_CONNECTION_<NAME>)")
    if location and not file and not files:
        file = click.prompt("The file in it", default=f"{table}.csv")
    mechanism = "federated" if federated else "stream" if topic else "export"
    said = {"mechanism": mechanism, "location": location, "connection": connection}
    meta = {
        "file": file,
        "files": files,
        "load": "append" if files else None,
        "csv": {"delimiter": delimiter} if delimiter else None,
        "relation": relation,
        "topic": topic,
        "cursor": cursor,
        "key": list(key) or None,
    }
    project = Project.find()
    written = write(
        project,
        source,
        table,
        owner,
        {name: value for name, value in said.items() if value},
        {name: value for name, value in meta.items() if value},
    )
    for path in written:
        click.echo(f"Wrote {path.relative_to(project.root)}")
    click.echo(f"Describe its columns there; then: hubspoke ingest {source}")


@cli.group(cls=_InOrder)
def cdc() -> None:
    """Follow the change log of a PostgreSQL source."""


@cdc.command(name="run")
@click.argument("source")
@click.option("--every", default=10.0, show_default=True, metavar="SECONDS", help="How often what has come is landed.")
def cdc_run(source: str, every: float) -> None:
    """Land the change log of SOURCE as it is written, until stopped.

    Stop it as you like: the next run goes on where this one was.
    """
    from hubspoke.cdc import run

    run(_hub_project(), source, every, _to_stderr)


@cdc.command(name="status")
@click.argument("sources", nargs=-1, metavar="[SOURCE]...")
def cdc_status(sources: tuple[str, ...]) -> None:
    """Show how far each source has landed, and how much log its database keeps for that.

    Ends with 1 if a source cannot be followed, or its database keeps more than its retained_wal_limit.
    """
    from hubspoke.cdc import followed_sources, status

    project = Project.find()
    alarms = 0
    for source in sources or followed_sources(project):
        state = status(project, source)
        click.echo(f"{source:<16} {state}")
        for alarm in state.alarms:
            click.echo(f"{'':<16} ALARM: {alarm}")
        alarms += len(state.alarms)
    if alarms:
        sys.exit(1)


@cdc.command(name="snapshot")
@click.argument("name", metavar="SOURCE[.TABLE]")
def cdc_snapshot(name: str) -> None:
    """Copy SOURCE anew, or one table of it, and go on from there.

    For a slot that was lost, and for a table of which the log did not say all. What has landed stays; readers see it
    until the copy is there.
    """
    from hubspoke.cdc import catch_up, forget

    project = _hub_project()
    forget(project, name)
    for outcome in catch_up(project, name.partition(".")[0], _to_stderr):
        click.echo(f"{outcome.name:<32} {outcome.rows:>12,} rows or changes  landed")


@cdc.command(name="drop")
@click.argument("source")
def cdc_drop(source: str) -> None:
    """Drop the slot of SOURCE, so that its database keeps no log for it any more; what has landed stays."""
    from hubspoke.cdc import drop

    click.echo(drop(_hub_project(), source))


def _to_stderr(line: str) -> None:
    click.echo(line, err=True)


@cli.command()
@click.option("--json", "form", flag_value="json", help="As JSON.")
@click.option("--markdown", "form", flag_value="markdown", help="As Markdown, for a pull request.")
@click.option("--diff", "is_diff", is_flag=True, help="Also count the rows that readers would see otherwise.")
@click.option("--strict", is_flag=True, help="End with 1 if a change breaks what others read.")
def plan(form: str | None, is_diff: bool, strict: bool) -> None:
    """Show what a build would do and why, and what of it others would feel. Nothing is built.

    With --diff, what spokes would hold is built beside the hub, compared with the release, and removed: rows that are
    added, changed and removed by key, and changed rows by column. Ends with 1 if something in that fails. Neither the
    hub nor any reader notices; until it has ended, no build can begin.
    """
    from hubspoke.plan import make
    from hubspoke.plan_report import report
    from hubspoke.trial import diff, refuse_in_environment

    project = _duckdb_project()
    if is_diff:
        refuse_in_environment(project)
    made = make(project)
    found = report(project, made)
    if is_diff:
        found = replace(found, diff=diff(project, made, Console(stderr=True)))
    click.echo({"json": found.as_json, "markdown": found.as_markdown}.get(form or "", found.as_text)())
    if (strict and found.is_breaking) or (found.diff and found.diff.is_red):
        sys.exit(1)


@cli.command()
@click.argument("model")
def explain(model: str) -> None:
    """Say how MODEL takes in new data: by change, row for row, or as a whole, and why."""
    from hubspoke.explain import explain as run_explain

    click.echo("\n".join(run_explain(Project.find(), model)))


@cli.command()
@click.argument("name", required=False)
@click.option("--promote", is_flag=True, help="Put what was built in NAME into the hub, and remove NAME.")
@click.option("--remove", is_flag=True, help="Remove NAME and what was built in it.")
def dev(name: str | None, promote: bool, remove: bool) -> None:
    """Make the development environment NAME, or list those that there are.

    It reads what the hub holds and copies nothing; what is built in it stays in it, and nothing is released from it.
    Where it is there already, it is brought up to what the hub holds now. Promoting it puts what was built and tested
    there into the hub as it is; the next build releases it.
    """
    from hubspoke import development

    found = Project.find()
    project = found.base or found
    if promote and remove:
        raise click.UsageError("--promote removes the environment, too: give one of the two")
    if name is None:
        if promote or remove:
            raise click.UsageError(f"--{'promote' if promote else 'remove'} needs an environment's NAME")
        click.echo("\n".join(development.environments(project)) or "There is none. Make one: hubspoke dev NAME")
    elif remove:
        development.remove(project, name)
    elif promote:
        _promote(project, name)
        is_inside = found.warehouse == project.warehouse / "dev" / name
        click.echo(f"next: {'unset HUBSPOKE_WAREHOUSE; ' if is_inside else ''}hubspoke build")
    else:
        made = development.create(project, name)
        click.echo(f"To work in it: export HUBSPOKE_WAREHOUSE={os.path.relpath(made.warehouse, project.root)}")


def _promote(project: Project, name: str) -> None:
    from hubspoke.development import existing, promote
    from hubspoke.plan import make

    made = existing(project, name)
    plan = make(made)
    if plan.missing:
        step = min(plan.missing, key=lambda step: step.why != "failed")
        raise HubspokeError(
            f"{name} is not built to its end: {step.node['name']} is to be done ({step.reason}). Build it there first: "
            f"HUBSPOKE_WAREHOUSE={os.path.relpath(made.warehouse, project.root)} hubspoke build"
        )
    names = promote(project, name, plan.manifest)
    click.echo(f"promoted {', '.join(names) or 'no relation: none was built there'}")


@cli.command()
@click.option("-s", "--select", multiple=True, help="dbt selector, for example mart_sales__daily_stores+")
@click.option("--full", is_flag=True, help="Compute everything anew, changed or not.")
def build(select: tuple[str, ...], full: bool) -> None:
    """Build what has changed, test it and, if all is green, release.

    What has changed is what hubspoke plan shows: models and rules that were edited, and those that rest on them or on
    new data. The rest stays as it was built, and is what a full build would make of it.
    """
    from hubspoke.build import build as run_build

    if not run_build(_duckdb_project(), select, full, Console()):
        sys.exit(1)


@cli.command()
@click.option("--every", default=5.0, show_default=True, type=click.FloatRange(min=0), metavar="SECONDS")
@click.option("--no-ingest", is_flag=True, help="Others land what is new; only plan, build and release.")
def run(every: float, no_ingest: bool) -> None:
    """Keep the release fresh, until stopped: land what is new, plan, build, release, again and again.

    A model declares how old it may be (meta: { freshness: 15 minutes }); new data waits until the first that rests on
    it has to be built. What nobody declares a freshness for is built at once.
    """
    from hubspoke.loop import run as run_loop
    from hubspoke.schedule import due
    from hubspoke.sources import read_sources

    _refuse_spark()
    project = _hub_project()

    def land() -> list[str]:
        if no_ingest:
            return []
        tables = [table for table in read_sources(project.root) if table.is_landed]
        return _land(project, due(project, tables, datetime.now(UTC)), new_stream=False, is_quiet=True)

    run_loop(project, every, land, Console())


@cli.command()
@click.option("--strict", is_flag=True, help="End with 1 if a model is older than it may be.")
def status(strict: bool) -> None:
    """Show how fresh what readers see is, beside how fresh it is to be, and what a miss came from."""
    from hubspoke.freshness import status as read_status

    project = Project.find()
    rows = read_status(project, Manifest.read_current(project.root))
    for row in rows:
        click.echo(str(row))
    if not rows:
        click.echo("No model declares a freshness: config: { meta: { freshness: 15 minutes } } in its YAML")
    if strict and any(row.is_late for row in rows):
        sys.exit(1)


@cli.command()
@click.argument("models", nargs=-1, required=True)
def suspend(models: tuple[str, ...]) -> None:
    """Let MODELS age: nothing is built to keep them fresh until they are resumed."""
    from hubspoke.freshness import suspend as change

    change(Project.find(), set(models), is_on=True)


@cli.command()
@click.argument("models", nargs=-1, required=True)
def resume(models: tuple[str, ...]) -> None:
    """Keep MODELS fresh again; what came meanwhile is built at the loop's next turn."""
    from hubspoke.freshness import suspend as change

    change(Project.find(), set(models), is_on=False)


@cli.command()
@click.option(
    "--from",
    "since",
    type=click.DateTime(["%Y-%m-%d", "%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"]),
    help="UTC time: what had landed by then is built first. Default: when every table had its first load.",
)
@click.option("--steps", default=1, show_default=True, type=click.IntRange(min=1), help="Builds for what came later.")
@click.option("--keep", is_flag=True, help="Leave the second warehouse in warehouse/replay/kept, to look into.")
def replay(since: datetime | None, steps: int, keep: bool) -> None:
    """Build the landing log again, in a second warehouse, and hold the result against the hub.

    Neither the hub nor any reader notices. Ends with 1 if a relation differs: it depends on something that is not in
    the log, such as the clock, chance or its own past.
    """
    from hubspoke.replay import replay as run

    compared = run(_duckdb_project(), since.replace(tzinfo=UTC) if since else None, steps, keep, click.echo)
    differing = [one for one in compared if not one.is_same]
    for one in differing:
        click.echo(f"differs    {one.name}: {one.rows:,} rows in the hub, {one.rows_replayed:,} in the replay")
    click.echo(f"{len(compared)} relations: {len(compared) - len(differing)} the same as in the hub")
    if differing:
        sys.exit(1)


@cli.group(cls=_InOrder, invoke_without_command=True)
@click.option("--all", "every", is_flag=True, help="Rules that passed, too.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to this file instead.")
@click.pass_context
def quality(context: click.Context, every: bool, html: Path | None) -> None:
    """Show how the rules did in their last run, and in the runs before."""
    if context.invoked_subcommand:
        return
    rules = histories(Project.find())
    if html:
        write_page("quality.html", html, rules=rules)
        click.echo(f"Wrote {html}. Open it in a browser.")
        return
    shown = [rule for rule in rules if every or rule.status != "pass" or rule.rows_failed]
    for rule in shown:
        tested = f"of {rule.rows_tested:,}" if rule.rows_tested is not None else ""
        click.echo(
            f"{rule.status:<7} {rule.on_failure:<10} {rule.rows_failed:>10,} {tested:<14} "
            f"{rule.sparkline:<{RUNS_SHOWN}} {rule.model or 'several models'}: {rule.rule}"
        )
    click.echo(f"{len(rules)} rules, {len(rules) - len(shown)} of them not shown: they passed with nothing failed.")


@quality.command(name="mutate")
@click.argument("names", nargs=-1, metavar="[MODEL | SOURCE.TABLE]...")
@click.option("--all", "every", is_flag=True, help="Rules that found their fault, too, and what it was.")
def quality_mutate(names: tuple[str, ...], every: bool) -> None:
    """Find rules that cannot fail: plant a fault for each and see which stay green.

    Faults are planted in views over the hub, never in the hub itself. Ends with 1 if a rule survived.
    """
    from hubspoke.mutation import Verdict, mutate

    console = Console(stderr=True)
    with Progress(console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("planting faults", total=None)
        outcomes = mutate(Project.find(), names, lambda done, total: progress.update(task, completed=done, total=total))
    for outcome in outcomes:
        if every or outcome.verdict is not Verdict.KILLED:
            click.echo(
                f"{outcome.verdict:<10} {outcome.file}: {outcome.subject or 'several models'}: {outcome.rule}\n"
                f"{'':<10} {outcome.says}"
            )
    counts = [sum(outcome.verdict is verdict for outcome in outcomes) for verdict in Verdict]
    survived, not_tried, killed = counts
    click.echo(f"{len(outcomes)} rules: {killed} killed, {survived} survived, {not_tried} not tried")
    if survived:
        sys.exit(1)


@cli.command()
@click.argument("names", nargs=-1, metavar="[RELATION | SOURCE[.TABLE]]...")
@click.option("--files", is_flag=True, help="Judge the files that sources name, before they land.")
@click.option("--html", type=click.Path(dir_okay=False, path_type=Path), help="Write a page to this file, too.")
def audit(names: tuple[str, ...], files: bool, html: Path | None) -> None:
    """Have Great Expectations judge the rules again: a second opinion.

    On the current release, as each spoke sees it, beside the gate's own counts; with --files, on what would land next.
    Exit code 1 if a rule is broken or could not be judged, or if the two counts differ.
    """
    project = Project.find()
    # it judges Parquet files on this machine
    tables = [table for table in _chosen(project, names) if table.path.suffix == ".parquet"] if files else []
    with Console(stderr=True).status("starting Great Expectations") as status:
        # slow to import (5 s)
        from hubspoke.audit import audit_files, audit_release

        manifest = Manifest.read_current(project.root)

        def show(name: str) -> None:
            status.update(f"judging {name}")

        verdicts = audit_files(manifest, tables, show) if files else audit_release(project, manifest, names, show)
    for verdict in verdicts:
        tested = f"of {verdict.rows:,}" if verdict.rows is not None else ""
        failed = f"{verdict.failed:,}" if verdict.failed is not None else ""
        beside = f"gate {verdict.gate_failed:,}: {verdict.agreement}" if verdict.gate_failed is not None else ""
        rule = f"{verdict.relation}: {verdict.rule}" if verdict.rule else verdict.relation
        note = f" ({verdict.note})" if verdict.note else ""
        click.echo(f"{verdict.status:<7} {failed:>10} {tested:<14} {beside:<18} {rule}{note}")
    if html:
        title = "Files before they land" if files else "The current release"
        write_page("audit.html", html, verdicts=verdicts, title=title, now=datetime.now(UTC))
        click.echo(f"Wrote {html}. Open it in a browser.")
    judged = [verdict for verdict in verdicts if verdict.failed is not None]
    compared = [verdict for verdict in judged if verdict.agreement]
    click.echo(
        f"{len(judged)} rules judged by Great Expectations; {len(compared)} of the counts compared with the gate's; "
        f"{sum(verdict.status == 'none' and verdict.rule != '' for verdict in verdicts)} without a second opinion."
    )
    faults = sum(verdict.is_fault for verdict in verdicts)
    if faults:
        raise HubspokeError(
            f"{faults} rules are broken, could not be judged or are counted differently: see the lines above that "
            "begin with broken or error, or say differs"
        )


@cli.group(cls=_InOrder)
def quarantine() -> None:
    """Rows that a rule has held back: look, let through, build again."""


@quarantine.command(name="list")
def quarantine_list() -> None:
    """List what is held back, by model and rule."""
    held = _quarantine().held()
    for group in held:
        click.echo(f"{group.model:<32} {group.rows:>12,} rows  {', '.join(group.rules)}")
    if not held:
        click.echo("Nothing is held back.")


@quarantine.command(name="show")
@click.argument("model")
@click.option("--limit", default=20, show_default=True, help="Rows at most.")
def quarantine_show(model: str, limit: int) -> None:
    """Show rows of MODEL that are held back, with every rule that they broke.

    Values that describe a person are masked. A table on a terminal, CSV anywhere else.
    """
    _print(_quarantine().show(model, limit))


@quarantine.command(name="release")
@click.argument("model")
@click.argument("rule")
@click.option("--where", required=True, help="SQL over a row of the model: which rows.")
@click.option("--reason", required=True, help="Why; it is kept with the decision.")
def quarantine_release(model: str, rule: str, where: str, reason: str) -> None:
    """Let rows of MODEL through RULE from the next build on.

    The decision is a line in seeds/rule_exceptions.csv: commit it like any other change; to take it back, remove it.
    """
    rows = _quarantine().release(model, rule, where, reason)
    click.echo(f"{rows:,} rows will pass {rule}. Build them in: hubspoke quarantine replay {model}")


@quarantine.command(name="replay")
@click.argument("model")
def quarantine_replay(model: str) -> None:
    """Build MODEL and all that reads it again from what has landed, after a rule, the data or an exception changed."""
    from hubspoke.build import build as run_build

    if not run_build(Project.find(), (f"{model}+",), False, Console()):
        sys.exit(1)


@cli.command()
def check() -> None:
    """Check the rules of the house that dbt does not: rooms, names, contracts, personal data, SQL for every engine."""
    from hubspoke.fence import violations
    from hubspoke.manifest import compile_project
    from hubspoke.portability import faults

    project = Project.find()
    with Console(stderr=True).status("compiling the project"):
        compiled = compile_project(project.root)
        found = violations(Manifest.read(project.root), compiled)
    bound = faults(project.root)
    for line in [*found, *bound]:
        click.echo(str(line))
    if found:
        raise HubspokeError(f"{len(found)} violations of the rules in hubspoke/fence.py")
    if bound:
        raise HubspokeError(f"{len(bound)} places that another engine would not take or read otherwise")
    click.echo("The project keeps the rules of the house.")


@cli.group(cls=_InOrder, invoke_without_command=True)
@click.pass_context
def releases(context: click.Context) -> None:
    """List the releases; the one that readers see is marked."""
    if context.invoked_subcommand:
        return
    store = _store()
    current = store.current()
    for release in store.releases():
        mark = "*" if current and release.number == current.number else " "
        rows = sum(relation.rows for relation in release.relations.values())
        click.echo(
            f"{mark} {release.number:>5}  {release.released_at:%Y-%m-%d %H:%M:%S} UTC  "
            f"{len(release.relations)} relations, {rows:,} rows  {release.code}".rstrip()
        )
    if current is None:
        click.echo("There is no release yet. Run: hubspoke build")


@releases.command(name="prune")
@click.option("--keep", required=True, type=click.IntRange(min=1), metavar="N", help="Newest releases to keep.")
def releases_prune(keep: int) -> None:
    """Remove all but the newest N releases, and the data that only they held.

    The release that readers see is kept, whatever its age.
    """
    gone, freed = _store(_hub_project()).prune(keep)
    named = f"releases {', '.join(map(str, gone))}" if gone else "no release"
    click.echo(f"Removed {named}; {freed / 1e6:,.1f} MB are free.")


@cli.command()
@click.argument("number", type=int, required=False)
def rollback(number: int | None) -> None:
    """Let readers see release NUMBER again (default: the one before the current one).

    No data moves. Readers stay there until a green build comes out different from the newest release.
    """
    project = _hub_project()
    release = _store(project).rollback(number)
    click.echo(f"Readers see release {release.number} of {release.released_at:%Y-%m-%d %H:%M:%S} UTC.")
    if (target_folder(project.root) / "manifest.json").is_file():
        from hubspoke.release import publication

        told = publication(project, Manifest.read(project.root))
        if told:
            click.echo(told)


@cli.command()
def publish() -> None:
    """Let PostgreSQL's readers see what readers of the release see now.

    Every release and rollback does this by itself; type it where one could not. Only what differs is copied. The server
    is the one that HUBSPOKE_POSTGRES names (a connection string), else the one that hubspoke serve postgres runs.
    """
    from hubspoke import postgres

    project = _hub_project()
    with Console(stderr=True).status("publishing to PostgreSQL"):
        done = postgres.publish(project, Manifest.read_current(project.root))
    if done is None:
        raise HubspokeError(
            "no PostgreSQL server is configured: set HUBSPOKE_POSTGRES, or run: hubspoke serve postgres"
        )
    click.echo(f"PostgreSQL: {done}")
    if done.attempts:
        click.echo(
            f"{done.rows:,} rows copied in {done.copy_s:.1f} s; the swap took {done.pause_ms:.0f} ms, at attempt "
            f"{done.attempts}."
        )


@cli.group(cls=_InOrder)
def spokes() -> None:
    """Who may read: passwords, and PostgreSQL's roles."""


@spokes.command(name="password")
@click.argument("spoke")
def spokes_password(spoke: str) -> None:
    """Have a password made for SPOKE, or for a tenant of it (SPOKE_TENANT), if it has none; it is never printed.

    To change one, remove its file and type this again, then: hubspoke spokes sync
    """
    from hubspoke.credentials import make_password
    from hubspoke.orders import accounts

    project = Project.find()
    known = accounts(Manifest.read_current(project.root))
    if spoke not in known:
        raise HubspokeError(f"no exposure names a spoke or tenant {spoke}; there are {', '.join(known)}")
    file = make_password(project, spoke)
    click.echo(f"Made: {file}" if file else f"{spoke} has a password already.")


@spokes.command(name="sync")
def spokes_sync() -> None:
    """Make PostgreSQL's roles what the exposures say: new ones, their passwords, what each may read, removed ones."""
    from hubspoke.roles import sync

    project = _hub_project()
    for line in sync(project, Manifest.read_current(project.root)):
        click.echo(line)


@cli.group(cls=_InOrder)
def spark() -> None:
    """Build the same project on Apache Spark, when one machine is outgrown (docs/spark.md)."""


@spark.command(name="start")
@click.option("--cores", type=click.IntRange(min=1), help="Cores of each worker; default: this machine's, shared out.")
@click.option("--memory", default="2g", show_default=True, help="Memory of each worker.")
def spark_start(cores: int | None, memory: str) -> None:
    """Start a cluster on this machine to try it: a master, two workers, and a PostgreSQL for the catalog."""
    from hubspoke.spark_cluster import WORKERS, LocalCluster

    with Console(stderr=True).status("starting the cluster"):
        settings = LocalCluster(_hub_project()).start(cores, memory)
    click.echo(f"{settings['HUBSPOKE_SPARK_MASTER']} runs, with {WORKERS} workers.")
    click.echo('To let dbt and hubspoke know of it: eval "$(hubspoke spark env)"')


@spark.command(name="env")
def spark_env() -> None:
    """Print the settings by which the target spark reaches the cluster, for a shell to take.

    They name a file with the catalog's password, and do not hold it.
    """
    from hubspoke.spark_cluster import LocalCluster

    for name, value in LocalCluster(_hub_project()).settings().items():
        click.echo(f"export {name}={shlex.quote(value)}")


@spark.command(name="stop")
def spark_stop() -> None:
    """Stop the cluster on this machine; what it has built stays."""
    from hubspoke.spark_cluster import LocalCluster

    ran = LocalCluster(_hub_project()).stop()
    click.echo("The cluster is stopped." if ran else "No cluster runs here.")


@spark.command(name="land")
def spark_land() -> None:
    """Show Spark what has landed by now, each load where it lies; and what rules compare with."""
    from hubspoke.spark import SparkHub

    project = _hub_project()
    hub = SparkHub.find()
    for name, is_new in hub.land(project).items():
        click.echo(f"{name}  {'shown' if is_new else 'as before'}")


@spark.command(name="release")
def spark_release() -> None:
    """Release what dbt build --target spark has left, if it may be released."""
    from hubspoke.spark import SparkHub
    from hubspoke.spark_release import release

    click.echo(release(_hub_project(), SparkHub.find()))


@spark.command(name="compare")
def spark_compare() -> None:
    """Compare every relation of the hub on Spark, row by row, with the one that DuckDB has built here.

    Ends with 1 if a row differs.
    """
    from hubspoke.spark_compare import compare

    if not compare(_hub_project(), Console()):
        raise SystemExit(1)


@cli.group(cls=_InOrder)
def serve() -> None:
    """Run a server on this machine for people who try the product out."""


@serve.command(name="postgres")
@click.option("--port", type=int, help="Port on the local host; default: the one it had before, or a free one.")
@click.option("--background", is_flag=True, help="Return once it runs; to stop it: --stop")
@click.option("--stop", is_flag=True, help="Stop the one that runs.")
def serve_postgres(port: int | None, background: bool, stop: bool) -> None:
    """Run a private PostgreSQL for this warehouse, with a role for each spoke, and publish the release to it.

    It listens on this machine alone, and keeps its data in the warehouse. Runs until Ctrl-C.
    """
    from hubspoke.serving import serve as run

    run(_hub_project(), port, background=background, stop=stop, tell=click.echo)


@serve.command(name="flight")
@click.option("--host", default="127.0.0.1", show_default=True, help="Address to listen on.")
@click.option("--port", default=31337, show_default=True, help="Port; 0 takes a free one.")
@click.option(
    "--tls-cert", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM: certificate, chain."
)
@click.option("--tls-key", type=click.Path(exists=True, dir_okay=False, path_type=Path), help="PEM: its key.")
@click.option("--plaintext", is_flag=True, help="Allow other machines to connect unencrypted.")
@click.option("--memory-limit", default="1GB", show_default=True, help="DuckDB's memory for each spoke.")
@click.option("--spill-limit", default="10GB", show_default=True, help="Disk for each spoke, for what does not fit.")
@click.option("--timeout", default=300.0, show_default=True, help="Seconds that a statement may take.")
@click.option("--max-queries", default=8, show_default=True, help="Queries of a spoke that run at the same time.")
@click.option("--max-waiting", default=1000, show_default=True, help="Queries of a spoke that may wait for those.")
def serve_flight(
    host: str,
    port: int,
    tls_cert: Path | None,
    tls_key: Path | None,
    plaintext: bool,
    memory_limit: str,
    spill_limit: str,
    timeout: float,
    max_queries: int,
    max_waiting: int,
) -> None:
    """Serve the release over Arrow Flight SQL: notebooks, pandas, polars and whatever else speaks ADBC.

    The user is a spoke's name; hubspoke spokes password makes its password. Runs until Ctrl-C.
    """
    from hubspoke.flight import Settings
    from hubspoke.flight import serve as run

    settings = Settings(
        host=host,
        port=port,
        tls_cert=tls_cert,
        tls_key=tls_key,
        plaintext=plaintext,
        memory_limit=memory_limit,
        spill_limit=spill_limit,
        timeout_s=timeout,
        queries=max_queries,
        waiting=max_waiting,
    )
    run(Project.find(), settings, click.echo)


@cli.command()
@click.argument("relation")
@click.option("--shards", default=1, show_default=True, metavar="N", help="How many disjoint shards there are.")
@click.option("--shard", default=0, show_default=True, metavar="I", help="Which one to read, from 0.")
@click.option("--as-of", type=int, metavar="NUMBER", help="Release to read; default: the one that readers see.")
@click.option("--format", "kind", type=click.Choice(["arrow", "parquet", "csv"]), default="parquet", show_default=True)
@click.option("--output", required=True, type=click.Path(dir_okay=False, path_type=Path), help="File to write.")
def read(relation: str, shards: int, shard: int, as_of: int | None, kind: str, output: Path) -> None:
    """Write RELATION of a release to a file, or one of several shards that are all of it together.

    N workers that read a shard each read one snapshot, as all name the same release: hubspoke releases lists them.
    """
    from hubspoke.client import connect
    from hubspoke.reading import write_rows

    release = _store().get(as_of)
    if shards != 1 and as_of is None:
        raise HubspokeError(
            f"shards must come from one release: give each reader --as-of {release.number}, the one that is current now"
        )
    with connect(release.relation(relation).spoke, release=release.number) as connection:
        rows = write_rows(connection.read(relation, shards=shards, shard=shard).reader(), kind, output)
    click.echo(f"Wrote {rows:,} rows of release {release.number} to {output}")


@cli.command()
@click.argument("sql")
@click.option("--as-of", type=int, metavar="NUMBER", help="Release to ask; default: the one that readers see.")
def query(sql: str, as_of: int | None) -> None:
    """Ask a release: hubspoke query "select * from spoke_bi__departments".

    Prints a table on a terminal, CSV anywhere else.
    """
    with _store().connect(as_of) as connection:
        try:
            statements = connection.extract_statements(sql)
            if [statement.type for statement in statements] != [duckdb.StatementType.SELECT]:
                raise HubspokeError("a release is only read: write one select")
            _print(connection.sql(sql))
        except duckdb.Error as error:
            raise HubspokeError(str(error)) from None


@cli.command()
@click.argument("before", type=int)
@click.argument("after", type=int)
@click.argument("relation")
@click.option("--key", default="", metavar="COLUMN,COLUMN", help="Default: the columns that tests say are unique.")
def diff(before: int, after: int, relation: str, key: str) -> None:
    """Show what changed in RELATION from release BEFORE to release AFTER, row by row.

    Each row is added, changed or removed; a changed one is shown as it is after, and _columns names what differs.
    Prints a table on a terminal, CSV anywhere else.
    """
    from hubspoke.changes import changes

    keys = tuple(column.strip() for column in key.split(",") if column.strip())
    _print(changes(_store(), before, after, relation, keys))


def _duckdb_project() -> Project:
    """Find the project for a command that builds with DuckDB."""
    _refuse_spark()
    return Project.find()


def _refuse_spark() -> None:
    if os.environ.get("DBT_TARGET") == "spark":
        raise HubspokeError(
            "this builds with DuckDB, and DBT_TARGET is spark. There: dbt build. Here: unset DBT_TARGET"
        )


def _hub_project() -> Project:
    """Find the project for a command that changes what development environments share with their hub."""
    project = Project.find()
    if project.base:
        raise HubspokeError(
            f"{project.warehouse.name} is a development environment: it reads and builds, and changes nothing that "
            f"others see. Go back to its hub: export HUBSPOKE_WAREHOUSE={project.base.warehouse}"
        )
    return project


def _store(project: Project | None = None) -> "ReleaseStore":
    from hubspoke.release import ReleaseStore

    return ReleaseStore((project or Project.find()).release)


def _quarantine() -> "Quarantine":
    from hubspoke.quarantine import Quarantine

    return Quarantine(Project.find())


def _chosen(project: Project, names: tuple[str, ...]) -> "list[SourceTable]":
    """Return the source tables that a user names, by source or by table; all if none is named."""
    from hubspoke.sources import read_sources

    known = read_sources(project.root)
    unknown = set(names) - {table.name for table in known} - {table.source for table in known}
    if unknown:
        raise HubspokeError(
            f"no source {', '.join(sorted(unknown))}; there are {', '.join(table.name for table in known)}"
        )
    return [table for table in known if not names or table.name in names or table.source in names]


def _print(answer: duckdb.DuckDBPyRelation) -> None:
    """Print a table on a terminal, CSV anywhere else."""
    if sys.stdout.isatty():
        answer.show(max_width=shutil.get_terminal_size().columns, max_rows=100)
        return
    writer = csv.writer(sys.stdout, lineterminator="\n")
    writer.writerow(answer.columns)
    while rows := answer.fetchmany(10_000):
        writer.writerows(rows)


def main() -> None:
    """Run the command line; a user's error is one message on standard error and exit code 1."""
    try:
        cli.main(prog_name=Path(sys.argv[0]).name, standalone_mode=False)
    except HubspokeError as error:
        click.echo(f"Error: {error}", err=True)
        sys.exit(1)
    except click.ClickException as error:
        error.show()
        sys.exit(error.exit_code)
    except (click.Abort, KeyboardInterrupt):
        click.echo("Stopped. Readers see what they saw before.", err=True)
        sys.exit(130)
    except BrokenPipeError:  # whoever read this, head for one, has had enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
