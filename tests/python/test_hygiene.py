"""Compaction changes no row of any view; retention changes no row of the table; the report finds what is planted."""

import random
import re
import sqlite3
import subprocess
import sys
import threading
import time
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pytest
from conftest import Sandbox, minimal_project
from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from hubspoke import compaction
from hubspoke.changelog import AUDIT, changes_since, table_views
from hubspoke.compaction import compact, tidy
from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.files import commit_folder, exclusive, write_whole
from hubspoke.landing import REJECTS, LandingZone, Load, Position
from hubspoke.landing_report import report
from hubspoke.pins import pinned_tables
from hubspoke.project import Project
from hubspoke.sources import Ingest, SourceTable, read_sources

NOW = timedelta(0)
AUDIT_TYPES = ", ".join(f"{name} {kind}" for name, kind in AUDIT.items())
START = datetime(2024, 1, 1, tzinfo=UTC)


class Ledger:
    """A table of the test's own, written load by load as change data capture writes it."""

    def __init__(self, root: Path, seed: int = 0, retention: str | None = None) -> None:
        self.project = Project(root, root)
        self.zone = LandingZone(self.project.landing)
        self.table = SourceTable(
            source="bank",
            table="accounts",
            declared_in=Path("x"),
            ingest=Ingest(mechanism="cdc", connection="bank"),
            retention=retention,  # type: ignore[arg-type]
        )
        self.chance = random.Random(seed)
        self.columns = {"id": "BIGINT", "name": "VARCHAR", "note": "VARCHAR"}
        self.there: set[int] = set()
        self.leaving_out = 0.6
        self.position = 0
        self.at = START

    def land(self, kind: str, rows: list[dict[str, Any]], unchanged: tuple[str, ...] = (), files: int = 1) -> str:
        """Land some rows as one load, and make it visible."""
        self.position += 10
        self.at += timedelta(hours=1)
        draft = self.zone.begin("bank", "accounts", self.zone.next_sequence("bank", "accounts"), f"{self.position:x}")
        audit = AUDIT if kind == "changes" else {}
        names = ", ".join(f'cast("{name}" as {kind_}) as "{name}"' for name, kind_ in (self.columns | audit).items())
        shares = [rows[number::files] for number in range(files)] if kind == "whole" else [rows]
        for number, share in enumerate(shares):
            texts = {
                name: pa.array([row.get(name) for row in share], pa.list_(pa.string()) if "[]" in type_ else None)
                for name, type_ in (self.columns | audit).items()
            }
            batch = pa.table(texts)
            with duckdb.connect() as engine:
                engine.register("batch", batch)
                rows_sql = f"select {names}, {draft.stamp(self.at)} from batch"
                engine.execute(f"copy ({rows_sql}) to '{draft.folder}/data-{number}.parquet'")
        load = Load(
            load_id=draft.load_id,
            loaded_at=self.at,
            rows=len(rows),
            kind=kind,  # type: ignore[arg-type]
            columns=dict(self.columns),
            key=["id"],
            unchanged=list(unchanged),
            position=self.position,
            state={"ends": self.position},
        )
        self.zone.advance("bank", [(draft, load)], Position(position=self.position, as_of=self.at))
        return draft.load_id

    def copy(self, rows: int = 10, files: int = 1) -> None:
        self.there = set(range(rows))
        self.land("whole", [{"id": key, "name": f"n{key}", "note": f"long {key}"} for key in self.there], files=files)

    def batch(self, changes: int = 6) -> None:
        """Land some changes of every kind."""
        rows: list[dict[str, Any]] = []
        left_out = set()
        number = 0

        def change(kind: str, key: int | None, **values: Any) -> None:
            rows.append(
                {"_change": kind, "_change_number": number, "id": key, "_lsn": self.position, "_xid": number}
                | {"_committed_at": self.at + timedelta(seconds=number)}
                | values
            )

        if self.chance.random() < 0.1 and len(self.columns) < 6:
            self.columns[f"added {len(self.columns)}"] = "INTEGER"
        added = {name: self.chance.randrange(100) for name in self.columns if name.startswith("added")}
        for _ in range(changes):
            number += self.chance.randrange(2, 5)
            what = self.chance.random()
            free = next(key for key in range(1000) if key not in self.there)
            values: dict[str, Any] = {"name": f"c{self.chance.randrange(10**6)}", **added}
            if what < 0.03:
                change("truncate", None)
                self.there = set()
            elif what < 0.3 or not self.there:
                self.there.add(free)
                change("insert", free, note=f"long {number}", **values)
            elif what < 0.45:
                change("delete", self.chance.choice(sorted(self.there)))
                self.there.discard(rows[-1]["id"])
            else:
                key = self.chance.choice(sorted(self.there))
                if what < 0.6:
                    change("delete", key)
                    self.there.discard(key)
                    number, key = number + 1, free
                    self.there.add(free)
                if self.chance.random() < self.leaving_out:
                    change("update", key, _unchanged=["note"], **values)
                    left_out.add("note")
                else:
                    change("update", key, note=f"longer {number}", **values)
        self.land("changes", rows, tuple(left_out))

    def views(self, reached: int | None = None, only: str | None = None) -> dict[str, list[tuple]]:
        """All that the table's views show, row by row."""
        content = self.zone.content("bank", "accounts", reached)
        assert content is not None
        views = table_views(self.zone, "bank", "accounts", content)
        return {
            name: duckdb.sql(f"from ({sql}) order by all").fetchall()
            for name, sql in views.items()
            if only is None or name == only
        }

    def compact(self, grace: timedelta = NOW, **more: Any) -> compaction.Tidied:
        [done] = compact(self.project, [self.table], grace, **more)
        return done

    def folders(self) -> list[str]:
        return sorted(path.name for path in (self.zone.root / "bank/accounts").iterdir())


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 10**6), rounds=st.lists(st.integers(1, 7), min_size=1, max_size=4))
def test_compaction_changes_no_row_of_any_view(
    seed: int, rounds: list[int], tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("bank"), seed)
    ledger.copy(files=ledger.chance.randrange(1, 4))
    for batches in rounds:
        for _ in range(batches):
            ledger.batch()
        before, newest = ledger.views(), ledger.zone.current("bank", "accounts")
        done = ledger.compact()
        assert ledger.views() == before
        assert ledger.zone.current("bank", "accounts") == newest
        assert done.loads[1] == 3 - (batches == 1 and done.loads[0] == 2)
        assert len(ledger.folders()) == done.loads[1]
        assert ledger.compact().is_nothing


