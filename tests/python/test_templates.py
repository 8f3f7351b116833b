"""Every quality template on data that keeps its rule and on data that breaks it, by the gate and by a scan."""

import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from conftest import ROOT, Sandbox, minimal_project

NUMBERS = "select range as id, range % 7 as digit from range(100)"
DAYS = "select date '2024-01-01' + range::int as day from range(140)"


@dataclass(frozen=True)
class Case:
    """A rule, data that keeps it, data that breaks it, and how many failures the latter has."""

    template: str
    arguments: dict[str, Any]
    clean: str
    faulty: str
    failures: int
    config: dict[str, Any] = field(default_factory=dict)


CASES = {
    "not_null": Case(
        "not_null",
        {"column_name": "value"},
        "select 1 as value",
        "select * from (values (1), (null), (null)) as t (value)",
        2,
    ),
    "not_empty": Case(
        "not_empty",
        {"column_name": "name"},
        "select * from (values ('a'), (null)) as t (name)",
        "select * from (values ('a'), (''), ('  ')) as t (name)",
        2,
    ),
    "unique": Case(
        "unique",
        {"column_name": "id"},
        "select * from (values (1), (null), (null)) as t (id)",
        "select * from (values (1), (1), (1), (2), (2), (null)) as t (id)",
        3,
    ),
    "unique_combination": Case(
        "unique_combination",
        {"columns": ["a", "b"]},
        "select * from (values (1, 1), (1, 2), (null, 2), (null, 2)) as t (a, b)",
        "select * from (values (1, 1), (1, 1), (1, 2)) as t (a, b)",
        1,
    ),
    "unique within a where": Case(
        "unique",
        {"column_name": "id"},
        "select * from (values (1, true), (1, false)) as t (id, is_current)",
        "select * from (values (1, true), (1, true), (1, false)) as t (id, is_current)",
        1,
        {"where": "is_current"},
    ),
    "accepted_values": Case(
        "accepted_values",
        {"column_name": "kind", "values": ["it's", "b"]},
        "select * from (values ('it''s'), ('b'), (null)) as t (kind)",
        "select * from (values ('it''s'), ('B'), ('')) as t (kind)",
        2,
    ),
    "accepted_values, numbers": Case(
        "accepted_values",
        {"column_name": "kind", "values": [1, 2], "quote": False},
        "select 2 as kind",
        "select 3 as kind",
        1,
    ),
    "accepted_range": Case(
        "accepted_range",
        {"column_name": "value", "min_value": 0, "max_value": 10},
        "select * from (values (0), (10), (null)) as t (value)",
        "select * from (values (-1), (5), (11)) as t (value)",
        2,
    ),
    "accepted_range, not a number": Case(
        "accepted_range",
        {"column_name": "value", "min_value": 0, "max_value": 10},
        "select 1::double as value",
        "select * from (values ('nan'::double), ('inf'::double), ('-inf'::double), (1)) as t (value)",
        3,
    ),
    "accepted_range, dates": Case(
        "accepted_range",
        {"column_name": "day", "min_value": "date '2024-01-01'"},
        DAYS,
        "select date '2023-12-31' as day",
        1,
    ),
    "matches_pattern": Case(
        "matches_pattern",
        {"column_name": "code", "pattern": "^[A-Z]{2}'\\d+$"},
        "select 'AB''12' as code",
        "select * from (values ('AB''12'), ('ab''12'), ('AB'''), (null)) as t (code)",
        2,
    ),
    "text_length": Case(
        "text_length",
        {"column_name": "name", "min_value": 2, "max_value": 3},
        "select * from (values ('ab'), ('äöü'), (null)) as t (name)",
        "select * from (values ('a'), ('abcd'), ('abc')) as t (name)",
        2,
    ),
    "castable": Case(
        "castable",
        {"column_name": "text", "data_type": "int"},
        "select * from (values ('1'), (null)) as t (text)",
        "select * from (values ('1'), ('one'), ('1e99')) as t (text)",
        2,
    ),
    "relationships": Case(
        "relationships",
        {"column_name": "parent_id", "to": "ref('parents')", "field": "id", "unknown_member": -1},
        "select * from (values (1), (-1), (null)) as t (parent_id)",
        "select * from (values (1), (7), (8), (-1)) as t (parent_id)",
        2,
    ),
    "relationships, both columns of one name": Case(
        "relationships",
        {"column_name": "id", "to": "ref('parents')", "field": "id"},
        "select * from (values (1), (null)) as t (id)",
        "select * from (values (1), (7)) as t (id)",
        1,
    ),
    "rows_conserved": Case(
        "rows_conserved",
        {"from_model": "ref('parents')"},
        "select range as id from range(2)",
        "select range as id from range(1)",
        1,
    ),
    "expression_is_true": Case(
        "expression_is_true",
        {"expression": "a + b < 10"},
        "select * from (values (1, 2), (null, 2)) as t (a, b)",
        "select * from (values (1, 2), (9, 9)) as t (a, b)",
        1,
    ),
    "ordered": Case(
        "ordered",
        {"columns": ["first_day", "second_day", "third_day"]},
        "select 1 as first_day, 1 as second_day, null::int as third_day",
        "select * from (values (1, 2, 3), (2, 1, 3), (1, 3, 2)) as t (first_day, second_day, third_day)",
        2,
    ),
    "ordered, strictly": Case(
        "ordered",
        {"columns": ["first_day", "second_day"], "strictly": True},
        "select 1 as first_day, 2 as second_day",
        "select 1 as first_day, 1 as second_day",
        1,
    ),
    "not_in_future": Case(
        "not_in_future",
        {"column_name": "day"},
        DAYS,
        "select date '2024-01-01' as day union all select date '2999-01-01'",
        1,
    ),
    "recency": Case(
        "recency",
        {"column_name": "at", "count": 2, "period": "day"},
        "select now()::timestamp - interval 1 day as at",
        "select now()::timestamp - interval 3 day as at",
        1,
    ),
    "recency of nothing": Case(
        "recency",
        {"column_name": "at", "count": 2, "period": "day"},
        "select now()::timestamp as at",
        "select null::timestamp as at",
        1,
    ),
    "row_count": Case("row_count", {"min_value": 2, "max_value": 200}, NUMBERS, "select 1 as id", 1),
    "null_share": Case(
        "null_share",
        {"column_name": "value", "max_value": 0.5},
        "select * from (values (1), (null)) as t (value)",
        "select * from (values (1), (null), (null)) as t (value)",
        1,
    ),
    "distinct_share": Case(
        "distinct_share",
        {"column_name": "digit", "max_value": 0.1},
        NUMBERS,
        "select range as digit from range(100)",
        1,
    ),
    "distinct_count": Case(
        "distinct_count", {"column_name": "digit", "min_value": 7, "max_value": 7}, NUMBERS, "select 1 as digit", 1
    ),
    "average": Case("average", {"column_name": "id", "min_value": 49, "max_value": 50}, NUMBERS, "select 1 as id", 1),
    "average of nothing": Case(
        "average",
        {"column_name": "id", "min_value": 49, "max_value": 50},
        "select null::int as id",
        "select 'nan'::double as id",
        1,
    ),
    "total": Case("total", {"column_name": "id", "min_value": 4950, "max_value": 4950}, NUMBERS, "select 1 as id", 1),
    "total within a where": Case(
        "total",
        {"column_name": "id", "max_value": 10},
        "select * from (values (1, true), (99, false)) as t (id, is_current)",
        "select * from (values (11, true), (99, false)) as t (id, is_current)",
        1,
        {"where": "is_current"},
    ),
    "quantile": Case(
        "quantile", {"column_name": "id", "share": 0.5, "min_value": 49, "max_value": 50}, NUMBERS, "select 1 as id", 1
    ),
    "row_count_equals": Case(
        "row_count_equals",
        {"to": "ref('parents')", "tolerance_share": 0.5},
        "select range as id from range(3)",
        "select range as id from range(9)",
        1,
    ),
    "total_equals": Case(
        "total_equals",
        {"column_name": "id", "to": "ref('parents')", "field": "id"},
        "select 3 as id",
        "select 4 as id",
        1,
    ),
    "no_gaps": Case("no_gaps", {"column_name": "day"}, DAYS, DAYS + " where range not in (3, 4, 50)", 2),
    "no_gaps within groups": Case(
        "no_gaps",
        {"column_name": "line", "by": ["document"]},
        "select * from (values (1, 1), (1, 2), (2, 7), (2, 8), (2, 8)) as t (document, line)",
        "select * from (values (1, 1), (1, 3), (2, 7)) as t (document, line)",
        1,
    ),
    "no_overlaps": Case(
        "no_overlaps",
        {"valid_from": "start_day", "valid_to": "end_day", "by": ["id"]},
        "select * from (values (1, date '2024-01-01', date '2024-02-01'), (1, date '2024-02-01', null), "
        "(2, date '2024-01-15', null)) as t (id, start_day, end_day)",
        "select * from (values (1, date '2024-01-01', null), (1, date '2024-02-01', date '2024-03-01'), "
        "(1, date '2025-01-01', null)) as t (id, start_day, end_day)",
        2,
    ),
    "cardinality": Case(
        "cardinality",
        {"columns": ["store", "region"], "is": "many-to-one"},
        "select * from (values (1, 'n'), (2, 'n'), (1, 'n')) as t (store, region)",
        "select * from (values (1, 'n'), (1, 's'), (2, 'n')) as t (store, region)",
        1,
    ),
    "cardinality, one-to-one": Case(
        "cardinality",
        {"columns": ["store", "region"], "is": "one-to-one"},
        "select * from (values (1, 'n'), (2, 's')) as t (store, region)",
        "select * from (values (1, 'n'), (1, 's'), (2, 'n')) as t (store, region)",
        2,
    ),
    "not_similar": Case(
        "not_similar",
        {"columns": ["name", "city"]},
        "select * from (values ('Ann', 'Bern'), ('Anna', 'Bern')) as t (name, city)",
        "select * from (values ('Ann-Marie', 'Bern'), ('ann marie', 'BERN'), ('Annmarie.', 'Bern '), "
        "('Bo', 'Bern')) as t (name, city)",
        2,
    ),
    "volume_as_usual": Case(
        "volume_as_usual",
        {"column_name": "day"},
        "select day from (select date '2024-01-01' + range::int as day from range(140)) cross join range(20) as r (n) "
        "where n < 10 + extract(dow from day) + dayofyear(day) % 2",
        "select day from (select date '2024-01-01' + range::int as day from range(140)) cross join range(200) as r (n) "
        "where n < case day when date '2024-02-10' then 200 when date '2024-03-03' then 1 "
        "else 10 + extract(dow from day) end",
        2,
    ),
    "a share of rows may fail": Case(
        "accepted_range",
        {"column_name": "id", "min_value": 5},
        NUMBERS,
        "select range as id from range(10)",
        5,
        {"meta": {"max_failed_share": 0.05}},
    ),
    "no rows at all": Case(
        "accepted_range", {"column_name": "id", "min_value": 5}, "select 1 as id where false", "select 1 as id", 1
    ),
    "a column with a space, a quote and an umlaut": Case(
        "accepted_range",
        {"column_name": "Größe o'clock", "min_value": 5},
        'select 5 as "Größe o\'clock"',
        'select 1 as "Größe o\'clock"',
        1,
    ),
}
NEEDS_A_RELEASE = {"schema_as_released", "row_count_as_released", "values_as_released"}  # test_rules.py


