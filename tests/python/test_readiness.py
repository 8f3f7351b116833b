"""What a plan builds and when a hub may be released, on a made-up project: a chain source - core - mart - spoke."""

import dataclasses
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from hubspoke.manifest import Manifest
from hubspoke.plan import compare
from hubspoke.readiness import obstacles
from hubspoke.versions import Build, Result, held, judged

CHAIN = ["source.pos", "model.core", "model.mart", "model.spoke"]
OTHER = "model.unreleased"


def node(name: str, parents: list[str], kind: str = "model", folder: str = "marts/x") -> dict[str, Any]:
    return {
        "unique_id": name,
        "name": name,
        "resource_type": kind,
        "original_file_path": f"models/{folder}/{name}.sql",
        "depends_on": {"nodes": parents, "macros": []},
        "config": {"materialized": "view" if name == "model.spoke" else "table"},
        "raw_code": "",
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
        "sources": {"source.pos": {"resource_type": "source", "source_name": "pos", "name": "lines"}},
        "exposures": {},
        "unit_tests": {"unit_test.mart": {**node("unit_test.mart", ["model.mart"], "unit_test"), "model": "mart"}},
    }
)
TESTS = ["test.core", "test.mart", "unit_test.mart"]
RELATIONS = ["model.core", "model.mart", "model.spoke"]


class Hub:
    """A hub as runs leave it, and beside it what each relation holds in truth: its text, and what that read."""

    def __init__(self) -> None:
        self.texts = {name: f"text of {name}" for name in [*MANIFEST.nodes, *MANIFEST.unit_tests]}
        self.load = "load 1"
        self.builds: dict[str, Build] = {}
        self.results: dict[str, Result] = {}
        self.truth: dict[str, object] = {}
        self.number = 0

    def do(self, name: str) -> None:
        """Pin the source, build a model or run a test, as a run of it alone would."""
        self.number += 1
        if name == "source.pos":
            if name not in self.builds or self.builds[name].fingerprint != self.load:
                self.builds[name], self.truth[name] = Build(self.number, self.load), self.load
        elif "test" in name:
            version = judged(MANIFEST, name, self.texts, held(MANIFEST, self.builds))
            self.results[name] = Result(self.number, "pass", self.texts[name], version)
            self.truth[name] = self._judged_now(name)
        else:
            self.builds[name] = Build(self.number, self.texts[name])
            version = held(MANIFEST, self.builds, frozenset([name]))[name]
            self.builds[name] = Build(self.number, self.texts[name], version)
            self.truth[name] = (self.texts[name], [self.shown(parent) for parent in MANIFEST.parents(name)])

    def _judged_now(self, name: str) -> object:
        about = MANIFEST.tested[name]
        return self.texts[name], [self.texts[one] if "unit" in name else self.shown(one) for one in about]

    def shown(self, name: str) -> object:
        """Return what a relation shows now: the spoke's is a view."""
        if name == "model.spoke" and name in self.builds:
            return (self.builds[name].fingerprint, [self.shown(parent) for parent in MANIFEST.parents(name)])
        return self.truth.get(name)

    def full(self, name: str) -> object:
        """Return what a relation would hold after a full build."""
        if name == "source.pos":
            return self.load
        return self.texts[name], [self.full(parent) for parent in MANIFEST.parents(name)]

    def obstacles(self) -> list[tuple[str, str]]:
        found = obstacles(MANIFEST, self.builds, self.results, self.texts)
        return [(obstacle.node_id, obstacle.kind) for obstacle in found]

    def planned(self) -> list[str]:
        steps = compare(MANIFEST, self.texts, self.builds, self.results, {"source.pos": self.load})
        return [step.node["unique_id"] for step in steps]

    def follow_the_plan(self) -> None:
        """Do what a build does: all that is planned, from the loads that are there."""
        planned = self.planned()
        self.do("source.pos")
        for name in planned:
            self.do(name)

    def is_as_built_anew(self) -> bool:
        return all(self.shown(name) == self.full(name) for name in [*RELATIONS, OTHER])


def built() -> Hub:
    hub = Hub()
    hub.follow_the_plan()
    return hub


def test_a_full_green_run_may_be_released_and_there_is_nothing_left_to_do() -> None:
    hub = built()
    assert hub.is_as_built_anew()
    assert hub.obstacles() == []
    assert hub.planned() == []


def replaced(name: str, **changed: Any) -> Hub:
    hub = built()
    kept = hub.results if "test" in name else hub.builds
    kept[name] = dataclasses.replace(kept[name], **changed)
    return hub


