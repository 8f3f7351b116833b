"""How long a sale takes from its commit in PostgreSQL to a released mart, while hubspoke run keeps the release fresh.

Start it with: make bench-latency. In a warehouse of its own, ``hubspoke demo pos`` holds the whole year, and all of it
is built and released once. Then the loop lands and builds what is new, while baskets are sold at moments that know
nothing of it. A reader asks the current release five times a second until it has the sale.
"""

import os
import random
import shlex
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import psycopg
from rich.console import Console
from rich.table import Table

from hubspoke.demo_pos import DATABASE
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

ROOT = Path(__file__).parents[1]
HUBSPOKE = Path(sys.executable).parent / "hubspoke"
SALES = 3
SELL = """
insert into transactions
select household_id, store_id, (select max(basket_id) + 1 from transactions), product_id, 1, 1.23, 0, 0, 0, week,
    transaction_timestamp
from transactions order by transaction_timestamp desc, product_id limit 1
"""


def run(*arguments: str) -> float:
    """Run hubspoke in this process's environment and return its seconds.

    Raises:
        SystemExit: It failed; what it printed is the message.
    """
    started = time.monotonic()
    result = subprocess.run([HUBSPOKE, *arguments], cwd=ROOT, capture_output=True, text=True, check=False)
    if result.returncode:
        raise SystemExit(f"{' '.join(arguments)} failed:\n{result.stdout}{result.stderr}")
    return time.monotonic() - started


def take_over(environment: Path) -> None:
    """Set the variables that the demo has written for a shell."""
    for line in environment.read_text().splitlines():
        name, _, value = shlex.split(line)[1].partition("=")
        os.environ[name] = value


def released(project: Project) -> int:
    """Return the cents of all sales, as the spoke of the current release has them."""
    with ReleaseStore(project.release).connect(None) as reader:
        row = reader.execute("select cast(sum(sales_amount) * 100 as bigint) from spoke_bi__departments").fetchone()
    return int(row[0]) if row else 0


def measure(project: Project, sales: int) -> Table:
    """Sell some baskets while the loop runs.

    Args:
        project: With the demo's data landed, built and released, and its environment taken over.
        sales: How many.
    """
    latencies = []
    parameters = LocalServer(Project(project.root, project.warehouse / "demo")).parameters() | {"dbname": DATABASE}
    loop = subprocess.Popen([HUBSPOKE, "run", "--every", "1"], cwd=ROOT, stdout=subprocess.DEVNULL)
    try:
        with psycopg.connect(**parameters, autocommit=True) as tills:
            for _ in range(sales):
                time.sleep(random.uniform(5, 30))  # noqa: S311 -- no secret
                before = released(project)
                tills.execute(SELL)
                committed = time.monotonic()
                while released(project) == before:
                    if loop.poll() is not None:
                        raise SystemExit(f"hubspoke run has ended with {loop.returncode}")
                    time.sleep(0.2)
                latencies.append(time.monotonic() - committed)
    finally:
        loop.terminate()
        loop.wait()
    table = Table(title=f"From commit to release: {sales} sales")
    for heading in ("fastest, s", "median, s", "slowest, s"):
        table.add_column(heading, justify="right")
    table.add_row(*(f"{figure:.1f}" for figure in (min(latencies), statistics.median(latencies), max(latencies))))
    return table


def main() -> None:
    """Prepare a warehouse, measure, and print a table."""
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
        Path(temporary).chmod(0o755)  # as root, PostgreSQL runs as another user
        os.environ["HUBSPOKE_WAREHOUSE"] = temporary
        project = Project.find(ROOT)
        demo = subprocess.Popen([HUBSPOKE, "demo", "pos", "--from", "2018-01-02"], cwd=ROOT, stdout=subprocess.DEVNULL)
        try:
            environment = project.warehouse / "demo/environment"
            while demo.poll() is None and not environment.is_file():
                time.sleep(0.2)
            take_over(environment)
            run("ingest")
            run("build")
            Console().print(measure(project, SALES))
        finally:
            demo.send_signal(signal.SIGINT)
            demo.wait()


if __name__ == "__main__":
    main()
