"""dbt's manifest, as far as the house rules need it."""

import hashlib
import importlib.metadata
import json
import os
import re
import sys
from dataclasses import dataclass
from functools import cached_property, lru_cache
from pathlib import Path
from typing import Any

from hubspoke.edits import edited
from hubspoke.errors import HubspokeError
from hubspoke.files import write_whole
from hubspoke.yaml_file import read_yaml

Node = dict[str, Any]

TAKING_OUT = {"quarantine", "drop"}
"""What a rule's ``on_failure`` says where it takes the rows that break it out of its model."""

PATHS = {
    "model-paths": "models",
    "macro-paths": "macros",
    "seed-paths": "seeds",
    "test-paths": "tests",
    "analysis-paths": "analyses",
    "snapshot-paths": "snapshots",
    "docs-paths": "models",
    "function-paths": "functions",
    "packages-install-path": "dbt_packages",
}
"""Settings of ``dbt_project.yml`` that name folders which dbt parses, and what these are where it says nothing."""

KEPT_PARSES = 4
"""Of so many states of the project what dbt parsed is kept: an environment is one, too."""

LARGE = 1 << 20
"""Bytes: of a larger seed dbt does not read the content when it parses."""


class Manifest:
    """The project as dbt parsed it last (``target/manifest.json``)."""

    def __init__(self, content: dict[str, Any]) -> None:
        self.run_id: str = content.get("metadata", {}).get("invocation_id", "")
        self.dialect: str = content.get("metadata", {}).get("adapter_type") or "duckdb"
        self.nodes: dict[str, Node] = content["nodes"]
        self.unit_tests: dict[str, Node] = content.get("unit_tests", {})
        self.macros: dict[str, Node] = content.get("macros", {})
        self.sources: dict[str, Node] = content["sources"]
        self.exposures: dict[str, Node] = content["exposures"]

    @classmethod
    def read(cls, root: Path) -> "Manifest":
        """Read the manifest that dbt's last command left in the project at ``root``.

        Raises:
            HubspokeError: dbt has not parsed the project yet.
        """
        path = target_folder(root) / "manifest.json"
        if not path.is_file():
            raise HubspokeError(f"{path} is missing: dbt has not parsed the project yet. Run: dbt parse")
        return cls(json.loads(path.read_text()))

    @classmethod
    def read_current(cls, root: Path) -> "Manifest":
        """Read the manifest, after dbt has parsed the project anew if a YAML file of ``models/`` is newer than it.

        Raises:
            HubspokeError: dbt could not parse the project; its own message is passed on.
        """
        path = target_folder(root) / "manifest.json"
        newest = max((file.stat().st_mtime for file in (root / "models").rglob("*.yml")), default=0.0)
        if not path.is_file() or path.stat().st_mtime < newest:
            _run_dbt(root, "parse")
        return cls.read(root)

    @cached_property
    def models(self) -> list[Node]:
        """The project's models."""
        return [node for node in self.nodes.values() if node["resource_type"] == "model"]

    @cached_property
    def tests(self) -> list[Node]:
        """The project's data tests."""
        return [node for node in self.nodes.values() if node["resource_type"] == "test"]

    @cached_property
    def tested(self) -> dict[str, list[str]]:
        """What each data test and unit test speaks of: unique ids of models, seeds and sources, by the test's own."""
        data_tests = {test["unique_id"]: list(test["depends_on"]["nodes"]) for test in self.tests}
        # what a unit test replaces with rows is no part of this
        return data_tests | {node_id: node["depends_on"]["nodes"][:1] for node_id, node in self.unit_tests.items()}

    def subject(self, test: Node) -> Node:
        """Return the model, seed or source that a data test is on; nothing for a singular test."""
        if test.get("attached_node"):
            return self.get(test["attached_node"])
        # dbt attaches no source
        about = str((test.get("test_metadata") or {}).get("kwargs", {}).get("model", ""))
        for node_id in test["depends_on"]["nodes"]:
            source = self.sources.get(node_id, {})
            if source and f"source('{source['source_name']}', '{source['name']}')" in about:
                return source
        return {}

    @cached_property
    def row_templates(self) -> set[str]:
        """Templates that judge rows: they say which rows break them, or which columns may not repeat."""
        names = {macro["name"] for macro in self.macros.values()}
        return {name.removesuffix(end) for end in ("__broken", "__key") for name in names if name.endswith(end)}

    @cached_property
    def spokes(self) -> list[Node]:
        """The models that are released: those under ``models/spokes/``."""
        return [model for model in self.models if folders(model)[0] == "spokes"]

    @cached_property
    def personal_columns(self) -> set[tuple[str, str]]:
        """Columns of sources that describe a person (``config.meta.class: personal``): unique id and column name."""
        return {
            (source["unique_id"], column["name"].lower())
            for source in self.sources.values()
            for column in source["columns"].values()
            if meta(column).get("class") == "personal"
        }

    def tested_key(self, node: Node) -> tuple[tuple[str, ...], bool]:
        """Find the columns that a spoke's model, or the one model that it reads, is tested to be unique by.

        Returns:
            The columns, the shortest such list; and whether tests say that none of them is null.
        """
        parents = self.parents(node["unique_id"])
        subjects = {node["unique_id"], *(parents if len(parents) == 1 else [])}
        keys: list[tuple[str, ...]] = []
        filled: set[str] = set()
        for test in self.tests:
            about = test.get("test_metadata") or {}
            is_whole = (
                not test["config"].get("where") and str(test["config"].get("severity", "error")).lower() == "error"
            )
            if test.get("attached_node") not in subjects or not is_whole:
                continue
            arguments = about.get("kwargs", {})
            if about.get("name") == "unique":
                keys.append((arguments["column_name"],))
            elif about.get("name") == "unique_combination":
                keys.append(tuple(arguments["columns"]))
            elif about.get("name") == "not_null":
                filled.add(arguments["column_name"])
        shown = sorted((key for key in keys if all(column in node["columns"] for column in key)), key=len)
        whole = [key for key in shown if filled.issuperset(key)]
        return (whole or shown or [()])[0], bool(whole)

    @cached_property
    def read_by_rules(self) -> dict[str, list[str]]:
        """What the rules that take rows out of a model read beside it, by the model's unique id."""
        found: dict[str, list[str]] = {}
        for test in self.tests:
            about = test.get("attached_node") or ""
            if takes_rows_out(test):
                found.setdefault(about, []).extend(node for node in test["depends_on"]["nodes"] if node != about)
        return found

    def parents(self, node_id: str) -> list[str]:
        """List what a node reads: models, seeds and sources."""
        # a source reads nothing here, and a seed has no such entry
        return list(self.nodes.get(node_id, {}).get("depends_on", {}).get("nodes", []))

    def ancestry(self, node_ids: list[str]) -> list[str]:
        """List nodes and all that they rest on, each after its own parents."""
        ordered: dict[str, None] = {}

        def visit(node_id: str) -> None:
            if node_id not in ordered:
                for parent in self.parents(node_id):
                    visit(parent)
                ordered[node_id] = None

        for node_id in node_ids:
            visit(node_id)
        return list(ordered)

    def get(self, node_id: str) -> Node:
        """Return a node, source or unit test by its unique id."""
        return self.nodes.get(node_id) or self.sources.get(node_id) or self.unit_tests[node_id]


