"""What a build does after a change, in a generated project: just what has to be, and the result of a clean full build.

Start it with: make bench-changes. Every change is one that people make: SQL edited, rewired, added, removed, formatted;
a macro or a variable edited; a source that has other rows, all sent again or just those that changed. After each,
hubspoke build runs, every relation of the hub is held against the same queries run straight through DuckDB, and what
was built against what rests on the change.

Builds after changes run in forks of a process that has imported dbt: its imports are in none of their times.
"""

import argparse
import os
import random
import re
import sys
import tempfile
import time
from collections import defaultdict
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
from build import BIN, ROOT, run, write_empty_project
from rich.console import Console
from rich.progress import track
from rich.table import Table

sys.path.append(str(ROOT / "tests/python"))
from forge import Forge

TABLES = 5
ROWS = 200
SEED = 20261126
KINDS = {
    "rows": 26,
    "edited": 16,
    "rewired": 8,
    "added": 8,
    "removed": 8,
    "formatted": 8,
    "kept otherwise": 6,
    "macro": 1,
    "variable": 1,
}
"""Kinds of changes, and how often each is made: nearly all models rest on the macro, and on the variable."""

SHAPES = [
    "select k, v + {n} as v from {a}",
    "select k, v from {a} where v % {n} <> 0",
    "select k % {n} as k, cast(sum(v) as bigint) as v from {a} group by all",
    "select k, cast(sum(v) as bigint) as v from {a} where v > {n} group by k",
    "select l.k, l.v + coalesce(r.v, 0) as v from {a} as l "
    "left join (select k, max(v) as v from {b} group by k) as r on l.k = r.k",
    "select k, max(v) as v from (select k, v from {a} union all select k, v + {n} as v from {b}) as both_of group by k",
    "with one as (select k, v from {a}), two as (select k, min(v) as v from {b} group by k) "
    "select one.k, one.v - two.v as v from one inner join two on one.k = two.k",
    "select k, {{{{ shifted('v') }}}} as v from {a}",
    "select k, v * {{{{ var('factor') }}}} as v from {a} where k < 40 + {n}",
]
"""Queries over one or two others, all of a key and a value."""


@dataclass
class Model:
    """One model: its shape, a number in it, what it reads, how it is kept, and what is written around it."""

    shape: str
    number: int
    reads: tuple[str, str]
    is_view: bool
    layout: Callable[[str], str] = str

    def sql(self) -> str:
        """Its file."""
        a, b = (f"{{{{ ref('{name}') }}}}" for name in self.reads)
        text = self.layout(self.shape.format(n=self.number, a=a, b=b))
        return f"{{{{ config(materialized='{'view' if self.is_view else 'table'}') }}}}\n{text}\n"

    def used(self) -> set[str]:
        """The models that it reads in fact, and the macro and the variable that it uses."""
        names = [self.reads[0]] if "{b}" not in self.shape else [*self.reads]
        return {*names, *(word for word in ("shifted", "factor") if word in self.shape)}


