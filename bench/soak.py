"""Readers who never stop, while builds are made, fail and are killed. Start it with: make soak.

A small project is built again and again with its build's number in every row. Half of the builds are red: a row breaks
a rule, or a model fails; their number is odd. Then builds are killed at random instants. Meanwhile each reader asks for
what must hold in every release: both relations are of one build, its number is even, and the total is the sum of the
lines.

    postgres   one statement, and a transaction of two
    flight     one statement over Flight SQL
    file       the spoke's DuckDB file of the current release
    mixed      each of these in turn

It prints reads, errors, mixtures and reads of red builds, by reader; the last three must be 0, else it ends with 1.
"""

import argparse
import json
import multiprocessing
import os
import random
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb
import yaml
from build import BIN, run, write_empty_project
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hubspoke.credentials import password
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

if TYPE_CHECKING:
    import psycopg

LINES = 2000
KINDS = ("postgres", "flight", "file", "mixed")
SEED = 84

ORDERS = ["order_id bigint", "build_number bigint", "amount bigint"]
TOTALS = ["build_number bigint", "order_count bigint", "total_amount bigint"]
ONE = (
    "select o.lowest, o.highest, t.build_number, o.amount, t.total_amount from "
    "(select min(build_number) as lowest, max(build_number) as highest, sum(amount) as amount from {orders}) as o "
    "cross join {totals} as t"
)


def write_project(folder: Path) -> None:
    """Write a project of five models, from a seed to two relations of one spoke."""
    write_empty_project(folder)
    rule = {"accepted_range": {"name": "no_refunds", "arguments": {"column_name": "amount", "min_value": 0}}}
    unique = {"unique": {"arguments": {"column_name": "order_id"}}}
    lines = "select order_id, build_number, amount from {{ ref('%s') }}"
    total = (
        "select max(build_number) as build_number, count(*) as order_count, "
        "cast(sum(amount) as bigint) as total_amount from {{ ref('fct_orders') }}"
    )
    names = [column.split()[0] for column in ORDERS]
    one_row = {"row_count": {"arguments": {"min_value": 1, "max_value": 1}}}
    whole = "select build_number, order_count, total_amount from {{ ref('mart_sales__totals') }}"
    models: list[tuple[str, str, str, list[str], dict[str, Any]]] = [
        (
            "hub/core",
            "core_orders",
            f"select {', '.join(f'cast({name} as bigint) as {name}' for name in names)} from {{{{ ref('orders') }}}}",
            ORDERS,
            {"data_tests": [rule, unique]},
        ),
        ("facade", "fct_orders", lines % "core_orders", ORDERS, {"latest_version": 1, "versions": [{"v": 1}]}),
        (
            "marts/sales",
            "mart_sales__totals",
            total,
            TOTALS,
            {"data_tests": [one_row]},
        ),
        ("spokes/bi", "spoke_bi__orders", lines % "fct_orders", ORDERS, {}),
        ("spokes/bi", "spoke_bi__totals", whole, TOTALS, {}),
    ]
    for room, name, sql, columns, more in models:
        place = folder / "models" / room
        place.mkdir(parents=True, exist_ok=True)
        (place / f"{name}{'_v1' if 'versions' in more else ''}.sql").write_text(sql + "\n")
        described = {
            "name": name,
            "description": "Of the soak. Grain: one row per order, or one row in all.",
            "columns": [
                {"name": column, "data_type": type_name, "description": "Of the soak."}
                for column, type_name in (words.split() for words in columns)
            ],
            **more,
        }
        (place / f"{name}.yml").write_text(yaml.safe_dump({"models": [described]}, sort_keys=False))
    seed = {"name": "orders", "columns": [{"name": name} for name in names]}
    (folder / "seeds/orders.yml").write_text(yaml.safe_dump({"seeds": [seed]}))
    exposure = {
        "name": "soak",
        "label": "Soak",
        "type": "dashboard",
        "description": "What the readers of the soak ask.",
        "owner": {"name": "Dashboard team", "email": "bi@example.com"},
        "depends_on": ["ref('spoke_bi__orders')", "ref('spoke_bi__totals')"],
        "config": {"meta": {"spoke": "bi", "delivery": {"how": ["file", "postgres"], "when": "every release"}}},
    }
    (folder / "models/spokes/bi/_exposures.yml").write_text(yaml.safe_dump({"exposures": [exposure]}))


