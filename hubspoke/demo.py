"""``hubspoke demo``: the running example from the systems that a company has, instead of from files.

    <warehouse>/demo/postgres/      pos: a PostgreSQL server to which the tills write, while this runs
    <warehouse>/demo/crm.db         crm: SQLite
    <warehouse>/demo/marketing      marketing: port of a REST interface, which answers while this runs
    <warehouse>/demo/sources.yml    where those sources are: what HUBSPOKE_SOURCES names
    <warehouse>/demo/environment    for a shell: the variables that a run needs
    <warehouse>/secrets/demo_*      passwords

All of ``demo`` may be removed while it does not run; the next run makes it anew.
"""

import os
import shlex
import sqlite3
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from datetime import datetime
from pathlib import Path
from threading import Event
from typing import Any
from urllib.parse import quote

import duckdb
import psycopg
import yaml
from rich.console import Console
from rich.progress import BarColumn, Progress, TextColumn

from hubspoke.credentials import connection_secret
from hubspoke.demo_marketing import LARGEST_PAGE, Interface
from hubspoke.demo_pos import DATABASE, Tills
from hubspoke.errors import HubspokeError, first_line
from hubspoke.files import UNFINISHED, exclusive, write_whole
from hubspoke.postgres_server import HOST, LocalServer
from hubspoke.project import Project
from hubspoke.sources import VARIABLE, read_sources
from hubspoke.sql import columns_of, identifier, quoted
from hubspoke.stopping import until_stopped

SYSTEMS = ("pos", "crm", "marketing")

TELL_S = 10.0
"""Seconds between two lines where there is no terminal."""


def run(project: Project, systems: tuple[str, ...], until: datetime, rows_per_second: float, console: Console) -> None:
    """Run some of the systems until Ctrl-C, and write to the tills' database meanwhile.

    Args:
        project: The project.
        systems: Some of SYSTEMS.
        until: What the tills sold before is loaded at once.
        rows_per_second: How fast the rest is written.
        console: Where to tell how far it is.

    Raises:
        HubspokeError: A system cannot be run; or the project does not have the example's files any more.
    """
    folder = project.warehouse / "demo"
    files = _files(project, systems)
    with exclusive(folder, "running the demo"), until_stopped() as finished, ExitStack() as stack:
        addresses = {}
        if "crm" in systems:
            addresses["crm"] = _make_crm(folder / "crm.db", files["crm"])
        if "marketing" in systems:
            interface = _listen(folder / "marketing", connection_secret(project, "demo_marketing"), files["marketing"])
            stack.callback(interface.stop)
            interface.start()
            addresses["marketing"] = interface.url
        tills = None
        if "pos" in systems:
            server = stack.enter_context(_server(project, folder))
            addresses["pos"] = f"postgresql://demo_pos@{HOST}:{server.port}/{DATABASE}"
            tills = Tills(server, files["pos"]["transactions"], "demo_pos", connection_secret(project, "demo_pos"))
            rows = tills.load(until)
            if rows:
                console.print(f"pos        {rows:,} rows of history loaded", highlight=False)
        _write_environment(folder, addresses)
        for system in systems:
            console.print(f"{system:<10} {addresses[system]}", highlight=False, soft_wrap=True)
        _tell_how(folder, console)
        if tills:
            _write(tills, rows_per_second, finished, console)
        while not finished.wait(1):
            if tills and not server.is_running():
                raise HubspokeError(f"PostgreSQL has ended; see {server.log}")
    console.print("Stopped. Run it again to go on.")


def _files(project: Project, systems: tuple[str, ...]) -> dict[str, dict[str, Path]]:
    """Return the example's files by source and table, whatever the environment says."""
    found: dict[str, dict[str, Path]] = {system: {} for system in systems}
    for table in read_sources(project.root, environment={}):
        if table.source in found and table.path.is_file():
            found[table.source][table.table] = table.path
    missing = [system for system in systems if not found[system]]
    if missing:
        raise HubspokeError(
            f"the demo shows the running example, and models/hub/staging/ names no file of it for {', '.join(missing)}"
        )
    return found


