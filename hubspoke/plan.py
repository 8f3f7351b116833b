"""What a build has to do, and why: what the hub holds beside what it would hold if all were built now."""

import hashlib
import json
import re
from collections.abc import Iterable
from dataclasses import dataclass
from functools import cached_property
from typing import Literal

import duckdb

from hubspoke.development import follow
from hubspoke.errors import HubspokeError
from hubspoke.fingerprint import fingerprints
from hubspoke.freshness import targets
from hubspoke.landing import LandingZone
from hubspoke.manifest import Manifest, Node, parse_project, takes_rows_out
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.readiness import RED
from hubspoke.release import ReleaseStore, last_builds, last_results, released_state, state_of
from hubspoke.sources import read_sources
from hubspoke.sql import quoted
from hubspoke.versions import Build, Result, Versions, held, is_older, judged, wanted
from hubspoke.volatility import volatile

Why = Literal[
    "added", "edited", "unfinished", "failed", "volatile", "asked", "data", "ancestor", "outdated", "unreleased"
]

WORDS: dict[Why, str] = {
    "added": "added: never built here",
    "edited": "edited since it was built",
    "unfinished": "its last build did not come to its end",
    "failed": "failed last",
    "volatile": "volatile: to build it again may give something else",
    "asked": "asked for, changed or not",
    "data": "reads new data",
    "ancestor": "changed through an ancestor",
    "outdated": "built from other data than there is now",
    "unreleased": "built, and not released yet",
}
"""Why something is built, the first that holds; in the order in which a plan lists them."""


IN_PLACE = "is asked where it is, at every build"
"""What stands for the version of a source of which nobody tells whether it has changed."""


@dataclass(frozen=True)
class Step:
    """Something that a build has to do.

    Attributes:
        node: Model, seed, data test or unit test.
        why: Why it cannot be skipped.
        because: What that comes from: the sources or models that changed, or the word that makes it volatile.
    """

    node: Node
    why: Why
    because: tuple[str, ...] = ()

    @property
    def is_test(self) -> bool:
        """Whether it only looks."""
        return str(self.node["resource_type"]) in {"test", "unit_test"}

    @property
    def cause(self) -> str:
        """What it comes from, in brackets; empty if it comes from itself."""
        shown = ", ".join(self.because[:3]) + (f" and {len(self.because) - 3} more" if len(self.because) > 3 else "")
        return f"({shown})" if shown else ""

    @property
    def reason(self) -> str:
        """The reason as a person reads it."""
        return f"{WORDS[self.why]} {self.cause}".strip()


@dataclass(frozen=True)
class Plan:
    """What a build has to do.

    Attributes:
        manifest: The project as it is now.
        steps: Models and seeds in the order in which they are built, then tests.
        removed: Models and seeds that the hub still holds and the project does not know any more.
        goal: What the build is to arrive at, as one hash: another once something is edited or has landed.
        definitions: Fingerprint of each model, seed and test.
        loads: Version of each source.
        is_full: Whether all is to be computed anew, whatever has changed.
    """

    manifest: Manifest
    steps: tuple[Step, ...]
    removed: tuple[str, ...]
    goal: str
    definitions: dict[str, str]
    loads: Versions
    is_full: bool = False

    @cached_property
    def built(self) -> list[Step]:
        """What writes: models and seeds."""
        return [step for step in self.steps if not step.is_test]

    @cached_property
    def tested(self) -> list[Step]:
        """What looks: data tests and unit tests."""
        return [step for step in self.steps if step.is_test]

    @cached_property
    def skipped(self) -> tuple[int, int]:
        """Number of models and seeds, and of tests, that are as they would be."""
        relations = sum(node["resource_type"] in {"model", "seed"} for node in self.manifest.nodes.values())
        tests = len(self.manifest.tested)
        return relations - len(self.built), tests - len(self.tested)

    @property
    def missing(self) -> list[Step]:
        """The steps without those that a build always has: what is volatile, and what reads only that anew."""
        volatile = {step.node["name"] for step in self.steps if step.why == "volatile"}
        others = [step for step in self.steps if step.why != "volatile"]
        return [step for step in others if not step.because or not volatile.issuperset(step.because)]

    @property
    def skipped_in_words(self) -> str:
        """The number of models and rules that are skipped, as a person reads it; empty if none is."""
        relations, tests = self.skipped
        return f"{counted(relations, 'model')} and {counted(tests, 'rule')}" if relations or tests else ""

    @property
    def selectors(self) -> list[str]:
        """Arguments for dbt that select just these steps; none if everything is to be done."""
        names = [".".join(step.node["fqn"]) for step in self.steps]
        # dbt reads more than a name from a name with such characters: then all is built
        if self.skipped == (0, 0) or any(re.search(r"[\s,*?\[\]]", name) for name in names):
            return []
        return ["--indirect-selection", "empty", "--select", *(f"fqn:{name}" for name in names)]