def write_orders(folder: Path, number: int, spoilt: str = "") -> None:
    """Write the seed for a build; ``spoilt`` is the amount of its last order, if not a right one."""
    rows = [f"{order},{number},{(order * 7 + number) % 100}" for order in range(LINES)]
    if spoilt:
        rows[-1] = f"{LINES},{number},{spoilt}"
    file = folder / "seeds/orders.csv"
    file.write_text("\n".join(["order_id,build_number,amount", *rows]) + "\n")


@dataclass
class Counts:
    """What one reader saw.

    Attributes:
        reader: Its kind.
        reads: Answers.
        errors: What went wrong, whatever it was.
        mixed: Answers that no one release holds.
        red: Answers from a build that was red.
        releases: Different builds that it saw.
    """

    reader: str
    reads: int = 0
    errors: tuple[str, ...] = ()
    mixed: int = 0
    red: int = 0
    releases: int = 0


def read(kind: str, root: Path, port: int, stop: Path, out: Path) -> None:
    """Ask until ``stop`` is there, then write the counts; runs in a process of its own."""
    project = Project(root, root / "warehouse")
    ways = {"postgres": [in_one_statement, in_one_transaction], "flight": [over_flight], "file": [from_the_file]}
    ways["mixed"] = [way for several in list(ways.values()) for way in several]
    counts, builds, errors = Counts(kind), set(), []
    with ExitStack() as stack:
        asks = [way(project, port, stack) for way in ways[kind]]
        started_by = os.getppid()
        while not stop.exists() and os.getppid() == started_by:  # whoever is killed leaves no reader behind
            for ask in asks:
                try:
                    lowest, highest, build, amount, total = map(int, ask())
                except Exception as error:
                    errors.append(repr(error))
                    time.sleep(0.1)
                    continue
                counts.reads += 1
                counts.mixed += not (lowest == highest == build and amount == total)
                counts.red += build % 2
                builds.add(build)
            time.sleep(0.05)
    counts.errors, counts.releases = tuple(errors), len(builds)
    out.write_text(json.dumps(vars(counts)))


def log_in(project: Project, stack: ExitStack) -> "psycopg.Connection[Any]":
    """Connect to PostgreSQL as the spoke, autocommit."""
    import psycopg

    given = LocalServer(project).parameters() | {"user": "spoke_bi", "password": password(project, "bi")}
    return stack.enter_context(psycopg.connect(**given, autocommit=True))


def in_two(execute: Callable[[str], Any], schema: str = "") -> tuple[Any, ...]:
    """Ask by two statements what ``ONE`` asks by one."""
    total = execute(f"select build_number, total_amount from {schema}spoke_bi__totals").fetchone()
    lines = execute(
        f"select min(build_number), max(build_number), sum(amount) from {schema}spoke_bi__orders"
    ).fetchone()
    return lines[0], lines[1], total[0], lines[2], total[1]


def in_one_statement(project: Project, port: int, stack: ExitStack) -> Callable[[], Any]:
    """PostgreSQL, autocommit."""
    connection = log_in(project, stack)
    sql = ONE.format(orders="bi.spoke_bi__orders", totals="bi.spoke_bi__totals")
    return lambda: connection.execute(sql).fetchone()


def in_one_transaction(project: Project, port: int, stack: ExitStack) -> Callable[[], Any]:
    """PostgreSQL, two statements that must agree."""
    connection = log_in(project, stack)

    def ask() -> Any:
        with connection.transaction():
            connection.execute("set transaction isolation level repeatable read")
            return in_two(connection.execute, "bi.")

    return ask


def over_flight(project: Project, port: int, stack: ExitStack) -> Callable[[], Any]:
    """Flight SQL, by the ADBC driver."""
    import adbc_driver_flightsql.dbapi as dbapi

    login = {"username": "bi", "password": password(project, "bi")}
    connection = stack.enter_context(dbapi.connect(f"grpc://127.0.0.1:{port}", db_kwargs=login))
    sql = ONE.format(orders="spoke_bi__orders", totals="spoke_bi__totals")

    def ask() -> Any:
        with connection.cursor() as cursor:
            cursor.execute(sql)
            return cursor.fetchone()

    return ask


def from_the_file(project: Project, port: int, stack: ExitStack) -> Callable[[], Any]:
    """The spoke's file, opened anew for each question, two statements that must agree."""

    def ask() -> Any:
        with duckdb.connect((project.release / "current/bi.duckdb").resolve(), read_only=True) as file:
            return in_two(file.execute)

    return ask


