"""A private PostgreSQL server for one warehouse, from the system's own binaries.

    <warehouse>/postgres/data     the server's folder; as root a link to one that the server's user can reach
    <warehouse>/postgres/log      what the server says
    <warehouse>/postgres/server   its port
    <warehouse>/postgres/admin    the publisher's password, readable by its owner alone

All of it can be removed while the server is stopped: a release holds everything that it serves.
"""

import hashlib
import json
import os
import pwd
import re
import secrets
import shutil
import signal
import socket
import subprocess
import time
from pathlib import Path
from typing import Any

from hubspoke.errors import HubspokeError
from hubspoke.ports import free_port
from hubspoke.project import Project

DATABASE = "hubspoke"
ADMIN = "hubspoke"
HOST = "127.0.0.1"

SETTINGS = {
    "listen_addresses": HOST,
    "unix_socket_directories": "",
    "password_encryption": "scram-sha-256",
    "shared_buffers": "256MB",
    "maintenance_work_mem": "128MB",
    "jit": "off",
    # nobody replicates it, so a new table's rows need not be written twice
    "wal_level": "minimal",
    "max_wal_senders": "0",
    "lc_messages": "C",
    "log_timezone": "UTC",
    "timezone": "UTC",
}


def binaries() -> Path:
    """Return the folder of the newest PostgreSQL server programs: those on the path, or where Debian puts them.

    Raises:
        HubspokeError: There are none.
    """
    on_path = shutil.which("initdb")
    folders = [Path(on_path).resolve().parent] if on_path else []
    folders += [path.parent for path in Path("/usr/lib/postgresql").glob("*/bin/initdb")]
    whole = [folder for folder in folders if (folder / "postgres").is_file() and (folder / "pg_ctl").is_file()]
    if not whole:
        raise HubspokeError("there is no PostgreSQL server on this machine. Run: sudo apt-get install postgresql")
    return max(whole, key=lambda folder: int((re.findall(r"/(\d+)/bin$", str(folder)) or ["0"])[0]))