def test_every_template_is_here() -> None:
    templates = {path.stem for path in (ROOT / "macros/quality").glob("*.sql") if "{% test " in path.read_text()}
    assert templates == {case.template for case in CASES.values()} | NEEDS_A_RELEASE


def test_every_template_is_documented_with_its_parameters() -> None:
    macros = yaml.safe_load((ROOT / "macros/_macros.yml").read_text())["macros"]
    documented = {
        macro["name"].removeprefix("test_"): {argument["name"] for argument in macro.get("arguments", [])}
        for macro in macros
        if macro["name"].startswith("test_")
    }
    declared = {}
    for path in (ROOT / "macros/quality").glob("*.sql"):
        parameters = re.search(rf"macro {path.stem}__parameters\(\).*?endmacro", path.read_text(), flags=re.DOTALL)
        if parameters:
            declared[path.stem] = set(re.findall(r"'(\w+)': '", parameters.group()))
    assert documented == declared
    guide = (ROOT / "docs/adding.md").read_text()
    assert [template for template in declared if f"`{template}`" not in guide] == []


def identifier(title: str) -> str:
    return "".join(letter if letter.isalnum() and letter.isascii() else "_" for letter in title)


def write_model(folder: Path, name: str, case: Case, sql: str) -> None:
    columns = duckdb.sql(sql).columns
    (folder / f"{name}.sql").write_text(sql)
    test = {case.template: {"name": f"rule_{name}", "arguments": case.arguments}}
    if case.config:
        test[case.template]["config"] = case.config
    model = {"name": name, "columns": [{"name": column} for column in columns], "data_tests": [test]}
    (folder / f"{name}.yml").write_text(yaml.safe_dump({"models": [model]}, allow_unicode=True))


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """A project with two models for each case, built once, gate and all."""
    sandbox = minimal_project(tmp_path_factory.mktemp("templates"))
    folder = sandbox.root / "models/hub/core"
    (sandbox.root / "models/hub/staging").mkdir()
    (sandbox.root / "models/hub/staging/parents.sql").write_text("select range + 1 as id from range(2)")
    for title, case in CASES.items():
        for kind, sql in (("clean", case.clean), ("faulty", case.faulty)):
            write_model(folder, f"{kind}_{identifier(title)}", case, sql)
            if (
                "to" in case.arguments or "from_model" in case.arguments
            ):  # read it, so that it is there when the gate looks it up
                with (folder / f"{kind}_{identifier(title)}.sql").open("a") as file:
                    file.write("\n-- depends_on: {{ ref('parents') }}\n")
    sandbox.run("dbt", "build", check=False)
    return sandbox