@settings(max_examples=5, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 10**6))
def test_the_rows_of_some_keys_are_those_that_the_whole_table_has_or_had(
    seed: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("bank"), seed)
    ledger.leaving_out = 0.0
    ledger.copy()
    for _ in range(12):
        earlier, newest = ledger.views(only="")[""], ledger.zone.current("bank", "accounts")
        assert newest is not None
        ledger.batch()
        news = changes_since(ledger.zone, "bank", "accounts", newest.load_id)
        if news is None:  # it has other columns
            continue
        assert news.is_by_key
        with duckdb.connect() as engine:
            engine.execute(f"create table keys as select distinct id, _change from {news.changes}")
            engine.execute("create table wanted as select distinct id from keys")
            keys = {key for (key,) in engine.execute("from wanted").fetchall()}
            assert engine.execute(f"from ({news.before('wanted')}) order by all").fetchall() == [
                row for row in earlier if row[0] in keys
            ]
            if not engine.execute("from keys where _change = 'truncate'").fetchall():
                assert engine.execute(f"from ({news.now}) order by all").fetchall() == [
                    row for row in ledger.views(only="")[""] if row[0] in keys
                ]


@settings(max_examples=4, deadline=None, phases=[Phase.explicit, Phase.reuse, Phase.generate])
@given(seed=st.integers(0, 10**6), batches=st.integers(2, 12), days=st.integers(1, 3))
def test_retention_gives_up_history_and_no_row_of_the_table(
    seed: int, batches: int, days: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    ledger = Ledger(tmp_path_factory.mktemp("bank"), seed, "30 days")
    ledger.copy()
    ledger.at = datetime.now(UTC).replace(microsecond=0) - timedelta(days=30 + batches * days // 2)
    for _ in range(batches):
        ledger.batch()
        ledger.at += timedelta(days=days) - timedelta(hours=1)
    before = ledger.views()
    done = ledger.compact()
    after = ledger.views()
    assert after[""] == before[""]
    change_number, loaded_at = len(ledger.columns) + 3, len(ledger.columns) + 1
    changes = [row for row in after["__log"] if row[change_number] is not None]
    assert all(row in before["__log"] for row in changes)
    oldest = min(row[loaded_at] for row in changes)
    period = timedelta(days=30) / compaction.PERIODS
    assert datetime.now(UTC).replace(tzinfo=None) - oldest < timedelta(days=30) + period or done.loads[1] == 2
    # whatever comes afterwards finds what it has left out in the new whole copy
    for _ in range(3):
        ledger.batch()
    current = ledger.views()[""]
    assert {row[0] for row in current} == ledger.there
    assert all(row[2] for row in current), "a value that was left out has been found"


def test_what_replaces_a_load_counts_from_where_it_is_visible(tmp_path: Path) -> None:
    """Whoever has asked for the position before reads the same, whatever is merged meanwhile."""
    ledger = Ledger(tmp_path, 3)
    ledger.copy()
    ledger.batch()
    ledger.batch()
    reached, before = ledger.zone.reached("bank"), ledger.views()
    ledger.batch()
    ledger.batch()
    assert ledger.compact(timedelta(hours=1)).loads == (5, 3)
    assert ledger.views(reached) == before


def test_a_load_that_is_read_stays_until_it_is_not(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 4)
    ledger.copy()
    for _ in range(5):
        ledger.batch()
    content = ledger.zone.content("bank", "accounts")
    assert content is not None
    views = table_views(ledger.zone, "bank", "accounts", content)
    read = [load.load_id for load in content.changes[1:3]]
    ledger.zone.pin(f"bank/accounts/{name}" for name in read)
    assert ledger.compact(timedelta(hours=1)).removed == 0, "somebody may just have listed them"
    duckdb.sql(f"from ({views['__log']})").fetchall()
    done = ledger.compact()
    assert (done.removed, done.waiting > 0) == (2, True)
    assert [name for name in ledger.folders() if "from" not in name][1:-1] == read
    # what stands for them may go before they do, and they stay replaced
    ledger.batch()
    before = ledger.views()
    ledger.compact()
    assert ledger.views() == before
    ledger.zone.pin([])
    assert ledger.compact().removed == 2
    assert ledger.views() == before
    assert len(ledger.folders()) == 3


def test_loads_that_were_replaced_are_not_opened(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 5)
    ledger.copy()
    for _ in range(4):
        ledger.batch()
    before = ledger.views()
    ledger.compact(timedelta(hours=1))
    for name in ledger.zone.replaced("bank", "accounts"):
        (ledger.zone.root / "bank/accounts" / name / "commit.json").write_text("no longer of any use")
    assert ledger.views() == before
    with ledger.zone.following("bank"):
        assert len(ledger.folders()) == 6


def test_a_source_that_is_being_landed_is_merged_and_loses_nothing(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 6)
    ledger.copy()
    for _ in range(4):
        ledger.batch()
    with ledger.zone.following("bank"):
        done = ledger.compact()
        assert (done.loads, done.removed) == ((5, 3), 0)
        assert "is being landed" in str(done)
        assert len(ledger.folders()) == 6
        ledger.batch()  # whoever lands goes on
        assert ledger.compact(holds_lock=True).removed == 5
    workshop = ledger.zone.root / ".compaction/bank"
    with exclusive(workshop, "compacting"), pytest.raises(HubspokeError, match="compacting"):
        ledger.compact()


def test_values_of_two_types_are_not_written_as_one(tmp_path: Path) -> None:
    """As one file, 1 and 1.5 would be 1.0 and 1.5, and so would their texts."""
    ledger = Ledger(tmp_path, 7)
    ledger.copy()
    for data_type in ("INTEGER", "INTEGER", "DOUBLE", "VARCHAR"):
        ledger.columns["amount"] = data_type
        ledger.batch(12)
    before = ledger.views()
    assert ledger.compact().loads == (5, 4)
    assert ledger.views() == before


def test_loads_beyond_a_files_size_are_divided(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "FILE_BYTES", 4_000_000)
    monkeypatch.setattr(compaction, "SMALL_FILE_BYTES", 2_000_000)
    ledger = Ledger(tmp_path)
    rows = [{"id": key, "name": random.randbytes(20).hex(), "note": "x"} for key in range(300_000)]
    ledger.land("whole", rows, files=10)
    ledger.batch()
    before = ledger.views(only="")
    done = ledger.compact()
    assert (done.files[0], 2 < done.files[1] < 8) == (11, True)
    assert ledger.views(only="") == before
    assert ledger.compact().is_nothing


def test_a_kill_at_any_instant_leaves_the_table_as_it_is(tmp_path: Path) -> None:
    ledger = Ledger(tmp_path, 8, "30 days")
    ledger.copy(200, files=3)
    for _ in range(12):
        ledger.batch(20)
        ledger.at += timedelta(days=1)
    period = (timedelta(days=30) / compaction.PERIODS).total_seconds()
    # within one period of the retention, whatever the time is: the one before the current one
    ledger.at = datetime.fromtimestamp((time.time() // period - 1) * period, UTC)
    for _ in range(10):
        ledger.batch(20)
    before = ledger.views(only="")
    code = (
        "import sys; from datetime import timedelta; from pathlib import Path; from hubspoke.project import Project;"
        "from hubspoke.compaction import compact; from hubspoke.sources import SourceTable;"
        "table = SourceTable(source='bank', table='accounts', declared_in=Path('x'), retention='30 days');"
        "root = Path(sys.argv[1]); print('ready', flush=True); compact(Project(root, root), [table], timedelta(0))"
    )
    finished = 0
    for attempt in range(6):
        process = subprocess.Popen([sys.executable, "-c", code, str(tmp_path)], stdout=subprocess.PIPE, text=True)
        assert process.stdout is not None
        process.stdout.readline()
        time.sleep(0.02 + 0.04 * attempt)
        finished += process.poll() is not None
        process.kill()
        process.wait()
        assert ledger.views(only="") == before
    ledger.compact()
    assert ledger.views(only="") == before
    assert len(ledger.folders()) == len(ledger.zone.loads("bank", "accounts")) == 3
    assert not list((ledger.zone.root / ".compaction/bank").glob("*/"))
    assert finished < 6


def test_readers_notice_nothing(tmp_path: Path) -> None:
    """They list, note what they read and read it, as a build does, while it is landed and compacted without a pause."""
    ledger = Ledger(tmp_path, 9)
    ledger.copy()
    ends = threading.Event()
    reads: list[int] = []
    faults: list[BaseException] = []

    def read() -> None:
        try:
            while not ends.is_set():
                reached = ledger.zone.reached("bank")
                content = ledger.zone.content("bank", "accounts", reached)
                assert content is not None
                ledger.zone.pin(f"bank/accounts/{load.load_id}" for load in [content.whole, *content.changes] if load)
                log = table_views(ledger.zone, "bank", "accounts", content)["__log"]
                counts = {duckdb.sql(f"select count(*) from ({log})").fetchone() for _ in range(3)}
                assert len(counts) == 1
                assert reads[-1:] <= [count for (count,) in counts if (count,)], "nothing of the log is ever lost"
                reads.extend(count for (count,) in counts if count)
        except BaseException as error:
            faults.append(error)

    reader = threading.Thread(target=read)
    reader.start()
    for _ in range(12):
        ledger.batch()
        ledger.batch()
        ledger.compact(timedelta(seconds=2))
    ends.set()
    reader.join()
    assert not faults
    assert len(reads) > 5
    assert len(ledger.zone.loads("bank", "accounts")) == 3


def test_what_has_piled_up_is_compacted_by_itself(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compaction, "PILE", 6)
    ledger = Ledger(tmp_path, 10)
    ledger.copy()
    told: list[str] = []
    for _ in range(6):
        ledger.batch()
        tidy(ledger.project, [ledger.table], told.append)
    assert len(ledger.zone.loads("bank", "accounts")) == 7
    ledger.batch()
    tidy(ledger.project, [ledger.table], told.append)
    assert [load.stands_for_others for load in ledger.zone.loads("bank", "accounts")] == [False, True, False]
    assert len(told) == 1
    assert "8 -> 3 loads" in told[0]
    with exclusive(ledger.zone.root / ".compaction/bank", "compacting"):
        tidy(ledger.project, [ledger.table], told.append)
    assert "Another process is compacting" in told[-1]


# --- files and databases as sources


class Shop:
    """A project with tables that files and a database hold."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.project = Project(root, root / "warehouse")
        self.zone = LandingZone(self.project.landing)
        (root / "models").mkdir(parents=True)
        (root / "exports").mkdir()
        (root / "dbt_project.yml").touch()

    def declare(self, meta: str, ingest_meta: str = "mechanism: export, location: exports") -> list[SourceTable]:
        (self.root / "models/_shop__sources.yml").write_text(
            f"sources:\n  - name: shop\n    config: {{ meta: {{ ingest: {{ {ingest_meta} }} }} }}\n    tables:\n"
            f"      - name: lines\n        config: {{ meta: {{ {meta} }} }}\n        columns: "
            "[{ name: id, data_type: bigint }, { name: name, data_type: varchar }]\n"
        )
        return read_sources(self.root)

    def rows(self) -> list[tuple]:
        content = self.zone.content("shop", "lines")
        assert content is not None
        return duckdb.sql(f"from ({table_views(self.zone, 'shop', 'lines', content)['']}) order by all").fetchall()


def test_appended_files_go_on_after_compaction_and_rejected_rows_are_kept(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    tables = shop.declare("files: '*.csv', load: append, key: id")
    for number in range(6):
        (tmp_path / f"exports/{number}.csv").write_text(f"id,name\n{number},a{number}\n0,zero{number}\nbad,{number}\n")
        ingest(shop.project, tables)
    before = shop.rows()
    [done] = compact(shop.project, tables, NOW)
    assert (done.loads, done.files) == ((6, 3), (6, 3))
    assert shop.rows() == before
    merged = shop.zone.loads("shop", "lines")[1]
    assert (merged.rows, merged.rejected, merged.rows_in) == (8, 4, 12)
    rejects = shop.zone.root / "shop/lines" / merged.load_id / REJECTS
    assert duckdb.sql(f"select raw from '{rejects}' order by file").fetchall() == [(f"bad,{n}",) for n in range(1, 5)]
    assert [outcome.is_new for outcome in ingest(shop.project, tables)] == [False]
    (tmp_path / "exports/2.csv").write_text("id,name\n2,changed\n")
    ingest(shop.project, tables)
    assert [row[1] for row in shop.rows()] == ["zero5", "a1", "changed", "a3", "a4", "a5"]


def test_a_cursor_goes_on_after_compaction(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOKE_CONNECTION_ERP", f"sqlite:///{tmp_path}/erp.db")
    shop = Shop(tmp_path)
    tables = shop.declare("cursor: id, lookback: 3, key: id", "mechanism: export, connection: erp")
    with sqlite3.connect(tmp_path / "erp.db", isolation_level=None) as database:
        database.execute("create table lines (id integer primary key, name text)")
        for number in range(6):
            database.execute("insert into lines values (?, ?)", [number, f"a{number}"])
            ingest(shop.project, tables)
    before = shop.rows()
    [done] = compact(shop.project, tables, NOW)
    assert done.loads == (6, 3)
    assert shop.rows() == before
    assert [outcome.is_new for outcome in ingest(shop.project, tables)] == [False], "what has landed is known"


def test_whole_copies_go_after_their_retention_and_not_before(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    tables = shop.declare("file: lines.csv")
    for number in range(3):
        (tmp_path / "exports/lines.csv").write_text(f"id,name\n{number},a\n")
        ingest(shop.project, tables)
    first = shop.zone.loads("shop", "lines")[0]
    commit = shop.zone.root / "shop/lines" / first.load_id / "commit.json"
    commit.write_text(first.model_copy(update={"loaded_at": first.loaded_at - timedelta(days=8)}).model_dump_json())
    assert compact(shop.project, tables, NOW)[0].is_nothing
    tables = shop.declare(
        "file: lines.csv, retention: 2 weeks", "mechanism: export, location: exports, retention: 1 day"
    )
    assert compact(shop.project, tables, NOW)[0].is_nothing
    tables = shop.declare("file: lines.csv", "mechanism: export, location: exports, retention: 1 week")
    [done] = compact(shop.project, tables, NOW)
    assert done.removed == 1
    assert [load.sequence for load in shop.zone.loads("shop", "lines")] == [2, 3]


@pytest.mark.parametrize("given", ["90", "3 fortnights", "0 days", "'-1 days'", "[1]"])
def test_a_retention_that_is_no_time_is_named_with_its_line(tmp_path: Path, given: str) -> None:
    shop = Shop(tmp_path)
    with pytest.raises(HubspokeError, match=r"_shop__sources.yml:6: .*retention: .* write for example 90 days"):
        shop.declare(f"file: lines.csv, retention: {given}")
    with pytest.raises(HubspokeError, match=r"_shop__sources.yml:3: .*retention: .* write for example 90 days"):
        shop.declare("file: lines.csv", f"mechanism: export, location: exports, retention: {given}")


# --- with a build


def test_a_build_notes_what_it_reads_and_is_not_built_again_for_a_compaction(tmp_path: Path) -> None:
    sandbox = minimal_project(tmp_path / "project")
    project = Project(sandbox.root, sandbox.root / "warehouse")
    staging = sandbox.root / "models/hub/staging/shop"
    staging.mkdir(parents=True)
    (staging / "_shop__sources.yml").write_text(
        "sources:\n  - name: shop\n    schema: landing_shop\n"
        "    config: { meta: { owner: Shop, ingest: { mechanism: export, location: exports } } }\n"
        "    tables: [{ name: lines, config: { meta: { files: '*.csv', load: append } } }]\n"
    )
    (sandbox.root / "models/hub/core/lines.sql").write_text("select * from {{ source('shop', 'lines') }}")
    (sandbox.root / "exports").mkdir()
    for number in range(4):
        (sandbox.root / f"exports/{number}.csv").write_text(f"id\n{number}\n")
        ingest(project, read_sources(sandbox.root))
    sandbox.run("dbt", "build")
    builds = "select count(*) from runs.builds where node_id like 'source.%'"
    count, rows = sandbox.query(builds), sandbox.query("from landing_shop.lines order by id")
    zone = LandingZone(project.landing)
    first = {f"shop/lines/{load.load_id}" for load in zone.loads("shop", "lines")}
    assert zone.pinned() == first
    told = sandbox.run("hubspoke", "landing", "compact", "--grace", "0").stdout
    assert "4 -> 3 loads, 4 -> 3 files" in told
    assert "freed later" in told
    assert sandbox.query("from landing_shop.lines order by id") == rows, "the views of the last build hold"
    sandbox.run("dbt", "build")
    assert sandbox.query(builds) == count, "nothing new has landed"
    assert sandbox.query("from landing_shop.lines order by id") == rows
    # what the run before has read is noted still: this one might have ended before it had made its own views
    assert zone.pinned() == first | {f"shop/lines/{load.load_id}" for load in zone.loads("shop", "lines")}
    with duckdb.connect(project.hub) as hub:
        pinned_tables(project, hub)  # as the next run begins
    [done] = compact(project, read_sources(sandbox.root), NOW)
    assert done.removed == 2
    assert sandbox.query("from landing_shop.lines order by id") == rows


# --- the report


def test_the_report_finds_what_is_planted(tmp_path: Path) -> None:
    shop = Shop(tmp_path)
    tables = shop.declare("files: '*.csv', load: append, frequency: daily")
    for number in range(12):
        (tmp_path / f"exports/{number}.csv").write_text(f"id,name\n{number},a\nbad,b\n")
        ingest(shop.project, tables)
    folder = shop.zone.root / "shop/lines"
    load = shop.zone.loads("shop", "lines")[-1]
    [table] = report(shop.project)
    assert [finding.kind for finding in table.findings] == ["small files"]
    assert (table.loads, table.files, table.rows, table.rejected) == (12, 12, 12, 12)
    assert table.daily[-1] == 12
    assert table.grown(7) == (12, table.size)
    tables = shop.declare("file: 0.csv, frequency: daily")  # now a copy each time
    for name in ("a", "b"):
        (tmp_path / "exports/0.csv").write_text(f"id,name\n0,{name}\n")
        ingest(shop.project, tables)

    position = Position(position=5, as_of=load.loaded_at)
    write_whole(shop.zone.root / "shop/position.json", position.model_dump_json())
    draft = shop.zone.begin("shop", "lines", 90, "x")
    (draft.folder / "commit.json").write_text(
        load.model_copy(update={"load_id": draft.load_id, "position": 9}).model_dump_json()
    )
    commit_folder(draft.folder, draft.folder.with_name(draft.load_id))
    shop.zone.begin("shop", "lines", 91, "x")
    (folder / "notes.txt").write_text("x")
    (folder / load.load_id / "lines.csv").write_text("x")
    for name, options in {
        "lz4.parquet": "compression lz4",
        "plain.parquet": "compression uncompressed",
        "groups.parquet": "row_group_size 2048",
        "group.parquet": "row_group_size 3000000",
    }.items():
        rows = 3_000_000 if name == "group.parquet" else 10_000
        target = folder / load.load_id / name
        duckdb.sql(f"copy (from range({rows}) it (id)) to '{target}' (format parquet, {options})")
    (folder / load.load_id / "broken.parquet").write_bytes(b"PAR1")
    orphan = shop.zone.root / "gone/orders/000001-x"
    orphan.mkdir(parents=True)
    (orphan / "commit.json").write_text(load.model_copy(update={"load_id": "000001-x"}).model_dump_json())

    later = datetime.now(UTC) + timedelta(days=2)
    orders, lines = report(shop.project, now=later)
    said = "\n".join(f"{finding.kind}: {finding.says}" for finding in [*orders.findings, *lines.findings])
    for pattern in (
        "orphaned: no YAML declares it any more",
        "stale: something new is expected daily, and its newest load is 2.0 days old",
        "older copies: 13 loads were before its newest whole copy",
        "leftover: 000091-x.unfinished",
        "beyond: 1 loads lie beyond",
        r"odd format: notes.txt lies beside the loads",
        r"odd format: .*/lines.csv is not Parquet",
        r"odd format: .*/lz4.parquet is written with lz4",
        r"odd format: .*/plain.parquet is written with uncompressed",
        r"odd format: .*/groups.parquet has 5 row groups of 2,000 rows",
        r"odd format: .*/group.parquet has a row group of 3,000,000 rows",
        r"odd format: .*/broken.parquet cannot be read as Parquet",
    ):
        assert len(re.findall(pattern, said)) == 1, pattern
    assert "expired" not in said
    shop.declare("file: 0.csv, retention: 1 day")
    assert "EXPIRED: 13 loads are older than its retention" in str(report(shop.project, ("shop",), later)[0])
    with pytest.raises(HubspokeError, match=r"no source shops; there are gone, gone[.]orders, shop, shop[.]lines"):
        report(shop.project, ("shops",))


def test_the_report_is_a_page_that_needs_no_network(built: Sandbox, tmp_path: Path) -> None:
    told = built.run("hubspoke", "landing", "report").stdout
    assert "pos.transactions" in told
    assert "8 tables" in told
    page = tmp_path / "landing.html"
    built.run("hubspoke", "landing", "report", "--html", str(page), "pos")
    text = page.read_text()
    assert "pos.transactions" in text
    assert "crm." not in text
    assert "<svg" in text
    assert not re.search(r"(src|href)=", text)
