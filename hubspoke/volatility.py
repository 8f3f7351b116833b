"""Which queries may give something else when they are run again over the same data, and must be."""

import re
from functools import lru_cache
from typing import Any

from hubspoke.manifest import Manifest, Node

KEYWORDS = ("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "tablesample")
FUNCTIONS = (
    *("ago", "get_current_time", "get_current_timestamp", "now", "today", "transaction_timestamp"),
    *("gen_random_uuid", "random", "setseed", "uuid", "uuidv4", "uuidv7"),
    *("current_connection_id", "current_query_id", "current_transaction_id", "currval", "getenv", "getvariable"),
    *("nextval", "sleep_ms", "txid_current", "write_log"),
)
"""What DuckDB calls volatile (``duckdb_functions()``), and what else depends on the clock, chance or the session."""

OUTSIDE = (r"read_\w+", r"\w+_scan", "glob", "query_table", "query")
"""Functions that read what is no relation of the project."""

OF_THE_RUN = ("run_started_at", "invocation_id", "env_var", "modules", "run_query", "statement", "load_result")
"""Jinja that tells of the run, of its surroundings, or of what the hub held when the query was written."""

_IN_TESTS = re.compile(rf"\b(?:({'|'.join(KEYWORDS)})\b|({'|'.join(FUNCTIONS)})\s*\()")
# a test asks the hub first whether the gate has counted for it
_IN_MODELS = re.compile(rf"\b(?:({'|'.join([*KEYWORDS, *OF_THE_RUN])})\b|({'|'.join([*FUNCTIONS, *OUTSIDE])})\s*\()")

ONLY_BETTER = frozenset({"not_in_future"})
"""Templates that look at the clock, and that what has passed once will go on passing."""

_WORD = re.compile(r"[a-z_]\w*")


@lru_cache(maxsize=4)
def volatile(manifest: Manifest) -> dict[str, str]:
    """Find the models and tests that are volatile, and the word that makes each so, by unique id."""
    found = {node["unique_id"]: _reason(manifest, node) for node in [*manifest.models, *manifest.tests]}
    return {node_id: reason for node_id, reason in found.items() if reason}


def _reason(manifest: Manifest, node: Node) -> str:
    is_test = node["resource_type"] == "test"
    if is_test and (node.get("test_metadata") or {}).get("name") in ONLY_BETTER:
        return ""
    arguments: Any = [(node.get("test_metadata") or {}).get("kwargs"), node["config"].get("where")]
    text = "\n".join([node.get("raw_code") or "", *_written_by(manifest, node), str(arguments) if is_test else ""])
    text = re.sub(r"--[^\n]*|/\*.*?\*/|\{#.*?#\}", "", text, flags=re.DOTALL).lower()
    found = (_IN_TESTS if is_test else _IN_MODELS).search(text)
    return (found[1] or found[2]) if found else ""


def _written_by(manifest: Manifest, node: Node) -> list[str]:
    """Return the texts of the project's macros that write a part of a node's query: hooks do not."""
    own = {
        macro["name"]: macro["macro_sql"]
        for macro in manifest.macros.values()
        if not macro["package_name"].startswith("dbt")
    }
    found: dict[str, str] = {}
    waiting = [node.get("raw_code") or ""]
    while waiting:
        for name in _WORD.findall(waiting.pop()):
            if name in own and name not in found:
                found[name] = own[name]
                waiting.append(own[name])
    return list(found.values())
