"""Apache Superset reads the warehouse: a BI application as it is sold, over PostgreSQL. Start it with: make superset.

Superset gets an environment of its own (.superset/, 1 GB, versions in superset.txt); its settings, the project that is
built and PostgreSQL lie in a temporary folder. Through Superset's REST API, with the spoke's own credentials:

    tables     are the spoke's relations, no more and no less, with their descriptions
    chart      sales by week are what the release says, to the last digit
    refused    to write, and to read another spoke, by PostgreSQL itself
    release    another release, and the way back, come into the chart by themselves; no answer mixes two
    picture    a browser draws the chart: .superset/chart.png

It prints a row for each step, and ends with 1 at the first that does not hold.
"""

import http.cookiejar
import json
import os
import secrets
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
import urllib.error
import urllib.request
from collections.abc import Callable
from contextlib import ExitStack
from decimal import Decimal
from pathlib import Path
from typing import Any

from build import BIN, ROOT, run, write_empty_project
from rich.console import Console
from rich.table import Table

import hubspoke
from hubspoke.credentials import password
from hubspoke.postgres_server import DATABASE, HOST, LocalServer
from hubspoke.project import Project

HOME = ROOT / ".superset"
VERSIONS = ROOT / "bench/superset.txt"
RELATION = "spoke_bi__weekly_stores"
BY_WEEK = f"select week_number, sum(sales_amount) as sales from {RELATION} group by week_number order by week_number"
LAST_WEEK = 53
MODEL = f"models/spokes/bi/{RELATION}.sql"
SHORTENED = f"from final where week_number < {LAST_WEEK}"
SETTINGS = """
import os
SECRET_KEY = os.environ["SUPERSET_SECRET"]
SQLALCHEMY_DATABASE_URI = "sqlite:///" + os.environ["SUPERSET_HOME"] + "/superset.db"
"""
Weeks = list[tuple[int, Decimal]]


def must(holds: bool, otherwise: str) -> None:
    """End the step with what is wrong."""
    if not holds:
        raise AssertionError(otherwise)


def install() -> str:
    """Make Superset's environment, unless it is there with these versions."""
    ready = HOME / "ready"
    if ready.is_file() and ready.read_text() == VERSIONS.read_text():
        return "is there"
    shutil.rmtree(HOME, ignore_errors=True)
    subprocess.run([sys.executable, "-m", "venv", HOME], check=True)
    options: list[str | Path] = ["--no-deps", "--disable-pip-version-check", "-r", VERSIONS]  # it names them all
    pip: list[str | Path] = [HOME / "bin/pip", "install", *options]
    with subprocess.Popen(pip, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True) as process:
        lines = []
        for line in process.stdout or ():
            lines.append(line)
            if line.startswith(("Collecting", "Processing", "Installing", "Building")):
                print("   ", line.strip()[:100], flush=True)
    must(process.returncode == 0, "".join(lines[-20:]))
    ready.write_text(VERSIONS.read_text())
    return "installed"


def write_project(folder: Path) -> None:
    """Copy the project, with the last week left out of one relation, and a second spoke in PostgreSQL."""
    write_empty_project(folder)
    for part in ("models", "seeds", "tests/singular"):
        shutil.copytree(ROOT / part, folder / part, dirs_exist_ok=True)
    replace(folder / MODEL, "from final", SHORTENED)
    replace(folder / "models/spokes/ml/_ml__exposures.yml", "how: file", "how: [file, postgres]")


def replace(file: Path, old: str, new: str) -> None:
    text = file.read_text()
    must(old in text, f"{file} no longer holds {old!r}")
    file.write_text(text.replace(old, new))


def released(project: Project) -> Weeks:
    """Ask the release itself for the sales by week."""
    with hubspoke.connect("bi", project=project.root) as bi:
        rows = bi.sql(BY_WEEK).arrow().to_pylist()
    return [(int(row["week_number"]), Decimal(row["sales"])) for row in rows]


