"""What new data costs: a build of 1 % and of 0.1 % more, beside a full one, as the history grows.

Start it with: make bench-growth. A generated project of the kind that is kept up to date by change: lines and their
products in core tables, marts by day, week, order and customer over them, and three deliveries; as many lines as the
running example has, and 10 and 50 times as many. At each size all is built; then the tills send 0.1 % more lines and
1 % more, and a build takes them in and releases. They are all new, or one in ten is another amount for a line of the
last two weeks: corrections of one line in a thousand then touch one in 26. What a build by change leaves is held
against what dbt builds, table by table. A full build is made by dbt, and by hubspoke build --full, which needs none.

--example measures the running example instead, whose tills send the last lines of their year in the order of time. New
lines touch nearly all of its marts, and many of these rank or share out all that there is.

All builds are made in one process, as hubspoke run makes them: what is imported once, and dbt's parse, are in none of
the times. Each has new data, and so a release to write.
"""

import argparse
import io
import os
import re
import shutil
import tempfile
import time
from collections.abc import Callable, Iterable
from functools import partial
from pathlib import Path

import duckdb
from build import BIN, Cost, run, write_empty_project
from rich.console import Console
from rich.table import Table
from scale import write_project

from hubspoke.build import build
from hubspoke.manifest import parse_project
from hubspoke.project import Project

LINES = 1_470_000
DAYS = 365
SHARES = (0.001, 0.01)
SENT = [(share, has_corrections) for has_corrections in (False, True) for share in SHARES]
"""What is sent: a share of the lines, and whether one in ten of them corrects another."""

WAYS: dict[str, tuple[tuple[str, ...], bool]] = {
    "by dbt": (("*",), False),
    "full": ((), True),
    "by change": ((), False),
}
"""Ways to build: what is selected, and whether it is a full one."""

SOURCES = """
sources:
  - name: tills
    config: { meta: { ingest: { mechanism: export, location: exports } } }
    tables:
      - name: lines
        config: { meta: { files: "lines-*.parquet", load: append, key: [line_id] } }
        columns:
          - { name: line_id, data_type: bigint, description: Line., data_tests: [not_null] }
          - { name: order_id, data_type: bigint, description: Order. }
          - { name: product_id, data_type: bigint, description: Product. }
          - { name: customer_id, data_type: bigint, description: Customer. }
          - { name: store_id, data_type: bigint, description: Store. }
          - { name: sold_on, data_type: date, description: Day. }
          - { name: amount, data_type: double, description: US dollars. }
      - name: products
        config: { meta: { file: products.parquet } }
        columns:
          - { name: product_id, data_type: bigint, description: Product. }
          - { name: department, data_type: varchar, description: Department. }
"""

