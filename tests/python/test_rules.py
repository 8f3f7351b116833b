"""What an analyst writes: mistakes are named before anything is built, and rules do with rows what they say."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml
from conftest import Sandbox, minimal_project
from dbt.cli.main import dbtRunner

from hubspoke.quality import scans

ROWS = """
select * from (values
    (1, 5.0, 'Ann', date '2024-01-01'), (2, -1.0, 'Bo', date '2024-01-02'), (3, 200.0, '', date '2024-01-03'),
    (4, -5.0, '', date '2024-01-04'), (4, 7.0, 'Cy', date '2024-01-05'), (5, null, null, null)
) as t (id, amount, name, day)
"""


def write_lines(sandbox: Sandbox, tests: list[Any], name: str = "lines", sql: str = ROWS, **model: Any) -> None:
    folder = sandbox.root / "models/hub/core"
    columns = [{"name": column} for column in ("id", "amount", "name", "day")]
    (folder / f"{name}.sql").write_text(sql)
    described = {"models": [{"name": name, "columns": columns, "data_tests": tests, **model}]}
    (folder / f"{name}.yml").write_text(yaml.safe_dump(described, sort_keys=False))


def rule(template: str, arguments: dict[str, Any], name: str = "my_rule", **config: Any) -> dict[str, Any]:
    return {template: {"name": name, "arguments": arguments, "config": config}}


@pytest.fixture(scope="module")
def minimal(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    return minimal_project(tmp_path_factory.mktemp("rules"))


RANGE = {"column_name": "amount", "min_value": 0}
AT_PARSE = [
    (rule("accepted_range", {**RANGE, "max_valu": 3}), "has no parameter max_valu; did you mean max_value?"),
    (
        rule("expression_is_true", {"column_name": "amount", "expression": "amount > 0"}),
        "is not about one column; put it under the data_tests of the model",
    ),
    (rule("accepted_range", {"column_name": "amount"}), "needs min_value or max_value"),
    (rule("accepted_range", {"min_value": 1}), "needs a column"),
    (rule("accepted_range", {**RANGE, "max_value": -1}), "min_value 0 is above max_value -1"),
    (rule("accepted_range", {**RANGE, "min_value": [1]}), "min_value must be a number or SQL text, not [1]"),
    (rule("accepted_values", {"column_name": "name", "values": "a"}), "values must be a list of at least one value"),
    (rule("unique_combination", {"columns": "id"}), "columns must be a list of columns, not id"),
    (rule("matches_pattern", {"column_name": "name", "pattern": "(a"}), "pattern must be a regular expression"),
    (rule("quantile", {"column_name": "id", "share": 2, "max_value": 1}), "share must be a share, 0 to 1, not 2"),
    (
        rule("recency", {"column_name": "day", "count": 1, "period": "days"}),
        "one of hour, day, week, month, year; did you mean day?",
    ),
    (rule("recency", {"column_name": "day", "count": 1.5, "period": "day"}), "count must be a whole number, not 1.5"),
    (
        rule("cardinality", {"columns": ["id", "name"], "is": "one"}),
        "is must be one of one-to-one, one-to-many, many-to-one",
    ),
    (
        rule("accepted_range", RANGE, meta={"on_failure": "quarantin"}),
        "on_failure cannot be quarantin; did you mean quarantine?",
    ),
    (
        rule("accepted_range", RANGE, meta={"on_failur": "drop"}),
        "config.meta has no on_failur; did you mean on_failure?",
    ),
    (
        rule("accepted_range", RANGE, meta={"max_failed_share": 5}),
        "max_failed_share must be a share of rows, 0 to 1, not 5",
    ),
    (rule("average", {"column_name": "id", "min_value": 1}, meta={"on_failure": "drop"}), "judges a whole table"),
    (rule("accepted_range", RANGE, severity="warn", meta={"on_failure": "fail"}), "contradict each other"),
]


@pytest.mark.parametrize(("test", "message"), AT_PARSE, ids=[message[:40] for _, message in AT_PARSE])
def test_a_mistake_is_named_while_dbt_parses(minimal: Sandbox, test: dict[str, Any], message: str) -> None:
    write_lines(minimal, [test])
    # in this process: starting dbt takes longer than parsing
    place = str(minimal.root)
    result = dbtRunner().invoke(["parse", "--quiet", "--project-dir", place, "--profiles-dir", f"{place}/profiles"])
    assert not result.success
    said = " ".join(str(result.exception).split())
    assert message in said
    assert "models/hub/core/lines.yml: rule my_rule:" in said


def test_what_only_the_whole_project_shows_is_named_before_the_first_model(minimal: Sandbox) -> None:
    tests = [
        rule("accepted_rang", RANGE, name="first"),
        rule("not_null", {"column_name": "amont"}, name="second"),
        rule("unique_combination", {"columns": ["id", "naem"]}, name="third"),
        rule("not_null", {"column_name": "id"}, name="fourth", meta={"on_failure": "drop"}),
    ]
    write_lines(minimal, tests, config={"materialized": "view"})
    result = minimal.run("dbt", "build", check=False)
    said = " ".join(result.stdout.split())
    assert result.returncode != 0
    assert (
        "rule first: there is no template accepted_rang; did you mean accepted_range? (there are accepted_range,"
        in said
    )
    assert "rule second: lines has no column amont; did you mean amount? (there are amount, day, id, name)" in said
    assert "rule third: lines has no column naem" in said
    assert "rule fourth: on_failure: drop takes rows out of a table, and lines is a view" in said
    assert "START sql" not in said


def test_what_only_the_engine_can_tell_names_the_model_and_the_rule(tmp_path: Path) -> None:
    sandbox = minimal_project(tmp_path / "project")
    mistakes = {
        "lines": (rule("accepted_range", RANGE, name="odd_where", where="amount >>> 2"), "amount >>> 2"),
        "items": (rule("matches_pattern", {"column_name": "name", "pattern": "a{2,1}"}, name="odd_text"), "a{2,1}"),
        "rows": (rule("expression_is_true", {"expression": "amout > 1"}, name="odd_name"), "amout"),
    }
    for name, (test, _) in mistakes.items():
        write_lines(sandbox, [test, rule("not_null", {"column_name": "id"}, name=f"good_{name}")], name)
    result = sandbox.run("dbt", "build", check=False)
    assert result.returncode != 0
    said = " ".join(result.stdout.split())
    for name, (test, message) in mistakes.items():
        [told] = test.values()
        heading = f"models/hub/core/{name}.yml: rule {told['name']}:"
        assert message in said.partition(heading)[2].partition(".yml: rule")[0]
    assert "rule good" not in said


@pytest.fixture(scope="module")
def gated(tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """Lines with rules that quarantine, drop, warn and fail at once."""
    sandbox = minimal_project(tmp_path_factory.mktemp("gated"))
    write_lines(
        sandbox,
        [
            rule(
                "accepted_range",
                {"column_name": "amount", "max_value": 100},
                name="too_much",
                meta={"on_failure": "drop"},
            ),
            rule("accepted_range", RANGE, name="below_zero", meta={"on_failure": "quarantine"}),
            rule("not_empty", {"column_name": "name"}, name="no_name", meta={"on_failure": "quarantine"}),
            rule("unique", {"column_name": "id"}, name="twice", meta={"on_failure": "quarantine"}),
            rule("not_null", {"column_name": "day"}, name="no_day", severity="warn"),
            rule("accepted_range", {**RANGE, "min_value": -10}, name="far_below", meta={"on_failure": "fail"}),
        ],
    )
    sandbox.run("dbt", "build")
    return sandbox


def test_quarantined_rows_are_kept_whole_with_every_rule_that_they_broke(gated: Sandbox) -> None:
    rows = gated.query("select id, amount, name, _rules_broken, _model from quarantine.lines order by id, amount")
    # 3 broke a drop rule and a quarantine rule: it is kept; of the two rows 4 the one that breaks nothing else stays
    assert [(int(row[0]), float(row[1]), *row[2:]) for row in rows] == [
        (2, -1.0, "Bo", "below_zero", "lines"),
        (3, 200.0, "", "too_much, no_name", "lines"),
        (4, -5.0, "", "below_zero, no_name, twice", "lines"),
    ]
    assert gated.query("select id, name from core.lines order by id") == [(1, "Ann"), (4, "Cy"), (5, None)]


def test_the_ledger_and_the_history_add_up(gated: Sandbox) -> None:
    assert gated.query("select rows_in, rows_out, rows_quarantined, rows_dropped from quality.ledger") == [(6, 3, 3, 0)]
    assert gated.query(
        "select rule, on_failure, status, rows_tested, rows_failed from quality.results order by rule"
    ) == [
        ("below_zero", "quarantine", "pass", 6, 2),
        ("far_below", "fail", "pass", 6, 0),
        ("no_day", "warn", "warn", 6, 1),
        ("no_name", "quarantine", "pass", 6, 2),
        ("too_much", "drop", "pass", 6, 1),
        ("twice", "quarantine", "pass", 6, 1),
    ]


def test_one_statement_counts_for_all_rules_one_groups_by_the_key_and_one_finds_the_rows(gated: Sandbox) -> None:
    [(run_id,)] = gated.query("select distinct run_id from quality.results")
    with duckdb.connect(gated.root / "warehouse/hub.duckdb", read_only=True) as hub:
        assert scans(hub, run_id) == 3  # as the summary says
    log = (gated.root / "logs/dbt.log").read_text()
    assert log.count("create or replace temp table gate_repeated") == 1
    assert log.count('from "hub"."core"."lines" as _gated\n') == 3


def test_a_decision_lets_rows_through_and_taking_it_back_holds_them_again(gated: Sandbox) -> None:
    before = gated.query("select * from core.lines order by all")
    listed = gated.run("hubspoke", "quarantine", "list").stdout
    assert "below_zero, no_name" in listed
    shown = gated.run("hubspoke", "quarantine", "show", "lines").stdout.splitlines()
    assert shown[0].startswith("id,amount,name,day,_rules_broken")
    assert len(shown) == 4
    refused = gated.run(
        "hubspoke",
        "quarantine",
        "release",
        "lines",
        "below_zero",
        "--where",
        "idd = 2",
        "--reason",
        "refund",
        check=False,
    )
    assert refused.returncode == 1
    assert "is not a condition on lines" in refused.stderr
    gated.run("hubspoke", "quarantine", "release", "lines", "below_zero", "--where", "id = 2", "--reason", "a refund")
    gated.run("hubspoke", "quarantine", "replay", "lines")
    assert (2, "Bo") in gated.query("select id, name from core.lines")
    once = gated.query("select * from core.lines order by all")
    gated.run("hubspoke", "quarantine", "replay", "lines")
    assert gated.query("select * from core.lines order by all") == once
    exceptions = gated.root / "seeds/rule_exceptions.csv"
    exceptions.write_text(exceptions.read_text().splitlines()[0] + "\n")
    gated.run("hubspoke", "quarantine", "replay", "lines")
    assert gated.query("select * from core.lines order by all") == before


def test_an_exception_for_a_rule_that_is_not_there_stops_the_run(gated: Sandbox) -> None:
    exceptions = gated.root / "seeds/rule_exceptions.csv"
    kept = exceptions.read_text()
    exceptions.write_text(kept + "lines,below_zer,id = 2,refund,2026-01-01\n")
    result = gated.run("dbt", "build", check=False)
    exceptions.write_text(kept)
    assert result.returncode != 0
    assert "seeds/rule_exceptions.csv, line 2: lines has no rule below_zer; did you mean below_zero?" in " ".join(
        result.stdout.split()
    )


def test_the_history_is_shown_as_a_table_and_as_a_page(gated: Sandbox, tmp_path: Path) -> None:
    shown = gated.run("hubspoke", "quality").stdout
    assert "lines: no_day" in shown
    gated.run("hubspoke", "quality", "--html", str(tmp_path / "quality.html"))
    page = (tmp_path / "quality.html").read_text()
    assert "below_zero" in page
    assert "<svg" in page
    assert "http" not in page


def test_what_cannot_be_cast_lands_and_is_held_back_with_its_reason(tmp_path: Path) -> None:
    """The way that docs/adding.md gives for a source that sends text: nothing is lost, the rest is typed."""
    sandbox = minimal_project(tmp_path / "project")
    (sandbox.root / "exports").mkdir()
    answers = "(1, '7'), (2, 'ten'), (3, null), (4, '7,5'), (5, '99999999999')"
    duckdb.sql(f"copy (from (values {answers}) as t (id, score)) to '{sandbox.root}/exports/answers.parquet'")
    staging = sandbox.root / "models/hub/staging/loyalty"
    staging.mkdir(parents=True)
    ingest = {"mechanism": "export", "location": "exports"}
    source = {
        "name": "loyalty",
        "schema": "landing_loyalty",
        "config": {"meta": {"owner": "Care", "ingest": ingest}},
        "tables": [{"name": "answers", "config": {"meta": {"file": "answers.parquet"}}}],
    }
    (staging / "_loyalty__sources.yml").write_text(yaml.safe_dump({"sources": [source]}))
    (staging / "stg_loyalty__answers.sql").write_text(
        "select id as answer_id, try_cast(score as int) as score, score as score_text, _load_id, _loaded_at "
        "from {{ source('loyalty', 'answers') }}"
    )
    castable = {"data_type": "int"}
    number = {"name": "score_is_a_number", "arguments": castable, "config": {"meta": {"on_failure": "quarantine"}}}
    conserved = {"arguments": {"from_model": "ref('stg_loyalty__answers')"}}
    model = {
        "name": "core_answers",
        "columns": [{"name": "score"}, {"name": "score_text", "data_tests": [{"castable": number}]}],
        "data_tests": [{"rows_conserved": conserved}],
    }
    core = sandbox.root / "models/hub/core"
    (core / "core_answers.sql").write_text("select * from {{ ref('stg_loyalty__answers') }}")
    (core / "core_answers.yml").write_text(yaml.safe_dump({"models": [model]}))
    sandbox.run("hubspoke", "ingest")
    sandbox.run("dbt", "build")
    assert sandbox.query("select answer_id, score from core.core_answers order by 1") == [(1, 7), (3, None)]
    held = sandbox.query(
        "select answer_id, score_text, _rules_broken, _load_id is not null from quarantine.core_answers order by 1"
    )
    assert held == [
        (2, "ten", "score_is_a_number", True),
        (4, "7,5", "score_is_a_number", True),
        (5, "99999999999", "score_is_a_number", True),
    ]


def test_a_spoke_that_moves_against_its_release_is_found(corner_shop: Sandbox) -> None:
    """Rules that compare with the current release pass before there is one, and fail for what changed since."""
    yml, sql = (f"models/spokes/bi/spoke_bi__days.{kind}" for kind in ("yml", "sql"))
    corner_shop.edit(
        yml,
        "  columns:\n",
        "  data_tests:\n"
        "  - schema_as_released: { name: as_before }\n"
        "  - row_count_as_released: { name: rows_as_before, arguments: { tolerance_share: 0.2 } }\n"
        "  - values_as_released: { name: sales_as_before, arguments: { column_name: sales_amount } }\n"
        "  columns:\n",
    )
    for _ in range(2):  # the second time against the release that there is now
        corner_shop.run("dbt", "build", "--select", "spoke_bi__days")
    corner_shop.edit(
        sql,
        "        sale_count,\n        sales_amount\n    from given\n",
        "        cast(sales_amount * 10 as decimal(18, 2)) as sales_amount\n    from given\n"
        "    where sale_date < '2024-01-15'\n",
    )
    corner_shop.edit(yml, "  - name: sale_count\n    data_type: bigint\n    description: sale count.\n", "")
    result = corner_shop.run("dbt", "build", "--select", "spoke_bi__days", check=False)
    assert result.returncode == 1
    assert corner_shop.query(
        "select rule, status from quality.results where rule like '%as_before' "
        "and run_id = (select arg_max(run_id, recorded_at) from quality.results) order by rule"
    ) == [("as_before", "fail"), ("rows_as_before", "fail"), ("sales_as_before", "fail")]


def test_a_relationship_between_two_sources_can_fail(tmp_path: Path) -> None:
    """Whichever of the two comes first by its name."""
    sandbox = minimal_project(tmp_path / "project")
    (sandbox.root / "exports").mkdir()
    tables = []
    for child, parent in (("children", "parents"), ("orders", "customers")):
        for name, ids in ((parent, "(1), (2)"), (child, "(1), (7), (8)")):
            duckdb.sql(f"copy (from (values {ids}) as t (id)) to '{sandbox.root}/exports/{name}.parquet'")
            tables.append({"name": name, "columns": [{"name": "id"}], "config": {"meta": {"file": f"{name}.parquet"}}})
        arguments = {"to": f"source('shop', '{parent}')", "field": "id"}
        related = {"relationships": {"name": f"of_{child}", "arguments": arguments}}
        tables[-1]["columns"][0]["data_tests"] = [related]
    ingest = {"mechanism": "export", "location": "exports"}
    meta = {"owner": "Shop", "ingest": ingest}
    source = {"name": "shop", "schema": "landing_shop", "config": {"meta": meta}, "tables": tables}
    staging = sandbox.root / "models/hub/staging/shop"
    staging.mkdir(parents=True)
    (staging / "_shop__sources.yml").write_text(yaml.safe_dump({"sources": [source]}))
    sandbox.run("hubspoke", "ingest")
    result = sandbox.run("dbt", "test", check=False)
    for child in ("children", "orders"):
        assert f"Failure in test of_{child} " in result.stdout
    assert result.stdout.count("Got 2 results") == 2
