"""How much a landing and a build cost beyond plain DuckDB, side by side in one run. Start it with: make bench.

Each figure is a ratio of two times taken on this machine, one after the other, over the whole running example
(22.6 million rows). Nothing of the project's own warehouse is touched: all happens in a temporary folder.

    landing   hubspoke ingest            against  DuckDB's COPY of the same files to Parquet
    build     hubspoke build, all of it  against  the same compiled SQL run straight through DuckDB in one process,
                                                  models, seeds and each data test as a query, plus dbt's own start
                                                  (dbt parse)
    release   what a run does when its last node has ended, against the rest of that build
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from dataclasses import dataclass, replace
from pathlib import Path

import duckdb
from rich.console import Console
from rich.table import Table

from hubspoke.manifest import Manifest
from hubspoke.sources import read_sources

ROOT = Path(__file__).parents[1]
BIN = Path(sys.executable).parent


@dataclass(frozen=True)
class Cost:
    """Wall time in seconds and peak resident memory in bytes of one process.

    Attributes:
        release: Seconds of it that a build took to note what it did and to release it.
        processor: Seconds of a processor that it took, which other work on the machine hardly changes.
    """

    seconds: float
    memory: int
    release: float = 0.0
    processor: float = 0.0


def run(warehouse: Path, *command: str | Path, project: Path = ROOT) -> Cost:
    """Run a command of a project on a warehouse of its own; one that fails ends the bench with what it printed."""
    started = time.monotonic()
    process = subprocess.Popen(
        list(map(str, command)),
        cwd=project,
        env={**os.environ, "HUBSPOKE_WAREHOUSE": str(warehouse)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    printed = process.stdout.read() if process.stdout else ""
    _, status, usage = os.wait4(process.pid, 0)
    seconds = time.monotonic() - started
    if status:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{printed}")
    return Cost(seconds, usage.ru_maxrss * 1024, processor=usage.ru_utime + usage.ru_stime)


def build(warehouse: Path) -> Cost:
    """Build the project, and find in dbt's own results what came after its last node."""
    results = ROOT / "target/run_results.json"
    results.unlink(missing_ok=True)
    cost = run(warehouse, BIN / "hubspoke", "build")
    if not results.is_file():  # there was nothing to run
        return cost
    ends = [
        result["execution_time"]
        for result in json.loads(results.read_text())["results"]
        if "on-run-end" in result["unique_id"]
    ]
    return replace(cost, release=sum(ends))


def write_empty_project(folder: Path) -> None:
    """Write a project with this one's macros and settings and no model or seed of the example."""
    for part in ("macros", "profiles"):
        shutil.copytree(ROOT / part, folder / part)
    shutil.copy(ROOT / "dbt_project.yml", folder)
    (folder / "profiles.yml").symlink_to("profiles/profiles.yml")
    (folder / "seeds").mkdir()
    shutil.copy(ROOT / "seeds/rule_exceptions.csv", folder / "seeds")
    (folder / "models").mkdir()
    shutil.copy(ROOT / "models/_groups.yml", folder / "models")


def copy_with_duckdb(target: Path) -> None:
    """Copy every source file to Parquet as DuckDB does by itself."""
    target.mkdir(parents=True)
    with duckdb.connect() as connection:
        connection.execute("set preserve_insertion_order = false")
        for table in read_sources(ROOT):
            connection.execute(f"copy (from '{table.path}') to '{target}/{table.name}.parquet' (format parquet)")


