"""What a node is made of, as one hash: equal hashes mean that building or testing it again would run the same SQL."""

import hashlib
import json
import re
from functools import lru_cache
from pathlib import Path
from typing import Any

from hubspoke.canonical import canonical
from hubspoke.manifest import Manifest, Node, folders, takes_rows_out

SETTINGS_OF_A_MODEL = (
    "materialized",
    "contract",
    "column_types",
    "delimiter",
    "quote_columns",
    "database",
    "schema",
    "alias",
    "pre-hook",
    "post-hook",
    "sql_header",
    "indexes",
    "persist_docs",
    "grants",
    "partitioned_by",
    "sorted_by",
)
HALF = 32
"""Digits of each of the two hashes that a fingerprint is made of."""

SETTINGS_OF_A_TEST = ("where", "severity", "warn_if", "error_if", "fail_calc", "limit", "meta")


def fingerprints(manifest: Manifest, variables: dict[str, Any], exceptions: list[list[str]]) -> dict[str, str]:
    """Hash every model, seed, data test and unit test of a project.

    Args:
        manifest: The project as parsed.
        variables: Values of dbt's variables.
        exceptions: Lines of ``seeds/rule_exceptions.csv``, model first: what the quality gate lets through.

    Returns:
        Hash by unique id: of what counts of the text (``hubspoke.canonical``), of the macros that it calls and those
        that they call, of the variables that these read, and of the settings that change what runs; of a model also of
        the rules that take rows out of it, of a spoke's of what is said of it, of a unit test of its rows.
    """
    tests = {test["unique_id"]: _hash(_parts(manifest, test, variables, SETTINGS_OF_A_TEST)) for test in manifest.tests}
    taking_out: dict[str, list[str]] = {}
    for test in manifest.tests:
        if takes_rows_out(test):
            taking_out.setdefault(test.get("attached_node") or "", []).append(tests[test["unique_id"]])
    found = dict(tests)
    for node_id, node in manifest.nodes.items():
        if node["resource_type"] in {"model", "seed"}:
            parts = _parts(manifest, node, variables, SETTINGS_OF_A_MODEL)
            if folders(node)[0] == "spokes":  # readers see what is said of it
                parts["said"] = [node["description"], {name: c["description"] for name, c in node["columns"].items()}]
            parts["types"] = {name: column.get("data_type") for name, column in node["columns"].items()}
            parts["rules"] = sorted(taking_out.get(node_id, []))
            parts["exceptions"] = [line for line in exceptions if line[0] == node["name"]]
            parts["relations"] = [
                manifest.get(one).get("relation_name") for one in [node_id, *manifest.parents(node_id)]
            ]
            parts["constraints"] = [node.get("constraints"), [c.get("constraints") for c in node["columns"].values()]]
            found[node_id] = _hash(parts)
    for node_id, node in manifest.unit_tests.items():
        found[node_id] = _hash({key: node.get(key) for key in ("model", "given", "expect", "overrides")})
    return found


def _parts(manifest: Manifest, node: Node, variables: dict[str, Any], settings: tuple[str, ...]) -> dict[str, Any]:
    macros = {macro_id: manifest.macros[macro_id]["macro_sql"] for macro_id in _called(manifest, node)}
    arguments = (node.get("test_metadata") or {}).get("kwargs")
    said = {name: node["config"].get(name) for name in settings}
    read = set().union(*map(_variables_in, [node.get("raw_code") or "", *macros.values(), str(arguments), str(said)]))
    return {
        "text": _content(node) if node["resource_type"] == "seed" else _text(node),
        "arguments": arguments,
        "macros": macros,
        "variables": {name: variables.get(name) for name in sorted(read)},
        "settings": said,
    }


def _text(node: Node) -> str:
    text = node.get("raw_code") or ""
    return text if node.get("language") == "python" else canonical(text)


def _content(seed: Node) -> Any:
    """Return a seed's checksum; of a large one dbt knows only where it is."""
    if seed["checksum"]["name"] != "path":
        return seed["checksum"]
    with (Path(seed["root_path"]) / seed["original_file_path"]).open("rb") as content:
        return hashlib.file_digest(content, "sha256").hexdigest()


@lru_cache(maxsize=10_000)
def _variables_in(text: str) -> frozenset[str]:
    """Find the variables that a template's text reads by name."""
    return frozenset(re.findall(r"\bvar\s*\(\s*\\?['\"](\w+)", text))


def _called(manifest: Manifest, node: Node) -> list[str]:
    """Macros that a node calls, directly or through other macros, in a stable order."""
    found: set[str] = set()
    waiting = list(node["depends_on"].get("macros", []))
    while waiting:
        macro_id = waiting.pop()
        if macro_id not in found and macro_id in manifest.macros:
            found.add(macro_id)
            waiting += manifest.macros[macro_id]["depends_on"]["macros"]
    return sorted(found)


def is_text_alone(one: str, other: str) -> bool:
    """Whether two models or tests differ in their texts and in nothing else, by their fingerprints."""
    return one[:HALF] == other[:HALF]


def _hash(parts: dict[str, Any]) -> str:
    """Hash what a node is made of: its text in one half, all else in the other."""
    halves = {name: value for name, value in parts.items() if name != "text"}, parts.get("text")
    hashes = (hashlib.sha256(json.dumps(half, sort_keys=True, default=str).encode()).hexdigest() for half in halves)
    return "".join(half[:HALF] for half in hashes)
