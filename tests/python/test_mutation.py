"""Rules that cannot fail are found, all others find what is planted for them, and the hub stays as it is."""

import hashlib
import json
import subprocess
from pathlib import Path
from typing import Any

import pytest
import yaml
from conftest import ROOT, Sandbox, minimal_project
from test_templates import CASES, identifier, write_model

from hubspoke.faults import FAULTS

TEMPLATES = sorted(path.stem for path in (ROOT / "macros/quality").glob("*.sql") if "{% test " in path.read_text())
AS_RELEASED: dict[str, dict[str, Any]] = {
    "schema_as_released": {},
    "row_count_as_released": {"tolerance_share": 1},
    "values_as_released": {"column_name": "department_name"},
}
THREE = "select range as id, range = 1 as is_one, 'a' as name from range(3)"

CANNOT_FAIL: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "says_nothing": ("expression_is_true", {"expression": "1 = 1"}, {}, "it passes -1000000007 in id, in one row; "),
    "of_no_row": ("not_null", {"column_name": "id"}, {"where": "id > 3"}, "its where selects no row: id > 3"),
    "leaves_by_its_where": (
        "not_null",
        {"column_name": "id"},
        {"where": "id >= 0"},
        "it passes null in id, in one row",
    ),
    "knows_no_third": (
        "accepted_values",
        {"column_name": "is_one", "values": [True, False], "quote": False},
        {},
        "it passes true in is_one, in one row; ",
    ),
    "asks_for_too_many": (
        "not_null",
        {"column_name": "id"},
        {"warn_if": "> 3", "error_if": "> 3"},
        "it passes null in id, in one row; null in id, in every row",
    ),
    "lets_all_through": ("not_null", {"column_name": "id"}, {}, "it passes null in id, in one row; "),
}
CAN_FAIL: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "asks_for_many": (
        "not_null",
        {"column_name": "id"},
        {"severity": "warn", "warn_if": "> 2"},
        "null in id, in every row",
    ),
    "of_some_rows": ("not_null", {"column_name": "id"}, {"where": "is_one"}, "null in id, in one row"),
    "at_most_a_share": (
        "accepted_range",
        {"column_name": "id", "max_value": 7},
        {"meta": {"max_failed_share": 0.5}},
        "(7) + 1 in id, in every row",
    ),
    "names_what_it_forbids": ("expression_is_true", {"expression": "name <> 'b'"}, {}, "'b' in name, in one row"),
    "of_two_columns": (
        "expression_is_true",
        {"expression": "id < 99 or name <> ''"},
        {},
        "1000000007 in id and '' in name, in one row",
    ),
}
NOT_TRIED: dict[str, tuple[str, dict[str, Any], dict[str, Any], str]] = {
    "is_red": (
        "accepted_range",
        {"column_name": "id", "min_value": 1},
        {"severity": "warn"},
        "it fails without a fault",
    )
}