def counted(number: int, thing: str) -> str:
    """Say how many there are of a thing."""
    return f"{number} {thing}{'' if number == 1 else 's'}"


def make(project: Project, is_full: bool = False) -> Plan:
    """Parse the project, look at what has landed and at what the hub says of itself, and tell what is to be done.

    Writes nothing but dbt's own ``target/``; in a development environment also what its hub has noted since.

    Args:
        project: The project.
        is_full: Whether all that rests on data is to be done, changed or not.

    Raises:
        HubspokeError: dbt cannot parse the project, or the hub is being built.
    """
    if project.base:
        follow(project)
    manifest = parse_project(project.root)
    builds: dict[str, Build] = {}
    results: dict[str, Result] = {}
    is_released = False
    targets(manifest)  # a freshness that is none is told before anything is built
    definitions = fingerprints(manifest, project.variables(), project.rule_exceptions())
    if project.hub.is_file():
        with open_hub(project) as hub:
            if _has_notes(hub):
                builds, results = last_builds(hub), last_results(hub)
                is_released = released_state(hub) == state_of(manifest, builds)
                for node_id in elsewhere(hub, project, manifest):
                    builds.pop(node_id, None)
    is_released = not manifest.spokes or (is_released and ReleaseStore(project.release).current() is not None)
    loads = current_loads(project, manifest)
    if project.base:  # what its hub was built from is new enough
        loads |= {node_id: builds[node_id].fingerprint or "" for node_id in loads.keys() & builds.keys()}
    steps = compare(manifest, definitions, builds, results, loads, is_full)
    if project.base:  # nothing is released from here, and only the hub keeps the record that a snapshot is
        steps = [step for step in steps if step.node["resource_type"] != "snapshot"]
    elif not steps and not is_released:
        steps = [Step(spoke, "unreleased") for spoke in manifest.spokes]
    goal = hashlib.sha256(json.dumps([definitions, loads], sort_keys=True).encode()).hexdigest()
    known = {**manifest.nodes, **manifest.sources}
    removed = [node_id for node_id in builds if node_id not in known and node_id.startswith(("model.", "seed."))]
    return Plan(manifest, tuple(steps), tuple(sorted(removed)), goal, definitions, loads, is_full)