MODELS = {
    "hub/staging/tills/stg_tills__lines": "select line_id, order_id, product_id, customer_id, store_id, sold_on, "
    "cast(amount as decimal(18, 2)) as amount from {{ source('tills', 'lines') }}",
    "hub/staging/tills/stg_tills__products": "select product_id, department from {{ source('tills', 'products') }}",
    "hub/core/core_products": "select product_id, department from {{ ref('stg_tills__products') }}",
    "hub/core/core_lines": "select lines.*, products.department, "
    "cast(date_trunc('week', lines.sold_on) as date) as week_start_date "
    "from {{ ref('stg_tills__lines') }} as lines "
    "inner join {{ ref('core_products') }} as products on lines.product_id = products.product_id",
    "hub/core/core_orders": "select order_id, min(customer_id) as customer_id, min(store_id) as store_id, "
    "min(sold_on) as sold_on, count(*) as line_count, cast(sum(amount) as decimal(18, 2)) as amount "
    "from {{ ref('core_lines') }} group by order_id",
    "facade/fct_lines_v1": "select line_id, order_id, product_id, customer_id, store_id, sold_on, amount, department, "
    "week_start_date from {{ ref('core_lines') }}",
    "facade/fct_orders_v1": "select order_id, customer_id, store_id, sold_on, line_count, amount "
    "from {{ ref('core_orders') }}",
    "marts/sales/mart_sales__daily_stores": "select store_id, sold_on, count(distinct order_id) as order_count, "
    "cast(sum(amount) as decimal(18, 2)) as amount from {{ ref('fct_lines') }} group by store_id, sold_on",
    "marts/sales/mart_sales__weekly_departments": "select department, week_start_date, count(*) as line_count, "
    "cast(sum(amount) as decimal(18, 2)) as amount from {{ ref('fct_lines') }} group by department, week_start_date",
    "marts/sales/mart_sales__best_days": "select store_id, sold_on, amount, rank() over (partition by store_id "
    "order by amount desc nulls last) as place from {{ ref('mart_sales__daily_stores') }}",
    "marts/customers/mart_customers__totals": "select customer_id, count(*) as order_count, "
    "cast(sum(amount) as decimal(18, 2)) as amount, max(sold_on) as last_order_date "
    "from {{ ref('fct_orders') }} group by customer_id",
    "spokes/bi/spoke_bi__daily_stores": "select store_id, sold_on, order_count, amount "
    "from {{ ref('mart_sales__daily_stores') }}",
    "spokes/bi/spoke_bi__best_days": "select store_id, sold_on, amount, place from {{ ref('mart_sales__best_days') }} "
    "where place <= 10",
    "spokes/bi/spoke_bi__weekly_departments": "select department, week_start_date, line_count, amount "
    "from {{ ref('mart_sales__weekly_departments') }}",
}
"""Queries by the model's path below models/."""

KEYS = {
    "core_lines": "line_id",
    "core_orders": "order_id",
    "core_products": "product_id",
    "mart_customers__totals": "customer_id",
}
"""What is tested to be unique and never null."""

EXPOSURE = """
exposures:
  - name: stores_report
    label: Stores
    type: dashboard
    maturity: high
    description: How stores do.
    owner: { name: Store controlling, email: stores@example.com }
    depends_on: [ref('spoke_bi__daily_stores'), ref('spoke_bi__best_days'), ref('spoke_bi__weekly_departments')]
    config: { meta: { spoke: bi, delivery: { how: [file], when: every release } } }
"""


