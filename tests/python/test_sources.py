from pathlib import Path

import pytest

from hubspoke.errors import HubspokeError
from hubspoke.sources import read_sources

ROOT = Path(__file__).parents[2]
GOOD = """
sources:
  - name: shop
    config: { meta: { ingest: { mechanism: export, location: exports } } }
    tables:
      - { name: lines, config: { meta: { file: lines.parquet } } }
"""


def read(tmp_path: Path, text: str) -> list[str]:
    (tmp_path / "models").mkdir()
    (tmp_path / "models/_shop__sources.yml").write_text(text)
    return [table.name for table in read_sources(tmp_path)]


def test_the_running_example_has_eight_tables_of_five_sources() -> None:
    tables = read_sources(ROOT)
    assert len(tables) == 8
    assert {table.source for table in tables} == {"pos", "catalog", "crm", "marketing", "merchandising"}
    assert all(table.path.is_file() for table in tables)


def test_a_location_is_a_folder_of_the_project(tmp_path: Path) -> None:
    assert read(tmp_path, GOOD) == ["shop.lines"]
    assert read_sources(tmp_path)[0].path == tmp_path / "exports/lines.parquet"


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        (
            "mechanism: export",
            "mechanism: exports",
            4,
            "exports is not one of export, federated, cdc, stream. Do you mean export?",
        ),
        (
            "location: exports",
            "locaton: exports",
            4,
            "locaton: there is no such setting; there are mechanism, location",
        ),
        ("location: exports", "locaton: exports", 4, "Do you mean location?"),
        (", location: exports", "", 4, "needs location (files) or connection"),
        ("mechanism: export", "mechanism: federated", 4, "mechanism federated: needs connection"),
        ("location: exports", "location: package:no_such_package/data", 4, "no_such_package is not installed"),
        ("location: exports", "location: exports, schedule: daily", 4, "five fields as cron writes them"),
        ("location: exports", "location: exports, max_rejected_share: 2", 4, "less than or equal to 1"),
        ("config: { meta: { file: lines.parquet } }", "description: x", 6, "table lines: say which file"),
        ("file: lines.parquet", "fiel: lines.parquet", 6, "meta.fiel: there is no such setting"),
        ("file: lines.parquet", "fiel: lines.parquet", 6, "Do you mean file?"),
        ("file: lines.parquet", "file: lines.doc", 6, "say format: one of csv, json, jsonl, parquet, xlsx"),
        ("file: lines.parquet", "file: lines.csv, csv: { delimeter: ';' }", 6, "Do you mean delimiter?"),
        ("file: lines.parquet", "file: lines.csv, csv: { delimiter: ';;' }", 6, "csv.delimiter"),
        ("file: lines.parquet", "file: lines.csv, load: append", 6, "load: append is for several files"),
        ("file: lines.parquet", "file: lines.csv, cursor: id", 6, "cursor is for a database or REST"),
    ],
)
def test_a_mistake_is_named_with_its_file_and_line(tmp_path: Path, old: str, new: str, line: int, message: str) -> None:
    with pytest.raises(HubspokeError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert f"models/_shop__sources.yml:{line}: " in str(error.value)
    assert message in str(error.value)


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(HubspokeError) as error:
        read(tmp_path, GOOD.replace("file: lines.parquet", "fiel: lines.parquet, loda: append"))
    assert len(str(error.value).splitlines()) == 3


def test_what_is_no_yaml_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(HubspokeError, match=r"models/_shop__sources.yml: not valid YAML"):
        read(tmp_path, "sources: [")