def compare(
    manifest: Manifest,
    definitions: dict[str, str],
    builds: dict[str, Build],
    results: dict[str, Result],
    sources: Versions,
    is_full: bool = False,
) -> list[Step]:
    """List what is to be done so that the hub holds what a full build would give.

    Args:
        manifest: The project.
        definitions: Fingerprint of each model, seed and test.
        builds: Last build of each model, seed and source.
        results: Last result of each node.
        sources: Version of each source now, by unique id.
        is_full: List models and data tests, whether they have changed or not: all that rests on data.
    """
    transient = [node for node in manifest.models if node["config"].get("materialized") == "ephemeral"]
    if transient and not is_full:
        raise HubspokeError(
            f"{transient[0]['original_file_path']}: an ephemeral model leaves nothing by which to tell whether it has "
            "changed. Make it a view; or build everything: dbt build"
        )
    now, then = wanted(manifest, definitions, sources), held(manifest, builds)
    differs = {node_id for node_id in now if now[node_id] != then.get(node_id, "")}
    steps: dict[str, Step] = {}
    # whether too many rows were taken out is told as a model is built
    red = [test for test in manifest.tests if takes_rows_out(test) and _is_red(results.get(test["unique_id"]))]
    again = {test.get("attached_node") or "": test["name"] for test in red}
    in_order = manifest.ancestry([*manifest.nodes])
    for node_id in in_order:
        node = manifest.get(node_id)
        if node["resource_type"] == "snapshot":
            steps[node_id] = Step(node, "volatile", ("snapshot",))
        if node["resource_type"] not in {"model", "seed"}:
            continue
        build = builds.get(node_id)
        parents = [parent for parent in manifest.parents(node_id) if parent in differs or parent in steps]
        if build is None:
            steps[node_id] = Step(node, "added")
        elif build.fingerprint is None:
            steps[node_id] = Step(node, "unfinished")
        elif build.fingerprint != definitions[node_id]:
            steps[node_id] = Step(node, "edited")
        elif node_id in volatile(manifest):
            steps[node_id] = Step(node, "volatile", (volatile(manifest)[node_id],))
        elif is_full and node["resource_type"] == "model":
            steps[node_id] = Step(node, "asked")
        elif parents:
            is_data = all(_is_new_data(parent, steps) for parent in parents)
            steps[node_id] = Step(node, "data" if is_data else "ancestor", _causes(manifest, parents, steps))
        elif node_id in differs or is_older(build.number, manifest.parents(node_id), builds):
            steps[node_id] = Step(node, "outdated")
        elif node_id in again:
            steps[node_id] = Step(node, "failed", (again[node_id],))
        elif _is_red(results.get(node_id)):
            steps[node_id] = Step(node, "failed")
    for test_id, tested in manifest.tested.items():
        test, result = manifest.get(test_id), results.get(test_id)
        # a unit test brings rows of its own: it asks for the model's definition alone
        data = [] if test_id in manifest.unit_tests else tested
        above = [node_id for node_id in data if node_id in differs or node_id in steps]
        if result is None:
            steps[test_id] = Step(test, "added")
        elif result.fingerprint != definitions[test_id]:
            steps[test_id] = Step(test, "edited")
        elif _is_red(result):
            steps[test_id] = Step(test, "failed")
        elif test_id in volatile(manifest):
            steps[test_id] = Step(test, "volatile", (volatile(manifest)[test_id],))
        elif is_full and test_id not in manifest.unit_tests:
            steps[test_id] = Step(test, "asked")
        elif (
            above
            or result.version != judged(manifest, test_id, definitions, now)
            or is_older(result.number, data, builds)
        ):
            is_data = bool(above) and all(_is_new_data(node_id, steps) for node_id in above)
            steps[test_id] = Step(test, "data" if is_data else "ancestor", _causes(manifest, above, steps))
    place = {node_id: number for number, node_id in enumerate(in_order)}
    return sorted(steps.values(), key=lambda step: (step.is_test, place.get(step.node["unique_id"], len(place))))


def current_loads(project: Project, manifest: Manifest) -> Versions:
    """Return the load that each landed source table is at now, by unique id; one read in place is another each time."""
    zone = LandingZone(project.landing)
    node_ids = {f"{source['source_name']}.{source['name']}": node_id for node_id, source in manifest.sources.items()}
    found: Versions = dict.fromkeys(manifest.sources, "is not landed here: nobody tells whether it changes")
    for table in read_sources(project.root):
        node_id = node_ids.get(table.name, "")
        if not table.is_landed:
            found[node_id] = IN_PLACE
        else:
            newest = zone.current(table.source, table.table)
            found[node_id] = newest.load_id if newest else ""
    return found


def _is_red(result: Result | None) -> bool:
    return result is not None and result.status in RED


def _is_new_data(node_id: str, steps: dict[str, Step]) -> bool:
    return node_id.startswith("source.") or (node_id in steps and steps[node_id].why in {"data", "volatile"})


def _causes(manifest: Manifest, node_ids: Iterable[str], steps: dict[str, Step]) -> tuple[str, ...]:
    """Name what changed by itself, behind what changed through it."""
    found: dict[str, None] = {}
    for node_id in node_ids:
        step = steps.get(node_id)
        if step is not None and step.why in {"data", "ancestor"}:
            found |= dict.fromkeys(step.because)
        else:
            node = manifest.get(node_id)
            found[f"{node['source_name']}.{node['name']}" if "source_name" in node else node["name"]] = None
    return tuple(found)


def elsewhere(hub: duckdb.DuckDBPyConnection, project: Project, manifest: Manifest) -> list[str]:
    """Find the sources whose views read another landing zone than the project's: the project has been moved."""
    views = hub.execute("select schema_name || '.' || view_name, sql from duckdb_views() where not internal").fetchall()
    # a view of no rows reads no file
    moved = {name for name, sql in views if ".parquet" in sql and f"{quoted(project.landing)}/" not in sql}
    return [node_id for node_id, node in manifest.sources.items() if f"{node['schema']}.{node['identifier']}" in moved]


def _has_notes(hub: duckdb.DuckDBPyConnection) -> bool:
    """Whether a run has noted in the hub what it holds; runs did not always."""
    try:
        hub.execute("select builds.version, results.version from runs.builds, runs.results limit 0")
    except (duckdb.BinderException, duckdb.CatalogException):
        return False
    return True
