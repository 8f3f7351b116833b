"""Places for files, on this machine or wherever fsspec reaches, S3 for example; and the place of a release store."""

import json
import os
import uuid
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.files import UNFINISHED, everything_in, sync, sync_tree

VARIABLE = "HUBSPOKE_TABLES"
"""Environment variable that names the place for a store's first release, as fsspec writes it: ``s3://bucket/folder``."""
_NOTE = "store.json"
"""Beside the releases, what the store is and where its files are; at that place, which store they belong to."""


@dataclass(frozen=True)
class Location:
    """A place for files, which are named by their path below it.

    Attributes:
        url: As fsspec writes it; a local one begins with ``file://``.
    """

    url: str

    @cached_property
    def filesystem(self) -> Any:
        """The fsspec file system.

        Raises:
            HubspokeError: fsspec knows no such kind of place, or lacks the package for it.
        """
        # slow to import (0.2 s)
        import fsspec

        try:
            return fsspec.url_to_fs(self.url)[0]
        except (ImportError, ValueError) as error:
            raise HubspokeError(f"{self.url}: {error}") from None

    @property
    def is_local(self) -> bool:
        """Whether the files are on this machine's disk."""
        return self.url.startswith("file://")

    def name(self, file: str) -> str:
        """Return what DuckDB and pyarrow call a file."""
        return f"{self.url.removeprefix('file://')}/{file}"

    def relative(self, url: str) -> str:
        """Return a file's path below this place from its URL, or from what fsspec lists it as."""
        without = self.url.partition("://")[2]
        return url.removeprefix(self.url).removeprefix(without).lstrip("/")

    def let_in(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read and write here; on this machine's disk it can anyway. Close such a connection yourself."""
        if not self.is_local and self.filesystem.protocol[0] not in connection.list_filesystems():
            connection.register_filesystem(self.filesystem)

    def let_read(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Let DuckDB read here on a connection that a caller may just drop.

        Python then ends a query that nobody has read to its end, and waits for DuckDB's threads while these wait for
        Python, to read a file: for ever. With one thread there are none to wait for.
        """
        self.let_in(connection)
        if not self.is_local:
            connection.execute("set threads = 1")

    def files(self, folder: str) -> dict[str, int]:
        """List the files anywhere below a folder with their sizes in bytes; none if there is no such folder."""
        if self.is_local:  # many times as quick as by way of the file system's general interface
            found = [path for path in everything_in(Path(self.name(folder))) if path.is_file()]
            return {self.relative(str(path)): path.stat().st_size for path in found}
        self.filesystem.invalidate_cache()
        about = self.filesystem.find(self.name(folder), detail=True)
        return {self.relative(path): int(told["size"]) for path, told in about.items()}

    def read(self, file: str) -> str | None:
        """Return a file's text, or None if there is no such file."""
        self.filesystem.invalidate_cache()
        try:
            return str(self.filesystem.cat_file(self.name(file)).decode())
        except FileNotFoundError:
            return None

    def write(self, file: str, text: str) -> None:
        """Write a small file."""
        self.filesystem.pipe_file(self.name(file), text.encode())

    def make(self, folder: str) -> None:
        """Make a folder for files, where such a thing exists."""
        if self.is_local:
            Path(self.name(folder)).mkdir(parents=True, exist_ok=True)

    def remove(self, file: str) -> None:
        """Remove a file."""
        self.filesystem.rm_file(self.name(file))

    def remove_folder(self, folder: str) -> None:
        """Remove a folder and everything in it."""
        self.filesystem.invalidate_cache()
        if self.filesystem.exists(self.name(folder)):
            self.filesystem.rm(self.name(folder), recursive=True)

    @contextmanager
    def durable(self, folder: str) -> Iterator[None]:
        """Wait, at the end, until what was written to a folder meanwhile is durable.

        A place that is not a disk has made it so already.
        """
        if not self.is_local:
            yield
            return
        path = Path(self.name(folder))
        before = {found for found in everything_in(path) if not found.is_dir()}
        yield
        sync_tree(path, before)
        sync(path.parent)
        sync(path.parent.parent)


def read_location(root: Path) -> Location:
    """Return where a store's files are; before its first release, where they will be."""
    noted = _noted(root)
    return _place(root, noted["tables"] if noted else _given())


def claim(root: Path, begin_anew: Callable[[], None]) -> bool:
    """Settle where a store's files are, and that they are this store's alone.

    A store that was copied or moved is not at home: Iceberg's metadata and the spokes' files hold whole paths, so it
    would write into its original. Call it with the store's lock held.

    Args:
        root: The store's folder.
        begin_anew: Called if the store is not at home, before that is noted; may be called again after a kill.

    Returns:
        Whether the store was at home.

    Raises:
        HubspokeError: The place is another store's, or is not where the store's earlier releases have their files.
    """
    noted = _noted(root)
    here = str(root.resolve())
    given = _given()
    is_at_home = noted.get("path") == here
    if is_at_home and given and noted["tables"] != given:
        raise HubspokeError(
            f"{VARIABLE} is {given}, but the releases in {root} have their files at {noted['tables'] or root}. "
            "A store keeps to one place: leave the variable out, or begin a new store in another folder."
        )
    if not is_at_home:
        noted = {"path": here, "id": str(uuid.uuid4()), "tables": given}
    location = _place(root, noted["tables"])
    if not location.is_local:
        owner = location.read(_NOTE)
        if owner is None:
            location.write(_NOTE, json.dumps({"id": noted["id"]}))
        elif json.loads(owner)["id"] != noted["id"]:
            raise HubspokeError(f"{location.url} holds the files of another release store. Name another: {VARIABLE}")
    if not is_at_home:
        begin_anew()
        unfinished = root / f"{_NOTE}{UNFINISHED}"
        unfinished.write_text(json.dumps(noted))
        unfinished.replace(root / _NOTE)
    return is_at_home


def _given() -> str:
    return os.environ.get(VARIABLE, "").rstrip("/")


def _place(root: Path, tables: str) -> Location:
    return Location(tables or f"file://{root.absolute()}")


def _noted(root: Path) -> dict[str, str]:
    note = root / _NOTE
    return dict(json.loads(note.read_text())) if note.is_file() else {}
