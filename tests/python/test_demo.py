"""The running example from systems that hold it, run and asked as a user does."""

import os
import random
import shlex
import shutil
import signal
import subprocess
import tempfile
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from pathlib import Path

import duckdb
import psycopg
import pytest
import requests
from conftest import BIN, Sandbox

from hubspoke.demo_marketing import Interface
from hubspoke.landing import LandingZone
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

LAST_DAY = "2018-01-02"
HURRY = "1000000"


@dataclass
class Demo:
    """``hubspoke demo`` in a project of the test's own."""

    sandbox: Sandbox
    process: subprocess.Popen[str] | None = None
    environment: dict[str, str] = field(default_factory=dict)

    @property
    def folder(self) -> Path:
        return self.sandbox.root / "warehouse/demo"

    @property
    def server(self) -> LocalServer:
        return LocalServer(Project(self.sandbox.root, self.folder))

    def start(self, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [BIN / "hubspoke", "demo", *arguments],
            cwd=self.sandbox.root,
            env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse", "NO_COLOR": "1"},
            stdout=(self.sandbox.root / "demo.txt").open("a"),
            stderr=subprocess.STDOUT,
            text=True,
        )

    def ready(self) -> None:
        """Wait until the systems answer, and take over what the demo says to type."""
        (self.folder / "environment").unlink(missing_ok=True)
        self.until((self.folder / "environment").is_file)
        lines = (self.folder / "environment").read_text().splitlines()
        words = [shlex.split(line) for line in lines]
        assert {word[0] for word in words} == {"export"}
        self.environment = dict(word[1].split("=", 1) for word in words)

    def until(self, is_so: Callable[[], bool]) -> None:
        deadline = time.monotonic() + 90
        while not is_so():
            assert self.process is not None
            assert self.process.poll() is None, self.told()
            assert time.monotonic() < deadline, self.told()
            time.sleep(0.05)

    def told(self) -> str:
        return (self.sandbox.root / "demo.txt").read_text()

    def end(self, how: signal.Signals = signal.SIGINT) -> int:
        assert self.process is not None
        self.process.send_signal(how)
        return self.process.wait(60)

    def run(self, *command: str) -> str:
        return self.sandbox.run(*command, **self.environment).stdout

    def sql(self, statement: str) -> list[tuple]:
        with psycopg.connect(**self.server.parameters() | {"dbname": "pos"}, autocommit=True) as connection:
            answer = connection.execute(statement)  # type: ignore[arg-type]
            return answer.fetchall() if answer.description else []


