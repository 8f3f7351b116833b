"""Files as sources: whatever is in them, the load ends well, and rows in = rows landed + rejected."""

import csv
import gzip
import io
import json
import os
import re
import signal
import subprocess
import sys
import time
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import duckdb
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from hubspoke.changelog import table_views
from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.landing import REJECTS, LandingZone, Load, Outcome
from hubspoke.project import Project
from hubspoke.sources import read_sources

COLUMNS = (
    "columns: [{ name: id, data_type: bigint }, { name: name, data_type: varchar }, { name: day, data_type: date }, "
    "{ name: amount, data_type: 'decimal(10,2)' }]"
)


@dataclass
class Shop:
    """A project with one table that files hold."""

    root: Path

    @property
    def project(self) -> Project:
        return Project(self.root, self.root / "warehouse")

    @property
    def zone(self) -> LandingZone:
        return LandingZone(self.project.landing)

    def declare(self, meta: str, more: str = "", columns: str = COLUMNS) -> "Shop":
        (self.root / "models").mkdir(exist_ok=True, parents=True)
        (self.root / "exports").mkdir(exist_ok=True)
        (self.root / "models/_shop__sources.yml").write_text(
            f"""
sources:
  - name: shop
    config: {{ meta: {{ ingest: {{ mechanism: export, location: exports {more} }} }} }}
    tables:
      - name: lines
        config: {{ meta: {{ {meta} }} }}
        {columns}
"""
        )
        return self

    def put(self, name: str, content: bytes | str) -> None:
        (self.root / "exports" / name).write_bytes(content.encode() if isinstance(content, str) else content)

    def ingest(self) -> Outcome:
        [outcome] = ingest(self.project, read_sources(self.root))
        return outcome

    @property
    def load(self) -> Load:
        load = self.zone.current("shop", "lines")
        assert load is not None
        return load

    def rows(self, columns: str = "*") -> list[tuple]:
        content = self.zone.content("shop", "lines")
        assert content is not None
        sql = table_views(self.zone, "shop", "lines", content)[""]
        return duckdb.sql(f"select {columns} from ({sql}) order by all").fetchall()

    def rejects(self) -> list[tuple]:
        file = self.zone.root / "shop/lines" / self.load.load_id / REJECTS
        return duckdb.sql(f"select line, columns, raw, reason from '{file}' order by line").fetchall()


@pytest.fixture
def shop(tmp_path: Path) -> Shop:
    return Shop(tmp_path)


HEADER = "id,name,day,amount\n"
GOOD = "1,a,2024-01-01,1.50\n"


@pytest.mark.parametrize(
    ("line", "reason"),
    [
        (b"x,a,2024-01-01,1.50", "id: x is not BIGINT"),
        (b"2.5,a,2024-01-01,1.50", "id: 2.5 is not BIGINT"),
        (b"2,a,2024-13-01,1.50", "day: 2024-13-01 is not DATE"),
        (b"2,a,2024-01-01,1.505", r"amount: 1.505 is not DECIMAL\(10,2\)"),
        (b"y,a,noon,1.50", "id: y is not BIGINT; day: noon is not DATE"),
        (b"2,a,2024-01-01", "3 values where there are 4 columns"),
        (b"2,a,2024-01-01,1.50,9", "5 values where there are 4 columns"),
        (b"2,\xff\xfe,2024-01-01,1.50", "not written in utf-8"),
        (b'2,"a,2024-01-01,1.50', "quotes do not match"),
        (b'2,"a"b,2024-01-01,1.50', "quotes do not match"),
    ],
)
def test_a_line_that_cannot_be_read_is_rejected_with_its_reason(shop: Shop, line: bytes, reason: str) -> None:
    shop.declare("file: lines.csv")
    shop.put("lines.csv", (HEADER + GOOD).encode() + line + b"\n3,c,2024-01-03,3\n")
    assert shop.ingest() == Outcome("shop.lines", 2, is_new=True, rejected=1)
    assert shop.rows("id") == [(1,), (3,)]
    assert (shop.load.rows_in, shop.load.rows, shop.load.rejected) == (3, 2, 1)
    [(number, _, raw, told)] = shop.rejects()
    assert number == 3
    assert raw == line.decode("utf-8", "backslashreplace")
    assert re.search(reason, told)


