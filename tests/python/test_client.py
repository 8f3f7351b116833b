"""Reading from Python and in shards: the same answers from the files and through the server."""

import json
import re
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import duckdb
import pandas
import pyarrow as pa
import pyarrow.parquet as parquet
import pytest
from conftest import BIN, ROOT, Sandbox
from hypothesis import given, settings
from hypothesis import strategies as st
from test_flight import ROWS, SPOKES, make_store, passwords
from test_release import node

import hubspoke
from hubspoke.errors import HubspokeError
from hubspoke.flight import FlightServer, Settings
from hubspoke.project import Project
from hubspoke.reading import cursor, open_spoke, shard_sql
from hubspoke.release import ReleaseStore

__all__ = ["passwords"]

Connect = Callable[..., hubspoke.Connection]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A project with two releases: the second has ten rows of the first."""
    folder = tmp_path_factory.mktemp("project")
    project, hub = make_store(folder)
    hub.execute("delete from spoke_bi__sales where id >= 10")
    ReleaseStore(project.release).publish(hub, SPOKES, "run 2")
    return folder


@pytest.fixture(scope="module", params=["files", "server"])
def connect(request: pytest.FixtureRequest, folder: Path) -> Iterator[Connect]:
    if request.param == "files":
        yield lambda spoke="bi", **more: hubspoke.connect(spoke, project=folder, **more)
        return
    server = FlightServer(Project(folder, folder / "warehouse"), Settings(port=0))
    yield lambda spoke="bi", **more: hubspoke.connect(spoke, server=server.address, project=folder, **more)
    server.close()


def test_rows_come_with_the_number_of_their_release(connect: Connect) -> None:
    with connect() as bi:
        result = bi.sql("select id, amount from spoke_bi__sales order by id")
        assert (result.release, bi.release) == (2, 2)
        table = result.arrow()
        assert table["id"].to_pylist() == list(range(10))
        assert table.schema.metadata[b"hubspoke.release"] == b"2"
        frame = result.pandas()
        assert isinstance(frame, pandas.DataFrame)
        assert frame.attrs == {"hubspoke.release": 2}
        assert result.polars()["id"].to_list() == list(range(10))
        assert result.reader().read_all() == table
        assert "release 2" in repr(result)
    with connect(release=1) as bi:
        assert bi.release == 1
        assert bi.sql("select count(*) as n from spoke_bi__sales").pandas()["n"].tolist() == [ROWS]


def test_parameters_are_values_never_sql(connect: Connect) -> None:
    with connect() as bi:
        result = bi.sql("select count(*) as n, any_value(?) as x from spoke_bi__sales where id < ?", ["'; drop", 4])
        assert result.arrow().to_pylist() == [{"n": 4, "x": "'; drop"}]


def test_it_says_what_there_is_to_read(connect: Connect) -> None:
    with connect() as bi:
        [sales] = bi.relations()
        assert (sales.name, sales.rows) == ("spoke_bi__sales", 10)
        assert sales.description == "It's a relation. Grain: one row per id."
        assert sales.columns["id"] == type(sales.columns["id"])("BIGINT", "The customer's id.")
        assert sales.columns["amount"].type == "DECIMAL(18,2)"


def test_what_does_not_exist_is_refused_in_clear_words(connect: Connect, monkeypatch: pytest.MonkeyPatch) -> None:
    with connect() as bi:
        for wrong, told in [
            (lambda: bi.sql("select * from spoke_ml__features"), r"^Catalog Error: Table .* does not exist"),
            (
                lambda: bi.sql("drop table spoke_bi__sales"),
                r"^a release is only read: .* \(this is DROP\)$",
            ),
            (lambda: bi.sql("select 'a'::int").arrow(), "^Conversion Error"),
            (lambda: bi.sql("select ?", []), "(?i)parameter"),
            (lambda: bi.sql("from read_csv('/etc/passwd')"), "Permission Error"),
            (lambda: bi.read("nope"), "^spoke bi has no relation nope; it has spoke_bi__sales$"),
            (lambda: bi.read("spoke_ml__features"), "^spoke bi has no relation spoke_ml__features"),
            (lambda: bi.read("spoke_bi__sales", shards=2, shard=0), r"the same everywhere, .*release=2"),
        ]:
            with pytest.raises(HubspokeError, match=told) as refusal:
                wrong()
            assert "Detail" not in str(refusal.value)
            assert "gRPC" not in str(refusal.value)
    with connect(release=1) as bi, pytest.raises(HubspokeError, match="no shard 2 of 2"):
        bi.read("spoke_bi__sales", shards=2, shard=2)
    with pytest.raises(HubspokeError, match=r"no release 9\. Releases: 1, 2"):
        connect(release=9)
    monkeypatch.setenv("HUBSPOKE_PASSWORD_NOBODY", "x")
    with pytest.raises(HubspokeError, match=r"no spoke nobody|wrong user or password"):
        connect("nobody")


def test_a_server_that_is_not_there_is_named(folder: Path) -> None:
    with pytest.raises(HubspokeError, match=r"no server answers at grpc://127\.0\.0\.1:1 "):
        hubspoke.connect("bi", server="grpc://127.0.0.1:1", password="x")  # noqa: S106
    with pytest.raises(HubspokeError, match="spoke crm has no password"):
        hubspoke.connect("crm", server="grpc://127.0.0.1:1", project=folder)


def test_importing_it_costs_nothing_until_it_is_used() -> None:
    code = "import sys, hubspoke; print(sorted({'pyarrow', 'pandas', 'duckdb'} & set(sys.modules)))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout == "[]\n"


def test_a_file_that_somebody_else_has_open_can_be_read_all_the_same(folder: Path) -> None:
    path = (folder / "warehouse/release/current/bi.duckdb").resolve()
    with duckdb.connect(path, read_only=True) as own, hubspoke.connect("bi", project=folder) as bi:
        for number in (bi.sql("from spoke_bi__sales").arrow().num_rows, own.sql("from spoke_bi__sales").count("*")):
            assert number if isinstance(number, int) else number.fetchone() == (10,)


# -- shards


def test_shards_of_a_pinned_release_are_the_whole_relation(connect: Connect) -> None:
    with connect(release=1) as bi:
        for shards in (1, 2, 3, 7):
            parts = [bi.read("spoke_bi__sales", shards=shards, shard=shard).arrow() for shard in range(shards)]
            assert pa.concat_tables(parts)["id"].to_pylist() == list(range(ROWS))
            assert all(part.num_rows for part in parts)
            assert all(part.schema.metadata[b"hubspoke.release"] == b"1" for part in parts)


@pytest.fixture(scope="module")
def stores(tmp_path_factory: pytest.TempPathFactory) -> Callable[[tuple[int, ...]], tuple[ReleaseStore, Any]]:
    """Stores whose relation lies in files of so many rows, in row groups of 2,048."""
    made: dict[tuple[int, ...], tuple[ReleaseStore, Any]] = {}

    def make(sizes: tuple[int, ...]) -> tuple[ReleaseStore, Any]:
        if sizes not in made:
            store = ReleaseStore(tmp_path_factory.mktemp("store"))
            with duckdb.connect() as hub:
                hub.execute("create table spoke_bi__sales as select range as id from range(5)")
                release, _ = store.publish(hub, [node("spoke_bi__sales", "bi")], "run 1")
                relation = release.relations["spoke_bi__sales"]
                folder = (store.root / relation.files[0]).parent
                relation.files = []
                for number, size in enumerate(sizes):
                    file = folder / f"part {number}'s.parquet"
                    rows = f"select range + {sum(sizes[:number])} as id from range({size})"
                    quoted = str(file).replace("'", "''")
                    hub.execute(f"copy ({rows}) to '{quoted}' (format parquet, row_group_size 2048)")
                    relation.files.append(str(file.relative_to(store.root)))
            made[sizes] = store, release
        return made[sizes]

    return make


@settings(max_examples=40, deadline=None)
@given(
    sizes=st.sampled_from([(0,), (1,), (9000,), (2047, 2049), (2048, 0, 3), (0, 5, 8192)]),
    shards=st.integers(1, 12) | st.integers(1, 60),
)
def test_shards_are_disjoint_and_all_of_the_relation(stores: Any, sizes: tuple[int, ...], shards: int) -> None:
    store, release = stores(sizes)
    with open_spoke(store, release, "bi") as opened:
        own = cursor(opened, "bi")
        seen = []
        for shard in range(shards):
            rows = own.execute(shard_sql(store, release, "spoke_bi__sales", shards, shard)).fetchall()
            seen += [row[0] for row in rows]
    assert sorted(seen) == list(range(sum(sizes)))


def test_a_column_that_is_named_like_a_row_s_position_is_not_taken_for_it(tmp_path: Path) -> None:
    store = ReleaseStore(tmp_path)
    with duckdb.connect() as hub:
        hub.execute("create table spoke_bi__sales as select 7 as file_row_number, range as id from range(5)")
        release, _ = store.publish(hub, [node("spoke_bi__sales", "bi")], "run 1")
    with pytest.raises(HubspokeError, match="rename it"):
        shard_sql(store, release, "spoke_bi__sales", 2, 0)
    assert "where" not in shard_sql(store, release, "spoke_bi__sales", 1, 0)


def read(folder: Path, *arguments: str) -> subprocess.CompletedProcess[str]:
    command = [BIN / "hubspoke", "read", "spoke_bi__sales", *arguments]
    return subprocess.run(command, cwd=folder, capture_output=True, text=True)


def test_the_command_writes_shards_in_any_format(folder: Path, tmp_path: Path) -> None:
    readers = {
        "arrow": lambda file: pa.ipc.open_file(file).read_all(),
        "parquet": parquet.read_table,
        "csv": lambda file: duckdb.read_csv(str(file)).to_arrow_table(),
    }
    ids = []
    for shard, (kind, open_file) in enumerate(readers.items()):
        file = tmp_path / f"{shard}.{kind}"
        done = read(
            folder, "--as-of", "1", "--shards", "3", "--shard", str(shard), "--format", kind, "--output", str(file)
        )
        assert f"of release 1 to {file}" in done.stdout, done.stderr
        table = open_file(file)
        ids += table["id"].to_pylist()
        assert kind == "csv" or table.schema.metadata[b"hubspoke.release"] == b"1"
    assert ids == list(range(ROWS))
    assert "give each reader --as-of 2" in read(folder, "--shards", "2", "--output", str(tmp_path / "x")).stderr
    wrong = read(folder, "--as-of", "1", "--shards", "2", "--shard", "5", "--output", str(tmp_path / "x"))
    assert "no shard 5 of 2" in wrong.stderr
    assert not (tmp_path / "x").exists()


def test_the_example_notebook_runs(built: Sandbox) -> None:
    """Every cell, in order, in one namespace, as a notebook does."""
    notebook = json.loads((ROOT / "analyses/churn_features.ipynb").read_text())
    cells = ["".join(cell["source"]) for cell in notebook["cells"] if cell["cell_type"] == "code"]
    last = "print(repr(shown))"
    code = "\n".join([*cells[:-1], f"shown = {cells[-1]}", last])
    done = subprocess.run([sys.executable, "-c", code], cwd=built.root, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    assert "churn" in done.stdout


def test_the_recipes_of_the_guide_run(built: Sandbox, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Each block of Python in the section, as a program of its own, beside a server."""
    section = (ROOT / "docs/serving.md").read_text().partition("\n## Arrow")[2].partition("\n## ")[0]
    recipes = re.findall(r"```python\n(.*?)```", section, flags=re.DOTALL)
    assert len(recipes) == 6
    (tmp_path / "dbt_project.yml").write_text("name: guide\n")
    (tmp_path / "warehouse").mkdir()
    (tmp_path / "warehouse/release").symlink_to(built.root / "warehouse/release")
    monkeypatch.setenv("HUBSPOKE_WAREHOUSE", "warehouse")
    monkeypatch.setenv("POLARS_ICEBERG_PLANNER", "pyiceberg")  # or polars advises a package
    server = FlightServer(Project(tmp_path, tmp_path / "warehouse"), Settings(port=0))
    for recipe in recipes:
        code = recipe.replace("grpc://127.0.0.1:31337", server.address)
        done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, capture_output=True, text=True)
        assert (done.returncode, done.stderr) == (0, ""), recipe
        assert done.stdout
    server.close()
