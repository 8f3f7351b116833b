"""Whether the hub, as it stands after a run, may be released: one consistent, tested state of everything released.

A run may build any part of the project. What matters is what it leaves behind: every relation that a spoke rests on was
built by the text that the project has now, after everything that it reads, and every test on it passed since.
"""

from dataclasses import dataclass
from typing import Literal

from hubspoke.manifest import Manifest

GREEN = {"success", "pass", "warn", "no-op"}
"""Statuses of dbt that stand in no one's way; an exposure has nothing to do and says no-op."""


@dataclass(frozen=True)
class Build:
    """The last build of a model or seed, or the last pin of a source.

    Attributes:
        number: Rises with every build and every result in the hub.
        checksum: dbt's checksum of the text that built it; for a source, the load that it is pinned to.
    """

    number: int
    checksum: str


@dataclass(frozen=True)
class Result:
    """The last result of a test: its place in the order of builds, and dbt's status."""

    number: int
    status: str


@dataclass(frozen=True)
class Obstacle:
    """One reason not to release.

    Attributes:
        node_id: What is not fit.
        kind: ``missing`` (never built or run), ``edited`` (not built, or not to the end, from
            the text it has now), ``outdated`` (something it reads
            was built since) or ``red`` (its last result was not green).
    """

    node_id: str
    kind: Literal["missing", "edited", "outdated", "red"]


def obstacles(manifest: Manifest, builds: dict[str, Build], results: dict[str, Result]) -> list[Obstacle]:
    """List what stands against a release, upstream first; an empty list means that the hub may be released.

    Args:
        manifest: The project now.
        builds: Last build of each model, seed and source, by unique id.
        results: Last result of each data test, by unique id.
    """
    found = []
    scope = manifest.ancestry([spoke["unique_id"] for spoke in manifest.spokes])
    for node_id in scope:
        build = builds.get(node_id)
        parents = [builds[parent].number for parent in manifest.parents(node_id) if parent in builds]
        if build is None:
            found.append(Obstacle(node_id, "missing"))
        elif node_id in manifest.nodes and build.checksum != manifest.nodes[node_id]["checksum"]["checksum"]:
            found.append(Obstacle(node_id, "edited"))
        elif any(number > build.number for number in parents):
            found.append(Obstacle(node_id, "outdated"))
    in_scope = set(scope)
    for test in manifest.tests:
        tested = [node_id for node_id in test["depends_on"]["nodes"] if node_id in builds]
        if not in_scope.intersection(test["depends_on"]["nodes"]):
            continue
        result = results.get(test["unique_id"])
        if result is None:
            found.append(Obstacle(test["unique_id"], "missing"))
        elif result.status not in GREEN:
            found.append(Obstacle(test["unique_id"], "red"))
        elif any(builds[node_id].number > result.number for node_id in tested):
            found.append(Obstacle(test["unique_id"], "outdated"))
    return found
