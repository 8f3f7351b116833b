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
    ("old", "new", "message"),
    [
        ("mechanism: export", "mechanism: telepathy", "mechanism: Input should be 'export'"),
        ("location: exports", "place: exports", "place: Extra inputs are not permitted"),
        (", location: exports", "", "location: Field required for mechanism export"),
        ("location: exports", "location: package:no_such_package/data", "no_such_package is not installed"),
        ("config: { meta: { file: lines.parquet } }", "description: x", "table lines: say which file"),
        ("sources:", "sources: [", "not valid YAML"),
    ],
)
def test_a_mistake_is_named_with_its_file(tmp_path: Path, old: str, new: str, message: str) -> None:
    with pytest.raises(HubspokeError) as error:
        read(tmp_path, GOOD.replace(old, new))
    assert "models/_shop__sources.yml" in str(error.value)
    assert message in str(error.value)
