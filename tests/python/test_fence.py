"""Every rule of the house is broken once, on a copy of the project's own manifest."""

import copy
import json
import shutil
from collections.abc import Callable
from typing import Any

import duckdb
import pytest
from conftest import Sandbox

from hubspoke.errors import HubspokeError
from hubspoke.fence import COMPILED_RULES, RULES, violations
from hubspoke.manifest import Manifest

Content = dict[str, Any]


@pytest.fixture(scope="module")
def content(built: Sandbox) -> Content:
    return json.loads((built.root / "target/manifest.json").read_text())


@pytest.fixture(scope="module")
def compiled(content: Content) -> dict[str, str]:
    return compiled_in(content)


def compiled_in(content: Content) -> dict[str, str]:
    return {node_id: node.get("compiled_code") or "" for node_id, node in content["nodes"].items()}


def model(content: Content, name: str) -> dict[str, Any]:
    return content["nodes"][f"model.hubspoke.{name}"]


def exposure(content: Content, name: str) -> dict[str, Any]:
    return content["exposures"][f"exposure.hubspoke.{name}"]


def reads(name: str, parent: str) -> Callable[[Content], None]:
    return lambda content: model(content, name)["depends_on"]["nodes"].append(parent)


def sets(name: str, /, **values: Any) -> Callable[[Content], None]:
    return lambda content: model(content, name).update(values)


def writes(name: str, sql: str) -> Callable[[Content], None]:
    def plant(content: Content) -> None:
        for code in ("raw_code", "compiled_code"):
            model(content, name)[code] += sql

    return plant


def column(name: str, column_name: str, /, **values: Any) -> Callable[[Content], None]:
    return lambda content: model(content, name)["columns"][column_name].update(values)


def states(name: str, /, **values: Any) -> Callable[[Content], None]:
    return lambda content: exposure(content, name)["config"]["meta"].update(values)


def leaves_out(name: str, key: str) -> Callable[[Content], None]:
    return lambda content: exposure(content, name)["config"]["meta"].pop(key)


PLANTED = [
    ("reads only the room before", reads("mart_sales__departments", "source.hubspoke.pos.transactions")),
    ("reads only the room before", reads("mart_sales__departments", "model.hubspoke.stg_pos__transactions")),
    ("reads only the room before", reads("core_campaigns", "source.hubspoke.pos.transactions")),
    ("reads only the room before", sets("core_campaigns", original_file_path="models/attic/core_campaigns.sql")),
    ("marts stay in their domain", reads("mart_sales__departments", "model.hubspoke.mart_customers__rfm")),
    ("reads through ref", writes("mart_sales__departments", "\nunion all select * from core.core_baskets")),
    ("reads through ref", writes("mart_sales__departments", "\nunion all select * from read_parquet('lines.parquet')")),
    ("reads through ref", writes("mart_sales__departments", "\nunion all select * from 'lines.parquet'")),
    ("reads through ref", writes("mart_sales__departments", ", core.core_baskets")),
    ("spokes are thin", writes("spoke_bi__departments", "\ngroup by department_name")),
    ("spokes are thin", writes("spoke_bi__departments", ", final as again")),
    ("names say the room", sets("spoke_bi__departments", original_file_path="models/spokes/spoke_bi__departments.sql")),
    ("names say the room", sets("mart_sales__departments", name="mart_customers__departments")),
    ("names say the room", sets("core_campaigns", name="hub_campaigns")),
    ("yaml beside the model", sets("core_campaigns", patch_path="hubspoke://models/hub/core/_models.yml")),
    ("yaml beside the model", sets("core_campaigns", patch_path=None)),
    ("public models are described", sets("core_campaigns", description="Campaigns.")),
    ("public models are described", column("mart_sales__departments", "product_count", description="")),
    ("public models are described", sets("mart_sales__departments", contract={"enforced": False})),
    ("facade is versioned", sets("dim_dates.v1", version=None)),
    ("same name same type", column("spoke_bi__departments", "sales_amount", data_type="double")),
    ("models are short", writes("mart_sales__departments", "\n" * 150)),
    ("spokes are delivered", lambda content: exposure(content, "ml_churn_model").update(depends_on={"nodes": []})),
    ("spokes are delivered", leaves_out("ml_churn_model", "delivery")),
    ("spokes are delivered", states("ml_churn_model", spoke="bi")),
    ("postgres orders can be filled", states("bi_dashboards", delivery={"how": "file", "postgres": {}})),
    ("personal data has a purpose", leaves_out("crm_winback_letters", "personal_data_purpose")),
]


