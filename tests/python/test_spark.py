"""The project on Apache Spark: a cluster is started, and what is built there is compared with what DuckDB builds."""

import json
import os
import signal
import subprocess
import threading
import time
from collections.abc import Iterator
from contextlib import closing
from pathlib import Path

import duckdb
import pytest
import yaml
from conftest import ROOT, Sandbox, copy_project, minimal_project
from test_templates import CASES, expected, identifier, outcomes, write_model

pytestmark = [pytest.mark.spark, pytest.mark.xdist_group("spark")]
SPARK = ROOT / ".spark/bin"


class OnSpark:
    """A project and its cluster."""

    def __init__(self, sandbox: Sandbox) -> None:
        self.sandbox = sandbox
        self.settings: dict[str, str] = {}

    def run(self, *command: str, check: bool = True) -> subprocess.CompletedProcess[str]:
        environment = {**os.environ, "NO_COLOR": "1", "HUBSPOKE_WAREHOUSE": "warehouse", **self.settings}
        done = subprocess.run(
            [SPARK / command[0], *command[1:]],
            cwd=self.sandbox.root,
            env=environment,
            capture_output=True,
            text=True,
            timeout=2400,
        )
        if check:
            assert done.returncode == 0, f"{' '.join(command)}\n{done.stdout[-8000:]}\n{done.stderr[-3000:]}"
        return done

    def start(self) -> None:
        self.run("hubspoke", "spark", "start")
        lines = self.run("hubspoke", "spark", "env").stdout.splitlines()
        self.settings = dict(line.removeprefix("export ").split("=", 1) for line in lines)

    def close(self) -> None:
        self.run("hubspoke", "spark", "stop")

    def processes(self, name: str) -> list[int]:
        """Find the Java processes of a kind that belong to this cluster."""
        found = []
        for folder in Path("/proc").glob("[0-9]*"):
            try:
                command, where = (folder / "cmdline").read_text(), (folder / "cwd").resolve()
            except OSError:
                continue
            if name in command and where.is_relative_to(self.sandbox.root.resolve()):
                found.append(int(folder.name))
        return found


@pytest.fixture
def on_spark(request: pytest.FixtureRequest) -> Iterator[OnSpark]:
    with closing(OnSpark(request.getfixturevalue(request.param))) as on_spark:
        on_spark.start()
        yield on_spark


@pytest.mark.parametrize("on_spark", ["corner_shop"], indirect=True)
def test_a_project_is_built_and_released_from_spark_as_from_duckdb(on_spark: OnSpark) -> None:
    sandbox = on_spark.sandbox
    # of no rows, each engine makes other types
    types = dict.fromkeys(("model", "rule", "condition", "reason", "decided_on"), "string")
    seed = {"name": "rule_exceptions", "config": {"column_types": types}}
    (sandbox.root / "seeds/_seeds.yml").write_text(yaml.safe_dump({"seeds": [seed]}))
    sandbox.run("hubspoke", "build")
    before = json.loads((sandbox.root / "warehouse/release/current/manifest.json").read_text())

    shown = on_spark.run("hubspoke", "spark", "land").stdout
    assert "till__sales  shown" in shown
    assert "till__sales  as before" in on_spark.run("hubspoke", "spark", "land").stdout
    built = on_spark.run("dbt", "build")
    assert "hubspoke spark release" in built.stdout
    # the same rows under the same contracts: there is nothing new to release
    assert f"Release {before['number']} is still current" in on_spark.run("hubspoke", "spark", "release").stdout
    assert ": 0 differ" in on_spark.run("hubspoke", "spark", "compare").stdout
    # what stands for the hub answers as the hub does: the line that came twice is in quarantine
    held = on_spark.run("hubspoke", "quarantine", "list").stdout
    assert "sale_sent_twice" in held
    with duckdb.connect(sandbox.root / "warehouse/spark.duckdb", read_only=True) as hub:
        assert hub.execute("select rows_in, rows_out, rows_quarantined from quality.ledger").fetchall() == [
            (301, 300, 1)
        ]

    # a sale more: released from there, and read as any release is
    duckdb.sql(
        f"copy (select * from '{sandbox.root}/exports/sales.parquet' "
        "union all select 1000, 1, 1, timestamp '2024-01-05 12:00:00', 5.0) "
        f"to '{sandbox.root}/exports/more.parquet' (format parquet)"
    )
    (sandbox.root / "exports/more.parquet").replace(sandbox.root / "exports/sales.parquet")
    sandbox.run("hubspoke", "ingest")
    on_spark.run("hubspoke", "spark", "land")
    on_spark.run("dbt", "build")
    assert f"Released {before['number'] + 1}" in on_spark.run("hubspoke", "spark", "release").stdout
    assert sandbox.read("bi", "select sum(sale_count) from spoke_bi__departments") == [(301,)]
    # DuckDB has not built it yet, and is told so
    told = on_spark.run("hubspoke", "spark", "compare", check=False)
    assert told.returncode == 1
    assert ": 0 differ" not in told.stdout

    # a rule that fails releases nothing, and neither does a build that was killed
    sandbox.edit("models/hub/core/core_sales.yml", "min_value: 0", "min_value: 100")
    assert on_spark.run("dbt", "build", check=False).returncode == 1
    assert "no_sale_below_zero failed" in on_spark.run("hubspoke", "spark", "release").stdout
    sandbox.edit("models/hub/core/core_sales.yml", "min_value: 100", "min_value: 0")
    kill_in_the_middle(on_spark)
    refused = on_spark.run("hubspoke", "spark", "release", check=False)
    assert refused.returncode == 1
    assert "has not ended, or was killed" in refused.stderr
    on_spark.run("dbt", "build")
    assert "still current" in on_spark.run("hubspoke", "spark", "release").stdout