def write(folder: Path, name: str, sql: str, tests: list[dict[str, Any]], columns: dict[str, str]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.sql").write_text(sql)
    described = [{"name": column, "data_type": data_type} for column, data_type in columns.items()]
    (folder / f"{name}.yml").write_text(
        yaml.safe_dump({"models": [{"name": name, "columns": described, "data_tests": tests}]})
    )


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project with a rule of every template on data that keeps it, and rules that cannot fail; built once."""
    sandbox = minimal_project(tmp_path_factory.mktemp("mutation"))
    models = sandbox.root / "models"
    write(models / "hub/staging", "parents", "select range + 1 as id from range(2)", [], {"id": "bigint"})
    for title, case in CASES.items():
        write_model(models / "hub/core", identifier(title), case, case.clean)
        if case.arguments.keys() & {"to", "from_model"}:
            with (models / f"hub/core/{identifier(title)}.sql").open("a") as file:
                file.write("\n-- depends_on: {{ ref('parents') }}\n")
    rules = [
        {template: {"name": name, "arguments": arguments, "config": config}}
        for name, (template, arguments, config, _) in (CANNOT_FAIL | CAN_FAIL | NOT_TRIED).items()
    ]
    write(models / "hub/core", "three", THREE, rules, {"id": "bigint", "is_one": "boolean", "name": "varchar"})
    (sandbox.root / "seeds/rule_exceptions.csv").write_text(
        "model,rule,condition,reason,decided_on\nthree,lets_all_through,true,so it is,2024-01-01\n"
    )
    for name in ("numbers", "others"):  # singular tests may read public models only
        write(models / "marts/sales", name, "select range as id from range(9)", [], {"id": "bigint"})
    released = [{name: {"name": name, "arguments": arguments}} for name, arguments in AS_RELEASED.items()]
    sql = "select id as department_name from {{ ref('numbers') }}"
    write(models / "spokes/bi", "spoke_bi__numbers", sql, released, {"department_name": "bigint"})
    (sandbox.root / "tests").mkdir()
    (sandbox.root / "tests/finds_nothing.sql").write_text("select id from {{ ref('numbers') }} where false")
    (sandbox.root / "tests/finds_a_stranger.sql").write_text(
        "select id from {{ ref('others') }} where id not in (select id from {{ ref('numbers') }})"
    )
    sandbox.run("dbt", "build", check=False)  # it ends red: names and rooms are not those of the house
    return sandbox


def fingerprint(project: Sandbox) -> str:
    return hashlib.sha256((project.root / "warehouse/hub.duckdb").read_bytes()).hexdigest()


@pytest.fixture(scope="module")
def run(project: Sandbox) -> subprocess.CompletedProcess[str]:
    before = fingerprint(project)
    result = project.run("hubspoke", "quality", "mutate", "--all", check=False)
    assert fingerprint(project) == before
    return result


@pytest.fixture(scope="module")
def outcomes(run: subprocess.CompletedProcess[str]) -> dict[str, tuple[str, str]]:
    """Verdict, and what is said of it, by rule."""
    lines = run.stdout.splitlines()[:-1]
    return {
        rule.rsplit(": ", 1)[1]: (rule[:10].strip(), says.strip())
        for rule, says in zip(lines[::2], lines[1::2], strict=True)
    }


def test_there_are_faults_for_every_template() -> None:
    assert sorted(FAULTS) == TEMPLATES


@pytest.mark.parametrize("template", sorted(set(TEMPLATES) - AS_RELEASED.keys()))
def test_a_rule_of_every_template_finds_a_fault(outcomes: dict[str, tuple[str, str]], template: str) -> None:
    rules = {f"rule_{identifier(title)}": title for title, case in CASES.items() if case.template == template}
    assert rules
    for rule, title in rules.items():
        verdict, says = outcomes[rule]
        if title == "no rows at all":
            assert (verdict, says) == ("not tried", "no_rows_at_all holds no row to plant a fault in")
        else:
            assert verdict == "killed", f"{rule}: {says}"


@pytest.mark.parametrize("template", AS_RELEASED)
def test_before_the_first_release_there_is_nothing_to_compare_with(
    outcomes: dict[str, tuple[str, str]], template: str
) -> None:
    assert outcomes[template] == ("not tried", "nothing has been released to compare with")


def test_rules_on_sources_and_rules_that_compare_with_the_release_find_faults(corner_shop: Sandbox) -> None:
    rules = [{name: {"name": name, "arguments": arguments}} for name, arguments in AS_RELEASED.items()]
    corner_shop.edit(
        "models/spokes/bi/spoke_bi__departments.yml",
        "- name: spoke_bi__departments\n",
        f"- name: spoke_bi__departments\n  data_tests: {json.dumps(rules)}\n",
    )
    corner_shop.run("hubspoke", "build", "--select", "spoke_bi__departments")
    command = ("hubspoke", "quality", "mutate", "--all", "spoke_bi__departments", "catalog.products")
    said = corner_shop.run(*command).stdout
    assert said.endswith(" 0 survived, 0 not tried\n"), said
    assert said.count("spoke_bi__departments: ") == len(AS_RELEASED)
    assert "catalog.products: source_unique_catalog_products_product_id\n           one row twice\n" in said


@pytest.mark.parametrize("rule", CANNOT_FAIL)
def test_a_rule_that_cannot_fail_survives(outcomes: dict[str, tuple[str, str]], rule: str) -> None:
    verdict, says = outcomes[rule]
    assert verdict == "survived"
    assert says.startswith(CANNOT_FAIL[rule][3])


@pytest.mark.parametrize("rule", CAN_FAIL)
def test_a_fault_is_as_large_as_the_rule_needs(outcomes: dict[str, tuple[str, str]], rule: str) -> None:
    assert outcomes[rule] == ("killed", CAN_FAIL[rule][3])


def test_a_rule_that_fails_by_itself_is_not_taken_for_one_that_found_a_fault(
    outcomes: dict[str, tuple[str, str]],
) -> None:
    assert outcomes["is_red"] == ("not tried", "it fails without a fault")


def test_a_singular_test_is_tried_with_every_model_that_it_reads(outcomes: dict[str, tuple[str, str]]) -> None:
    assert outcomes["finds_a_stranger"] == ("killed", "others: -1000000007 in id, in one row")
    verdict, says = outcomes["finds_nothing"]
    assert verdict == "survived"
    assert says.startswith("it passes numbers: no rows; numbers: one row twice; numbers: every row three times; and ")


def test_survivors_come_first_and_make_the_command_fail(
    run: subprocess.CompletedProcess[str], outcomes: dict[str, tuple[str, str]]
) -> None:
    verdicts = [verdict for verdict, _ in outcomes.values()]
    survived, not_tried = len(CANNOT_FAIL) + 1, 2 + len(AS_RELEASED)
    assert verdicts == sorted(verdicts, key=["survived", "not tried", "killed"].index)
    killed = len(verdicts) - survived - not_tried
    assert run.returncode == 1
    assert run.stdout.splitlines()[-1] == (
        f"{len(verdicts)} rules: {killed} killed, {survived} survived, {not_tried} not tried"
    )
    assert run.stdout.startswith("survived   models/hub/core/three.yml: three: ")


def test_the_rules_of_one_model_are_tried_alone(project: Sandbox) -> None:
    result = project.run("hubspoke", "quality", "mutate", "unique")
    assert result.stdout == "1 rules: 1 killed, 0 survived, 0 not tried\n"
    result = project.run("hubspoke", "quality", "mutate", "uniqu", check=False)
    assert result.returncode == 1
    assert "no rule is on uniqu; there are rules on " in result.stderr


def test_before_the_first_build_it_says_what_to_do(tmp_path: Path) -> None:
    result = minimal_project(tmp_path / "project").run("hubspoke", "quality", "mutate", check=False)
    assert result.returncode == 1
    assert "Nothing has been built yet. Run: hubspoke build" in result.stderr
