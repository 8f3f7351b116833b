import os
import random
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import duckdb
import pytest

from hubspoke.errors import HubspokeError
from hubspoke.release import ReleaseStore


def node(name: str, spoke: str) -> dict[str, Any]:
    return {
        "name": name,
        "relation_name": name,
        "original_file_path": f"models/spokes/{spoke}/{name}.sql",
        "description": "It's a relation. Grain: one row per id.",
        "columns": {"id": {"name": "id", "description": "The customer's id."}},
    }


SPOKES = [node("spoke_bi__sales", "bi"), node("spoke_ml__features", "ml")]


@pytest.fixture
def hub() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(
        "create table spoke_bi__sales as select range::int as id, 1.5::decimal(18,2) as amount from range(100)"
    )
    connection.execute("create table spoke_ml__features as select range::int as id, 'canary' as secret from range(50)")
    return connection


def read(store: ReleaseStore, spoke: str, sql: str) -> Any:
    with duckdb.connect((store.root / f"current/{spoke}.duckdb").resolve(), read_only=True) as file:
        return file.execute(sql).fetchone()


def test_a_release_holds_what_the_hub_holds(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path)
    release, changed = store.publish(hub, SPOKES, "run 1")
    assert (release.number, sorted(changed)) == (1, ["spoke_bi__sales", "spoke_ml__features"])
    assert read(store, "bi", "select count(*), sum(amount) from spoke_bi__sales") == (100, 150)
    assert read(store, "bi", "select comment from duckdb_columns() where column_name = 'id'") == ("The customer's id.",)


