"""Schedules that sources declare: when each is due, and that ingestion without an end goes by them."""

import os
import subprocess
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from conftest import BIN
from hypothesis import given, settings
from hypothesis import strategies as st

from hubspoke.landing import LandingZone
from hubspoke.project import Project
from hubspoke.schedule import due, note
from hubspoke.sources import Ingest, SourceTable

FIVE = datetime(2026, 11, 2, 5, 0, tzinfo=UTC)


def table(name: str, schedule: str | None) -> SourceTable:
    ingest = Ingest(mechanism="export", location=".", schedule=schedule)
    return SourceTable(source="shop", table=name, declared_in=Path("models/shop__sources.yml"), ingest=ingest)


@pytest.fixture
def project(tmp_path: Path) -> Project:
    (tmp_path / "warehouse/landing/shop").mkdir(parents=True)
    return Project(tmp_path, tmp_path / "warehouse")


def test_a_table_is_due_until_it_was_asked_and_again_after_its_next_time(project: Project) -> None:
    lines, others = table("lines", "0 5 * * *"), table("others", "0 5 * * *")
    assert due(project, [lines, others], FIVE - timedelta(hours=2)) == [lines, others]
    note(project, [lines], FIVE - timedelta(hours=2))
    assert due(project, [lines, others], FIVE - timedelta(seconds=1)) == [others]
    assert due(project, [lines], FIVE + timedelta(seconds=1)) == [lines]
    note(project, [lines, others], FIVE + timedelta(seconds=2))
    assert due(project, [lines, others], FIVE + timedelta(hours=23)) == []
    assert due(project, [lines, others], FIVE + timedelta(hours=25)) == [lines, others]


@settings(deadline=None)
@given(st.lists(st.integers(1, 100_000), min_size=1, max_size=30))
def test_whenever_it_is_asked_each_hour_is_landed_once(pauses: list[int]) -> None:
    """Turns at any instants land as often as an hour began between two of them."""
    import tempfile

    with tempfile.TemporaryDirectory() as folder:
        (Path(folder) / "warehouse/landing/shop").mkdir(parents=True)
        project, hourly = Project(Path(folder), Path(folder) / "warehouse"), table("lines", "0 * * * *")
        now, landed, hours = FIVE + timedelta(seconds=1), 0, set()
        for pause in [0, *pauses]:
            now += timedelta(seconds=pause)
            if now.minute == now.second == 0:
                now += timedelta(seconds=1)
            if due(project, [hourly], now):
                note(project, [hourly], now)
                landed += 1
            hours.add(now.replace(minute=0, second=0))
        assert landed == len(hours)


def test_what_has_no_schedule_is_always_due_and_leaves_no_note(project: Project) -> None:
    lines = table("lines", None)
    note(project, [lines], FIVE)
    assert due(project, [lines], FIVE) == [lines]
    assert not (project.landing / "shop/asked.json").exists()


def test_ingestion_without_an_end_goes_by_the_schedule(tmp_path: Path) -> None:
    (tmp_path / "dbt_project.yml").touch()
    (tmp_path / "models").mkdir()
    (tmp_path / "exports").mkdir()
    for name, schedule in (("nightly", f", schedule: 0 {(datetime.now(UTC).hour + 12) % 24} * * *"), ("always", "")):
        (tmp_path / f"models/_{name}__sources.yml").write_text(
            f"sources:\n  - name: {name}\n    config: {{ meta: {{ ingest: {{ mechanism: export, location: exports"
            f"{schedule} }} }} }}\n    tables: [{{ name: lines, config: {{ meta: {{ file: {name}.csv }} }} }}]\n"
        )
        (tmp_path / f"exports/{name}.csv").write_text("id\n1\n")
    zone = LandingZone(tmp_path / "warehouse/landing")

    def await_loads(source: str, count: int) -> None:
        until = time.monotonic() + 60
        while len(zone.loads(source, "lines")) < count:
            assert time.monotonic() < until
            time.sleep(0.05)

    process = subprocess.Popen(
        [BIN / "hubspoke", "ingest", "--every", "0.1"],
        cwd=tmp_path,
        env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"},
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
    )
    try:
        await_loads("nightly", 1)
        for name in ("nightly", "always"):
            (tmp_path / f"exports/{name}.csv").write_text("id\n1\n2\n")
        await_loads("always", 2)
        (tmp_path / "exports/always.csv").write_text("id\n1\n2\n3\n")
        await_loads("always", 3)
    finally:
        process.terminate()
        process.wait()
    assert len(zone.loads("nightly", "lines")) == 1