@pytest.mark.parametrize(
    ("content", "rows"),
    [
        (HEADER + '1,"two\nlines",2024-01-01,1\n', 1),
        (HEADER + GOOD.rstrip("\n"), 1),
        (HEADER.replace("\n", "\r\n") + GOOD.replace("\n", "\r\n"), 1),
        (HEADER.replace("\n", "\r\n") + GOOD + GOOD.replace("\n", "\r\n"), 2),
        (HEADER + "\n" + GOOD + "\n\n", 1),
        ("\ufeff" + HEADER + GOOD, 1),
        (HEADER + f"1,{'z' * 3_000_000},2024-01-01,1\n", 1),
        (HEADER + "1,a\0b,2024-01-01,1\n", 1),
        ("amount,ID,day,name\n1,1,2024-01-01,a\n", 1),
        (HEADER, 0),
        ("", 0),
    ],
    ids=["newline", "no end", "crlf", "mixed", "blank", "bom", "huge", "nul", "order", "header", "empty"],
)
def test_odd_files_that_are_right_land_whole(shop: Shop, content: str, rows: int) -> None:
    shop.declare("file: lines.csv")
    shop.put("lines.csv", content)
    assert shop.ingest() == Outcome("shop.lines", rows, is_new=True)
    assert shop.rows("id") == [(1,)] * rows


@pytest.mark.parametrize(
    ("name", "content"),
    [
        ("lines.csv", b"PAR1\x00\x15\x02rubbish\x00\x01PAR1"),
        ("lines.csv", b"other,names\n1,2\n"),
        ("lines.csv", b"id,id,name\n1,2,3\n"),
        ("lines.parquet", b"id,name\n1,a\n"),
        ("lines.xlsx", b"no workbook"),
        ("lines.csv.gz", gzip.compress(b"id,name\n" * 5000)[:-20]),
        ("lines.csv.zip", b"PK\x03\x04rubbish"),
        ("lines.jsonl", b"\x00\x01\x02\xff\n\xfe"),
        ("lines.json", b'[{"id": 1, "na'),
    ],
    ids=[
        "parquet as csv",
        "other names",
        "a name twice",
        "csv as parquet",
        "xlsx",
        "gz cut",
        "zip",
        "jsonl",
        "json cut",
    ],
)
def test_a_file_that_is_none_is_one_error_and_what_had_landed_stays(shop: Shop, name: str, content: bytes) -> None:
    shop.declare(f"file: {name}")
    shop.put(name, content)
    with pytest.raises(HubspokeError, match=r"shop.lines.*Nothing was landed"):
        shop.ingest()
    assert shop.zone.loads("shop", "lines") == []
    assert not list(shop.zone.root.rglob("*.unfinished"))


def packed(content: bytes, name: str) -> bytes:
    if name.endswith(".gz"):
        return gzip.compress(content)
    if name.endswith(".zip"):
        buffer = io.BytesIO()
        with zipfile.ZipFile(buffer, "w") as archive:
            archive.writestr("inner" + Path(name).with_suffix("").suffix, content)
        return buffer.getvalue()
    return content


