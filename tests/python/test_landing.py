import itertools
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.landing import LandingZone
from hubspoke.project import Project
from hubspoke.sources import SourceTable


def write(path: Path, rows: int) -> Path:
    duckdb.sql(f"copy (select range as id, 'x' || range as name from range({rows})) to '{path}' (format parquet)")
    return path


def table(path: Path, name: str = "lines") -> SourceTable:
    return SourceTable(source="shop", table=name, path=path, declared_in=Path("models/shop__sources.yml"))


def project(zone: LandingZone) -> Project:
    return Project(zone.root.parent, zone.root.parent)


def snapshot(root: Path) -> dict[str, bytes]:
    return {str(p.relative_to(root)): p.read_bytes() for p in root.rglob("*") if p.is_file() and p.name != ".lock"}


def test_landing_adds_load_columns_and_keeps_every_row(tmp_path: Path) -> None:
    zone = LandingZone(tmp_path / "landing")
    ingest(project(zone), [table(write(tmp_path / "lines.parquet", 1000))])
    load = zone.current("shop", "lines")
    assert load is not None
    [data] = zone.files("shop", "lines", load)
    rows = duckdb.sql(f"from '{data}'")
    assert rows.columns == ["id", "name", "_load_id", "_loaded_at"]
    assert rows.aggregate("count(*), sum(id), min(_load_id), max(_load_id), min(_loaded_at)").fetchone() == (
        1000,
        499500,
        load.load_id,
        load.load_id,
        load.loaded_at.replace(tzinfo=None),
    )


def test_landing_again_adds_nothing(tmp_path: Path) -> None:
    zone = LandingZone(tmp_path / "landing")
    source = table(write(tmp_path / "lines.parquet", 10))
    assert [outcome.is_new for outcome in ingest(project(zone), [source])] == [True]
    before = snapshot(zone.root)
    assert [(outcome.is_new, outcome.rows) for outcome in ingest(project(zone), [source])] == [(False, 10)]
    assert snapshot(zone.root) == before


@settings(max_examples=25, deadline=None)
@given(contents=st.lists(st.integers(1, 4), min_size=1, max_size=6))
def test_the_newest_load_is_the_file_as_it_is_now(
    contents: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    folder = tmp_path_factory.mktemp("zone")
    zone = LandingZone(folder / "landing")
    for rows in contents:
        ingest(project(zone), [table(write(folder / "lines.parquet", rows))])
        current = zone.current("shop", "lines")
        assert current is not None
        assert current.rows == rows
    changes = 1 + sum(a != b for a, b in itertools.pairwise(contents))
    assert len(zone.loads("shop", "lines")) == changes


@pytest.mark.parametrize("damage", ["truncated", "corrupt", "empty", "missing"])
def test_a_bad_file_is_one_error_and_leaves_the_zone_as_it_was(tmp_path: Path, damage: str) -> None:
    zone = LandingZone(tmp_path / "landing")
    good, bad = write(tmp_path / "good.parquet", 500), write(tmp_path / "bad.parquet", 50_000)
    ingest(project(zone), [table(good, "good"), table(bad, "bad")])
    before = snapshot(zone.root)
    write(good, 600)
    content = bad.read_bytes()
    if damage == "missing":
        bad.unlink()
    else:
        middle = content[:4] + bytes(20_000) + content[20_004:]
        bad.write_bytes({"truncated": content[: len(content) // 2], "corrupt": middle, "empty": b""}[damage])
    with pytest.raises(HubspokeError) as error:
        ingest(project(zone), [table(good, "good"), table(bad, "bad")])
    assert "shop.bad" in str(error.value)
    assert str(bad) in str(error.value)
    assert snapshot(zone.root) == before


def test_two_cannot_ingest_at_once(tmp_path: Path) -> None:
    zone = LandingZone(tmp_path / "landing")
    source = table(write(tmp_path / "lines.parquet", 10))

    def second(name: str, share: float) -> None:
        with pytest.raises(HubspokeError, match="Another process is ingesting"):
            ingest(project(zone), [source])

    ingest(project(zone), [source], second)


def test_kill_at_any_instant_leaves_whole_loads_only(tmp_path: Path) -> None:
    source = write(tmp_path / "lines.parquet", 3_000_000)
    root = tmp_path / "landing"
    code = (
        "from pathlib import Path; from hubspoke.exports import ingest; from hubspoke.project import Project;"
        "from hubspoke.sources import SourceTable;"
        f"ingest(Project(Path({str(root.parent)!r}), Path({str(root.parent)!r})), [SourceTable(source='shop', "
        f"table='lines', path=Path({str(source)!r}), declared_in=Path('x'))])"
    )
    for delay in (0.25, 0.35, 0.45, 0.6, 0.8):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for load in LandingZone(root).loads("shop", "lines"):
            [data] = LandingZone(root).files("shop", "lines", load)
            assert duckdb.sql(f"select count(*) from '{data}'").fetchone() == (3_000_000,)
    ingest(project(LandingZone(root)), [table(source)])
    assert len(LandingZone(root).loads("shop", "lines")) == 1
    assert not list(root.rglob("*.unfinished"))