@pytest.fixture
def demo(built: Sandbox) -> Iterator[Demo]:
    folder = Path(tempfile.mkdtemp(prefix="hubspoke-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user
    shutil.copytree(
        built.root,
        folder / "project",
        symlinks=True,
        ignore=lambda path, _: {"release", "tmp"} if path == str(built.root / "warehouse") else set(),
    )
    demo = Demo(Sandbox(folder / "project"))
    yield demo
    if demo.process and demo.process.poll() is None:
        demo.process.kill()
        demo.process.wait()
    demo.server.stop()
    shutil.rmtree(folder)


def sold(demo: Demo) -> duckdb.DuckDBPyRelation:
    money = [f"{name}_disc" for name in ("retail", "coupon", "coupon_match")] + ["sales_value"]
    exact = ", ".join(f"cast({name} as decimal(10, 2)) as {name}" for name in money)
    return duckdb.sql(f"select * replace ({exact}) from '{demo.sandbox.root}/exports/transactions.parquet'")


def test_marts_from_the_systems_are_those_from_files(demo: Demo, built: Sandbox) -> None:
    demo.start("--from", LAST_DAY)
    demo.ready()
    landed = demo.run("hubspoke", "ingest")
    assert landed.count("landed") == 6, landed
    assert landed.count("unchanged") == 2, landed
    zone = LandingZone(demo.sandbox.root / "warehouse/landing")
    newest = zone.current("pos", "transactions")
    assert newest is not None
    assert newest.columns["sales_value"] == "DECIMAL(10,2)"  # out of PostgreSQL
    assert "changed" in demo.run("hubspoke", "build")
    stores = [ReleaseStore(root / "warehouse/release") for root in (built.root, demo.sandbox.root)]
    [from_files, from_systems] = [store.current() for store in stores]
    assert from_files is not None
    assert from_systems is not None
    assert len(from_files.relations) == 12
    assert {name: relation.checksum for name, relation in from_systems.relations.items()} == {
        name: relation.checksum for name, relation in from_files.relations.items()
    }
    secrets = [path.read_text().strip() for path in (demo.sandbox.root / "warehouse/secrets").glob("demo_*")]
    assert len(secrets) == 2
    files = [*demo.folder.glob("*"), demo.server.log, demo.sandbox.root / "demo.txt"]
    for path in files:
        assert not any(secret.encode() in path.read_bytes() for secret in secrets if path.is_file()), path
    assert demo.end() == 0
    assert not demo.server.is_running()


def test_tills_that_are_killed_go_on_with_no_line_twice_and_none_missing(demo: Demo) -> None:
    for _ in range(4):
        demo.start("pos", "--from", random.choice(["2017-01-03", "2017-04-01"]), "--speed", HURRY)
        time.sleep(random.uniform(0.5, 4))
        demo.end(signal.SIGKILL)
    demo.start("pos", "--from", "2017-04-01", "--speed", HURRY)
    demo.ready()
    demo.run("hubspoke", "ingest", "pos")
    demo.until(lambda: "The whole year is written" in demo.told())
    rows = sold(demo).fetchall()
    assert len(rows) > 40_000
    columns = ", ".join(sold(demo).columns).replace("transaction_timestamp", "transaction_timestamp at time zone 'UTC'")
    assert sorted(demo.sql(f"select {columns} from transactions")) == sorted(rows)
    demo.run("hubspoke", "ingest", "pos")
    demo.run("dbt", "run", "--select", "stg_pos__transactions")
    landed = demo.sandbox.query(f"select {columns} from landing_pos.transactions")
    assert sorted(landed) == sorted(rows)
    assert demo.sandbox.query("select count(*) from landing_pos.transactions__log where _change = 'insert'") > [(0,)]


def test_lines_are_written_in_time_order_a_basket_at_a_time(demo: Demo) -> None:
    demo.start("pos", "--from", "2017-06-01", "--speed", "500")
    demo.ready()
    begun = time.monotonic()
    [before] = demo.sql("select count(*), max(transaction_timestamp at time zone 'UTC') from transactions")
    demo.until(lambda: demo.sql("select count(*) from transactions")[0][0] > before[0] + 300)
    took = time.monotonic() - begun
    assert demo.end() == 0
    demo.start("pos", "--from", "2017-01-02", "--speed", "0.001")  # what is there stays
    demo.ready()
    [(rows, last)] = demo.sql("select count(*), max(transaction_timestamp at time zone 'UTC') from transactions")
    assert rows - before[0] <= 500 * (took + 5)
    assert sold(demo).filter(f"transaction_timestamp <= '{last}'").count("*").fetchall() == [(rows,)]


def test_a_source_may_stay_in_place_in_one_environment(demo: Demo) -> None:
    """The project says that files are landed; where this runs, the database is asked in place."""
    expected = demo.sandbox.query("select count(*), sum(sales_amount) from core.core_basket_lines")
    demo.start("pos", "--from", LAST_DAY)
    demo.ready()
    file = demo.sandbox.root / "here.yml"
    ingest = "mechanism: federated, connection: demo_pos"
    table = "tables: [{ name: transactions, config: { meta: { relation: public.transactions } } }]"
    file.write_text(f"sources:\n- name: pos\n  config: {{ meta: {{ ingest: {{ {ingest} }} }} }}\n  {table}\n")
    demo.environment["HUBSPOKE_SOURCES"] = "here.yml"
    demo.run("dbt", "run", "--select", "core_basket_lines")
    assert demo.sandbox.query("select count(*), sum(sales_amount) from core.core_basket_lines") == expected
    demo.sql("delete from transactions")
    demo.run("dbt", "run", "--select", "core_basket_lines")
    assert demo.sandbox.query("select count(*) from core.core_basket_lines") == [(0,)]
    file.write_text(file.read_text().replace("connection", "conection"))
    wrong = demo.sandbox.run("dbt", "run", "--select", "core_basket_lines", check=False, **demo.environment)
    assert "here.yml:3: source pos: meta.ingest" in wrong.stdout


def test_a_second_demo_beside_the_first_is_refused(demo: Demo) -> None:
    demo.start("crm")
    demo.ready()
    assert set(demo.environment) == {"HUBSPOKE_SOURCES", "HUBSPOKE_CONNECTION_DEMO_CRM"}
    second = demo.sandbox.run("hubspoke", "demo", "marketing", check=False)
    assert second.returncode == 1
    assert "Another process is running the demo" in second.stderr
    assert demo.end(signal.SIGTERM) == 0


@pytest.fixture
def interface(tmp_path: Path) -> Iterator[Interface]:
    duckdb.sql("select range as id, 'né \"' || range as name from range(25)").write_parquet(
        f"{tmp_path}/things.parquet"
    )
    served = Interface(0, "hush", {"things": tmp_path / "things.parquet"})
    served.start()
    yield served
    served.stop()


@pytest.mark.parametrize(
    ("path", "token", "status"),
    [
        ("/things", "hush", 200),
        ("/things", "", 401),
        ("/things", "hush2", 401),
        ("/other", "hush", 404),
        ("/../things", "hush", 404),
        ("/things?page=0", "hush", 400),
        ("/things?size=5001", "hush", 400),
        ("/things?page=x", "hush", 400),
    ],
)
def test_the_interface_answers_who_has_the_token(interface: Interface, path: str, token: str, status: int) -> None:
    answer = requests.get(interface.url + path, headers={"Authorization": f"Bearer {token}"}, timeout=10)
    assert answer.status_code == status
    assert ("data" in answer.json()) == (status == 200)


def test_the_pages_of_the_interface_are_all_of_it(interface: Interface) -> None:
    rows, pages = [], 0
    url = f"{interface.url}/things?size=5"
    while url:
        answer = requests.get(url, headers={"Authorization": "Bearer hush"}, timeout=10).json()
        rows, url, pages = rows + answer["data"], answer["next"], pages + 1
    assert rows == [{"id": number, "name": f'né "{number}'} for number in range(25)]
    assert pages == 5
