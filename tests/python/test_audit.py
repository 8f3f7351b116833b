"""The second opinion: Great Expectations counts what the gate counts, and is asked where the gate is not."""

import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import duckdb
import pytest
from conftest import ROOT, Sandbox
from test_templates import CASES, Case

from hubspoke.expectations import EXPECTATIONS, Auditor, Finding, Rule

WITHOUT = {
    "relationships",
    "row_count_equals",
    "rows_conserved",
    "schema_as_released",
    "row_count_as_released",
    "total_equals",
    "values_as_released",
    "volume_as_usual",
}
"""Templates of which Great Expectations has no opinion: they compare with another relation, or with days before."""


@pytest.fixture(scope="module")
def auditor() -> Auditor:
    return Auditor(duckdb.connect(), datetime.now(UTC).replace(tzinfo=None))


def judge(auditor: Auditor, template: str, arguments: dict, rows: str, where: str | None = None) -> Finding:
    [finding] = auditor.judge(f"({rows}) as rows", [Rule("rule", template, arguments, where)])
    return finding


def test_every_template_is_judged_or_known_not_to_be() -> None:
    templates = {path.stem for path in (ROOT / "macros/quality").glob("*.sql") if "{% test " in path.read_text()}
    assert EXPECTATIONS.keys() | WITHOUT == templates
    assert not EXPECTATIONS.keys() & WITHOUT


@pytest.mark.parametrize("title", [title for title, case in CASES.items() if case.template in EXPECTATIONS])
def test_great_expectations_counts_what_the_gate_counts(auditor: Auditor, title: str) -> None:
    """test_templates.py holds the gate to the same numbers."""
    case: Case = CASES[title]
    where = case.config.get("where")
    assert judge(auditor, case.template, case.arguments, case.faulty, where).failed == case.failures
    allowed = 5 if case.config.get("meta") else 0  # max_failed_share lets some through; the count is the count
    assert judge(auditor, case.template, case.arguments, case.clean, where).failed == allowed


@pytest.mark.parametrize(
    ("template", "arguments", "failed"),
    [
        ("null_share", {"column_name": "value", "max_value": 0.5}, 0),
        ("null_share", {"column_name": "value", "min_value": 0.5}, 1),
        ("total", {"column_name": "value", "min_value": 1}, 1),
        ("total", {"column_name": "value", "max_value": 1}, 0),
        ("distinct_count", {"column_name": "value", "min_value": "0 + 1"}, 1),
        ("distinct_share", {"column_name": "value", "min_value": 0.5}, 0),
        ("average", {"column_name": "value", "min_value": 1}, 0),
        ("quantile", {"column_name": "value", "share": 0.5, "min_value": 1}, 0),
        ("recency", {"column_name": "value", "count": 1, "period": "month"}, 1),
        ("row_count", {"min_value": 1}, 1),
    ],
)
def test_of_no_rows_it_says_what_the_gate_says(auditor: Auditor, template: str, arguments: dict, failed: int) -> None:
    rows = "select null::timestamp as value where false" if template == "recency" else "select 1 as value where false"
    assert judge(auditor, template, arguments, rows).failed == failed


def test_a_rule_that_cannot_be_judged_is_no_rule_that_is_kept_and_tells_no_value(auditor: Auditor) -> None:
    rows = "select 'a secret' as name, 1 as id"
    rules = [
        Rule("text", "expression_is_true", {"expression": "cast(name as int) > 1"}),
        Rule("lost", "not_null", {"column_name": "gone"}),
        Rule("fine", "unique", {"column_name": "id"}),
        Rule("odd", "accepted_range", {"column": "id"}),
    ]
    text, lost, fine, odd = auditor.judge(f"({rows}) as rows", rules)
    assert text.failed is lost.failed is odd.failed is None
    assert "Conversion Error" in text.error
    assert "gone" in lost.error
    assert "arguments" in odd.error
    assert fine == Finding(failed=0)
    assert "secret" not in f"{text}{lost}{odd}"