def run_compiled_sql(warehouse: Path) -> None:
    """Run what dbt compiled, in dependency order, straight through DuckDB into a new file, tests included."""
    manifest = Manifest.read(ROOT)
    hub = warehouse / "hub.duckdb"
    with duckdb.connect(hub, read_only=True) as built:
        sources = built.execute(
            "select schema_name, view_name, sql from duckdb_views() where schema_name like 'landing%'"
        ).fetchall()
        notes = built.execute("select sql from duckdb_tables() where schema_name in ('quality', 'runs')").fetchall()
    (warehouse / "plain").mkdir()
    # as in profiles/profiles.yml
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": os.environ.get("HUBSPOKE_MEMORY_LIMIT", "3GB"),
        "preserve_insertion_order": False,
        "storage_compatibility_version": "latest",
    }
    with duckdb.connect(warehouse / "plain/hub.duckdb", config=config) as plain:
        plain.execute("set TimeZone = 'UTC'; create schema quality; create schema runs")
        for schema, _, sql in sources:
            plain.execute(f"create schema if not exists {schema}")
            plain.execute(sql)
        for (sql,) in notes:
            plain.execute(sql)
        for node_id in manifest.ancestry([node_id for node_id in manifest.nodes if not node_id.startswith("test")]):
            node = manifest.get(node_id)
            relation = f"{node['schema']}.{node.get('alias') or node['name']}"
            plain.execute(f"create schema if not exists {node['schema']}")
            if node["resource_type"] == "seed":
                file = ROOT / node["original_file_path"]
                plain.execute(f"create table {relation} as from read_csv('{file}', all_varchar = true)")
            elif node["resource_type"] == "model":
                plain.execute(f"create {node['config']['materialized']} {relation} as {node['compiled_code']}")
        for test in manifest.tests:
            plain.execute(f"select count(*) from ({test['compiled_code']})")


def measure(folder: Path) -> dict[str, Cost]:
    """Take every measurement once, each in a process of its own."""
    warehouse = folder / "warehouse"
    itself = [sys.executable, __file__]
    costs = {
        # another warehouse is another profile to dbt: the first parse with it is a full one, and no build's own
        "parse": run(warehouse, BIN / "dbt", "parse", "--quiet"),
        "start": run(warehouse, BIN / "dbt", "parse", "--quiet"),
        "landing": run(warehouse, BIN / "hubspoke", "ingest"),
        "copy": run(warehouse, *itself, "copy", folder / "copied"),
        "landing again": run(warehouse, BIN / "hubspoke", "ingest"),
        "build": build(warehouse),
        # each test as a query of its own: in a build, most take what the gate has counted
        "compile": run(warehouse, BIN / "dbt", "compile", "--quiet"),
        "sql": run(warehouse, *itself, "sql", warehouse),
        "build again": build(warehouse),
    }
    return costs


def report(costs: dict[str, Cost]) -> Table:
    """Lay the measurements out, with the limit that each ratio has to keep."""
    table = Table(title="Hubspoke beside plain DuckDB: 22.6 million rows")
    for heading in ("what", "seconds", "plain DuckDB, seconds", "ratio", "limit", "peak memory"):
        table.add_column(heading, justify="left" if heading == "what" else "right")
    plain = {"landing": costs["copy"].seconds, "build": costs["sql"].seconds + costs["start"].seconds}
    limits = {"landing": "2.0", "build": "1.5"}
    for name in ("landing", "landing again", "build", "build again"):
        beside = plain.get(name)
        table.add_row(
            name,
            f"{costs[name].seconds:.1f}",
            f"{beside:.1f}" if beside else "",
            f"{costs[name].seconds / beside:.2f}" if beside else "",
            limits.get(name, ""),
            f"{costs[name].memory / 2**30:.2f} GiB",
        )
    for name, limit in (("build", "0.10"), ("build again", "")):
        rest = costs[name].seconds - costs[name].release
        what = "release, everything changed" if name == "build" else "release, nothing changed"
        table.add_row(what, f"{costs[name].release:.1f}", "", f"{costs[name].release / rest:.2f}", limit, "")
    table.caption = (
        f"plain DuckDB's build is {costs['sql'].seconds:.1f} s of SQL and {costs['start'].seconds:.1f} s of dbt's start"
    )
    return table


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
                found = measure(Path(temporary))
            Console().print(report(found))
            print(
                json.dumps(
                    {
                        name: [round(cost.seconds, 2), cost.memory, round(cost.release, 2)]
                        for name, cost in found.items()
                    }
                )
            )
        case ["copy", folder]:
            copy_with_duckdb(Path(folder))
        case ["sql", folder]:
            run_compiled_sql(Path(folder))
        case _:
            sys.exit(__doc__)