@pytest.mark.parametrize("packing", ["", ".gz", ".zip"])
@pytest.mark.parametrize("form", ["csv", "json", "jsonl", "parquet"])
def test_every_format_and_packing_lands_the_same_rows(shop: Shop, form: str, packing: str) -> None:
    target = shop.root / f"plain.{form}"
    how = {"csv": "header", "json": "format json, array true", "jsonl": "format json", "parquet": "format parquet"}[
        form
    ]
    duckdb.sql(
        "copy (select range as id, 'ä' || range as name, date '2024-01-01' as day, cast(1.5 as decimal(10,2)) as "
        f"amount from range(50)) to '{target}' ({how})"
    )
    shop.declare(f"file: lines.{form}{packing}")
    shop.put(f"lines.{form}{packing}", packed(target.read_bytes(), f"lines.{form}{packing}"))
    assert shop.ingest() == Outcome("shop.lines", 50, is_new=True)
    answer = shop.rows("count(*), min(name), sum(amount), typeof(min(id)), typeof(min(day))")
    assert [tuple(map(str, row)) for row in answer] == [("50", "ä0", "75.00", "BIGINT", "DATE")]


@pytest.mark.parametrize("encoding", ["latin-1", "cp1252", "utf-16", "shift_jis"])
def test_a_file_is_read_in_its_encoding(shop: Shop, encoding: str) -> None:
    word = {"shift_jis": "日本", "latin-1": "é"}.get(encoding, "é€")
    shop.declare(f"file: lines.csv, csv: {{ encoding: {encoding}, delimiter: ';', quote: \"'\", missing: NA }}")
    shop.put("lines.csv", f"id;name;day;amount\n1;'{word};';2024-01-01;NA\n".encode(encoding))
    assert shop.ingest().rows == 1
    assert shop.rows("name, amount") == [(f"{word};", None)]


cells = st.one_of(
    st.integers(-(10**20), 10**20).map(str),
    st.sampled_from(
        ["", "1", "2.0", "2.5", "1e3", " 7 ", "2024-02-29", "2023-02-29", "NaN", "-0", "1.005", "true", "'"]
    ),
    st.text(st.characters(codec="utf-8", exclude_characters="\r"), max_size=6),
)