class LocalServer:
    """The server of one warehouse."""

    def __init__(self, project: Project, **settings: str) -> None:
        """Name its place; ``settings`` are PostgreSQL's, beside SETTINGS or instead of them."""
        self.settings = SETTINGS | settings
        self.folder = project.warehouse / "postgres"
        self.data = self.folder / "data"
        self.note = self.folder / "server"
        self.log = self.folder / "log"

    def is_running(self) -> bool:
        """Whether the server is up."""
        if self._pid() is None or not self.note.is_file():
            return False
        try:
            socket.create_connection((HOST, self.port), timeout=1).close()
        except OSError:
            return False
        return True

    @property
    def port(self) -> int:
        """Port that it has, or had last."""
        return int(json.loads(self.note.read_text())["port"])

    def parameters(self) -> dict[str, Any]:
        """Return what the publisher connects with."""
        return {
            "host": HOST,
            "port": self.port,
            "dbname": DATABASE,
            "user": ADMIN,
            "password": (self.folder / "admin").read_text().strip(),
        }

    def start(self, port: int | None = None) -> int:
        """Start the server, made anew if there is none, and wait until it answers.

        Args:
            port: Port on the local host; default: the one that it had before, or a free one.

        Returns:
            The port.

        Raises:
            HubspokeError: It runs already, there are no binaries, or it does not start.
        """
        if self.is_running():
            raise HubspokeError(f"it runs already, at port {self.port}. To stop it: hubspoke serve postgres --stop")
        programs = binaries()
        self._end_half_started()
        before = self.port if self.note.is_file() else None
        self.folder.mkdir(parents=True, exist_ok=True)
        if not (self.data / "PG_VERSION").is_file():
            self._make(programs)
        port = port or (before if before and _is_free(before) else free_port())
        settings = [part for name, value in self.settings.items() for part in ("-c", f"{name}={value}")]
        with self.log.open("ab") as log:
            process = subprocess.Popen(  # noqa: S603 -- programs and folder are ours
                [programs / "postgres", "-D", self.data.resolve(), "-p", str(port), *settings],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd="/",
                start_new_session=True,  # Ctrl-C is for the command, which then stops the server in order
                **self._as_user(),
            )
        self._wait(process, port)
        write_private(self.note, json.dumps({"port": port}) + "\n")
        self._make_database(port)
        return port

    def stop(self) -> bool:
        """Stop the server; whoever is connected is cut off. Return whether it ran."""
        pid = self._pid()
        if pid is None or not self.is_running():
            return False
        os.kill(pid, signal.SIGINT)
        deadline = time.monotonic() + 60
        while self._pid() == pid:
            if time.monotonic() > deadline:
                raise HubspokeError(f"PostgreSQL does not stop; see {self.log}")
            time.sleep(0.05)
        return True

    def _end_half_started(self, seconds: float = 60) -> None:
        """Stop a server that nobody knows the port of: whoever started it was killed before it answered."""
        pid = self._pid()
        deadline = time.monotonic() + seconds
        while pid is not None and self._is_ours(pid):
            if time.monotonic() > deadline:
                raise HubspokeError(f"PostgreSQL (process {pid}) neither answers nor stops; see {self.log}")
            os.kill(pid, signal.SIGINT)  # while it starts it may not have heard the one before
            time.sleep(0.2)

    def _is_ours(self, pid: int) -> bool:
        """Whether a process is a server over this folder, and not another that has come to have its number."""
        try:
            return str(self.data.resolve()) in Path(f"/proc/{pid}/cmdline").read_text().split("\0")
        except OSError:
            return False

    def _pid(self) -> int | None:
        try:
            return int((self.data / "postmaster.pid").read_text().splitlines()[0])
        except (OSError, ValueError, IndexError):
            return None

    def _make(self, programs: Path) -> None:
        """Make the server's folder, with the publisher as its superuser."""
        if self.data.exists():
            shutil.rmtree(self.data.resolve(), ignore_errors=True)
        if self.data.is_symlink():
            self.data.unlink()
        admin = self.folder / "admin"
        write_private(admin, secrets.token_urlsafe(32) + "\n")
        user = self._as_user()
        self.data.mkdir(mode=0o700)
        if user:
            shutil.chown(self.data, user["user"], user["group"])
            if not self._reaches(user):
                # the user may not enter a folder above, root's home for example
                name = hashlib.sha256(str(self.folder.resolve()).encode()).hexdigest()[:12]
                elsewhere = Path("/var/lib") / f"hubspoke-{name}"
                shutil.rmtree(elsewhere, ignore_errors=True)
                elsewhere.mkdir(mode=0o700)
                shutil.chown(elsewhere, user["user"], user["group"])
                self.data.rmdir()
                self.data.symlink_to(elsewhere)
        # through a pipe of the user's own: the password is in no argument and no second file
        reading, writing = os.pipe()
        if user:
            os.fchown(reading, user["user"], user["group"])
        os.write(writing, admin.read_bytes())
        os.close(writing)
        how = ["--auth=scram-sha-256", "--encoding=UTF8", "--locale=C.UTF-8", "--no-instructions"]
        made = subprocess.run(  # noqa: S603 -- as below
            [programs / "initdb", "-D", self.data.resolve(), "-U", ADMIN, "--pwfile=/dev/stdin", *how],
            stdin=reading,
            capture_output=True,
            text=True,
            check=False,
            cwd="/",
            **user,
        )
        os.close(reading)
        if made.returncode:
            shutil.rmtree(self.data.resolve(), ignore_errors=True)
            raise HubspokeError(f"PostgreSQL could not make its folder {self.data}: {made.stderr.strip()}")

    def _reaches(self, user: dict[str, Any]) -> bool:
        test = subprocess.run(  # noqa: S603 -- as below
            ["/bin/ls", self.data.resolve()], capture_output=True, check=False, cwd="/", **user
        )
        return test.returncode == 0

    def _as_user(self) -> dict[str, Any]:
        """Return how to start a program as somebody else where this is root: PostgreSQL refuses to run as root."""
        if os.geteuid() != 0:
            return {}
        known = {entry.pw_name: entry for entry in pwd.getpwall()}
        entry = known.get("postgres") or known["nobody"]
        return {"user": entry.pw_uid, "group": entry.pw_gid, "extra_groups": []}

    def _wait(self, process: "subprocess.Popen[bytes]", port: int) -> None:
        import psycopg

        password = (self.folder / "admin").read_text().strip()
        deadline = time.monotonic() + 60
        while True:
            try:
                psycopg.connect(host=HOST, port=port, dbname="postgres", user=ADMIN, password=password).close()
            except psycopg.OperationalError:
                if process.poll() is not None or time.monotonic() > deadline:
                    last = self.log.read_text(errors="replace").strip().splitlines()[-1:]
                    raise HubspokeError(f"PostgreSQL did not start: {''.join(last)} (see {self.log})") from None
                time.sleep(0.05)
            else:
                return

    def _make_database(self, port: int) -> None:
        """Make the database, and let nobody but the publisher into any, until roles are made."""
        import psycopg

        parameters = self.parameters() | {"dbname": "postgres"}
        with psycopg.connect(**parameters, autocommit=True) as connection:
            if not connection.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchall():
                connection.execute(f"create database {DATABASE}")
            for database in ("postgres", "template1", DATABASE):
                connection.execute(f"revoke all on database {database} from public")


def _is_free(port: int) -> bool:
    try:
        free_port(HOST, port)
    except OSError:
        return False
    return True


def write_private(path: Path, text: str) -> None:
    """Write a file that its owner alone can read, at no time anybody else."""
    path.unlink(missing_ok=True)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    with os.fdopen(descriptor, "w") as file:
        file.write(text)