def _make_crm(path: Path, files: dict[str, Path]) -> str:
    """Make a SQLite database of some tables, and return its address."""
    new = path.with_name(path.name + UNFINISHED)
    new.unlink(missing_ok=True)
    database, duck = sqlite3.connect(new), duckdb.connect()
    for table, file in files.items():
        query = f"from read_parquet('{quoted(file)}')"
        columns = columns_of(duck, query)
        listed = [f"{identifier(name)} {'integer' if kind == 'BIGINT' else 'text'}" for name, kind in columns.items()]
        database.execute(f"create table {identifier(table)} ({', '.join(listed)})")
        values = ", ".join("?" * len(columns))
        database.executemany(f"insert into {identifier(table)} values ({values})", duck.execute(query).fetchall())
    database.commit()
    database.close()
    new.replace(path)
    return f"sqlite:///{quote(str(path.absolute()))}"


def _listen(note: Path, token: str, files: dict[str, Path]) -> Interface:
    """Listen where it did before, if that port is free: another terminal may know it."""
    before = int(note.read_text()) if note.is_file() else 0
    try:
        interface = Interface(before, token, files)
    except OSError:
        interface = Interface(0, token, files)
    write_whole(note, f"{interface.server_port}\n")
    return interface


@contextmanager
def _server(project: Project, folder: Path) -> Iterator[LocalServer]:
    """Run the tills' server; one that a kill has left running goes on."""
    server = LocalServer(
        Project(project.root, folder), wal_level="logical", max_wal_senders="10", max_replication_slots="10"
    )
    if not server.is_running():
        server.start()
    try:
        yield server
    except psycopg.Error as error:
        raise HubspokeError(f"pos: {first_line(error)} (see {server.log})") from None
    finally:
        server.stop()


def _write(tills: Tills, rows_per_second: float, finished: Event, console: Console) -> None:
    """Write what is left of the year, and show how far it is."""
    told = time.monotonic()
    columns = (TextColumn("{task.description}"), BarColumn(), TextColumn("{task.percentage:>3.1f} %"))
    with Progress(*columns, console=console, transient=True, disable=not console.is_terminal) as progress:
        task = progress.add_task("pos", total=tills.baskets)
        for at, baskets in tills.write(rows_per_second, finished):
            text = f"pos        {at:%Y-%m-%d %H:%M} UTC"
            progress.update(task, completed=baskets, description=text)
            if not console.is_terminal and time.monotonic() - told >= TELL_S:
                told = time.monotonic()
                console.print(f"{text}, {baskets:,} of {tills.baskets:,} baskets", highlight=False)
    if not finished.is_set():
        console.print("pos        The whole year is written.", highlight=False)


def _write_environment(folder: Path, addresses: dict[str, str]) -> None:
    """Write what another terminal needs; secrets stay in their files."""
    ingest: dict[str, Any] = {
        "pos": {"mechanism": "cdc"},
        "crm": {"mechanism": "export"},
        "marketing": {"mechanism": "export", "auth": "bearer"},
    }
    paged = {"by": "link", "next": "next", "size": LARGEST_PAGE, "size_parameter": "size"}
    tables: dict[str, list[dict[str, Any]]] = {
        "pos": [{"name": "transactions"}],
        "crm": [{"name": "demographics"}],
        "marketing": [
            {"name": name, "config": {"meta": {"rest": {"path": name, "records": "data", "pages": dict(paged)}}}}
            for name in ("campaigns", "campaign_descriptions", "coupons", "coupon_redemptions")
        ],
    }
    sources = [
        {
            "name": system,
            "config": {"meta": {"ingest": ingest[system] | {"connection": f"demo_{system}"}}},
            "tables": tables[system],
        }
        for system in addresses
    ]
    write_whole(folder / "sources.yml", yaml.safe_dump({"sources": sources}, sort_keys=False))
    variables = {VARIABLE: str((folder / "sources.yml").absolute())}
    variables |= {f"HUBSPOKE_CONNECTION_DEMO_{system.upper()}": address for system, address in addresses.items()}
    lines = [f"export {name}={shlex.quote(value)}\n" for name, value in variables.items()]
    write_whole(folder / "environment", "".join(lines))


def _tell_how(folder: Path, console: Console) -> None:
    environment = os.path.relpath(folder / "environment")
    console.print(
        f"\nIn another terminal:\n\n    source {shlex.quote(environment)}\n    hubspoke ingest && hubspoke build\n\n"
        f"From files again: unset {VARIABLE}. Ctrl-C stops it.",
        highlight=False,
        markup=False,
        soft_wrap=True,
    )