def build(root: Path, killed_after_s: float | None = None) -> int:
    """Run hubspoke build; a positive exit code is a red build, a negative one a killed one."""
    process = subprocess.Popen(
        [BIN / "hubspoke", "build"],
        cwd=root,
        env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        return process.wait(killed_after_s)
    except subprocess.TimeoutExpired:
        os.killpg(process.pid, signal.SIGKILL)
        return process.wait()


def soak(root: Path, builds: int, kills: int, readers: int, console: Console) -> tuple[list[Counts], dict[str, int]]:
    """Build, fail and kill while the readers read.

    Returns:
        What each reader saw; and how many releases there are, builds that were red, and builds that were killed.
    """
    write_project(root)
    write_orders(root, 0)
    project = Project(root, root / "warehouse")
    chance = random.Random(SEED)  # noqa: S311 -- instants to kill at
    run(root / "warehouse", BIN / "hubspoke", "build", project=root)
    run(root / "warehouse", BIN / "hubspoke", "serve", "postgres", "--background", project=root)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = int(free.getsockname()[1])
    server = subprocess.Popen(
        [BIN / "hubspoke", "serve", "flight", "--port", str(port)],
        cwd=root,
        env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    stop = root / "stop"
    processes = []
    try:
        while not _answers(port):
            assert server.poll() is None, "the Flight server has ended"  # noqa: S101
            time.sleep(0.1)
        fresh = multiprocessing.get_context("spawn")  # the Flight client hangs after a fork
        for number in range(readers):
            arguments = (KINDS[number % len(KINDS)], root, port, stop, root / f"reader_{number}.json")
            processes.append(fresh.Process(target=read, args=arguments))
            processes[-1].start()
        red = killed = 0
        seconds = 5.0
        for number in track(range(1, builds + 1), "building", console=console, disable=not console.is_terminal):
            is_red = number % 2 == 1
            write_orders(root, number, ("-1", "many")[number // 2 % 2] if is_red else "")
            started = time.monotonic()
            code = build(root)
            seconds = time.monotonic() - started
            assert (code == 1) == is_red, f"build {number} ended with {code}"  # noqa: S101 -- else it shows nothing
            red += is_red
        for number in track(range(kills), "killing", console=console, disable=not console.is_terminal):
            write_orders(root, 2 * (builds + number))
            killed += build(root, chance.uniform(0, seconds)) < 0
        last = 2 * (builds + kills)
        write_orders(root, last)
        assert build(root) == 0, "a build after the last kill is red"  # noqa: S101
        time.sleep(2)
    finally:
        stop.touch()
        for process in processes:
            process.join(60)
        server.send_signal(signal.SIGINT)
        server.wait(20)
        run(root / "warehouse", BIN / "hubspoke", "serve", "postgres", "--stop", project=root)
    counts = [Counts(**json.loads((root / f"reader_{number}.json").read_text())) for number in range(readers)]
    return counts, {"releases": len(ReleaseStore(project.release).releases()), "red": red, "killed": killed}


def _answers(port: int) -> bool:
    with socket.socket() as client:
        return client.connect_ex(("127.0.0.1", port)) == 0


def main() -> None:
    """Run the soak and print what the readers saw."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--builds", type=int, default=50, help="builds, half of them red (default: 50)")
    parser.add_argument("--kills", type=int, default=100, help="builds that are killed (default: 100)")
    parser.add_argument("--readers", type=int, default=8, help="reader processes (default: 8)")
    given = parser.parse_args()
    console = Console(width=110)
    with tempfile.TemporaryDirectory(prefix="hubspoke-soak-") as temporary:
        Path(temporary).chmod(0o755)  # as root, PostgreSQL runs as another user
        counts, made = soak(Path(temporary) / "project", given.builds, given.kills, given.readers, console)
    table = Table(title=f"{given.readers} readers through {made['red']} red and {made['killed']} killed builds")
    for heading in ("reader", "reads", "releases seen", "errors", "mixed", "of red builds"):
        table.add_column(heading, justify="left" if heading == "reader" else "right")
    for seen in counts:
        table.add_row(
            seen.reader, f"{seen.reads:,}", str(seen.releases), str(len(seen.errors)), str(seen.mixed), str(seen.red)
        )
    table.caption = f"{made['releases']} releases"
    console.print(table)
    for seen in counts:
        for error in seen.errors[:3]:
            console.print(f"{seen.reader}: {error}", markup=False)
    if any(seen.errors or seen.mixed or seen.red or not seen.reads for seen in counts):
        sys.exit(1)


if __name__ == "__main__":
    main()