def target_folder(root: Path) -> Path:
    """Return the folder of what dbt makes of the project at ``root`` beside the data."""
    return root / os.environ.get("DBT_TARGET_PATH", "target")


def folders(node: Node) -> list[str]:
    """Return the folders of a node below ``models/`` (or the like), outermost first: ``["spokes", "bi"]``."""
    parts: list[str] = node["original_file_path"].split("/")[1:-1]
    return parts or [""]


def spoke_of(node: Node) -> str:
    """Return the consumer that a spoke's model belongs to, by its folder; empty if it lies in none."""
    return next(iter(folders(node)[1:]), "")


def meta(node: Node) -> dict[str, Any]:
    """Return a node's or column's ``config.meta``."""
    return dict(node.get("config", {}).get("meta") or node.get("meta") or {})


def takes_rows_out(test: Node) -> bool:
    """Whether a rule takes the rows that break it out of its model."""
    return meta(test).get("on_failure") in TAKING_OUT


def parse_project(root: Path) -> Manifest:
    """Have dbt parse the project at ``root``, if anything that dbt would read is another than when it did so last.

    It is not asked where only SQL around Jinja is another.

    Raises:
        HubspokeError: dbt could not; its own message is passed on.
    """
    content = content_of(root)
    kept = _kept(root, content)
    if not kept.is_file() and not _edit(root, content):
        _parse(root)
    return _read(kept) if kept.is_file() else Manifest.read(root)


