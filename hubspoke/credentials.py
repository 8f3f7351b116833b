"""Passwords of spokes: read from the environment or from a file, made where a person only tries the product out.

    HUBSPOKE_PASSWORD_<SPOKE>          wins where it is set, for example HUBSPOKE_PASSWORD_BI
    <warehouse>/secrets/<spoke>        one line, readable by its owner alone

They are never printed, logged or passed on a command line.
"""

import os
import secrets
from pathlib import Path

from hubspoke.errors import HubspokeError
from hubspoke.files import UNFINISHED
from hubspoke.project import Project


def password(project: Project, spoke: str) -> str:
    """Return a spoke's password.

    Raises:
        HubspokeError: It has none.
    """
    given = os.environ.get(_variable(spoke))
    file = secret_file(project, spoke)
    if given:
        return given
    if file.is_file():
        return file.read_text().strip()
    raise HubspokeError(
        f"spoke {spoke} has no password. Set {_variable(spoke)}, or have one made: hubspoke spokes password {spoke}"
    )


def make_password(project: Project, spoke: str) -> Path | None:
    """Make a random password for a spoke that has none, and return the file that holds it."""
    file = secret_file(project, spoke)
    if os.environ.get(_variable(spoke)) or file.is_file():
        return None
    _make_secret(file)
    return file


def connection_secret(project: Project, name: str) -> str:
    """Return the secret that a connection of our own reads from its file; made at random where it has none."""
    file = secret_file(project, name)
    if not file.is_file():
        _make_secret(file)
    return file.read_text().strip()


def _make_secret(file: Path) -> None:
    file.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    new = file.with_name(f"{file.name}{UNFINISHED}")
    new.unlink(missing_ok=True)
    # made with its final mode: at no time can another user read it
    descriptor = os.open(new, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as secret:
        secret.write(secrets.token_urlsafe(24) + "\n")
    new.replace(file)


def secret_place(project: Project, spoke: str) -> str:
    """Say where a spoke's password is: the environment variable or the file."""
    return f"${_variable(spoke)}" if os.environ.get(_variable(spoke)) else str(secret_file(project, spoke))


def _variable(spoke: str) -> str:
    return f"HUBSPOKE_PASSWORD_{spoke.upper()}"


def secret_file(project: Project, name: str) -> Path:
    """Return where the password of a spoke or a connection may stand: one line, readable by its owner alone."""
    return project.home / "secrets" / name
