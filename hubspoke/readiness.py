"""Whether the hub, as it stands after a run, may be released: one consistent, tested state of everything released.

A run may build any part of the project. What matters is what it leaves behind: every relation that a spoke rests on was
built to the end from what the project says now, after everything that it reads, and every test on it passed since; and
nothing in the project, whether a spoke rests on it or not, has failed last.
"""

from dataclasses import dataclass
from typing import Literal

from hubspoke.manifest import Manifest

RED = {"error", "fail", "runtime error"}
"""dbt's statuses of a node that failed; what was skipped for it has no say of its own."""

GREEN = {"success", "pass", "warn"}


@dataclass(frozen=True)
class Build:
    """The last build of a model or seed, or the last pin of a source.

    Attributes:
        number: Rises with every build and every result in the hub.
        fingerprint: What built it (``hubspoke.fingerprint``); for a source, the load that it is pinned to. None if the
            build did not come to its end, or was of a sample.
    """

    number: int
    fingerprint: str | None


@dataclass(frozen=True)
class Result:
    """The last result of a node: its place in the order of builds, dbt's status, and the fingerprint of what ran."""

    number: int
    status: str
    fingerprint: str | None


@dataclass(frozen=True)
class Obstacle:
    """One reason not to release.

    Attributes:
        node_id: What is not fit.
        kind: ``missing`` (never built or run), ``edited`` (what the project says of it now was not built or run, or not
            to the end), ``outdated`` (something it reads was built since) or ``red`` (it failed last).
    """

    node_id: str
    kind: Literal["missing", "edited", "outdated", "red"]


def obstacles(
    manifest: Manifest, builds: dict[str, Build], results: dict[str, Result], expected: dict[str, str]
) -> list[Obstacle]:
    """List what stands against a release; an empty list means that the hub may be released.

    Args:
        manifest: The project now.
        builds: Last build of each model, seed and source, by unique id.
        results: Last result of each node that was not skipped, by unique id.
        expected: Fingerprint of each model, seed and test as the project is now.
    """
    found = [
        Obstacle(node_id, "red")
        for node_id, result in results.items()
        if result.status in RED and result.fingerprint == expected.get(node_id, "gone")
    ]
    scope = manifest.ancestry([spoke["unique_id"] for spoke in manifest.spokes])
    for node_id in scope:
        build = builds.get(node_id)
        parents = [builds[parent].number for parent in manifest.parents(node_id) if parent in builds]
        if build is None:
            found.append(Obstacle(node_id, "missing"))
        elif node_id in expected and build.fingerprint != expected[node_id]:
            found.append(Obstacle(node_id, "edited"))
        elif any(number > build.number for number in parents):
            found.append(Obstacle(node_id, "outdated"))
    in_scope = set(scope)
    for test_id, tested in manifest.tested.items():
        if not in_scope.intersection(tested):
            continue
        result = results.get(test_id)
        if result is None:
            found.append(Obstacle(test_id, "missing"))
        elif result.fingerprint != expected[test_id]:
            found.append(Obstacle(test_id, "edited"))
        elif result.status in GREEN and any(
            builds[node_id].number > result.number for node_id in tested if node_id in builds
        ):
            found.append(Obstacle(test_id, "outdated"))
    return found