def load_for_dbt(root: Path) -> Any:
    """Return the project at ``root`` as dbt holds it in memory, for one run that is not to parse it again.

    Raises:
        HubspokeError: dbt could not parse it; its own message is passed on.
    """
    found, parsed = _parsed.pop(root, (None, None))
    if found != content_of(root):
        parsed = _parse(root)
        _parsed.pop(root, None)
    given_to_dbt.add(parsed.metadata.invocation_id)
    return parsed


given_to_dbt: set[str] = set()
"""Invocation ids of the parses of which a run in this process was given the outcome."""


@dataclass(frozen=True)
class Content:
    """All that dbt's parse reads.

    Attributes:
        files: A hash of each, by path.
        rest: A hash of the variables of the environment that they name, and of versions.
    """

    files: dict[str, str]
    rest: str

    @property
    def name(self) -> str:
        """Return a name for it: a hash."""
        return hashlib.sha256(json.dumps([self.files, self.rest]).encode()).hexdigest()


_parsed: dict[Path, tuple[Content | None, Any]] = {}
"""What dbt parsed last in this process, and what that was read from; by the project's root."""


def _parse(root: Path) -> Any:
    """Have dbt parse the project, and keep what it wrote, unless somebody edited meanwhile."""
    found = content_of(root)
    parsed = _run_dbt(root, "parse")
    manifest = (target_folder(root) / "manifest.json").read_text()
    if content_of(root) == found:
        _keep(root, found, manifest)  # dbt's other commands write more into theirs
        _parsed[root] = (found, parsed)
    return parsed


def _edit(root: Path, content: Content) -> bool:
    """Keep what dbt would parse after an edit of SQL around Jinja; False if it was another edit."""
    for kept in reversed(_all_kept(root)):
        files = kept.with_suffix(".files")
        before = Content(**json.loads(files.read_text())) if files.is_file() else Content({}, "")
        if before.rest == content.rest and before.files.keys() == content.files.keys():
            break
    else:
        return False
    paths = [path for path, digest in content.files.items() if digest != before.files[path]]
    if not all(path.endswith(".sql") for path in paths):
        return False
    parsed = json.loads(kept.read_text())
    own = parsed["metadata"]["project_name"]
    nodes = {
        str(root / node["original_file_path"]): node_id
        for node_id, node in parsed["nodes"].items()
        if node["package_name"] == own
    }
    for path in paths:
        try:
            now = edited(parsed["nodes"].get(nodes.get(path), {}), Path(path).read_bytes().decode())
        except (OSError, UnicodeDecodeError):
            return False  # dbt says what is wrong
        if now is None:
            return False
        parsed["nodes"][nodes[path]] = now
    if content_of(root) != content:
        return False
    _keep(root, content, json.dumps(parsed))
    return True


def _keep(root: Path, content: Content, manifest: str) -> None:
    """Keep what dbt parsed of some content, in place of what has been kept for longest."""
    kept = _kept(root, content)
    kept.parent.mkdir(exist_ok=True)
    for old in _all_kept(root)[: 1 - KEPT_PARSES]:
        old.unlink(missing_ok=True)
        old.with_suffix(".files").unlink(missing_ok=True)
    write_whole(kept.with_suffix(".files"), json.dumps({"files": content.files, "rest": content.rest}))
    write_whole(kept, manifest)


