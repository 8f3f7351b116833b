"""The product as its users run it, end to end, on a corner shop; what it tells of the running example, on a sample."""

import os
import re
import signal
import subprocess
from pathlib import Path
from typing import IO

import duckdb
import pytest
from conftest import BIN, Sandbox
from corner_shop import TABLES, write_table

READERS_ASK = "select count(*), sum(sales_amount) from spoke_bi__departments"


def current(sandbox: Sandbox) -> str:
    link = sandbox.root / "warehouse/release/current"
    return str(link.readlink()) if link.is_symlink() else ""


def spoil_a_sale(shop: Sandbox) -> None:
    """Let the till send one line with a negative value: a rule that must hold does not."""
    write_table(
        shop.root,
        "till.sales",
        f"select * replace (case when sale_id = 1 then -5.0 else amount end as amount) from ({TABLES['till.sales']})",
    )


def build_until(sandbox: Sandbox, *words: str) -> tuple[subprocess.Popen[str], IO[str]]:
    """Start dbt build and return as soon as it prints a line with these words; it goes on."""
    process = subprocess.Popen(
        [BIN / "dbt", "build"],
        cwd=sandbox.root,
        env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"},
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout
    for line in process.stdout:
        if all(word in line for word in words):
            break
    return process, process.stdout


def test_the_build_ends_with_what_it_did_and_what_to_type_next(built: Sandbox) -> None:
    lines = dict(line.split(maxsplit=1) for line in (built.root / "build.txt").read_text().splitlines())
    assert "rows in 8 tables" in lines["landed"]
    assert "models in" in lines["built"]
    assert re.match(r"\d+ rules in \d+ scans and \d+ unit tests: 0 failed, ", lines["checked"])
    assert lines["release"] == "Released 1: 12 of 12 relations changed."
    assert "query" in lines["next"]
    assert "\x1b" not in (built.root / "build.txt").read_text()


def test_what_the_summary_says_to_type_next_works(built: Sandbox) -> None:
    result = built.run("hubspoke", "query", "select count(*) as n from spoke_bi__departments")
    assert result.stdout.startswith("n\n")


def test_without_landed_data_it_says_what_to_run(corner_shop: Sandbox) -> None:
    (corner_shop.root / "warehouse").rename(corner_shop.root / "elsewhere")
    for command in (["dbt", "build"], ["hubspoke", "build"], ["dbt", "build", "-s", "stg_till__sales"]):
        result = corner_shop.run(*command, check=False)
        assert result.returncode != 0
        assert "Land it first: hubspoke ingest" in result.stdout
        assert "Traceback" not in result.stdout + result.stderr


def test_a_red_build_changes_nothing_for_readers_and_the_next_green_one_does(corner_shop: Sandbox) -> None:
    corner_shop.run("dbt", "build", "--select", "spoke_bi__departments")
    before = current(corner_shop), corner_shop.read("bi", READERS_ASK)
    spoil_a_sale(corner_shop)
    corner_shop.run("hubspoke", "ingest", "till")
    result = corner_shop.run("hubspoke", "build", check=False)
    assert result.returncode == 1
    assert "no_sale_below_zero" in result.stdout
    assert f"readers keep release {int(before[0])}" in result.stdout
    assert (current(corner_shop), corner_shop.read("bi", READERS_ASK)) == before
    write_table(corner_shop.root, "till.sales")
    corner_shop.run("hubspoke", "ingest", "till")
    corner_shop.run("hubspoke", "build")
    # the same rows again, but of another load: nothing that readers see has changed
    assert (current(corner_shop), corner_shop.read("bi", READERS_ASK)) == before


def test_dbt_build_alone_ends_in_a_release(corner_shop: Sandbox) -> None:
    result = corner_shop.run("dbt", "build", "--select", "spoke_crm__regulars")
    assert "Released 1: 4 of 4 relations changed." in result.stdout
    assert "Release 1 is still current" in corner_shop.run("dbt", "test", "-s", "core_products").stdout


def test_a_partial_build_releases_only_what_is_whole(corner_shop: Sandbox) -> None:
    corner_shop.run("dbt", "build", "--select", "spoke_crm__regulars")
    corner_shop.edit("models/marts/sales/mart_sales__days.sql", "count(*) as sale_count", "1 + count(*) as sale_count")
    half = corner_shop.run("dbt", "build", "--select", "mart_sales__days")
    assert "Not released" in half.stdout
    assert "mart_sales__weeks is older than what it reads" in half.stdout
    assert current(corner_shop) == "000001"
    whole = corner_shop.run("dbt", "build", "--select", "mart_sales__days+")
    assert "Released 2: 2 of 4 relations changed." in whole.stdout


def test_models_that_ran_without_their_tests_are_not_released(corner_shop: Sandbox) -> None:
    result = corner_shop.run("dbt", "run", "--select", "mart_sales__days+")
    assert "Not released" in result.stdout
    assert current(corner_shop) == ""
    assert "Released 1" in corner_shop.run("dbt", "test", "--select", "mart_sales__days+").stdout


def test_a_model_that_fails_stands_against_a_release_until_it_is_mended_whoever_reads_it(corner_shop: Sandbox) -> None:
    """No spoke rests on it; what a red run has built is released by none, and the plan takes it up again."""
    model = corner_shop.root / "models/hub/core/core_totals.sql"
    model.with_suffix(".yml").write_text(
        'models: [{ name: core_totals, description: "Sum. Grain: one row.", '
        "columns: [{ name: total, data_type: bigint, description: A sum. }] }]\n"
    )
    for text in ("select cast('three' as bigint) as total", "select cast('four' as bigint) as total"):
        model.write_text(f"{text}\n")
        red = corner_shop.run("hubspoke", "build", check=False)
        assert red.returncode == 1
        assert "core_totals" in red.stdout
        assert re.search(r"^built .* s, 1 failed$", red.stdout, re.MULTILINE)
        assert re.search(r"^checked .*: 0 failed, 0 warned$", red.stdout, re.MULTILINE)
        assert current(corner_shop) == ""
    plain = corner_shop.run("dbt", "build", "--select", "core_totals", "spoke_bi__departments", check=False)
    assert "Not released: core_totals failed" in plain.stdout
    assert current(corner_shop) == ""
    model.write_text("select cast(4 as bigint) as total\n")
    assert "Released 1" in corner_shop.run("hubspoke", "build").stdout


def test_a_project_that_was_moved_is_built_again_where_it_reads_what_has_landed(
    settled_shop: Sandbox, tmp_path: Path
) -> None:
    moved = Sandbox(tmp_path / "moved")
    settled_shop.root.rename(moved.root)
    assert moved.run("hubspoke", "build").stdout.count("models in") == 1
    assert moved.query("select count(*) from staging.stg_crm__customers") == [(40,)]
    assert moved.run("hubspoke", "build").stdout.startswith("built      nothing")


def test_an_empty_build_is_never_released(corner_shop: Sandbox) -> None:
    result = corner_shop.run("dbt", "build", "--empty", "--select", "mart_sales__days+", check=False)
    assert "Not released" in result.stdout
    assert current(corner_shop) == ""


def test_rollback_moves_readers_by_command(corner_shop: Sandbox) -> None:
    assert "no release yet" in corner_shop.run("hubspoke", "releases").stdout
    corner_shop.run("dbt", "build", "--select", "spoke_bi__departments")
    corner_shop.edit(
        "models/marts/sales/mart_sales__departments.sql",
        "cast(sum(sales.sales_amount)",
        "cast(2 * sum(sales.sales_amount)",
    )
    corner_shop.run(
        "dbt",
        "build",
        "--select",
        "mart_sales__departments+",
        "--exclude",
        "department_sales_are_as_sent",
        check=False,
    )
    # the test that was left out has never seen this mart: no release
    assert current(corner_shop) == "000001"
    (corner_shop.root / "tests/singular/department_sales_are_as_sent.sql").unlink()
    corner_shop.run("dbt", "build", "--select", "mart_sales__departments+")
    doubled = corner_shop.read("bi", READERS_ASK)
    assert "release 1" in corner_shop.run("hubspoke", "rollback").stdout
    assert corner_shop.read("bi", READERS_ASK) != doubled
    listed = corner_shop.run("hubspoke", "releases").stdout.splitlines()
    assert [line[0] for line in listed] == ["*", " "]
    assert corner_shop.run("hubspoke", "rollback", "9", check=False).returncode == 1


def test_a_killed_build_releases_nothing_and_the_next_one_is_whole(corner_shop: Sandbox) -> None:
    process, _ = build_until(corner_shop, "core.core_sales", "OK created")
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    assert current(corner_shop) == ""
    refused = corner_shop.run("dbt", "build", "--select", "spoke_crm__regulars")
    assert "Not released" in refused.stdout
    corner_shop.run("hubspoke", "build")
    assert current(corner_shop) == "000001"


def test_ingestion_while_a_build_runs_waits_for_the_next_build(corner_shop: Sandbox) -> None:
    """A build reads one state of the landing zone from its first model to its last."""
    process, output = build_until(corner_shop, "OK hook: hubspoke.on-run-start.2")
    process.send_signal(signal.SIGSTOP)  # a shop is built faster than it is landed
    spoil_a_sale(corner_shop)
    assert " landed" in corner_shop.run("hubspoke", "ingest", "till").stdout
    process.send_signal(signal.SIGCONT)
    rest = output.read()
    assert process.wait() == 0, rest
    assert "Released 1" in rest
    assert corner_shop.run("hubspoke", "build", check=False).returncode == 1


def test_a_second_build_at_the_same_time_says_so(corner_shop: Sandbox) -> None:
    for options, told in ([], "hub.duckdb is being built. Run this again"), (["-s", "stg_till__sales"], "lock"):
        with duckdb.connect(corner_shop.root / "warehouse/hub.duckdb"):
            result = corner_shop.run("hubspoke", "build", *options, check=False)
        assert result.returncode == 1
        assert told in result.stderr
        assert "Traceback" not in result.stdout + result.stderr


def test_quarantined_and_dropped_rows_are_accounted_for(built: Sandbox) -> None:
    ledger = built.query("select model, rows_in, rows_out, rows_quarantined, rows_dropped from quality.ledger")
    assert {row[0] for row in ledger} == {"core_promotions", "core_coupon_products"}
    assert all(row[1] == row[2] + row[3] + row[4] for row in ledger)
    [promotions] = [row for row in ledger if row[0] == "core_promotions"]
    assert promotions[3] > 0
    kept = built.query("select count(*), count(distinct _rules_broken) from quarantine.core_promotions")
    assert kept == [(promotions[3], 1)]
    # whole, and the one that stayed is the one with a display
    assert built.query(
        "select count(*) from quarantine.core_promotions as held "
        "inner join core.core_promotions as kept using (product_id, store_id, week_number) "
        "where held.display_location_code > kept.display_location_code"
    ) == [(0,)]


@pytest.mark.parametrize("command", [["dbt", "docs", "generate"], ["dbt", "test"], ["sqlfluff", "lint"]])
def test_the_commands_an_analytics_engineer_types_work_without_flags(corner_shop: Sandbox, command: list[str]) -> None:
    corner_shop.run(*command)


def test_an_unknown_table_is_named_with_what_there_is(built_shop: Sandbox) -> None:
    result = built_shop.run("hubspoke", "ingest", "poss", check=False)
    assert result.returncode == 1
    assert "no source poss; there are catalog.products, " in result.stderr


def test_commands_are_listed_in_the_order_of_the_work(built_shop: Sandbox) -> None:
    help_text = built_shop.run("hubspoke", "--help").stdout
    places = [
        help_text.index(f"\n  {command} ") for command in ("ingest", "build", "check", "releases", "rollback", "query")
    ]
    assert places == sorted(places)


def test_outside_a_project_it_says_where_to_go(built_shop: Sandbox, tmp_path: os.PathLike[str]) -> None:
    result = subprocess.run([BIN / "hubspoke", "build"], cwd=tmp_path, capture_output=True, text=True, check=False)
    assert result.returncode == 1
    assert "not in a Hubspoke project" in result.stderr
