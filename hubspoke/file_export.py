"""Files that a source leaves: which there are, and a plain copy of each on this machine."""

import gzip
import hashlib
import json
import shutil
import zipfile
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from fnmatch import fnmatch
from pathlib import Path, PurePosixPath
from typing import Any

from xxhash import xxh3_128

from hubspoke.errors import HubspokeError, first_line
from hubspoke.location import Location
from hubspoke.sources import SourceTable

STAMPS = ("ETag", "etag", "Content-MD5", "md5", "LastModified", "Last-Modified", "mtime", "modified", "created")
"""What places of files tell that changes with a file; with the size, it is the file's fingerprint there."""


class BadFile(Exception):
    """A file cannot be read at all; the message says why."""


@dataclass(frozen=True)
class SourceFile:
    """A file as it lies at the source.

    Attributes:
        name: Its path below the source's folder.
        url: Where it is, for a person, and for fsspec if it is not on this machine.
        path: Where it is on this machine, if it is.
        fingerprint: Another once its content is.
        stamp: What the system tells of a file on this machine that changes when somebody writes to it.
    """

    name: str
    url: str
    path: Path | None
    fingerprint: str
    stamp: tuple[int, ...] = ()


def list_files(table: SourceTable) -> list[SourceFile]:
    """List the files that hold a table now, by name.

    Raises:
        HubspokeError: The one file is missing, or the place cannot be asked.
    """
    if "://" in table.folder:
        return _list_remote(table)
    folder = Path(table.folder) if table.folder else table.path.parent
    if table.files:
        paths = sorted(path for path in folder.glob(table.files) if path.is_file())
    else:
        paths = [folder / table.file if table.file else table.path]
    return [
        _local(table, path, path.relative_to(folder).as_posix())
        for path in paths
        if not any(part.startswith(".") for part in path.relative_to(folder).parts)
    ]


def is_unchanged(table: SourceTable, file: SourceFile) -> bool:
    """Whether a file on this machine has been left alone since it was listed."""
    if file.path is None:
        return True
    with _readable(table, file.path):
        return _stamp(file.path) == file.stamp


def fetch(table: SourceTable, file: SourceFile, scratch: Path) -> list[tuple[str, Path]]:
    """Return a file's content as plain files on this machine: fetched, unpacked, each with its name.

    Raises:
        BadFile: It cannot be unpacked.
        HubspokeError: It cannot be fetched.
    """
    scratch.mkdir(parents=True, exist_ok=True)
    path = file.path
    if path is None:
        path = scratch / f"fetched{''.join(PurePosixPath(file.name).suffixes[-2:])}"
        try:
            _filesystem(table).get_file(file.url, str(path))
        except Exception as error:
            raise HubspokeError(f"{table.name}: cannot fetch {file.url}: {first_line(error)}") from None
    try:
        return list(_unpack(file.name, path, scratch))
    except (EOFError, OSError, zipfile.BadZipFile, zlib.error, RuntimeError) as error:
        raise BadFile(f"it cannot be unpacked ({first_line(error)})") from None


def _unpack(name: str, path: Path, scratch: Path) -> Iterator[tuple[str, Path]]:
    if path.suffix.lower() == ".gz":
        plain = scratch / f"unpacked{PurePosixPath(name).with_suffix('').suffix}"
        with gzip.open(path) as packed, plain.open("wb") as unpacked:
            shutil.copyfileobj(packed, unpacked, 1 << 20)
        yield name, plain
    elif path.suffix.lower() == ".zip":
        with zipfile.ZipFile(path) as archive:
            members = [member for member in archive.infolist() if not member.is_dir()]
            for number, member in enumerate(members):
                plain = scratch / f"unpacked-{number}{PurePosixPath(member.filename).suffix}"
                with archive.open(member) as packed, plain.open("wb") as unpacked:
                    shutil.copyfileobj(packed, unpacked, 1 << 20)
                yield name if len(members) == 1 else f"{name}/{member.filename}", plain
    else:
        yield name, path


def _list_remote(table: SourceTable) -> list[SourceFile]:
    filesystem = _filesystem(table)
    try:
        filesystem.invalidate_cache()
        pattern = f"{table.folder}/{table.files or table.file}"
        urls = sorted(filesystem.glob(pattern)) if table.files else [pattern]
        found = [(str(url), filesystem.info(url)) for url in urls]
    except Exception as error:
        raise HubspokeError(
            f"{table.name}: cannot list {table.folder}: {first_line(error)} (named in {table.declared_in})"
        ) from None
    files = []
    for url, about in found:
        if about.get("type") == "directory" or (table.files and not fnmatch(url, f"*{table.files}")):
            continue
        stamps = {key: str(about[key]) for key in (*STAMPS, "size") if about.get(key)}
        if stamps.keys() <= {"size"}:  # nothing that changes with the content
            stamps = {"content": hashlib.sha256(filesystem.cat_file(url)).hexdigest()}
        fingerprint = hashlib.sha256(json.dumps(stamps, sort_keys=True).encode()).hexdigest()
        files.append(SourceFile(Location(table.folder).relative(url), url, None, fingerprint))
    return files


def _filesystem(table: SourceTable) -> Any:
    try:
        return Location(table.folder).filesystem
    except HubspokeError as error:
        raise HubspokeError(f"{table.name}: {first_line(error)} (in {table.declared_in})") from None


def _local(table: SourceTable, path: Path, name: str) -> SourceFile:
    with _readable(table, path):
        stamp = _stamp(path)
        with path.open("rb") as file:
            return SourceFile(name, str(path), path, hashlib.file_digest(file, xxh3_128).hexdigest(), stamp)


def _stamp(path: Path) -> tuple[int, ...]:
    about = path.stat()
    return about.st_ino, about.st_size, about.st_mtime_ns, about.st_ctime_ns


@contextmanager
def _readable(table: SourceTable, path: Path) -> Iterator[None]:
    try:
        yield
    except OSError as error:
        raise HubspokeError(
            f"{table.name}: cannot read {path}: {error.strerror} (named in {table.declared_in})"
        ) from None
