"""Hubspoke beside SQLMesh: the same models, data, audits and machine, in one run. Start it with: make sqlmesh.

SQLMesh gets an environment of its own (.sqlmesh/, versions in sqlmesh.txt), and the project of bench/growth.py twice:
once with every table of kind FULL, and once with the tables of lines and orders INCREMENTAL_BY_UNIQUE_KEY, as somebody
would write them by hand who knows what a new line touches. The better of the two counts, case by case. All write DuckDB
files with the memory and settings of profiles/profiles.yml; SQLMesh audits what Hubspoke tests: unique and never null.
Hubspoke's times hold its release, for which SQLMesh has no counterpart: its consumers read the views of prod.

    first       nothing is there yet; hubspoke build --full, sqlmesh plan --auto-apply, which makes and fills each table
    full        all of it again; hubspoke build --full, sqlmesh plan --restate-model '*', which fills each table again
    no change   hubspoke build; sqlmesh plan, which compares models, and sqlmesh run, which looks for intervals to fill
    edit        a mart is computed otherwise; hubspoke build, sqlmesh plan, which builds a new version and swaps views
    0.1 %, 1 %  new lines, a tenth of them corrections; hubspoke build, sqlmesh run, which fills FULL tables again and
                merges the others by key

Landing is left out on both sides: SQLMesh reads the exported files themselves. Its clock is moved: file n comes in the
n-th five minutes of a day gone by, and a run says how far it goes, as nobody wants to wait. After each step both hold
equal rows in every table and delivery, or it ends with 1. The best of three rounds counts.
"""

import argparse
import datetime
import os
import re
import shutil
import sys
import tempfile
from collections import defaultdict
from collections.abc import Callable
from pathlib import Path

import duckdb
from build import ROOT, Cost, run
from growth import KEYS, MODELS, SHARES, Shop, sums
from rich.console import Console
from rich.table import Table

SQLMESH = ROOT / ".sqlmesh/bin/sqlmesh"
DAY = datetime.datetime.now(datetime.UTC).date() - datetime.timedelta(days=2)
MART = "mart_sales__weekly_departments"
EDITED = "sum(amount)"

CONFIG = """
gateways:
  local:
    connection:
      type: duckdb
      database: {hub}
      concurrent_tasks: {tasks}
      connector_config:
        temp_directory: {hub}.tmp
        memory_limit: {memory}
        preserve_insertion_order: false
        storage_compatibility_version: latest
default_gateway: local
model_defaults: {{ dialect: duckdb, start: '{day}', cron: '*/5 * * * *' }}
disable_anonymized_analytics: true
"""

SENT = f"""
select
    line_id, order_id, product_id, customer_id, store_id, sold_on, amount,
    timestamp '{DAY}' + interval 5 minute * cast(regexp_extract(filename, '(\\d+).parquet', 1) as int)
    - interval 1 minute as loaded_at
from read_parquet('{{exports}}/lines-*.parquet', filename = true)"""
"""Every line that the tills have sent, with the time of its file."""

NEWEST = f"""
with
    sent as ({SENT}),
    changes as (
        select * from sent where loaded_at > timestamp '{DAY} 00:05:00'
        qualify row_number() over (partition by line_id order by loaded_at desc) = 1
    )
select line_id, order_id, product_id, customer_id, store_id, sold_on, amount from changes
union all
select line_id, order_id, product_id, customer_id, store_id, sold_on, amount from sent
where loaded_at <= timestamp '{DAY} 00:05:00' and line_id not in (select line_id from changes)"""
"""The newest row of each line: as in Hubspoke's landing zone, the first file holds each line once."""

LOADED = "loaded_at between @start_ts and @end_ts"
BY_KEY = {
    "stg_tills__lines": (" from ", ", loaded_at from "),
    "core_lines": (
        "lines.product_id = products.product_id",
        f"lines.product_id = products.product_id where lines.{LOADED} "
        "qualify row_number() over (partition by lines.line_id order by lines.loaded_at desc) = 1",
    ),
    "core_orders": (
        " group by",
        f" where order_id in (select order_id from staging.stg_tills__lines where {LOADED}) group by",
    ),
}
"""What incremental tables need beyond the models' own queries: what is replaced, and by what."""