@dataclass
class Shop:
    """A generated project."""

    root: Path
    chance: random.Random
    models: dict[str, Model] = field(default_factory=dict)
    rows: dict[str, list[tuple[int, int]]] = field(default_factory=dict)
    shift: int = 1
    factor: int = 2
    made: int = 0
    sent: int = 0
    forge: Forge = field(default_factory=Forge)

    def generate(self, count: int) -> None:
        """Write a project of so many models, staging included."""
        write_empty_project(self.root)
        (self.root / "models/hub/core").mkdir(parents=True)
        (self.root / "models/hub/staging/shop").mkdir(parents=True)
        (self.root / "exports").mkdir()
        listed = []
        for number in range(TABLES):
            self.rows[f"t{number}"] = [self._row() for _ in range(ROWS)]
            self.write_rows(f"t{number}", range(ROWS))
            files = (
                f'files: "t{number}-*.parquet", load: append, key: [id]' if number % 2 else f"file: t{number}-0.parquet"
            )
            listed.append(f"      - {{ name: t{number}, config: {{ meta: {{ {files} }} }} }}")
            source = f"select k, v from {{{{ source('shop', 't{number}') }}}}\n"
            (self.root / f"models/hub/staging/shop/stg_shop__t{number}.sql").write_text(source)
        (self.root / "models/hub/staging/shop/_shop__sources.yml").write_text(
            "sources:\n  - name: shop\n    config: { meta: { ingest: { mechanism: export, location: exports } } }\n"
            "    tables:\n" + "\n".join(listed) + "\n"
        )
        for _ in range(count - TABLES):
            self.add()
        self.write_macro()
        self.write_variable()

    def _row(self) -> tuple[int, int]:
        return self.chance.randrange(50), self.chance.randrange(1000)

    def write_rows(self, table: str, changed: Iterable[int]) -> None:
        """Write what a source sends: some rows that have changed, or all of them."""
        sends_changes = int(table[1:]) % 2
        numbers = changed if sends_changes else range(len(self.rows[table]))
        values = ", ".join(str((number, *self.rows[table][number])) for number in numbers)
        self.sent += 1
        file = self.root / f"exports/{table}-{self.sent if sends_changes else 0}.parquet"
        duckdb.sql(f"copy (select * from (values {values}) as it (id, k, v)) to '{file}.new' (format parquet)")
        Path(f"{file}.new").replace(file)

    def write_macro(self) -> None:
        """Write the macro that some models use."""
        macro = f"{{% macro shifted(column) %}}{{{{ column }}}} + {self.shift}{{% endmacro %}}\n"
        (self.root / "macros/shifted.sql").write_text(macro)

    def write_variable(self) -> None:
        """Write the variable that some models use."""
        file = self.root / "dbt_project.yml"
        text = re.sub(r"\n  factor: .*", "", file.read_text())
        file.write_text(text.replace("\nvars:", f"\nvars:\n  factor: {self.factor}"))

    def write(self, name: str) -> None:
        """Write a model, and one in five with a rule."""
        folder = self.root / "models/hub/core"
        (folder / f"{name}.sql").write_text(self.models[name].sql())
        if int(name[1:]) % 5 == 0:
            rule = f"models: [{{ name: {name}, columns: [{{ name: k, data_tests: [not_null] }}] }}]\n"
            (folder / f"{name}.yml").write_text(rule)

    def add(self) -> str:
        """Add a model that reads two of the last fifty."""
        known = [*(f"stg_shop__t{number}" for number in range(TABLES)), *self.models][-50:]
        name = f"m{self.made:04d}"
        self.made += 1
        self.models[name] = Model(
            self.chance.choice(SHAPES),
            self.chance.randrange(2, 20),
            (self.chance.choice(known), self.chance.choice(known)),
            self.chance.random() < 0.2,
        )
        self.write(name)
        return name

    # --- changes: each returns what has changed by itself

    def change(self) -> tuple[str, set[str]]:
        """Make a change at random; return its kind, and the models that have changed by it themselves."""
        name = self.chance.choice(list(self.models))
        model = self.models[name]
        [kind] = self.chance.choices([*KINDS], [*KINDS.values()])
        match kind:
            case "edited":
                model.number = model.number % 20 + 2
                changed = {name} if "{n}" in model.shape else set()
            case "formatted":
                model.layout = self.chance.choice(LAYOUTS)
                changed = set()
            case "rewired":
                earlier = [*(f"stg_shop__t{number}" for number in range(TABLES)), *(m for m in self.models if m < name)]
                before = model.used(), model.reads
                model.reads = (self.chance.choice(earlier), model.reads[1])
                changed = {name} if (model.used(), model.reads) != before else set()
            case "added":
                changed = {self.add()}
            case "removed":
                unread = [
                    leaf for leaf in self.models if not any(leaf in other.reads for other in self.models.values())
                ]
                gone = self.chance.choice(unread)
                del self.models[gone]
                for file in (self.root / "models/hub/core").glob(f"{gone}.*"):
                    file.unlink()
                return kind, set()
            case "kept otherwise":
                model.is_view = not model.is_view
                changed = {name}
            case "macro":
                self.shift += 1
                self.write_macro()
                return kind, {name for name, model in self.models.items() if "shifted" in model.used()}
            case "variable":
                self.factor += 1
                self.write_variable()
                return kind, {name for name, model in self.models.items() if "factor" in model.used()}
            case _:
                table = self.chance.choice(list(self.rows))
                self.rows[table].append(self._row())
                sent = [len(self.rows[table]) - 1]
                if self.chance.random() < 0.5:
                    sent.append(self.chance.randrange(ROWS))
                    self.rows[table][sent[-1]] = self._row()
                self.write_rows(table, sent)
                self._run("ingest")
                return kind, {f"stg_shop__{table}"}
        if name in self.models:
            self.write(name)
        return kind, changed

    def with_descendants(self, changed: set[str]) -> set[str]:
        """Add all that rests on some models."""
        found = set(changed)
        for name, model in self.models.items():  # those that are read come first
            if found & model.used():
                found.add(name)
        return found

    def expected(self) -> dict[str, list[tuple[int, int]]]:
        """Run every query straight through DuckDB; return the rows of each model."""
        found: dict[str, list[tuple[int, int]]] = {}
        with duckdb.connect() as engine:
            for table, rows in self.rows.items():
                values = ", ".join(map(str, rows))
                engine.execute(f"create table stg_shop__{table} as select * from (values {values}) as it (k, v)")
            for name, model in self.models.items():
                sql = re.sub(r"\{\{ ref\('(\w+)'\) \}\}", r"\1", model.sql().split("\n", 1)[1])
                sql = sql.replace("{{ shifted('v') }}", f"v + {self.shift}")
                sql = sql.replace("{{ var('factor') }}", str(self.factor))
                sql = re.sub(r"\{#.*?#\}", "", sql)
                engine.execute(f"create table {name} as {sql}")
                found[name] = engine.execute(f"select k, v from {name} order by all").fetchall()
        return found

    def held(self) -> dict[str, list[tuple[int, int]]]:
        """Read the rows of each model in the hub."""
        with duckdb.connect(self.root / "warehouse/hub.duckdb", read_only=True) as hub:
            return {name: hub.execute(f"select k, v from core.{name} order by all").fetchall() for name in self.models}

    def build(self) -> tuple[set[str], float]:
        """Build; return the models that were built, and the seconds it took."""
        before = self._last_number()
        seconds = self._run("build")
        with duckdb.connect(self.root / "warehouse/hub.duckdb", read_only=True) as hub:
            rows = hub.execute(
                "select distinct node_id from runs.builds where build_number > ? and node_id like 'model.%'", [before]
            ).fetchall()
        return {node_id.split(".")[-1] for (node_id,) in rows}, seconds

    def _run(self, command: str) -> float:
        """Run a command, and return the seconds that it took."""
        began = time.monotonic()
        environment = {**os.environ, "HUBSPOKE_WAREHOUSE": str(self.root / "warehouse")}
        done = self.forge.run([str(BIN / "hubspoke"), command], self.root, environment, 3600)
        if done.returncode:
            sys.exit(f"hubspoke {command} failed:\n{done.stdout}{done.stderr}")
        return time.monotonic() - began

    def _last_number(self) -> int:
        file = self.root / "warehouse/hub.duckdb"
        if not file.exists():
            return 0
        with duckdb.connect(file, read_only=True) as hub:
            [(number,)] = hub.execute("select coalesce(max(build_number), 0) from runs.builds").fetchall()
            return int(number)