class Shop:
    """A generated project whose tills have sent the lines of a year.

    Args:
        root: Folder to make it in.
        lines: How many.
    """

    def __init__(self, root: Path, lines: int) -> None:
        self.root, self.lines = root, lines
        self._sent, self._files = 0, 0
        write_empty_project(root)
        (root / "exports").mkdir()
        self._write_models()
        products = "select i as product_id, 'department ' || i % 20 as department from range(2000) as it (i)"
        duckdb.sql(f"copy ({products}) to '{root}/exports/products.parquet' (format parquet)")
        self._write(f"range({lines})", "i")
        self._sent = lines

    def _write_models(self) -> None:
        """Write every model, and its YAML with the columns that DuckDB finds."""
        engine = duckdb.connect()
        engine.execute(
            "create table lines (line_id bigint, order_id bigint, product_id bigint, customer_id bigint, "
            "store_id bigint, sold_on date, amount double)"
        )
        engine.execute("create table products (product_id bigint, department varchar)")
        for path, sql in MODELS.items():
            file = self.root / f"models/{path}.sql"
            file.parent.mkdir(parents=True, exist_ok=True)
            file.write_text(f"{sql}\n")
            name = file.stem.removesuffix("_v1")
            plain = re.sub(r"\{\{ \w+\((?:'tills', )?'(\w+)'\) \}\}", r"\1", sql)
            engine.execute(f"create view {name} as {plain}")
            columns = {column: kind for column, kind, *_ in engine.execute(f"describe {name}").fetchall()}
            file.with_name(f"{name}.yml").write_text(_yaml(name, columns))
        (self.root / "models/hub/staging/tills/_tills__sources.yml").write_text(SOURCES)
        (self.root / "models/spokes/bi/_bi__exposures.yml").write_text(EXPOSURE)

    def _write(self, numbers: str, line: str) -> None:
        """Write a file of lines: four to an order, orders in the order of their days."""
        rows = f"""
            select
                {line} as line_id,
                {line} // 4 as order_id,
                cast(hash({line}) % 2000 as bigint) as product_id,
                cast(hash({line} // 4) % {self.lines // 80} as bigint) as customer_id,
                cast(hash({line} // 4, 1) % 50 as bigint) as store_id,
                date '2025-01-01' + cast({line} * {DAYS} // {self.lines} as int) as sold_on,
                cast(hash({line}, {self._files + 1}) % 10000 as double) / 100 as amount
            from {numbers} as it (i)"""
        self._export(rows)

    def _export(self, rows: str) -> None:
        """Write the next file, of some rows."""
        self._files += 1
        target = self.root / f"exports/lines-{self._files:04}.parquet"
        duckdb.sql(f"copy ({rows}) to '{target}.new' (format parquet)")
        Path(f"{target}.new").replace(target)

    def send(self, share: float, has_corrections: bool) -> None:
        """Send a share more lines; one in ten is one of the last two weeks with another amount, or all are new."""
        count, recent = int(self.lines * share), self.lines * 14 // DAYS
        old = f"{self._sent - recent} + hash(i, {self._files}) % {recent}"
        line = f"if(i % 10 = 0, cast({old} as bigint), i)" if has_corrections else "i"
        self._write(f"range({self._sent}, {self._sent + count})", line)
        self._sent += count

    def run(self, *command: str) -> Cost:
        """Run a command of the project."""
        return run(self.root / "warehouse", BIN / command[0], *command[1:], project=self.root)

    def tables(self) -> dict[str, tuple[int, str]]:
        """Return the number of rows of each table, and a sum over them that is equal for equal rows."""
        with duckdb.connect(self.root / "warehouse/hub.duckdb", read_only=True) as hub:
            names = hub.execute(
                "select schema_name || '.' || table_name from duckdb_tables() "
                "where schema_name not in ('runs', 'quality', 'quarantine')"
            ).fetchall()
            return sums(hub, [name for (name,) in names])


class Example(Shop):
    """The running example, whose tills have yet to send the last lines of the year.

    Args:
        root: Folder to copy it to.
        withheld: Share of the lines that are yet to be sent.
    """

    def __init__(self, root: Path, withheld: float = 0.08) -> None:
        self.root = root
        write_project(root, 1)
        whole, self._year = root / "exports/transactions.parquet", root / "year.parquet"
        in_order = "row_number() over (order by transaction_timestamp, basket_id, product_id) as _number"
        duckdb.sql(f"copy (select *, {in_order} from '{whole}') to '{self._year}' (format parquet)")
        whole.unlink()
        sources = root / "models/hub/staging/pos/_pos__sources.yml"
        by_change = "files: lines-*.parquet\n            load: append\n            key: [basket_id, product_id]\n"
        sources.write_text(sources.read_text().replace("file: transactions.parquet\n", by_change))
        [(self.lines,)] = duckdb.sql(f"select count(*) from '{self._year}'").fetchall()
        self._sent, self._files = 0, 0
        self.send(1 - withheld, has_corrections=False)
        # who redeems a coupon has a basket of that day
        redemptions, sent = root / "exports/coupon_redemptions.parquet", root / "exports/lines-0001.parquet"
        until = f"(select cast(max(transaction_timestamp) as date) - 1 from '{sent}')"
        known = f"select * from '{redemptions}' where redemption_date < {until}"
        duckdb.sql(f"copy ({known}) to '{redemptions}.new' (format parquet)")
        Path(f"{redemptions}.new").replace(redemptions)

    def send(self, share: float, has_corrections: bool) -> None:
        """Send the next lines, a share of all."""
        assert not has_corrections, "the tills correct nothing"  # noqa: S101
        count = int(self.lines * share)
        rows = f"from '{self._year}' where _number > {self._sent} and _number <= {self._sent + count}"
        self._export(f"select * exclude (_number) {rows}")
        self._sent += count


