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
import polars
import pytest

from hubspoke.changes import changes
from hubspoke.errors import HubspokeError
from hubspoke.release import Evidence, ReleaseStore


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
    for release, columns in zip(store.releases(), (["id", "amount"], ["amount", "id", "city"]), strict=True):
        by_polars = polars.scan_iceberg(str(tmp_path / release.relations["spoke_bi__sales"].metadata)).collect()
        assert (by_polars.height, by_polars.columns) == (100, columns)


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


def test_pruning_keeps_the_newest_and_what_readers_see_whole(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path)
    for number in range(1, 7):
        hub.execute(f"create or replace table spoke_bi__sales as select range as id from range({number})")
        store.publish(hub, SPOKES, "run")
    store.rollback(2)
    gone, freed = store.prune(2)
    assert (gone, freed > 0) == ([1, 3, 4], True)
    assert store.prune(2) == ([], 0)
    for number in (2, 5, 6):
        with store.connect(number) as connection:
            assert connection.execute("select count(*) from spoke_bi__sales").fetchone() == (number,)
            assert connection.execute("select count(*) from spoke_ml__features").fetchone() == (50,)
    assert data_files(store) == released_files(store)
    table = store.tables.catalog.load_table("bi.spoke_bi__sales")
    snapshots = [release.relations["spoke_bi__sales"].snapshot_id for release in store.releases()]
    assert sorted(snapshot.snapshot_id for snapshot in table.snapshots()) == sorted(snapshots)
    assert [table.scan(snapshot_id=snapshot).to_arrow().num_rows for snapshot in snapshots] == [2, 5, 6]


def test_a_relation_that_nobody_orders_any_more_goes_with_its_last_release(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection
) -> None:
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    store.publish(hub, SPOKES[:1], "run 2")
    assert (tmp_path / "tables/ml/spoke_ml__features").is_dir()
    store.prune(1)
    assert not (tmp_path / "tables/ml/spoke_ml__features").exists()
    assert not store.tables.catalog.table_exists("ml.spoke_ml__features")


def test_what_a_kill_left_is_gone_after_the_next_run_and_the_table_is_what_was_released(
    tmp_path: Path, hub: duckdb.DuckDBPyConnection, monkeypatch: pytest.MonkeyPatch
) -> None:
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    hub.execute("create or replace table spoke_bi__sales as select range as other, 'x' as city from range(3)")

    def killed(*_: Any) -> None:
        raise SystemExit

    with monkeypatch.context() as patch, pytest.raises(SystemExit):
        patch.setattr(ReleaseStore, "_write_spoke_file", killed)
        store.publish(hub, SPOKES, "run 2")
    assert len(data_files(store)) == 3
    hub.execute(
        "create or replace table spoke_bi__sales as select range::int as id, 1.5::decimal(18,2) as amount "
        "from range(100)"
    )
    store.publish(hub, SPOKES, "run 3")
    assert data_files(store) == released_files(store)
    assert len(store.releases()) == 1
    head = store.tables.catalog.load_table("bi.spoke_bi__sales")
    assert head.scan().to_arrow().column_names == ["id", "amount"]
    assert head.scan().to_arrow().num_rows == 100


def test_a_whole_number_of_128_bits_arrives_whole(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    hub.execute("create or replace table spoke_bi__sales as select 12345678901234567890123456789::hugeint as id")
    store = ReleaseStore(tmp_path)
    store.publish(hub, SPOKES, "run 1")
    assert read(store, "bi", "select id::varchar from spoke_bi__sales") == ("12345678901234567890123456789",)


def test_a_release_tells_its_code_its_keys_and_its_checks(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path)
    evidence = Evidence("abc (modified)", {"spoke_bi__sales": ["id"]}, {"spoke_bi__sales": {"pass": 3, "warn": 1}})
    store.publish(hub, SPOKES, "run 1", evidence)
    release = store.get()
    assert release.code == "abc (modified)"
    assert release.relations["spoke_bi__sales"].key == ["id"]
    assert release.relations["spoke_bi__sales"].checks == {"pass": 3, "warn": 1}
    assert release.relations["spoke_ml__features"].key == []


def test_the_changes_between_two_releases_are_told_by_key(tmp_path: Path, hub: duckdb.DuckDBPyConnection) -> None:
    store = ReleaseStore(tmp_path)
    evidence = Evidence(keys={"spoke_bi__sales": ["id"]})
    hub.execute(
        "create or replace table spoke_bi__sales as from (values (1, 1, 'a'), (2, null, 'b'), (3, 3, 'c')) "
        't(id, amount, "a city")'
    )
    store.publish(hub, SPOKES, "run 1", evidence)
    hub.execute(
        "create or replace table spoke_bi__sales as from (values (1, 1, 'a', 0), (2, 2, 'b', null), "
        "(4, 4, 'd', 0)) t(id, amount, \"a city\", fresh)"
    )
    store.publish(hub, SPOKES, "run 2", evidence)
    assert changes(store, 1, 2, "spoke_bi__sales").fetchall() == [
        ("changed", "fresh", 1, 1, "a", 0),
        ("changed", "amount", 2, 2, "b", None),
        ("removed", "", 3, 3, "c", None),
        ("added", "", 4, 4, "d", 0),
    ]
    back = changes(store, 2, 1, "spoke_bi__sales").fetchall()
    assert [row[0] for row in back] == ["changed", "changed", "added", "removed"]
    assert changes(store, 1, 1, "spoke_bi__sales").fetchall() == []
    with pytest.raises(HubspokeError, match="no test says which columns of spoke_ml__features are unique"):
        changes(store, 1, 2, "spoke_ml__features")
    with pytest.raises(HubspokeError, match="rows of spoke_ml__features in release 1 share secret"):
        changes(store, 1, 2, "spoke_ml__features", ("secret",))
    with pytest.raises(HubspokeError, match="has no column idd in both releases; it has id, amount"):
        changes(store, 1, 2, "spoke_bi__sales", ("idd",))
    with pytest.raises(HubspokeError, match="release 1 has no relation spoke_bi__x; it has spoke_bi__sales"):
        changes(store, 1, 2, "spoke_bi__x")


def data_files(store: ReleaseStore) -> set[str]:
    return {str(path.relative_to(store.root)) for path in store.root.glob("tables/*/*/data/*")}


def released_files(store: ReleaseStore) -> set[str]:
    return {file for release in store.releases() for relation in release.relations.values() for file in relation.files}


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
    hub = duckdb.connect()
    for name in ("spoke_bi__sales", "spoke_ml__features"):
        hub.execute(f"create table {name} as select 0 as id, range as row from range(1000)")
    store.publish(hub, SPOKES, "the next run")
    assert data_files(store) == released_files(store)