def _all_kept(root: Path) -> list[Path]:
    """Return where what dbt parsed is kept, the newest last."""
    return sorted((target_folder(root) / "parsed").glob("*.json"), key=lambda path: path.stat().st_mtime_ns)


def _kept(root: Path, content: Content) -> Path:
    """Return where what dbt parsed of some content is kept."""
    return target_folder(root) / "parsed" / f"{content.name}.json"


@lru_cache(maxsize=2)
def _read(path: Path) -> Manifest:
    """Read a manifest that never changes; the same object each time, so that what was worked out of it is known."""
    return Manifest(json.loads(path.read_text()))


def content_of(root: Path) -> Content:
    """Return what dbt's parse would read now."""
    project = read_yaml(root / "dbt_project.yml")
    named = [project.get(setting) or usual for setting, usual in PATHS.items()]
    folders = {folder for one in named for folder in ([one] if isinstance(one, str) else one)}
    files = {file for folder in folders for file in (root / folder).rglob("*") if file.is_file()}
    # a profile names the schemas; dbt looks for it in several places
    places = [root, Path.home() / ".dbt", *(Path(folder) for folder in [os.environ.get("DBT_PROFILES_DIR")] if folder)]
    files |= {*root.glob("*.yml"), *root.glob(".dbtignore")}
    files |= {place / "profiles.yml" for place in places if (place / "profiles.yml").is_file()}
    hashes = {}
    names: set[str] = {name for name in os.environ if name.startswith("DBT_")}
    for file in sorted(files):
        if "__pycache__" in file.parts:
            continue
        text = file.read_bytes() if file.stat().st_size < LARGE else str(file.stat().st_size).encode()
        names.update(name.decode() for name in re.findall(rb"env_var\(\s*['\"](\w+)", text))
        hashes[str(file)] = hashlib.sha256(text).hexdigest()
    said = {name: os.environ.get(name) for name in sorted(names)}
    versions = [importlib.metadata.version(name) for name in ("dbt-core", "dbt-duckdb", "hubspoke")]
    rest = hashlib.sha256(json.dumps([said, versions, sys.version]).encode()).hexdigest()
    return Content(hashes, rest)


def compile_project(root: Path, select: str = "") -> dict[str, str]:
    """Compile the project at ``root`` without running a model.

    Args:
        root: Where it is.
        select: dbt selector of what to compile; empty for everything, and then mistakes in rules are named, too.

    Returns:
        Compiled SQL by unique id.

    Raises:
        HubspokeError: dbt could not parse or compile the project; its own message is passed on.
    """
    _run_dbt(root, "compile", "--no-inject-ephemeral-ctes", *(["--select", select] if select else []))
    content = json.loads((target_folder(root) / "manifest.json").read_text())
    return {node_id: node.get("compiled_code") or "" for node_id, node in content["nodes"].items()}


def _run_dbt(root: Path, *arguments: str) -> Any:
    # slow to import (1 s)
    from dbt.cli.main import dbtRunner

    os.chdir(root)  # where dbt looks for its project and its profile
    result = dbtRunner().invoke(["--log-level", "none", *arguments])  # whoever called tells what went wrong
    close_hub()
    raise_if_stopped(result)
    if not result.success:
        raise HubspokeError(str(result.exception or f"dbt could not {arguments[0]} the project"))
    return result.result


def raise_if_stopped(result: Any) -> None:
    """Raise what dbt caught if its user stopped it.

    Args:
        result: dbt's own result of a run.

    Raises:
        KeyboardInterrupt: Ctrl-C was typed.
    """
    if isinstance(result.exception, KeyboardInterrupt):
        raise result.exception


def close_hub() -> None:
    """Let go of the hub, which dbt keeps open in this process when it has ended."""
    from dbt.adapters.duckdb.connections import DuckDBConnectionManager

    # even after close_all_connections
    if DuckDBConnectionManager._ENV is not None:
        DuckDBConnectionManager._ENV.close()
    DuckDBConnectionManager.close_all_connections()  # type: ignore[no-untyped-call]
