"""What the documents tell people to type does what they say."""

import re
import tomllib
from pathlib import Path

import duckdb
import pytest
import yaml
from conftest import ROOT, Sandbox

DOCUMENTS = sorted(path for path in ROOT.glob("**/*.md") if not {".venv", "target"} & set(path.parts))


def blocks(document: str, language: str) -> list[str]:
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / document).read_text(), flags=re.DOTALL)


def write_named_blocks(sandbox: Sandbox, document: str) -> None:
    """Write every block that starts with a comment of its path to that path."""
    for block in blocks(document, "sql") + blocks(document, "yaml"):
        named = re.match(r"(?:--|#) (models/\S+)\n", block)
        if named:
            (sandbox.root / named.group(1)).write_text(block)


@pytest.mark.parametrize("document", DOCUMENTS, ids=[str(path.relative_to(ROOT)) for path in DOCUMENTS])
def test_links_lead_somewhere(document: Path) -> None:
    for target in re.findall(r"\]\(([^)#]+)(?:#[^)]*)?\)", document.read_text()):
        if not target.startswith("http"):
            assert (document.parent / target).exists(), target


def test_the_mart_of_the_guide_builds_and_keeps_the_rules(sandbox: Sandbox) -> None:
    write_named_blocks(sandbox, "docs/adding.md")
    sandbox.run("dbt", "build", "--select", "mart_sales__weekdays")
    sandbox.run("hubspoke", "check")
    sandbox.run("sqlfluff", "lint", "models/marts/sales/mart_sales__weekdays.sql")
    assert sandbox.query("select count(*) from mart_sales.mart_sales__weekdays") == [(7,)]


def test_the_source_of_the_guide_lands(sandbox: Sandbox) -> None:
    [text] = [block for block in blocks("docs/adding.md", "yaml") if block.startswith("sources:")]
    folder = sandbox.root / "models/hub/staging/loyalty"
    folder.mkdir()
    (folder / "_loyalty__sources.yml").write_text(text)
    (sandbox.root / "exports/loyalty").mkdir()
    duckdb.sql("select 1 as household_id, 9 as score, 'a@example.com' as email").write_parquet(
        str(sandbox.root / "exports/loyalty/answers.parquet")
    )
    assert "1 rows  landed" in sandbox.run("hubspoke", "ingest", "loyalty").stdout
    assert list((sandbox.root / "warehouse/landing/loyalty/answers").glob("000001-*/data.parquet"))


def test_the_gate_of_the_guide_quarantines(sandbox: Sandbox) -> None:
    """The rule as the guide writes it, with a bound that real rows break."""
    sandbox.edit(
        "models/hub/core/core_basket_lines.yml",
        "              arguments: { min_value: 0, max_value: 120 }\n",
        "              arguments: { min_value: 0, max_value: 15 }\n"
        "              config: { meta: { on_failure: quarantine } }\n",
    )
    sandbox.run("dbt", "build", "--select", "core_basket_lines")
    [(rows_in, rows_out, held)] = sandbox.query(
        "select rows_in, rows_out, rows_quarantined from quality.ledger where model = 'core_basket_lines'"
    )
    assert rows_in == rows_out + held
    assert held > 0
    assert sandbox.query("select count(*), min(fuel_gallons) > 15 from quarantine.core_basket_lines") == [(held, True)]


def test_the_exposure_of_the_guide_is_what_the_check_asks_for() -> None:
    [text] = [block for block in blocks("docs/adding.md", "yaml") if block.startswith("exposures:")]
    [exposure] = yaml.safe_load(text)["exposures"]
    assert {"spoke", "delivery", "personal_data_purpose"} <= exposure["config"]["meta"].keys()


def test_every_direct_dependency_is_explained_and_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    required = project["dependencies"] + [name for extra in project["optional-dependencies"].values() for name in extra]
    listed = [re.match(r"[A-Za-z0-9_-]+", requirement).group() for requirement in required]
    explained = (ROOT / "docs/dependencies.md").read_text().lower()
    pinned = {
        line.split("==")[0].lower().replace("_", "-") for line in (ROOT / "constraints.txt").read_text().splitlines()
    }
    assert len(listed) > 15
    for package in listed:
        assert package.lower() in explained, package
        assert package.lower().replace("_", "-") in pinned, package
