"""The rule by which a hub may be released, on made-up projects: a chain source - core - mart - spoke with tests."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubspoke.manifest import Manifest
from hubspoke.readiness import Build, Result, obstacles

CHAIN = ["source.pos", "model.core", "model.mart", "model.spoke"]
OTHER = "model.unreleased"


def node(name: str, parents: list[str], kind: str = "model", folder: str = "marts/x") -> dict[str, Any]:
    return {
        "unique_id": name,
        "name": name,
        "resource_type": kind,
        "original_file_path": f"models/{folder}/{name}.sql",
        "depends_on": {"nodes": parents},
    }


MANIFEST = Manifest(
    {
        "nodes": {
            "model.core": node("model.core", ["source.pos"]),
            "model.mart": node("model.mart", ["model.core"]),
            "model.spoke": node("model.spoke", ["model.mart"], folder="spokes/bi"),
            OTHER: node(OTHER, ["model.core"]),
            "test.core": node("test.core", ["model.core"], "test"),
            "test.mart": node("test.mart", ["model.mart", "model.core"], "test"),
            "test.unreleased": node("test.unreleased", [OTHER], "test"),
        },
        "sources": {"source.pos": {}},
        "exposures": {},
        "unit_tests": {"unit_test.mart": {"unique_id": "unit_test.mart", "name": "unit", "model": "model.mart"}},
    }
)
TESTS = ["test.core", "test.mart", "unit_test.mart"]
EXPECTED = {name: f"text of {name}" for name in [*MANIFEST.nodes, *MANIFEST.unit_tests]}


def ran(name: str, number: int, status: str = "pass", text: str | None = None) -> Result:
    return Result(number, status, text or f"text of {name}")


def state(**changed: Any) -> tuple[dict[str, Build], dict[str, Result]]:
    """A hub after one full green run, with some entries replaced or (None) removed."""
    builds: dict[str, Any] = {name: Build(number, f"text of {name}") for number, name in enumerate(CHAIN)}
    results: dict[str, Any] = {name: ran(name, 10) for name in TESTS}
    for name, value in changed.items():
        unique_id = name.replace("__", ".")
        (results if "test" in name else builds)[unique_id] = value
    return {k: v for k, v in builds.items() if v}, {k: v for k, v in results.items() if v}


def found(**changed: Any) -> list[tuple[str, str]]:
    return [(obstacle.node_id, obstacle.kind) for obstacle in obstacles(MANIFEST, *state(**changed), EXPECTED)]


def test_a_full_green_run_may_be_released() -> None:
    assert found() == []


@pytest.mark.parametrize(
    ("changed", "expected"),
    [
        ({"model__mart": None}, [("model.mart", "missing")]),
        ({"model__mart": Build(2, "older text")}, [("model.mart", "edited")]),
        ({"model__core": Build(11, None)}, [("model.core", "edited"), ("model.mart", "outdated")]),
        ({"source__pos": Build(12, "new load")}, [("model.core", "outdated")]),
        ({"test__core": None}, [("test.core", "missing")]),
        ({"test__mart": ran("test.mart", 10, "fail")}, [("test.mart", "red")]),
        ({"test__mart": ran("test.mart", 10, text="older text")}, [("test.mart", "edited")]),
        ({"test__mart": ran("test.mart", 1)}, [("test.mart", "outdated")]),
        ({"unit_test__mart": None}, [("unit_test.mart", "missing")]),
        ({"unit_test__mart": ran("unit_test.mart", 10, "fail")}, [("unit_test.mart", "red")]),
        ({"unit_test__mart": ran("unit_test.mart", 1)}, [("unit_test.mart", "outdated")]),
        ({"test__unreleased": ran("test.unreleased", 10, "fail")}, [("test.unreleased", "red")]),
    ],
)
def test_each_gap_is_named(changed: dict[str, Any], expected: list[tuple[str, str]]) -> None:
    assert found(**changed)[: len(expected)] == expected


def test_a_warning_is_green_and_what_no_spoke_rests_on_need_not_be_built() -> None:
    assert found(test__mart=ran("test.mart", 10, "warn")) == []
    assert OTHER not in state()[0]


def test_a_failure_of_what_has_been_edited_since_or_is_gone_does_not_count() -> None:
    assert found(test__unreleased=ran("test.unreleased", 10, "fail", text="older text")) == []
    builds, results = state()
    assert obstacles(MANIFEST, builds, {**results, "test.gone": ran("test.gone", 10, "fail")}, EXPECTED) == []


@given(order=st.permutations(CHAIN + TESTS))
def test_only_upstream_before_downstream_and_tests_last_is_released(order: list[str]) -> None:
    """Whatever order builds and tests happened in, only a valid one is free of obstacles."""
    at = {name: number for number, name in enumerate(order)}
    builds = {name: Build(at[name], f"text of {name}") for name in CHAIN}
    results = {name: ran(name, at[name]) for name in TESTS}
    in_order = [at[name] for name in CHAIN] == sorted(at[name] for name in CHAIN)
    tested = (
        at["test.core"] > at["model.core"]
        and at["test.mart"] > max(at["model.mart"], at["model.core"])
        and at["unit_test.mart"] > at["model.mart"]
    )
    assert (obstacles(MANIFEST, builds, results, EXPECTED) == []) == (in_order and tested)