def test_the_project_keeps_its_own_rules(content: Content, compiled: dict[str, str]) -> None:
    assert violations(Manifest(content), compiled) == []


@pytest.mark.parametrize(("rule", "plant"), PLANTED, ids=[f"{n}-{rule}" for n, (rule, _) in enumerate(PLANTED)])
def test_a_breach_is_found(content: Content, rule: str, plant: Callable[[Content], None]) -> None:
    planted = copy.deepcopy(content)
    plant(planted)
    assert rule in {violation.rule for violation in violations(Manifest(planted), compiled_in(planted))}


def test_sql_that_only_looks_like_a_table_is_none(content: Content) -> None:
    planted = copy.deepcopy(content)
    writes(
        "mart_sales__departments",
        "\nwhere department_name is distinct from 'sales from stores' "
        "and extract(day from coalesce(null, current_date)) > 0 "
        "and sales_amount > (select max(n) from unnest([1, 2]) as t (n)) -- from core.core_baskets",
    )(planted)
    assert violations(Manifest(planted), compiled_in(planted)) == []


def test_personal_data_is_found_whatever_the_case_of_its_name(content: Content) -> None:
    planted = copy.deepcopy(content)
    leaves_out("crm_winback_letters", "personal_data_purpose")(planted)
    columns = model(planted, "spoke_crm__winback_audience")["columns"]
    columns["Age_Range"] = {**columns.pop("age_range"), "name": "Age_Range"}
    assert "personal data has a purpose" in {v.rule for v in violations(Manifest(planted), compiled_in(planted))}


def test_what_was_not_compiled_cannot_pass_as_traced(content: Content, compiled: dict[str, str]) -> None:
    with pytest.raises(HubspokeError, match="has not been compiled"):
        violations(Manifest(content), {**compiled, "model.hubspoke.dim_households.v1": ""})


def test_every_rule_is_broken_once() -> None:
    rules = {rule.__name__.replace("_", " ") for rule in [*RULES, *COMPILED_RULES]}
    assert rules == {rule for rule, _ in PLANTED}


def test_personal_data_is_found_under_another_name(content: Content, compiled: dict[str, str]) -> None:
    """A mart that renames and reshapes a personal column does not hide it."""
    planted = copy.deepcopy(content)
    leaves_out("crm_winback_letters", "personal_data_purpose")(planted)
    mart, spoke = "model.hubspoke.mart_customers__winback_audience", "model.hubspoke.spoke_crm__winback_audience"
    hidden = {
        mart: compiled[mart].replace("households.age_range", "upper(households.age_range) || '!' as life_stage"),
        spoke: compiled[spoke].replace("age_range", "life_stage"),
    }
    for node_id in hidden:
        columns = planted["nodes"][node_id]["columns"]
        columns["life_stage"] = {**columns.pop("age_range"), "name": "life_stage", "config": {}, "meta": {}}
    found = violations(Manifest(planted), {**compiled, **hidden})
    assert [violation.rule for violation in found] == ["personal data has a purpose"]
    assert "household_composition, life_stage" in found[0].message


def test_dbt_itself_refuses_a_mart_that_reads_the_hub(corner_shop: Sandbox) -> None:
    corner_shop.edit("models/marts/sales/mart_sales__departments.sql", "ref('fct_sales')", "ref('core_sales')")
    result = corner_shop.run("dbt", "parse", check=False)
    assert result.returncode != 0
    assert "core_sales" in result.stdout
    assert "group" in result.stdout


def test_a_breach_stops_the_release_and_names_the_file(corner_shop: Sandbox) -> None:
    corner_shop.edit("models/spokes/crm/_crm__exposures.yml", "personal_data_purpose", "reason")
    result = corner_shop.run("dbt", "build", "--select", "spoke_crm__regulars", check=False)
    assert result.returncode != 0
    assert "models/spokes/crm/_crm__exposures.yml: personal data has a purpose" in result.stdout
    assert not (corner_shop.root / "warehouse/release/current").exists()
    assert corner_shop.run("hubspoke", "check", check=False).returncode == 1


def test_a_project_that_has_landed_nothing_can_be_checked(corner_shop: Sandbox) -> None:
    shutil.rmtree(corner_shop.root / "warehouse")
    assert corner_shop.run("hubspoke", "check").stdout == "The project keeps the rules of the house.\n"
    with duckdb.connect(corner_shop.root / "warehouse/hub.duckdb") as hub:
        assert hub.execute("select count(*) from duckdb_tables()").fetchone() == (0,)
