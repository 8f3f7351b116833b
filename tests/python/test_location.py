"""A release whose tables lie on an object store: the same promises as on disk."""

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import duckdb
import fsspec
import pytest
from test_release import SPOKES

import hubspoke
from hubspoke.changes import changes
from hubspoke.errors import HubspokeError
from hubspoke.location import read_location
from hubspoke.reading import cursor, open_spoke, shard_sql
from hubspoke.release import Evidence, ReleaseStore

SERVER = """
from moto.server import ThreadedMotoServer
server = ThreadedMotoServer(port=0, verbose=False)
server.start()
print(server.get_host_and_port()[1], flush=True)
server._thread.join()
"""
MADE = """
    create or replace table spoke_bi__sales as
    select range::int as id, {amount}::decimal(18,2) as amount from range({rows});
    create or replace table spoke_ml__features as select range::int as id, 'canary' as secret from range(50)
"""


@pytest.fixture(scope="module")
def s3() -> Iterator[dict[str, str]]:
    """A server that speaks S3, and the environment of whoever uses it."""
    server = subprocess.Popen([sys.executable, "-c", SERVER], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL)
    assert server.stdout
    port = int(server.stdout.readline())
    yield {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}",
        "AWS_ACCESS_KEY_ID": "hubspoke",
        "AWS_SECRET_ACCESS_KEY": "a-secret-that-is-nowhere",
        "AWS_DEFAULT_REGION": "us-east-1",
    }
    server.kill()
    server.wait()