class Superset:
    """A Superset that runs, and its REST API."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.admin = folder, secrets.token_urlsafe(16)
        with socket.socket() as free:
            free.bind((HOST, 0))
            place = f"{HOST}:{free.getsockname()[1]}"
        folder.mkdir()
        (folder / "superset_config.py").write_text(SETTINGS)
        self.environment = {
            **{name: value for name, value in os.environ.items() if not name.startswith(("HUBSPOKE_", "PYTHON"))},
            "SUPERSET_CONFIG_PATH": str(folder / "superset_config.py"),
            "SUPERSET_HOME": str(folder),
            "SUPERSET_SECRET": secrets.token_urlsafe(42),
            "FLASK_APP": "superset",
        }
        self.address = f"http://{place}"
        self.headers = {"Content-Type": "application/json", "Referer": self.address}
        jar = urllib.request.HTTPCookieProcessor(http.cookiejar.CookieJar())
        self.web = urllib.request.build_opener(urllib.request.ProxyHandler({}), jar)
        self._command("db", "upgrade")
        who = ("--username", "admin", "--firstname", "Ada", "--lastname", "Admin", "--email", "admin@example.com")
        self._command("fab", "create-admin", *who, given=f"{self.admin}\n{self.admin}\n")  # not on the command line
        self._command("init")
        log = stack.enter_context((folder / "log").open("wb"))
        server: list[str | Path] = [
            HOME / "bin/gunicorn",
            "--worker-class",
            "gthread",
            "--threads",
            "8",
            "--timeout",
            "120",
        ]
        self.process = subprocess.Popen(
            [*server, "--bind", place, "superset.app:create_app()"],
            cwd=folder,
            env=self.environment,
            stdout=log,
            stderr=log,
            start_new_session=True,
        )
        stack.callback(self.process.wait, 30)
        stack.callback(self.process.terminate)

    def _command(self, *words: str, given: str = "") -> None:
        done = subprocess.run(
            [HOME / "bin/superset", *words],
            cwd=self.folder,
            env=self.environment,
            input=given,
            capture_output=True,
            text=True,
            check=False,
            start_new_session=True,  # without a terminal, the password is asked from the input
        )
        must(done.returncode == 0, f"superset {words[0]}: {done.stderr[-2000:]}")

    def login(self) -> None:
        """Wait until it answers, and log in as its administrator."""
        deadline = time.monotonic() + 120
        while True:
            try:
                self.web.open(f"{self.address}/health", timeout=10).close()
                break
            except OSError:
                must(self.process.poll() is None, f"it has ended: {(self.folder / 'log').read_text()[-2000:]}")
                must(time.monotonic() < deadline, "it does not answer within two minutes")
                time.sleep(0.5)
        who = {"username": "admin", "password": self.admin, "provider": "db", "refresh": False}
        self.headers["Authorization"] = f"Bearer {self.ask('security/login', who)['access_token']}"
        self.headers["X-CSRFToken"] = self.ask("security/csrf_token/")["result"]

    def ask(self, path: str, body: Any = None, refused: bool = False) -> Any:
        """Call the API and return its answer; where it is to refuse, what it says."""
        data = None if body is None else json.dumps(body).encode()
        request = urllib.request.Request(f"{self.address}/api/v1/{path}", data, self.headers)  # noqa: S310 -- local
        try:
            with self.web.open(request, timeout=120) as answer:
                found = json.loads(answer.read(), parse_float=Decimal)
        except urllib.error.HTTPError as error:
            said = error.read().decode(errors="replace")
            must(refused and error.code < 600, f"{path}: {error.code} {said[:1000]}")
            return said
        must(not refused, f"{path} was not refused: {body}")
        return found

    def sql(self, database: int, sql: str, refused: bool = False) -> Any:
        """Run a statement in SQL Lab."""
        body = {
            "database_id": database,
            "sql": sql,
            "schema": "bi",
            "runAsync": False,
            "client_id": secrets.token_hex(5),
        }
        return self.ask("sqllab/execute/", body, refused)

    def weeks(self, query: dict[str, Any]) -> Weeks:
        """Ask for a chart's data."""
        rows = self.ask("chart/data", query)["result"][0]["data"]
        return [(int(row["week_number"]), Decimal(row["sales"]).quantize(Decimal("0.01"))) for row in rows]