LAYOUTS: list[Callable[[str], str]] = [
    str,
    lambda sql: f"-- what it is for\n{sql}",
    lambda sql: sql.replace(" from ", "\n    FROM ").replace("select ", "SELECT  "),
    lambda sql: (
        sql.replace("one", "first_of").replace("two", "second_of").replace(" l.", " ll.").replace(" as l ", " as ll ")
    ),
    lambda sql: f"{sql} /* the end */ {{# no more #}}",
]
"""Ways to write the same."""


def time_builds(root: Path) -> dict[str, float]:
    """Time what is not to cost anything: a build when nothing has changed, beside dbt's own parse."""
    times: dict[str, list[float]] = defaultdict(list)
    hub = root / "warehouse/hub.duckdb"
    before = hub.read_bytes()
    for _ in range(3):
        times["dbt parse"].append(run(root / "warehouse", BIN / "dbt", "parse", "--quiet", project=root).seconds)
        times["nothing changed"].append(run(root / "warehouse", BIN / "hubspoke", "build", project=root).seconds)
    assert hub.read_bytes() == before, "a build of nothing has written"  # noqa: S101 -- what is shown
    times["full"].append(run(root / "warehouse", BIN / "hubspoke", "build", "--full", project=root).seconds)
    return {name: min(seconds) for name, seconds in times.items()}


def main() -> None:
    """Change, build and compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", type=int, default=500)
    parser.add_argument("--changes", type=int, default=1000)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    console = Console()
    by_kind: dict[str, list[tuple[int, float]]] = defaultdict(list)
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
        shop = Shop(Path(temporary) / "project", random.Random(asked.seed))  # noqa: S311 -- to be the same again
        shop.generate(asked.models)
        run(shop.root / "warehouse", BIN / "hubspoke", "ingest", project=shop.root)
        shop.build()
        times = time_builds(shop.root)
        for number in track(range(asked.changes), "changing", console=console, disable=not console.is_terminal):
            kind, changed = shop.change()
            built, seconds = shop.build()
            by_kind[kind].append((len(built), seconds))
            wanted = shop.with_descendants(changed)
            assert built == wanted, (number, kind, sorted(built ^ wanted))  # noqa: S101 -- what is shown
            assert shop.held() == shop.expected(), (number, kind)  # noqa: S101 -- what is shown
            if (number + 1) % 50 == 0:
                console.print(f"{number + 1} changes: all as a full build gives")
    table = Table(title=f"{asked.changes} changes of a project of {asked.models} models; all as a full build gives")
    for heading in ("change", "times", "models built, mean", "seconds, mean"):
        table.add_column(heading, justify="left" if heading == "change" else "right")
    for kind, found in sorted(by_kind.items()):
        count = len(found)
        table.add_row(
            kind, str(count), f"{sum(n for n, _ in found) / count:.1f}", f"{sum(s for _, s in found) / count:.1f}"
        )
    table.caption = "; ".join(f"{name}: {seconds:.1f} s" for name, seconds in times.items())
    console.print(table)
    over = times["nothing changed"] - times["dbt parse"]
    console.print(f"nothing changed costs {over:.1f} s more than dbt's parse; limit 3")


if __name__ == "__main__":
    main()
