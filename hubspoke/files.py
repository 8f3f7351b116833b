"""Files that are either wholly there or not there at all."""

import fcntl
import os
import shutil
from collections.abc import Collection, Iterator
from contextlib import contextmanager
from pathlib import Path

from hubspoke.errors import HubspokeError

UNFINISHED = ".unfinished"
"""Suffix of a folder that is still being written; anyone who holds the lock may remove one left by a crash."""


@contextmanager
def exclusive(folder: Path, doing: str) -> Iterator[None]:
    """Hold ``folder``'s lock; whatever is unfinished before or after is removed.

    The operating system frees the lock when its holder dies, so a kill leaves nothing to clear by hand.

    Args:
        folder: Made if missing; the lock is its file ``.lock``.
        doing: What the holder does, for the message to whoever comes second.

    Raises:
        HubspokeError: Another process holds the lock.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / ".lock").open("w") as lock:
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            raise HubspokeError(
                f"Another process is {doing} in {folder}. Wait for it to end, then run this again."
            ) from None
        _sweep(folder)
        try:
            yield
        finally:
            _sweep(folder)


def _sweep(folder: Path) -> None:
    """Remove what was left unfinished, by a crash or by an error just now."""
    for leftover in [path for path in everything_in(folder) if path.name.endswith(UNFINISHED)]:
        if leftover.is_dir() and not leftover.is_symlink():
            shutil.rmtree(leftover)
        else:
            leftover.unlink(missing_ok=True)  # it may have been in an unfinished folder


def everything_in(folder: Path) -> Iterator[Path]:
    """List all files and folders anywhere below a folder, a folder before what is in it; quicker than ``rglob``."""
    for path, folders, files in os.walk(folder):
        yield from (Path(path, name) for name in [*folders, *files])


def sync(path: Path) -> None:
    """Force a file or folder to disk, so that a later rename cannot outlive what it names."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_tree(folder: Path, durable: Collection[Path] = ()) -> None:
    """Force a folder and all that is in it to disk, but for files that are known to be there."""
    for path in everything_in(folder):
        if path not in durable:
            sync(path)
    sync(folder)


def commit_folder(unfinished: Path, final: Path) -> None:
    """Make a written folder visible under its final name, atomically and durably."""
    sync_tree(unfinished)
    unfinished.rename(final)
    sync(final.parent)
    sync(final.parent.parent)


def point(link: Path, target: str) -> None:
    """Make ``link`` a symbolic link to ``target``, replacing an older one atomically."""
    new = link.with_name(link.name + UNFINISHED)
    new.unlink(missing_ok=True)
    new.symlink_to(target)
    new.replace(link)
    sync(link.parent)


def write_whole(path: Path, text: str) -> None:
    """Write a file atomically and durably: whoever opens it sees the old text or the new one."""
    new = path.with_name(path.name + UNFINISHED)
    new.write_text(text)
    sync(new)
    new.replace(path)
    sync(path.parent)


def discard_folder(folder: Path) -> None:
    """Remove a folder so that a kill leaves nothing under its name: it gets an unfinished one's name first."""
    doomed = folder if folder.name.endswith(UNFINISHED) else folder.with_name(folder.name + UNFINISHED)
    if doomed != folder:
        folder.rename(doomed)
    shutil.rmtree(doomed)
