"""What data a relation holds, told without looking at it: by its definition and by the versions of all that it read.

Equal versions mean equal data. A source's version is the load that it is pinned to; a table's or seed's is fixed when
it is built; a view's is that of what it shows now, and changes with what it reads.
"""

import hashlib
import json
from dataclasses import dataclass

from hubspoke.manifest import Manifest, Node
from hubspoke.volatility import volatile

Versions = dict[str, str]
"""By unique id; empty where there is none: not built, or not to the end."""


@dataclass(frozen=True)
class Build:
    """The last build of a model or seed, or the last pin of a source.

    Attributes:
        number: Rises with every build and every result in the hub.
        fingerprint: What built it (``hubspoke.fingerprint``); for a source, the load that it is pinned to. None if the
            build did not come to its end, or was of a sample.
        version: What it holds.
        compiled: The SQL that built it.
    """

    number: int
    fingerprint: str | None
    version: str | None = None
    compiled: str = ""


@dataclass(frozen=True)
class Result:
    """The last result of a node: its place in the order of builds, dbt's status, what ran, and over which data."""

    number: int
    status: str
    fingerprint: str | None
    version: str | None = None


def held(manifest: Manifest, builds: dict[str, Build], fresh: frozenset[str] = frozenset()) -> Versions:
    """Tell what every relation of the hub holds.

    Args:
        manifest: The project.
        builds: Last builds.
        fresh: Models and seeds of which the version is to be told anew: those that have just been built.
    """
    found: Versions = {}
    for node_id in _in_order(manifest):
        build = builds.get(node_id)
        if build is None or build.fingerprint is None:
            found[node_id] = ""
        elif node_id in manifest.sources:
            found[node_id] = build.fingerprint
        elif node_id in fresh or is_view(manifest.get(node_id)):
            found[node_id] = made_of(manifest, node_id, build.fingerprint, found, build.number)
        else:
            found[node_id] = build.version or ""
    return found


def wanted(manifest: Manifest, fingerprints: dict[str, str], sources: Versions) -> Versions:
    """Tell what every relation would hold if all were built now.

    Args:
        manifest: The project.
        fingerprints: Of models and seeds.
        sources: Version of each source now.
    """
    found = dict.fromkeys(manifest.sources, "") | sources
    for node_id in _in_order(manifest):
        if node_id not in manifest.sources:
            # what is no model and no seed, such as a snapshot, is another at every run
            found[node_id] = made_of(manifest, node_id, fingerprints.get(node_id, "unknown"), found, 0)
    return found


def made_of(manifest: Manifest, node_id: str, fingerprint: str, versions: Versions, number: int) -> str:
    """Return the version of what a definition makes of the versions of what it reads; a volatile one's is its own."""
    above = [*manifest.parents(node_id), *manifest.read_by_rules.get(node_id, [])]
    read = {parent: versions.get(parent, "") for parent in above}
    return _hash([fingerprint, read, number if node_id in volatile(manifest) else 0])


def judged(manifest: Manifest, test_id: str, definitions: dict[str, str], versions: Versions) -> str:
    """Return the version of a test's result: of a unit test, of its model's definition; else, of the data tested."""
    looked_at = definitions if test_id in manifest.unit_tests else versions
    return _hash([definitions[test_id], {about: looked_at.get(about, "") for about in manifest.tested[test_id]}])


def is_older(number: int, node_ids: list[str], builds: dict[str, Build]) -> bool:
    """Whether one of some nodes has been built since: to equal data, if its query gives the same each time."""
    return any(builds[node_id].number > number for node_id in node_ids if node_id in builds)


def is_view(node: Node) -> bool:
    """Whether a model holds no data of its own."""
    return bool(node.get("config", {}).get("materialized") == "view")


def _in_order(manifest: Manifest) -> list[str]:
    return manifest.ancestry([node_id for node_id in manifest.nodes if node_id.startswith(("model", "seed"))])


def _hash(content: object) -> str:
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:32]