def test_a_release_is_audited_in_its_spokes_own_files_beside_the_gates_counts(built: Sandbox, tmp_path: Path) -> None:
    page = tmp_path / "audit.html"
    result = built.run("hubspoke", "audit", "--html", str(page))
    relations = {row[0] for row in built.read("bi", "select view_name from duckdb_views() where not internal")}
    assert all(f" {relation}: " in result.stdout for relation in relations)
    judged, compared = map(int, re.search(r"(\d+) rules judged.*?(\d+) of the counts", result.stdout).groups())
    # the gate has no count of the one rule for each relation that the release's own row count makes
    assert compared == judged - result.stdout.count("as_many_rows_as_the_release_says")
    assert result.stdout.count("agrees") == compared > 20
    assert result.stderr == ""
    assert page.read_text().count(">agrees<") == compared
    assert not re.search(r"https?:|src=|href=|@import|url\(", page.read_text())


def test_a_fault_in_a_release_is_found_without_the_hubs_help(built: Sandbox, tmp_path: Path) -> None:
    """Rows that change after the release, under the feet of all that the build had checked."""
    sandbox = Sandbox(tmp_path / "project")
    shutil.copytree(built.root, sandbox.root, symlinks=True)
    release = sandbox.root / "warehouse/release"
    [file] = (release / "tables/crm/spoke_crm__winback_audience/data").glob("*.parquet")
    spoke = (release / "current/crm.duckdb").resolve()
    with duckdb.connect() as connection:
        connection.execute(f"create table rows as select * from '{file}'")
        connection.execute("insert into rows select * from rows limit 3")
        connection.execute(f"copy rows to '{file}' (format parquet)")
        [(household,)] = connection.execute("select household_id from rows limit 1").fetchall()
    spoke.unlink()
    with duckdb.connect(spoke) as connection:
        connection.execute(f"create view spoke_crm__winback_audience as select * from read_parquet('{file}')")
    result = sandbox.run("hubspoke", "audit", "spoke_crm__winback_audience", check=False)
    assert result.returncode == 1
    assert re.search(r"broken +1 .*as_many_rows_as_the_release_says", result.stdout)
    assert re.search(r"broken +3 .*differs .*unique_mart_customers__winback_audience_household_id", result.stdout)
    assert str(household) not in result.stdout


def test_a_file_with_a_fault_is_found_before_it_lands(sandbox: Sandbox, tmp_path: Path) -> None:
    file = sandbox.root / "exports/demographics.parquet"
    columns = duckdb.sql(f"select * from '{file}'").columns
    values = ", ".join(["4711471100", *["'a secret age'"] * (len(columns) - 1)])
    duckdb.sql(f"select * from '{file}' union all values ({values}), ({values})").write_parquet(
        str(tmp_path / "faulty")
    )
    shutil.move(tmp_path / "faulty", file)
    page = tmp_path / "files.html"
    result = sandbox.run("hubspoke", "audit", "--files", "crm", "--html", str(page), check=False)
    assert result.returncode == 1
    assert re.search(r"broken +1 of .*crm.demographics: source_unique_crm_demographics_household_id", result.stdout)
    assert re.search(r"kept +0 of .*crm.demographics: source_not_null_crm_demographics_household_id", result.stdout)
    assert "1 rules are broken" in result.stderr
    assert "4711471100" not in result.stdout + result.stderr + page.read_text()
    assert "secret" not in result.stdout + result.stderr + page.read_text()
    assert not list((sandbox.root / "warehouse/landing/crm/demographics").glob("000002*"))


def test_a_rule_that_is_new_in_the_yaml_is_judged_without_a_build(sandbox: Sandbox) -> None:
    sandbox.edit(
        "models/hub/staging/marketing/_marketing__sources.yml",
        "            data_tests: [unique]\n",
        "            data_tests:\n              - accepted_range:\n                  name: few_campaigns\n"
        "                  arguments: { max_value: 20 }\n                  config: { severity: warn }\n",
    )
    result = sandbox.run("hubspoke", "audit", "--files", "marketing.campaign_descriptions")
    assert re.search(r"warned +7 of 27 .*few_campaigns", result.stdout)


def test_what_is_not_there_is_named(built: Sandbox) -> None:
    assert "there are catalog.products" in built.run("hubspoke", "audit", "--files", "till", check=False).stderr
    assert "there are spoke_bi__" in built.run("hubspoke", "audit", "spoke_bi__till", check=False).stderr


def test_no_other_command_pays_for_great_expectations() -> None:
    loaded = "import sys, hubspoke.cli; print([name for name in sys.modules if name.startswith('great_expectations')])"
    result = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert result.stdout.strip() == "[]"