def outcomes(target: Path) -> dict[str, tuple[str, int]]:
    """Read what dbt says in its folder of each test: how it ended, and its failures."""
    results = json.loads((target / "run_results.json").read_text())["results"]
    found = {}
    for result in results:
        kind, _, name = result["unique_id"].split(".")[:3]
        if kind == "test":
            found[name] = (result["status"], result["failures"])
    return found


def expected() -> dict[str, tuple[str, int]]:
    clean = {f"rule_clean_{identifier(title)}": ("pass", 0) for title in CASES}
    faulty = {f"rule_faulty_{identifier(title)}": ("fail", case.failures) for title, case in CASES.items()}
    return clean | faulty


def test_a_build_finds_every_planted_fault_and_no_other(project: Sandbox) -> None:
    assert outcomes(project.root / "target") == expected()


def test_the_gate_measured_all_that_it_can(project: Sandbox) -> None:
    measured = {row[0].split(".")[2] for row in project.query("select test_id from quality.measurements")}
    by_scan = {
        "row_count_equals",
        "rows_conserved",
        "total_equals",
        "no_gaps",
        "no_overlaps",
        "cardinality",
        "not_similar",
        "volume_as_usual",
    }
    assert measured == {
        f"rule_{kind}_{identifier(title)}"
        for kind in ("clean", "faulty")
        for title, case in CASES.items()
        if case.template not in by_scan
    }


def test_a_scan_of_its_own_counts_what_the_gate_counts(project: Sandbox) -> None:
    with duckdb.connect(project.root / "warehouse/hub.duckdb") as hub:
        hub.execute("delete from quality.measurements")
    project.run("dbt", "test", check=False)
    assert outcomes(project.root / "target") == expected()
    assert project.query("select count(*) from quality.measurements") == [(0,)]