def schema(path: str) -> str:
    """Return the schema of a model, as Hubspoke's folders have it."""
    room, domain, *_ = path.removeprefix("hub/").split("/")
    return {"marts": f"mart_{domain}", "spokes": f"spoke_{domain}"}.get(room, room)


RELATIONS = {Path(path).name: f"{schema(path)}.{Path(path).name}" for path in MODELS}


class Mesh:
    """The shop's models as a project of SQLMesh.

    Args:
        root: Folder to make it in.
        exports: Where the tills leave their files.
        by_key: Whether lines and orders are incremental.
        tasks: How many models may be built at a time.
    """

    def __init__(self, root: Path, exports: Path, by_key: bool, tasks: int) -> None:
        self.root, self.hub, self.by_key = root, root / "hub.db", by_key
        (root / "models").mkdir(parents=True)
        memory = os.environ.get("HUBSPOKE_MEMORY_LIMIT", "3GB")
        (root / "config.yaml").write_text(CONFIG.format(hub=self.hub, day=DAY, tasks=tasks, memory=memory))
        lines = (SENT if by_key else NEWEST).format(exports=exports)
        self._write("tills.lines", "VIEW", lines, "not_null(columns := (line_id))")
        self._write("tills.products", "VIEW", f"select * from read_parquet('{exports}/products.parquet')")
        for path in MODELS:
            self.write(path)

    def write(self, path: str, edit: Callable[[str], str] = str) -> None:
        """Write a model of the shop, its references turned into names."""
        name = Path(path).name
        sql = re.sub(r"\{\{ source\('(\w+)', '(\w+)'\) \}\}", r"\1.\2", edit(MODELS[path]))
        sql = re.sub(r"\{\{ ref\('(\w+)'\) \}\}", lambda ref: RELATIONS.get(ref[1]) or RELATIONS[f"{ref[1]}_v1"], sql)
        kind = "FULL" if path.startswith(("hub/core/", "marts/")) else "VIEW"
        if self.by_key and name in BY_KEY:
            sql = sql.replace(*BY_KEY[name]).replace("lines.*", "lines.* exclude (loaded_at)")
            kind = f"INCREMENTAL_BY_UNIQUE_KEY (unique_key {KEYS[name]})" if name in KEYS else kind
        about = f"(columns := ({KEYS.get(name)}))"
        self._write(RELATIONS[name], kind, sql, f"unique_values{about}, not_null{about}" if name in KEYS else "")

    def _write(self, name: str, kind: str, sql: str, audits: str = "") -> None:
        about = f"MODEL (name {name}, kind {kind}{f', audits ({audits})' if audits else ''});"
        (self.root / f"models/{name.partition('.')[2]}.sql").write_text(f"{about}\n{sql}\n")

    def run(self, *command: str) -> Cost:
        """Run a command of the project."""
        return run(self.root, SQLMESH, *command, project=self.root)

    def plan(self, *options: str) -> Cost:
        """Build what is new or edited."""
        return self.run("plan", "--auto-apply", "--no-prompts", *options)

    def take_in(self, files: int) -> Cost:
        """Take in a file that has come."""
        return self.run("run", "--end", _clock(files))

    def forget(self) -> None:
        """Remove all that has been built."""
        for file in self.root.glob("hub.db*"):
            shutil.rmtree(file) if file.is_dir() else file.unlink()


def _clock(files: int) -> str:
    """Return the end of the five minutes in which a file came."""
    return f"{datetime.datetime.combine(DAY, datetime.time()) + datetime.timedelta(minutes=5 * files)}"