class Show:
    """What is shown, step by step; each step says in a few words what it saw."""

    def __init__(self, folder: Path, stack: ExitStack) -> None:
        self.folder, self.stack = folder, stack
        self.project = Project(folder / "project", folder / "project/warehouse")
        os.environ["HUBSPOKE_WAREHOUSE"] = "warehouse"

    def steps(self) -> list[Callable[[], str]]:
        made = [install, self.warehouse, self.start, self.connection, self.tables, self.dataset, self.chart]
        return [*made, self.picture, self.refused, self.release, self.rollback]

    def hubspoke(self, *words: str) -> None:
        run(self.project.warehouse, BIN / "hubspoke", *words, project=self.project.root)

    def warehouse(self) -> str:
        write_project(self.project.root)
        self.hubspoke("ingest")
        self.hubspoke("build")
        self.stack.callback(self.hubspoke, "serve", "postgres", "--stop")
        self.hubspoke("serve", "postgres", "--background")
        return f"release 1, without week {LAST_WEEK}, in PostgreSQL"

    def start(self) -> str:
        self.superset = Superset(self.folder / "superset", self.stack)
        self.superset.login()
        return f"Superset {version()} answers on a port of this machine"

    def connection(self) -> str:
        port, secret = LocalServer(self.project).port, password(self.project, "bi")
        uri = f"postgresql+psycopg2://spoke_bi:{secret}@{HOST}:{port}/{DATABASE}"
        about = {"database_name": "Warehouse", "sqlalchemy_uri": uri}
        self.superset.ask("database/test_connection/", about)
        allowed = {"expose_in_sqllab": True, "allow_dml": True}  # it is for PostgreSQL to refuse
        self.database = self.superset.ask("database/", about | allowed)["id"]
        return "spoke_bi, postgresql+psycopg2"

    def tables(self) -> str:
        schemas = self.superset.ask(f"database/{self.database}/schemas/")["result"]
        must("bi" in schemas, f"schemas: {schemas}")
        found = self.superset.ask(f"database/{self.database}/tables/?q=(schema_name:bi)")["result"]
        names = {table["value"] for table in found}
        with hubspoke.connect("bi", project=self.project.root) as bi:
            expected = {relation.name for relation in bi.relations()} | {"hubspoke_release"}
        must(names == expected, f"{names ^ expected} differ")
        return f"{len(names) - 1} relations and hubspoke_release"

    def dataset(self) -> str:
        about = {"database": self.database, "schema": "bi", "table_name": RELATION}
        self.source = self.superset.ask("dataset/", about)["id"]
        columns = self.superset.ask(f"dataset/{self.source}")["result"]["columns"]
        found = {column["column_name"]: column["description"] for column in columns}
        with hubspoke.connect("bi", project=self.project.root) as bi:
            relation = next(relation for relation in bi.relations() if relation.name == RELATION)
        expected = {name: column.description for name, column in relation.columns.items()}
        must(found == expected, f"{found} is not {expected}")
        return f"{RELATION}, {len(found)} columns with descriptions"

    def chart(self) -> str:
        column = {"column_name": "sales_amount"}
        sales = {"expressionType": "SIMPLE", "column": column, "aggregate": "SUM", "label": "sales"}
        source = {"id": self.source, "type": "table"}
        asked = {"columns": ["week_number"], "metrics": [sales], "orderby": [["week_number", True]], "row_limit": 1000}
        self.query = {"datasource": source, "queries": [asked], "result_format": "json", "result_type": "full"}
        looks = {
            "datasource": f"{self.source}__table",
            "viz_type": "echarts_timeseries_bar",
            "x_axis": "week_number",
            "metrics": [sales],
            "groupby": [],
            "row_limit": 1000,
            "x_axis_title": "trading week",
            "x_axis_title_margin": 30,
        }
        about: dict[str, Any] = {
            "slice_name": "Sales by week",
            "viz_type": "echarts_timeseries_bar",
            "params": json.dumps(looks),
        }
        about |= {"datasource_id": self.source, "datasource_type": "table"}
        self.number = self.superset.ask("chart/", about)["id"]
        self.first = released(self.project)
        found = self.superset.weeks(self.query)
        must(found == self.first, f"{set(found) ^ set(self.first)} differ")
        return f"{len(found)} weeks, {sum(sales for _, sales in found):,} USD, as in the release"

    def picture(self) -> str:
        picture, address = HOME / "chart.png", self.superset.address
        page = {
            "login": f"{address}/login/",
            "user": "admin",
            "password": self.superset.admin,
            "chart": f"{address}/explore/?slice_id={self.number}",
            "bars": len(self.first),
            "picture": str(picture),
        }
        picture.unlink(missing_ok=True)
        done = subprocess.run(
            [HOME / "bin/python", ROOT / "bench/superset_page.py"],
            input=json.dumps(page),
            capture_output=True,
            text=True,
            check=False,
        )
        must(done.returncode == 0, done.stderr[-2000:])
        seen = json.loads(done.stdout)
        must(seen == {"bars": len(self.first), "complaints": []}, f"{picture} is not the chart: {seen}")
        return f"{picture.relative_to(ROOT)}, {seen['bars']} bars"

    def refused(self) -> str:
        writable = "commit; set default_transaction_read_only = off"  # PostgreSQL lets everybody; it gives no right
        for sql, why in (
            (f"delete from bi.{RELATION}", "read-only transaction"),
            (f"{writable}; delete from bi.{RELATION}", f"permission denied for table {RELATION}"),
            (f"{writable}; create table bi.mine (id int)", "permission denied for schema bi"),
            ("select * from ml.spoke_ml__household_features", "permission denied for schema ml"),
        ):
            said = self.superset.sql(self.database, sql, refused=True)
            must(why in said, f"{sql}: {said}")
        must(self.superset.weeks(self.query) == self.first, "the chart is another than before")
        return "a delete, one without read-only, a new table, another spoke"

    def release(self) -> str:
        replace(self.project.root / MODEL, SHORTENED, "from final")
        build = subprocess.Popen(
            [BIN / "hubspoke", "build", "--select", RELATION],
            cwd=self.project.root,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
        )
        seen = []
        while build.poll() is None:
            seen.append(self.superset.weeks(self.query))
        must(build.returncode == 0, "the build is red")
        after, expected = self.superset.weeks(self.query), released(self.project)
        must(after == expected != self.first, f"{set(after) ^ set(expected)} differ")
        must(all(weeks in (self.first, after) for weeks in seen), "an answer mixes releases")
        must(after[-1][0] == LAST_WEEK, f"the last week is {after[-1][0]}")
        return f"{len(after)} weeks, as in release 2; {len(seen)} answers while it was built, none mixed"

    def rollback(self) -> str:
        self.hubspoke("rollback")
        found = self.superset.weeks(self.query)
        must(found == self.first == released(self.project), "the chart is not release 1")
        return f"{len(found)} weeks, as in release 1"