def kill_in_the_middle(on_spark: OnSpark) -> None:
    """Kill a build once it has built something."""
    environment = {**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse", **on_spark.settings}
    with subprocess.Popen(
        [SPARK / "dbt", "build"], cwd=on_spark.sandbox.root, env=environment, stdout=subprocess.PIPE, text=True
    ) as build:
        assert build.stdout
        for line in build.stdout:
            if "OK created sql table model" in line:
                build.send_signal(signal.SIGKILL)
                break


@pytest.fixture(scope="module")
def cases(tmp_path_factory: pytest.TempPathFactory) -> Iterator[OnSpark]:
    """The templates' cases, their rows on Spark as they are in DuckDB."""
    sandbox = minimal_project(tmp_path_factory.mktemp("spark-templates"))
    with closing(OnSpark(sandbox)) as on_spark:
        on_spark.start()
        write_cases(on_spark)
        yield on_spark


def write_cases(on_spark: OnSpark) -> None:
    sandbox = on_spark.sandbox
    folder = sandbox.root / "models/hub/core"
    (sandbox.root / "models/hub/staging").mkdir()
    (sandbox.root / "models/hub/staging/parents.sql").write_text("select id + 1 as id from range(2)")
    on_spark.run("hubspoke", "spark", "land")
    rows = sandbox.root / "rows"
    rows.mkdir()
    for title, case in CASES.items():
        for kind, sql in (("clean", case.clean), ("faulty", case.faulty)):
            name = f"{kind}_{identifier(title)}"
            write_model(folder, name, case, sql)
            duckdb.sql(f"copy ({sql}) to '{rows}/{name}.parquet' (format parquet)")
            depends = "\n-- depends_on: {{ ref('parents') }}\n"
            reads = "to" in case.arguments or "from_model" in case.arguments
            (folder / f"{name}.sql").write_text(
                f"select * from parquet.`{rows}/{name}.parquet`{depends if reads else ''}"
            )


def test_every_template_finds_there_what_it_finds_in_duckdb(cases: OnSpark) -> None:
    cases.run("dbt", "build", check=False)
    assert outcomes(cases.sandbox.root / cases.settings["DBT_TARGET_PATH"]) == expected()
    # by a scan of its own as well
    cases.run("dbt", "test", check=False)
    assert outcomes(cases.sandbox.root / cases.settings["DBT_TARGET_PATH"]) == expected()


@pytest.fixture
def whole_example(tmp_path: Path) -> Sandbox:
    """The running example, built by DuckDB."""
    sandbox = copy_project(tmp_path / "example")
    sandbox.run("hubspoke", "ingest")
    sandbox.run("hubspoke", "build")
    return sandbox


@pytest.mark.parametrize("on_spark", ["whole_example"], indirect=True)
def test_the_running_example_is_equal_though_an_executor_and_a_worker_are_killed(on_spark: OnSpark) -> None:
    on_spark.run("hubspoke", "spark", "land")
    killed: list[str] = []

    def kill() -> None:
        for seconds, kind in ((60, "CoarseGrainedExecutorBackend"), (60, "deploy.worker.Worker")):
            time.sleep(seconds)
            os.kill(on_spark.processes(kind)[0], signal.SIGKILL)
            killed.append(kind)

    killer = threading.Thread(target=kill)
    killer.start()
    try:
        on_spark.run("dbt", "build")
    finally:
        killer.join()
    assert len(killed) == 2
    assert "is still current: no relation changed" in on_spark.run("hubspoke", "spark", "release").stdout
    assert ": 0 differ" in on_spark.run("hubspoke", "spark", "compare").stdout