class Race:
    """Both, side by side.

    Args:
        root: An empty folder.
        lines: How many lines the tills have sent at first.
        tasks: How many models SQLMesh may build at a time.
    """

    def __init__(self, root: Path, lines: int, tasks: int) -> None:
        self.shop = Shop(root / "shop", lines)
        self.shop.run("hubspoke", "ingest")
        exports = root / "shop/exports"
        self.meshes = {
            "FULL": Mesh(root / "full", exports, by_key=False, tasks=tasks),
            "by key": Mesh(root / "by-key", exports, by_key=True, tasks=tasks),
        }
        self.files = 1
        self.times: dict[str, dict[str, list[Cost]]] = defaultdict(lambda: defaultdict(list))

    def round(self, number: int) -> None:
        """Take every measurement once."""
        shutil.rmtree(self.shop.root / "warehouse/release", ignore_errors=True)
        (self.shop.root / "warehouse/hub.duckdb").unlink(missing_ok=True)
        for mesh in self.meshes.values():
            mesh.forget()
        self._step("first", ("build", "--full"), lambda mesh: mesh.plan("--execution-time", _clock(self.files)))
        self._step("full", ("build", "--full"), lambda mesh: mesh.plan("--restate-model", "*"))
        self._step("no change, plan", ("build",), Mesh.plan)
        self._step("no change, run", ("build",), lambda mesh: mesh.take_in(self.files))
        self._edit(number)
        self._step("edit", ("build",), Mesh.plan)
        for share in SHARES:
            self.shop.send(share, has_corrections=True)
            self.files += 1
            self.shop.run("hubspoke", "ingest")
            self._step(f"{100 * share:g} % new", ("build",), lambda mesh: mesh.take_in(self.files))

    def _edit(self, number: int) -> None:
        [path] = (path for path in MODELS if path.endswith(MART))
        new = f"sum(amount * {number + 2})"
        (self.shop.root / f"models/{path}.sql").write_text(MODELS[path].replace(EDITED, new) + "\n")
        for mesh in self.meshes.values():
            mesh.write(path, lambda sql: sql.replace(EDITED, new))

    def _step(self, name: str, build: tuple[str, ...], of_mesh: Callable[[Mesh], Cost]) -> None:
        """Measure each in turn, and compare what they hold."""
        self.times[name]["Hubspoke"].append(self.shop.run("hubspoke", *build))
        with duckdb.connect(self.shop.root / "warehouse/hub.duckdb", read_only=True) as hub:
            expected = sums(hub, _COMPARED)
        for kind, mesh in self.meshes.items():
            self.times[name][kind].append(of_mesh(mesh))
            with duckdb.connect(mesh.hub, read_only=True) as hub:
                found = sums(hub, _COMPARED)
            differing = [relation for relation in _COMPARED if found[relation] != expected[relation]]
            if differing:
                sys.exit(f"{name}: SQLMesh, {kind}, holds other rows in {', '.join(differing)}")
        found_times = (f"{who} {costs[-1].seconds:.1f} s" for who, costs in self.times[name].items())
        print(f"{name}: {', '.join(found_times)}", flush=True)

    def report(self) -> Table:
        """Lay the best times out; a ratio is to the better of SQLMesh's two, below one where Hubspoke is faster."""
        table = Table(
            title=f"Builds of Hubspoke, release included, beside SQLMesh's: {self.shop.lines:,} lines, seconds"
        )
        for heading in ("what", "Hubspoke", "SQLMesh FULL", "SQLMesh by key", "ratio", "ratio (processor)"):
            table.add_column(heading, justify="left" if heading == "what" else "right")
        for name, by_who in self.times.items():
            wall = [min(cost.seconds for cost in costs) for costs in by_who.values()]
            processor = [min(cost.processor for cost in costs) for costs in by_who.values()]
            cells = [f"{best:.1f} ({busy:.1f})" for best, busy in zip(wall, processor, strict=True)]
            ratios = [f"{times[0] / min(times[1:]):.2f}" for times in (wall, processor)]
            table.add_row(name, *cells, *ratios)
        table.caption = "in brackets: seconds of a processor, which other work on the machine changes less"
        return table


_COMPARED = [name for path, name in zip(MODELS, RELATIONS.values(), strict=True) if not path.startswith("hub/staging/")]


def main() -> None:
    """Go through the rounds and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--lines", type=int, default=4_000_000)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--tasks", type=int, default=4, help="how many models SQLMesh may build at a time")
    asked = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
        (Path(temporary) / "shop").mkdir()
        race = Race(Path(temporary), asked.lines, asked.tasks)
        for number in range(asked.rounds):
            race.round(number)
    Console(width=120).print(race.report())


if __name__ == "__main__":
    main()
