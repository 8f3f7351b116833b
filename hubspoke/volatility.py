"""Which queries may give something else when they are run again over the same data, and must be.

They are found by words: in the text of a model or a test, and in the macros that write a part of it. A word in a place
where it says nothing makes a query volatile that is not, which costs a build.
"""

import re
from functools import lru_cache
from typing import Any

from hubspoke.manifest import Manifest, Node, takes_rows_out

CLOCK_AND_CHANCE = (
    *("current_date", "current_time", "current_timestamp", "localtime", "localtimestamp", "tablesample", "sample"),
    *("run_started_at",),
)
"""Words of SQL, and of Jinja in rules, that tell the time or throw dice."""

FUNCTIONS = (
    *("age", "ago", "current_localtime", "current_localtimestamp", "get_current_time", "get_current_timestamp", "now"),
    *("today", "transaction_timestamp"),
    *("gen_random_uuid", "random", "setseed", "uuid", "uuidv4", "uuidv7"),
    *("current_connection_id", "current_query_id", "current_transaction_id", "currval", "getenv", "getvariable"),
    *("nextval", "sleep_ms", "txid_current", "write_log"),
)
"""What DuckDB calls volatile (``duckdb_functions()``), and what else depends on the clock, chance or the session."""

OUTSIDE = (r"read_\w+", r"\w+_scan", r"\w+_query", r"parquet_\w+", r"duckdb_\w+", r"pragma_\w+", "sniff_csv", "glob")
"""Functions that read what is no relation of the project."""

OF_THE_RUN = (
    *("invocation_id", "env_var", "modules", "run_query", "statement", "load_result", "target", "flags"),
    *("invocation_args_dict", "information_schema", r"runs\s*\.", r"quality\s*\."),
)
"""What tells of the run, of its surroundings, or of what the hub held when the query was written."""

AT_EACH_RUN = (r"run_started_at", r"_released\s*\(", r"env_var\s*\(", r"modules\.(datetime|pytz)")
"""Jinja that writes other SQL at another run, whatever the project says."""

ONLY_BETTER = frozenset({"not_in_future"})
"""Templates that look at the clock, and that what has passed once will go on passing."""

_FUNCTION = rf"\b({'|'.join(FUNCTIONS)})\"?\s*\("
_IN_SQL = re.compile(rf"\b({'|'.join(CLOCK_AND_CHANCE)})\b|{_FUNCTION}", re.IGNORECASE)
_IN_MODELS = re.compile(
    rf"\b({'|'.join(CLOCK_AND_CHANCE)})\b|{_FUNCTION}|\b({'|'.join(OF_THE_RUN)})"
    rf"|\b({'|'.join([*OUTSIDE, 'query', 'query_table'])})\s*\(|\b(from|join)\s+'",
    re.IGNORECASE,
)


_WRITTEN = re.compile(rf"({'|'.join(AT_EACH_RUN)})")


@lru_cache(maxsize=4)
def written_anew(manifest: Manifest) -> dict[str, str]:
    """Find the tests whose SQL is another at each run, and the word that makes it so, by unique id."""
    found = {test["unique_id"]: _word(_WRITTEN, _texts(manifest, test)) for test in manifest.tests}
    return {test_id: word for test_id, word in found.items() if word}


@lru_cache(maxsize=4)
def volatile(manifest: Manifest) -> dict[str, str]:
    """Find the models and tests that are volatile, and the word that makes each so, by unique id."""
    found = {model["unique_id"]: _word(_IN_MODELS, _texts(manifest, model)) for model in manifest.models}
    for test in manifest.tests:
        word = _word(_IN_SQL, _texts(manifest, test))
        if (test.get("test_metadata") or {}).get("name") not in ONLY_BETTER:
            found[test["unique_id"]] = word
        if word and takes_rows_out(test):
            found[test.get("attached_node") or ""] = word  # which rows stay hangs on it
    return {node_id: word for node_id, word in found.items() if word}


def _word(words: re.Pattern[str], texts: list[str]) -> str:
    return next(filter(None, (_word_in(words, text) for text in texts)), "")


@lru_cache(maxsize=10_000)
def _word_in(words: re.Pattern[str], text: str) -> str:
    """Find one of some words in a text; a macro's is that of each rule that it writes a part of."""
    found = words.search(re.sub(r"\{#.*?#\}|^\s*--[^\n{]*$", "", text, flags=re.DOTALL | re.MULTILINE))
    return next(word for word in found.groups() if word) if found else ""


def _texts(manifest: Manifest, node: Node) -> list[str]:
    """Return the text of a node, its arguments, and the macros that write a part of it: not those of its hooks."""
    hooks = " ".join(hook["sql"] for kind in ("pre-hook", "post-hook") for hook in node["config"].get(kind) or [])
    arguments: Any = (node.get("test_metadata") or {}).get("kwargs"), node["config"].get("where")
    found: dict[str, str] = {}
    waiting = [
        macro_id
        for macro_id in node.get("depends_on", {}).get("macros", [])
        if not re.search(rf"\b{macro_id.split('.')[-1]}\b", hooks)
    ]
    while waiting:
        macro = manifest.macros.get(waiting.pop())
        # a rule asks the hub first whether the gate has counted for it; dbt's own macros ask of what is theirs
        if macro and macro["unique_id"] not in found:
            name = macro["name"].split("__")[-1]
            is_own = not re.fullmatch(r"dbt(_duckdb|_spark)?", macro["package_name"])
            found[macro["unique_id"]] = macro["macro_sql"] if is_own else name if _IN_SQL.fullmatch(name) else ""
            waiting += macro["depends_on"]["macros"]
    return [node.get("raw_code") or "", str(arguments), *found.values()]