@settings(max_examples=40, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(
    table=st.lists(st.lists(cells, min_size=3, max_size=5), max_size=8),
    spoil=st.binary(max_size=4),
    at=st.integers(0, 200),
)
def test_no_row_of_a_file_is_lost_whatever_it_holds(
    table: list[list[str]], spoil: bytes, at: int, tmp_path_factory: pytest.TempPathFactory
) -> None:
    shop = Shop(tmp_path_factory.mktemp("fuzz")).declare("file: lines.csv")
    buffer = io.StringIO()
    csv.writer(buffer, lineterminator="\n").writerows(table)
    shop.put("lines.csv", HEADER + buffer.getvalue())
    whole = [row for row in table if len(row) == 4]
    try:
        outcome = shop.ingest()
    except HubspokeError as error:
        assert "no row can be landed" in str(error)
    else:
        assert shop.load.rows_in == outcome.rows + outcome.rejected == len(table)
        assert outcome.rejected >= len(table) - len(whole)
    # and with bytes that belong to nothing, it ends well
    content = (HEADER + buffer.getvalue()).encode()
    shop.put("lines.csv", content[: len(HEADER) + at] + spoil + content[len(HEADER) + at :])
    try:
        shop.ingest()
    except HubspokeError as error:
        assert "Nothing was landed" in str(error)
    else:
        assert shop.load.rows_in == shop.load.rows + shop.load.rejected


def test_objects_that_cannot_be_read_are_rejected_and_the_others_land(shop: Shop) -> None:
    shop.declare("file: lines.jsonl")
    shop.put(
        "lines.jsonl",
        b'{"id": 1, "name": {"a": [1]}, "more": true}\n{"id": 2,\n[3]\n{"id": "4", "day": "2024-01-01"}\n{"id": 5.5}\n'
        b'{"id": 6, "name": "\xff"}\n\n{"id": 7, "name": "\\ud800"}\n',
    )
    outcome = shop.ingest()
    assert (outcome.rows, outcome.rejected) == (2, 5)
    assert shop.rows("id, name, more") == [(1, '{"a":[1]}', "true"), (4, None, None)]
    assert [row[0] for row in shop.rejects()] == [2, 3, 5, 6, 8]


@pytest.mark.parametrize(
    ("written", "landed"),
    [
        ("5", 5),
        ('"7"', 7),
        ("-3.0", -3),
        ("null", None),
        ("9007199254740993", 2**53 + 1),  # no double
        ("-9223372036854775808", -(2**63)),
        ("9223372036854775808", "9223372036854775808 is not BIGINT"),
        ("5.5", "5.5 is not BIGINT"),
        ("1e400", "is not BIGINT"),
        ("true", "true is not BIGINT"),
        ('"x"', "x is not BIGINT"),
    ],
)
@pytest.mark.parametrize("form", ["jsonl", "json"])
def test_a_whole_number_in_json_is_the_one_that_was_written(
    shop: Shop, form: str, written: str, landed: int | str | None
) -> None:
    shop.declare(f"file: lines.{form}")
    objects = [f'{{"id": {number}, "name": "{number.strip(chr(34))}"}}' for number in ("1", written)]
    shop.put(f"lines.{form}", "\n".join(objects) if form == "jsonl" else f"[{', '.join(objects)}]")
    shop.ingest()
    assert (shop.load.rows, shop.load.rejected) == ((1, 1) if isinstance(landed, str) else (2, 0))
    if isinstance(landed, str):
        assert landed in shop.rejects()[0][-1]
    else:
        assert set(shop.rows("id")) == {(1,), (landed,)}


def test_limits_stop_a_load(shop: Shop) -> None:
    for limit, stops in [
        ("max_rejected: 1", True),
        ("max_rejected: 2", False),
        ("max_rejected_share: 0.19", True),
        ("max_rejected_share: 0.2", False),
    ]:
        shop.declare("file: lines.csv", f", {limit}")
        shop.put("lines.csv", HEADER + f"{len(limit)},,,\n" * 8 + "x,,,\ny,,,\n")
        if stops:
            with pytest.raises(HubspokeError, match=r"2 of 10 rows are rejected, more than max_rejected"):
                shop.ingest()
        else:
            shop.ingest()
            assert shop.load.rejected == 2


def test_a_corrected_declaration_reads_the_same_file_again(shop: Shop) -> None:
    shop.declare("file: lines.csv", columns="columns: [{ name: id, data_type: bigint }]")
    shop.put("lines.csv", "id\n1\nx\n")
    assert shop.ingest().rejected == 1
    shop.declare("file: lines.csv", columns="columns: [{ name: id, data_type: varchar }]")
    assert shop.ingest() == Outcome("shop.lines", 2, is_new=True)
    assert not shop.ingest().is_new


def test_new_late_changed_and_vanished_files_of_an_append(shop: Shop) -> None:
    shop.declare("files: '*.csv', load: append", columns="columns: [{ name: id, data_type: bigint }]")
    shop.put("2.csv", "id\n21\n22\n")
    assert shop.ingest() == Outcome("shop.lines", 2, is_new=True)
    shop.put("3.csv", "id\n31\n")
    shop.put("1.csv", "id\n11\n")  # late
    assert shop.ingest() == Outcome("shop.lines", 2, is_new=True)
    assert not shop.ingest().is_new
    (shop.root / "exports/3.csv").unlink()
    assert not shop.ingest().is_new
    shop.put("2.csv", "id\n29\n")  # changed
    shop.put("4.csv", b"\x00\x01")  # none
    assert shop.ingest() == Outcome("shop.lines", 3, is_new=True, rejected=1)
    assert shop.rows("id, _file") == [(11, "1.csv"), (29, "2.csv"), (31, "3.csv")]
    assert not shop.ingest().is_new
    shop.put("4.csv", "id\n41\n")
    shop.ingest()
    assert shop.rows("id") == [(11,), (29,), (31,), (41,)]


def test_a_table_that_was_whole_begins_anew_as_an_append(shop: Shop) -> None:
    shop.declare("file: 1.csv", columns="columns: [{ name: id, data_type: bigint }]")
    shop.put("1.csv", "id\n11\n")
    shop.ingest()
    shop.declare("files: '?.csv', load: append", columns="columns: [{ name: id, data_type: bigint }]")
    shop.put("2.csv", "id\n21\n")
    assert shop.ingest() == Outcome("shop.lines", 2, is_new=True)
    assert shop.rows("id, _file") == [(11, "1.csv"), (21, "2.csv")]
    shop.put("3.csv", "id\n31\n")
    assert shop.ingest() == Outcome("shop.lines", 1, is_new=True)
    assert shop.rows("id, _file") == [(11, "1.csv"), (21, "2.csv"), (31, "3.csv")]


def test_of_rows_with_one_key_that_of_the_last_file_counts(shop: Shop) -> None:
    shop.declare("files: '*.csv', load: append, key: id", columns="columns: [{ name: id, data_type: bigint }]")
    shop.put("1.csv", "id,what\n1,a\n2,a\n")
    shop.put("2.csv", "id,what\n2,b\n")
    assert shop.ingest().rows == 2
    assert shop.rows("id, what") == [(1, "a"), (2, "b")]
    load = LandingZone(shop.project.landing).current("shop", "lines")
    assert load is not None
    assert (load.rows_in, load.rows, load.rejected, load.superseded) == (3, 2, 0, 1)
    shop.put("3.csv", "id,what\n1,c\n")
    shop.ingest()
    assert shop.rows("id, what") == [(1, "c"), (2, "b")]


@pytest.mark.parametrize(
    ("policy", "check"),
    [
        ("evolve", lambda shop: shop.ingest().rows == 1 and shop.rows("id, extra, amount") == [(1, "x", None)]),
        ("freeze", lambda shop: _fails(shop, "extra is not declared.*amount is missing.*freeze")),
        ("quarantine", lambda shop: _fails(shop, "no row can be landed, 1 of 1 rows are rejected")),
    ],
)
def test_other_columns_do_what_is_declared(shop: Shop, policy: str, check: Callable[[Shop], bool]) -> None:
    shop.declare("file: lines.csv", f", on_schema_change: {policy}")
    shop.put("lines.csv", "id,name,day,extra\n1,a,2024-01-01,x\n")
    assert check(shop)


def _fails(shop: Shop, message: str) -> bool:
    with pytest.raises(HubspokeError, match=message):
        shop.ingest()
    return True


def test_kill_at_any_instant_leaves_whole_loads_and_the_next_run_ends_the_same(shop: Shop) -> None:
    shop.declare("files: '*.csv', load: append", columns="columns: [{ name: id, data_type: bigint }]")
    for number in range(4):
        rows = "".join(f"{number * 100_000 + row}\n" for row in range(40_000))
        shop.put(f"{number}.csv", f"id\n{rows}" + "x\n" * (number % 2))
    code = (
        "from pathlib import Path; from hubspoke.exports import ingest; from hubspoke.project import Project\n"
        "from hubspoke.sources import read_sources\n"
        f"root = Path({str(shop.root)!r}); ingest(Project(root, root / 'warehouse'), read_sources(root))"
    )
    for delay in (0.5, 0.9, 1.3, 1.8):
        process = subprocess.Popen([sys.executable, "-c", code])
        time.sleep(delay)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        for load in shop.zone.loads("shop", "lines"):
            assert load.rows_in == 160_002
    shop.ingest()
    assert shop.rows("count(*), count(distinct id)") == [(160_000, 160_000)]
    assert len(shop.zone.loads("shop", "lines")) == 1
    assert not list(shop.zone.root.rglob("*.unfinished"))


def test_commit_tells_what_was_read(shop: Shop) -> None:
    shop.declare("file: lines.csv")
    shop.put("lines.csv", HEADER + GOOD + "x,,,\n")
    shop.ingest()
    commit = json.loads((shop.zone.root / "shop/lines" / shop.load.load_id / "commit.json").read_text())
    assert (commit["rows_in"], commit["rows"], commit["rejected"]) == (2, 1, 1)