@pytest.fixture
def bucket(s3: dict[str, str], monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> Any:
    """An empty bucket of the test's own, named as the place for tables."""
    for name, value in s3.items():
        monkeypatch.setenv(name, value)
    name = request.node.name.replace("_", "-")[:60].strip("-")
    monkeypatch.setenv("HUBSPOKE_TABLES", f"s3://{name}/warehouse")
    filesystem = fsspec.filesystem("s3")
    filesystem.mkdir(name)
    return name


@pytest.fixture
def hub() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(MADE.format(amount=1, rows=100))
    return connection


def listed(bucket: str) -> list[str]:
    filesystem = fsspec.filesystem("s3")
    filesystem.invalidate_cache()
    return sorted(filesystem.find(bucket))


def test_releases_are_made_read_compared_taken_back_and_pruned_there(
    bucket: str, tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    evidence = Evidence(keys={"spoke_bi__sales": ["id"]})
    store.publish(hub, SPOKES, "run 1", evidence)
    hub.execute("update spoke_bi__sales set amount = 2 where id = 7; insert into spoke_bi__sales values (100, 9)")
    release, changed = store.publish(hub, SPOKES, "run 2", evidence)
    assert (release.number, changed) == (2, ["spoke_bi__sales"])
    assert not (tmp_path / "tables").exists()
    sums = "select count(*), sum(amount) from spoke_bi__sales"
    assert store.connect().execute(sums).fetchone() == (101, 110)
    assert store.connect(1).execute(sums).fetchone() == (100, 100)
    assert [row[:2] for row in changes(store, 1, 2, "spoke_bi__sales").fetchall()] == [
        ("changed", "amount"),
        ("added", ""),
    ]
    store.rollback()
    assert store.connect().execute(sums).fetchone() == (100, 100)
    store.rollback(2)
    before = listed(bucket)
    gone, freed = store.prune(1)
    assert gone == [1]
    assert freed > 0
    assert len([file for file in listed(bucket) if file.endswith(".parquet")]) == 2
    assert len(listed(bucket)) < len(before)
    assert store.connect().execute(sums).fetchone() == (101, 110)


def test_a_reader_that_is_dropped_in_the_middle_hangs_nobody(
    bucket: str, tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    """DuckDB's threads wait for Python to read a file there, and Python may be waiting for them."""
    hub.execute("insert into spoke_bi__sales select range + 1000, random() from range(300_000)")
    store = ReleaseStore(tmp_path)
    release, _ = store.publish(hub, SPOKES, "run 1")
    for _ in range(20):
        assert store.connect().execute("from spoke_bi__sales").fetchone()
        assert store.connect().sql("from spoke_bi__sales").fetchone()
        own = cursor(open_spoke(store, release, "bi"), "bi")
        assert own.execute("from spoke_bi__sales").to_arrow_reader(1000).read_next_batch()
        del own


def test_a_spoke_reads_its_own_files_there_and_no_others(
    bucket: str, tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    (tmp_path / "dbt_project.yml").write_text("name: test\n")
    store = ReleaseStore(tmp_path / "warehouse/release")
    release, _ = store.publish(hub, SPOKES, "run 1")
    own = cursor(open_spoke(store, release, "bi"), "bi")
    assert own.execute("select sum(amount) from spoke_bi__sales").fetchone() == (100,)
    [other] = release.relations["spoke_ml__features"].files
    with pytest.raises(duckdb.PermissionException):
        own.execute(f"from read_parquet('{store.location.name(other)}')")
    parts = [own.execute(shard_sql(store, release, "spoke_bi__sales", 3, shard)).fetchall() for shard in range(3)]
    assert sorted(row[0] for part in parts for row in part) == list(range(100))
    assert hubspoke.connect("bi", project=tmp_path).sql("select max(id) from spoke_bi__sales").pandas().iat[0, 0] == 99
    kept = [path.read_bytes() for path in tmp_path.rglob("*") if path.is_file()]
    assert not any(os.environ["AWS_SECRET_ACCESS_KEY"].encode() in content for content in kept)


def test_a_place_belongs_to_one_store_and_a_store_keeps_to_its_place(
    bucket: str, tmp_path: Path, hub: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    first = ReleaseStore(tmp_path / "first")
    first.publish(hub, SPOKES, "run 1")
    before = listed(bucket)
    with pytest.raises(HubspokeError, match="holds the files of another release store"):
        ReleaseStore(tmp_path / "second").publish(hub, SPOKES, "run 1")
    monkeypatch.setenv("HUBSPOKE_TABLES", f"s3://{bucket}/elsewhere")
    with pytest.raises(HubspokeError, match="A store keeps to one place"):
        first.publish(hub, SPOKES, "run 2")
    assert listed(bucket) == before
    monkeypatch.delenv("HUBSPOKE_TABLES")
    assert first.connect().execute("select count(*) from spoke_bi__sales").fetchone() == (100,)
    assert first.publish(hub, SPOKES, "run 3")[1] == []


def test_a_place_that_nothing_speaks_to_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOKE_TABLES", "tape://library/3")
    with pytest.raises(HubspokeError, match="tape://library/3: "):
        ReleaseStore(tmp_path).publish(duckdb.connect(), SPOKES, "run 1")


def test_another_disk_may_hold_the_tables(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("HUBSPOKE_TABLES", f"file://{tmp_path}/big disk")
    store = ReleaseStore(tmp_path / "release")
    release, _ = store.publish(hub, SPOKES, "run 1")
    assert not (tmp_path / "release/tables").exists()
    assert store.connect().execute("select count(*) from spoke_bi__sales").fetchone() == (100,)
    assert open_spoke(store, release, "bi").execute("select count(*) from spoke_bi__sales").fetchone() == (100,)


KILLED = """
import sys
from pathlib import Path
import duckdb
from test_release import SPOKES
from test_location import MADE
from hubspoke.release import ReleaseStore
hub = duckdb.connect()
print("ready", flush=True)
for amount in range(2, 1000):
    hub.execute(MADE.format(amount=amount, rows=1000))
    ReleaseStore(Path(sys.argv[1])).publish(hub, SPOKES, str(amount))
"""


def test_a_kill_leaves_a_whole_release_and_the_next_run_clears_what_it_left(
    bucket: str, tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    for pause in (0.3, 0.9):
        writer = subprocess.Popen(
            [sys.executable, "-c", KILLED, str(tmp_path)], cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True
        )
        assert writer.stdout
        assert writer.stdout.readline() == "ready\n"
        number = store.get().number
        while store.get().number == number:  # it has imported what it needs, and is at work
            time.sleep(0.01)
        time.sleep(pause)
        writer.send_signal(signal.SIGKILL)
        writer.wait()
        rows, least, most = (
            store.connect().execute("select count(*), min(amount), max(amount) from spoke_bi__sales").fetchall()[0]
        )
        assert (rows, least) == (1000, most)
    hub.execute(MADE.format(amount=0, rows=10))
    store.publish(hub, SPOKES, "after the kills")
    held = {file for release in store.releases() for relation in release.relations.values() for file in relation.files}
    there = {file for file in store.location.files("tables") if "/data/" in file}
    assert there == held


def test_where_a_store_has_its_files_is_noted_once_and_the_variable_is_asked_before_that(
    bucket: str, tmp_path: Path
) -> None:
    assert read_location(tmp_path).url == f"s3://{bucket}/warehouse"
    (tmp_path / "store.json").write_text(json.dumps({"path": "/elsewhere", "id": "1", "tables": ""}))
    assert read_location(tmp_path).url == f"file://{tmp_path}"