def version() -> str:
    [pin] = (line for line in VERSIONS.read_text().splitlines() if line.startswith("apache-superset=="))
    return pin.partition("==")[2]


def main() -> None:
    """Go through the steps, and print them."""
    signal.signal(signal.SIGINT, signal.default_int_handler)  # in the background of a script it would be ignored
    signal.signal(signal.SIGTERM, lambda *_: os.killpg(0, signal.SIGINT))  # as Ctrl-C: commands under way end, too
    console = Console(width=120)
    table = Table(title=f"Apache Superset {version()} on a spoke of the warehouse")
    table.add_column("step")
    table.add_column("seconds", justify="right")
    table.add_column("result")
    good = True
    with tempfile.TemporaryDirectory(prefix="hubspoke-superset-") as temporary, ExitStack() as stack:
        Path(temporary).chmod(0o755)  # as root, PostgreSQL runs as another user
        for step in Show(Path(temporary), stack).steps():
            console.print(f"{step.__name__} …")
            started = time.monotonic()
            try:
                result = step()
            except AssertionError as mismatch:
                good, result = False, f"NOT SO: {mismatch}"
            table.add_row(step.__name__, f"{time.monotonic() - started:.1f}", result)
            if not good:
                break
    console.print(table)
    sys.exit(not good)


if __name__ == "__main__":
    try:
        main()
    except KeyboardInterrupt:
        sys.exit(130)
