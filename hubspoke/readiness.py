"""Whether the hub, as it stands after a run, may be released: one consistent, tested state of everything released.

A run may build any part of the project. What matters is what it leaves behind: every relation that a spoke rests on was
built to the end from what the project says now and from what its parents hold now, after them, and every test on it
passed over just that, after it; and nothing in the project, whether a spoke rests on it or not, has failed last.
"""

from dataclasses import dataclass
from typing import Literal

from hubspoke.manifest import Manifest
from hubspoke.versions import Build, Result, held, is_older, judged, made_of

RED = {"error", "fail", "runtime error"}
"""dbt's statuses of a node that failed; what was skipped for it has no say of its own."""

GREEN = {"success", "pass", "warn"}


@dataclass(frozen=True)
class Obstacle:
    """One reason not to release.

    Attributes:
        node_id: What is not fit.
        kind: ``missing`` (never built or run), ``edited`` (what the project says of it now was not built or run, or not
            to the end), ``outdated`` (what it reads is not what it was built from) or ``red`` (it failed last).
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
    versions = held(manifest, builds)
    for node_id in scope:
        build = builds.get(node_id)
        if build is None:
            found.append(Obstacle(node_id, "missing"))
        elif node_id not in expected:
            continue
        elif build.fingerprint != expected[node_id]:
            found.append(Obstacle(node_id, "edited"))
        elif versions[node_id] != made_of(manifest, node_id, expected[node_id], versions, build.number) or is_older(
            build.number, manifest.parents(node_id), builds
        ):
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
        elif result.status in GREEN and (
            result.version != judged(manifest, test_id, expected, versions)
            # a unit test brings rows of its own
            or (test_id not in manifest.unit_tests and is_older(result.number, tested, builds))
        ):
            found.append(Obstacle(test_id, "outdated"))
    return found