def sums(connection: duckdb.DuckDBPyConnection, names: Iterable[str]) -> dict[str, tuple[int, str]]:
    """Return the number of rows of each relation, and a sum over them that is equal for equal rows."""
    summed = "select count(*), cast(sum(cast(hash(it) as hugeint)) as varchar) from"
    return {name: connection.execute(f"{summed} {name} as it").fetchall()[0] for name in names}


def _yaml(name: str, columns: dict[str, str]) -> str:
    """Write what a model's YAML says: its columns, and the tests of its key."""
    lines = ["models:", f"  - name: {name}", '    description: "What the tills sent. Grain: one row for each."']
    lines += ["    columns:"]
    for column, kind in columns.items():
        tests = ", data_tests: [unique, not_null]" if KEYS.get(name) == column else ""
        lines.append(f"      - {{ name: {column}, data_type: '{kind.lower()}', description: It.{tests} }}")
    lines += ["    latest_version: 1", "    versions: [{ v: 1 }]"] if name.startswith("fct_") else []
    return "\n".join(lines) + "\n"


def timed(shop: Shop, share: float, has_corrections: bool, way: str) -> float:
    """Send a share more lines, land them, build, and return the seconds of the build."""
    shop.send(share, has_corrections)
    shop.run("hubspoke", "ingest")
    project = Project.find(shop.root)
    shutil.rmtree(shop.root / "target/parsed", ignore_errors=True)
    parse_project(shop.root)
    printed = io.StringIO()
    started = time.monotonic()
    assert build(project, *WAYS[way], Console(file=printed))  # noqa: S101
    seconds = time.monotonic() - started
    assert (way == "by change") == ("by change" in printed.getvalue()), printed.getvalue()  # noqa: S101
    assert (way == "by dbt") == ("unit tests: 0 failed" in printed.getvalue()), printed.getvalue()  # noqa: S101
    return seconds


def measure(shop: Shop, sent: list[tuple[float, bool]]) -> list[str]:
    """Build, send, and build again.

    Args:
        shop: The project.
        sent: What is sent, one after the other.

    Returns:
        Cells of the table's row.
    """
    os.environ["HUBSPOKE_WAREHOUSE"] = str(shop.root / "warehouse")
    by_dbt, full = (min(timed(shop, *sent[0], way) for _ in range(3)) for way in ("by dbt", "full"))
    cells = [f"{shop.lines:,}", f"{by_dbt:.1f}", f"{full:.1f}"]
    for share, has_corrections in sent:
        seconds = min(timed(shop, share, has_corrections, "by change") for _ in range(3))
        cells += [f"{seconds:.1f}", f"{100 * seconds / by_dbt:.0f} %, {100 * seconds / full:.0f} %"]
    found = shop.tables()
    shop.run("dbt", "build")
    assert shop.tables() == found, "a build by change has left something else than dbt"  # noqa: S101
    return cells


def main() -> None:
    """Measure each size and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", type=int, nargs="+", default=[1, 10, 50], metavar="TIMES")
    parser.add_argument("--example", action="store_true", help="measure the running example instead")
    asked = parser.parse_args()
    sent = [kind for kind in SENT if not (asked.example and kind[1])]
    table = Table(title="A build of new data beside a full one, release included, seconds")
    table.add_column("lines", justify="right")
    for name in ("by dbt", "full"):
        table.add_column(name, justify="right")
    for share, has_corrections in sent:
        table.add_column(f"{share:.1%} {'corrected too' if has_corrections else 'new'}", justify="right")
        table.add_column("of these", justify="right")
    shops: list[Callable[[Path], Shop]] = [Example]
    if not asked.example:
        shops = [partial(Shop, lines=LINES * size) for size in asked.sizes]
    for shop in shops:
        with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
            table.add_row(*measure(shop(Path(temporary) / "project"), sent))
    Console(width=140).print(table)


if __name__ == "__main__":
    main()
