"""Edits of SQL around Jinja: what such a text refers to is known, and what it compiles to can be told, without dbt."""

import hashlib
import re
from typing import Any

from hubspoke.canonical import CONFIG, JINJA, REFERENCE, TRIMMED

Node = dict[str, Any]


def edited(node: Node, text: str) -> Node | None:
    """Return a node with another text, as dbt would have parsed it; None if dbt has to.

    Args:
        node: A model or test in SQL, as it was parsed.
        text: Its text now.
    """
    if node.get("resource_type") not in {"model", "test"} or node.get("language") != "sql":
        return None
    if _pieces(text) is None or _pieces(text) != _pieces(node["raw_code"]):
        return None
    now = text.strip()
    checksum = {"name": "sha256", "checksum": hashlib.sha256(now.encode()).hexdigest()}
    return node | {"raw_code": now, "checksum": checksum}


def compiled(node: Node, parents: list[Node]) -> str | None:
    """Return the SQL that dbt would compile a model to; None where Jinja does more than to refer and to configure.

    Args:
        node: The model.
        parents: The nodes that it refers to.
    """
    is_known = True

    def write(piece: re.Match[str]) -> str:
        nonlocal is_known
        if piece[0].startswith("{#") or re.fullmatch(rf"{CONFIG.pattern}.*\)\s*\}}\}}", piece[0], re.DOTALL):
            return ""
        found = _referred(piece[0], parents) if REFERENCE.fullmatch(piece[0]) else []
        is_known = is_known and len(found) == 1
        return found[0]["relation_name"] if is_known else ""

    text = re.sub(r"\r\n?", "\n", node["raw_code"])  # as Jinja writes it
    if _pieces(text) is None or TRIMMED.search(text):
        return None
    sql = JINJA.sub(write, text)
    return sql if is_known else None


def _pieces(text: str) -> list[str] | None:
    """Return what Jinja runs of a text, in order; None if that is not told by its braces."""
    if re.search(r"\{%|\{\{|\}\}|\{#|#\}", JINJA.sub("", text)):
        return None
    return [piece for piece in JINJA.findall(text) if not piece.startswith("{#")]


def _referred(piece: str, parents: list[Node]) -> list[Node]:
    """Return the nodes among some that a ``ref`` or a ``source`` can mean."""
    *_, first, last = ["", *re.findall(r"['\"](\w+)['\"]", piece)]
    version = re.search(r"\bv(?:ersion)?\s*=\s*(\d+)", piece)
    if re.match(r"\{\{-?\s*source", piece):
        return [node for node in parents if (node.get("source_name"), node["name"]) == (first, last)]
    return [
        node
        for node in parents
        if "source_name" not in node
        and node["name"] == last
        and (first in ("", node["package_name"]))
        and (version is None or str(node.get("version")) == version[1])
    ]