def test_only_what_changed_is_written_and_no_change_is_no_release(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    first, _ = store.publish(hub, SPOKES, "run 1")
    assert store.publish(hub, SPOKES, "run 2") == (first, [])
    hub.execute("update spoke_bi__sales set amount = 2 where id = 7")
    second, changed = store.publish(hub, SPOKES, "run 3")
    assert (second.number, changed) == (2, ["spoke_bi__sales"])
    assert second.relations["spoke_ml__features"] == first.relations["spoke_ml__features"]


def test_rollback_moves_readers_and_no_data(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path)
    with pytest.raises(HubspokeError, match="no release yet"):
        store.rollback()
    store.publish(hub, SPOKES, "run 1")
    with pytest.raises(HubspokeError, match="first one"):
        store.rollback()
    hub.execute("delete from spoke_bi__sales where id >= 10")
    store.publish(hub, SPOKES, "run 2")
    assert read(store, "bi", "select count(*) from spoke_bi__sales") == (10,)
    assert store.rollback().number == 1
    assert read(store, "bi", "select count(*) from spoke_bi__sales") == (100,)
    assert store.rollback(2).number == 2
    with pytest.raises(HubspokeError, match=r"no release 9. Releases: 1, 2"):
        store.rollback(9)
    assert read(store, "bi", "select count(*) from spoke_bi__sales") == (10,)


def test_readers_who_were_taken_back_stay_until_something_changes(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    hub.execute("delete from spoke_bi__sales where id >= 10")
    store.publish(hub, SPOKES, "run 2")
    store.rollback()
    release, changed = store.publish(hub, SPOKES, "run 3")
    assert (release.number, changed) == (1, [])
    hub.execute("delete from spoke_bi__sales where id >= 5")
    release, changed = store.publish(hub, SPOKES, "run 4")
    assert (release.number, changed) == (3, ["spoke_bi__sales"])


def test_a_copied_store_writes_nothing_into_its_original(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    original, copied = tmp_path / "original", tmp_path / "copied"
    ReleaseStore(original).publish(hub, SPOKES, "run 1")
    shutil.copytree(original, copied, symlinks=True)
    before = sorted(original.rglob("*"))
    release, changed = ReleaseStore(copied).publish(hub, SPOKES, "run 2")
    assert sorted(original.rglob("*")) == before
    shutil.rmtree(original)
    assert (release.number, len(changed)) == (2, 2)
    assert read(ReleaseStore(copied), "bi", "select count(*) from spoke_bi__sales") == (100,)


def test_a_column_by_any_name_is_seen_to_change(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    hub.execute("create or replace table spoke_bi__sales as select 1 as id, 1 as relation, 1 as amount")
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    hub.execute("update spoke_bi__sales set amount = 2")
    assert store.publish(hub, SPOKES, "run 2")[1] == ["spoke_bi__sales"]


def test_a_release_is_only_read(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path / "store")
    store.publish(hub, SPOKES, "run 1")
    (tmp_path / "secret.csv").write_text("a\n1\n")
    with store.connect() as connection:
        assert connection.execute("select count(*) from spoke_bi__sales").fetchone() == (100,)
        for refused in (f"from '{tmp_path}/secret.csv'", f"copy (select 1) to '{tmp_path}/x.csv'", "set threads = 1"):
            with pytest.raises(duckdb.Error):
                connection.execute(refused)


def test_the_iceberg_tables_answer_for_every_release(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    from pyiceberg.catalog.sql import SqlCatalog

    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    hub.execute("alter table spoke_bi__sales add column city varchar default 'Bern'")
    hub.execute("alter table spoke_bi__sales alter column id type varchar")
    store.publish(hub, SPOKES, "run 2")
    table = SqlCatalog("hubspoke", uri=f"sqlite:///{tmp_path}/catalog.db").load_table("bi.spoke_bi__sales")
    first, second = (release.relations["spoke_bi__sales"].snapshot_id for release in store.releases())
    old = table.scan(snapshot_id=first).to_arrow()
    new = table.scan(snapshot_id=second).to_arrow()
    assert (old.num_rows, sorted(old.column_names)) == (100, ["amount", "id"])
    assert (new.num_rows, sorted(new.column_names)) == (100, ["amount", "city", "id"])
    assert set(new["city"].to_pylist()) == {"Bern"}
    assert set(new["id"].to_pylist()) == {str(number) for number in range(100)}


def test_a_spoke_file_and_its_data_hold_nothing_of_another_spoke(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    assert read(store, "bi", "select list(view_name) from duckdb_views() where not internal") == (["spoke_bi__sales"],)
    mine = [store.root / "current/bi.duckdb", *(store.root / "tables/bi").rglob("*.parquet")]
    assert len(mine) == 2
    assert not any(b"canary" in file.read_bytes() for file in mine)
    with pytest.raises(duckdb.Error):
        read(store, "bi", "create table x (i int)")


def test_kill_at_any_instant_leaves_one_whole_release_current(tmp_path: Path) -> None:
    """Every publication writes one number into both relations, so a mixture would show."""
    code = f"""
import duckdb, sys
sys.path.insert(0, {str(Path(__file__).parent)!r})
from pathlib import Path
from test_release import SPOKES
from hubspoke.release import ReleaseStore
store, hub = ReleaseStore(Path({str(tmp_path)!r})), duckdb.connect()
start = store.current().number if store.current() else 0
for number in range(start, start + 200):
    for name in ("spoke_bi__sales", "spoke_ml__features"):
        hub.execute(f"create or replace table {{name}} as select {{number}} as id, range as row from range(1000)")
    store.publish(hub, SPOKES, "run")
    print("published", flush=True)
"""
    store = ReleaseStore(tmp_path)
    instants = random.Random(7)
    for _ in range(6):
        process = subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE)
        assert process.stdout
        process.stdout.readline()
        time.sleep(instants.uniform(0, 0.4))
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        sales = read(store, "bi", "select min(id), max(id), count(*) from spoke_bi__sales")
        features = read(store, "ml", "select min(id), max(id), count(*) from spoke_ml__features")
        assert sales == features
        assert sales[0] == sales[1]
        assert sales[2] == 1000
    assert len({release.number for release in store.releases()}) == len(store.releases()) >= 6
