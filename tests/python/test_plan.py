"""A build of what has changed, by command, on a corner shop and on a generated project."""

import json
import shutil
import subprocess
import sys
from typing import Any

import pytest
from conftest import ROOT, Sandbox
from corner_shop import write_table

from hubspoke.manifest import Manifest

CLOCK = """models:
  - name: core_clock
    description: "When it was built. Grain: one row."
    columns: [{ name: read_at, data_type: timestamptz, description: UTC time of the build. }]
"""
DEPARTMENTS = "models/marts/sales/mart_sales__departments"


@pytest.fixture
def settled(settled_shop: Sandbox) -> Sandbox:
    return settled_shop


def plan(sandbox: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sandbox.run("hubspoke", "plan", "--json").stdout)
    return found


def models(found: dict[str, Any], why: str = "") -> set[str]:
    return {step["name"] for step in found["steps"] if step["type"] in {"model", "seed"} and why in ("", step["why"])}


def descendants(sandbox: Sandbox, names: set[str]) -> set[str]:
    manifest = Manifest.read(sandbox.root)
    of_models = [node["unique_id"] for node in manifest.nodes.values() if node["resource_type"] in {"model", "seed"}]
    return {
        manifest.get(node_id)["name"]
        for node_id in of_models
        if names & {manifest.get(above)["name"] for above in manifest.ancestry([node_id])}
    }


def test_nothing_changed_builds_nothing_writes_nothing_and_is_released_once(settled: Sandbox) -> None:
    shutil.rmtree(settled.root / "warehouse/release")
    assert set(models(plan(settled), "unreleased")) == models(plan(settled))
    first = settled.run("hubspoke", "build").stdout
    assert "built      4 models in" in first
    assert "Released 1: 4 of 4 relations changed." in first
    hub = settled.root / "warehouse/hub.duckdb"
    before = hub.read_bytes()
    again = settled.run("hubspoke", "build").stdout
    assert again.startswith("built      nothing: 18 models and 22 rules are as they were built")
    assert "Release 1 is still current." in again
    assert settled.run("hubspoke", "plan").stdout.startswith("Nothing to build: 18 models and 22 rules are skipped")
    assert plan(settled)["steps"] == []
    settled.edit(f"{DEPARTMENTS}.sql", "with ", "-- by department\nwith  ")
    settled.edit("macros/hub/store_local_time.sql", "{% macro", "{#- said otherwise -#}\n{% macro")
    assert plan(settled)["steps"] == []
    assert "built      nothing" in settled.run("hubspoke", "build").stdout
    assert hub.read_bytes() == before


def test_an_edit_is_judged_and_its_readers_are_named(settled: Sandbox) -> None:
    settled.edit(
        f"{DEPARTMENTS}.sql",
        "cast(sum(sales.sales_amount)",
        "cast(2 * sum(sales.sales_amount)",
    )
    found = plan(settled)
    assert found["is_breaking"]
    assert models(found) == {"mart_sales__departments", "spoke_bi__departments"}
    assert models(found, "edited") == {"mart_sales__departments"}
    text = settled.run("hubspoke", "plan", "--strict", check=False)
    assert text.returncode == 1
    assert "breaking: computes otherwise" in text.stdout
    assert "felt by spoke_bi__departments of bi (sales_amount" in text.stdout
    page = settled.run("hubspoke", "plan", "--markdown").stdout
    assert "| `mart_sales__departments` | edited since it was built | breaking: " in page


def test_new_data_builds_what_rests_on_it_and_gives_what_a_full_build_gives(settled: Sandbox) -> None:
    write_table(settled.root, "crm.customers", "select range as customer_id, '19-24' as age from range(1, 41)")
    settled.run("hubspoke", "ingest", "crm")
    found = plan(settled)
    assert models(found, "data") == models(found) == descendants(settled, {"customers"})
    assert {because for step in found["steps"] for because in step["because"]} == {"crm.customers"}
    told = settled.run("hubspoke", "build").stdout
    assert f"skipped    {18 - len(models(found))} models" in told
    assert "Released 2: 1 of 4 relations changed." in told
    assert plan(settled)["steps"] == []
    full = settled.run("dbt", "build").stdout
    assert "Release 2 is still current: no relation changed." in full


def test_what_failed_is_tried_again_and_what_looks_at_the_clock_is_built_again(settled: Sandbox) -> None:
    (settled.root / "models/hub/core/core_clock.sql").write_text("select now() as read_at\n")
    about = settled.root / "models/hub/core/core_clock.yml"
    about.write_text(CLOCK + "    data_tests: [{ row_count: { name: never, arguments: { max_value: 0 } } }]\n")
    for _ in range(2):
        red = settled.run("hubspoke", "build", check=False)
        assert red.returncode == 1
        assert "never" in red.stdout
    about.write_text(CLOCK)
    found = plan(settled)
    assert [(step["name"], step["why"], step["because"]) for step in found["steps"]] == [
        ("core_clock", "volatile", ["now"])
    ]
    before = settled.query("select read_at from core.core_clock")
    settled.run("hubspoke", "build")
    assert settled.query("select read_at from core.core_clock") > before


def test_any_change_of_a_generated_project_builds_what_rests_on_it_and_nothing_else() -> None:
    command = [sys.executable, ROOT / "bench/changes.py", "--models", "30", "--changes", "8", "--seed", "7"]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    assert "8 changes of a project of 30 models" in done.stdout
