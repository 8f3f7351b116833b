from pathlib import Path

import pytest

from hubspoke.errors import HubspokeError
from hubspoke.sources import SourceTable, read_sources

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


HERE = """
sources:
  - name: shop
    config: { meta: { ingest: { mechanism: cdc, connection: shop } } }
    tables:
      - { name: lines, config: { meta: { key: [id] } } }
"""


def read_here(tmp_path: Path, here: str) -> list[SourceTable]:
    (tmp_path / "models").mkdir()
    declared = GOOD.replace("lines.parquet } }", "lines.parquet } }, columns: [{ name: id }]")
    (tmp_path / "models/_shop__sources.yml").write_text(declared)
    (tmp_path / "here.yml").write_text(here)
    return read_sources(tmp_path, {"HUBSPOKE_SOURCES": "here.yml"})


def test_a_source_may_be_elsewhere_in_one_environment(tmp_path: Path) -> None:
    [table] = read_here(tmp_path, HERE)
    assert (table.ingest.mechanism, table.ingest.connection, table.ingest.location) == ("cdc", "shop", None)
    assert (table.file, table.key, table.relation) == ("", ("id",), "public.lines")
    assert table.columns == {"id": "varchar"}  # they are the project's
    assert table.declared_in == Path("here.yml")
    [table] = read_sources(tmp_path, {})
    assert (table.ingest.mechanism, table.file) == ("export", "lines.parquet")


def test_a_table_that_is_not_named_there_is_as_the_project_says(tmp_path: Path) -> None:
    [table] = read_here(
        tmp_path, "sources: [{ name: shop, config: { meta: { ingest: { mechanism: export, location: there } } } }]"
    )
    assert table.path == tmp_path / "there/lines.parquet"


def test_the_file_may_be_anywhere_and_must_be_there(tmp_path: Path) -> None:
    read_here(tmp_path, HERE)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (tmp_path / "here.yml").rename(elsewhere / "here.yml")
    assert read_sources(tmp_path, {"HUBSPOKE_SOURCES": str(elsewhere / "here.yml")})[0].ingest.mechanism == "cdc"
    with pytest.raises(HubspokeError, match=r"HUBSPOKE_SOURCES names .*/here.yml, and there is no such file"):
        read_sources(tmp_path, {"HUBSPOKE_SOURCES": "here.yml"})


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("mechanism: cdc", "mechanism: cdcc", 4, "cdcc is not one of export, federated, cdc"),
        ("connection", "conection", 4, "Do you mean connection?"),
        (", connection: shop", "", 4, "mechanism cdc: needs connection"),
        ("ingest:", "ingset:", 4, "there is no such setting; there are ingest. Do you mean ingest?"),
        ("tables:", "tabels:", 5, "Do you mean tables?"),
        ("name: shop\n", "name: shopp\n", 3, "the project has no such source; there are shop. Do you mean shop?"),
        ("name: lines", "name: line", 6, "source shop has no such table; there are lines. Do you mean lines?"),
        ("key: [id]", "kee: [id]", 6, "source shop, table lines: meta.kee: there is no such setting"),
        ("key: [id]", "key: [idd]", 6, "idd is none of its columns. Do you mean id?"),
        ("config: { meta: { key: [id] } }", "columns: []", 6, "columns: there is no such setting"),
        ("cdc, connection: shop", "federated, connection: shop, pin: maybe", 4, "meta.ingest: pin: "),
        (
            "mechanism: cdc, connection: shop",
            "mechanism: export, location: there",
            6,
            "table lines: say which file it is",
        ),
        (
            "  - name: shop",
            "  - name: shop\n    config: { meta: { ingest: {} } }\n  - name: shop",
            5,
            "stands here twice",
        ),
        ("sources:", "source:", 1, "sources: is missing"),
    ],
)
def test_a_mistake_there_is_named_with_that_file_and_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    assert old in HERE
    with pytest.raises(HubspokeError) as error:
        read_here(tmp_path, HERE.replace(old, new))
    told = [text for text in str(error.value).splitlines() if message in text]
    assert told, str(error.value)
    assert told[0].startswith(f"here.yml:{line}: "), told


def test_files_of_the_project_do_not_suit_a_database_elsewhere(tmp_path: Path) -> None:
    with pytest.raises(
        HubspokeError, match=r"here.yml:1: source shop, table lines: file and files are for a source with"
    ):
        read_here(
            tmp_path, "sources: [{ name: shop, config: { meta: { ingest: { mechanism: export, connection: s } } } }]"
        )


def test_every_mistake_of_a_file_is_named_at_once(tmp_path: Path) -> None:
    with pytest.raises(HubspokeError) as error:
        read(tmp_path, GOOD.replace("file: lines.parquet", "fiel: lines.parquet, loda: append"))
    assert len(str(error.value).splitlines()) == 3


def test_what_is_no_yaml_is_named_with_its_file(tmp_path: Path) -> None:
    with pytest.raises(HubspokeError, match=r"models/_shop__sources.yml: not valid YAML"):
        read(tmp_path, "sources: [")