def without(name: str) -> Hub:
    hub = built()
    (hub.results if "test" in name else hub.builds).pop(name)
    return hub


def edited(name: str) -> Hub:
    hub = built()
    hub.texts[name] = "newer text"
    return hub


def after(*names: str) -> Hub:
    hub = built()
    hub.load = "load 2"
    for name in names:
        hub.do(name)
    return hub


@pytest.mark.parametrize(
    ("hub", "expected"),
    [
        (without("model.mart"), [("model.mart", "missing")]),
        (edited("model.mart"), [("model.mart", "edited"), ("unit_test.mart", "outdated")]),
        (replaced("model.core", fingerprint=None), [("model.core", "edited"), ("model.mart", "outdated")]),
        (after("source.pos"), [("model.core", "outdated")]),
        (after("source.pos", "model.core"), [("model.mart", "outdated"), ("test.core", "outdated")]),
        (without("test.core"), [("test.core", "missing")]),
        (replaced("test.mart", status="fail"), [("test.mart", "red")]),
        (edited("test.mart"), [("test.mart", "edited")]),
        (replaced("test.mart", version="of other data"), [("test.mart", "outdated")]),
        (without("unit_test.mart"), [("unit_test.mart", "missing")]),
        (replaced("unit_test.mart", status="fail"), [("unit_test.mart", "red")]),
        (replaced("test.unreleased", status="fail"), [("test.unreleased", "red")]),
    ],
)
def test_each_gap_is_named_and_is_what_the_plan_mends(hub: Hub, expected: list[tuple[str, str]]) -> None:
    assert hub.obstacles()[: len(expected)] == expected
    assert {name for name, _ in expected} <= set(hub.planned())
    hub.follow_the_plan()
    assert (hub.obstacles(), hub.planned(), hub.is_as_built_anew()) == ([], [], True)


def test_a_warning_is_green_and_what_no_spoke_rests_on_need_not_be_built() -> None:
    hub = replaced("test.mart", status="warn")
    hub.builds.pop(OTHER)
    assert hub.obstacles() == []


def test_a_failure_of_what_has_been_edited_since_or_is_gone_does_not_count() -> None:
    hub = replaced("test.unreleased", status="fail", fingerprint="older text")
    hub.results["test.gone"] = Result(99, "fail", "text of test.gone")
    assert hub.obstacles() == []


def test_data_that_is_built_again_asks_for_what_reads_it_and_for_its_tests() -> None:
    """Its query may give another of several right answers."""
    hub = built()
    hub.do("model.core")
    assert ("model.mart", "outdated") in hub.obstacles()
    on_data = {test for test in TESTS if test not in MANIFEST.unit_tests}  # a unit test brings rows of its own
    assert set(hub.planned()) == {"model.mart", "model.spoke", OTHER, *on_data, "test.unreleased"}


def test_a_source_that_is_read_in_place_is_another_each_time() -> None:
    hub = built()
    steps = compare(MANIFEST, hub.texts, hub.builds, hub.results, {"source.pos": "asked where it is"})
    assert [(step.why, step.because) for step in steps if step.node["unique_id"] == "model.spoke"] == [
        ("data", ("pos.lines",))
    ]


EVENTS = st.one_of(
    st.sampled_from([*CHAIN, OTHER, *TESTS]),
    st.tuples(st.just("edit"), st.sampled_from([*RELATIONS, OTHER, *TESTS]), st.sampled_from("abc")),
    st.tuples(st.just("land"), st.sampled_from("123")),
    st.just("plan"),
)


@given(events=st.lists(EVENTS, max_size=25))
def test_whatever_was_edited_landed_and_built_a_plan_gives_what_a_full_build_would(events: list[Any]) -> None:
    """And what may be released is, in truth, all built from what the project says, and tested as it is."""
    hub = Hub()
    for event in events:
        match event:
            case ("edit", name, text):
                hub.texts[name] = text
            case ("land", number):
                hub.load = f"load {number}"
            case "plan":
                hub.follow_the_plan()
                assert hub.is_as_built_anew()
                assert (hub.planned(), hub.obstacles()) == ([], [])
            case name:
                hub.do(name)
        load, hub.load = hub.load, hub.builds["source.pos"].fingerprint or "" if "source.pos" in hub.builds else "?"
        is_built = all(name in hub.builds and hub.shown(name) == hub.full(name) for name in RELATIONS)
        is_tested = all(hub.truth.get(name) == hub._judged_now(name) for name in TESTS)
        assert hub.obstacles() or (is_built and is_tested)
        hub.load = load
