"""A process that has imported what commands import, and forks one process for each that is to be run.

Imports are most of what a command of a small project costs: dbt's alone are seconds. A fork of this process runs the
very function that the command's script would call, in a process of its own, with the folder, environment and output
that it is given; it can be killed as any other, and what it leaves behind in memory ends with it.
"""

import atexit
import json
import os
import select
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time
from contextlib import suppress
from importlib import import_module
from importlib.metadata import EntryPoint, entry_points
from pathlib import Path
from typing import NoReturn

IMPORTED = [
    "dbt.cli.main",
    "dbt.task.build",
    "dbt.adapters.sql",
    "pyiceberg.catalog.sql",
    "sqlglot.optimizer",
    "rich.progress",
]
"""The slow ones that start no thread: a fork has none but its own, and would wait for DuckDB's and Arrow's for ever."""

LONGEST_REQUEST = 1_000_000


class Forge:
    """Runs commands in forks of one process, which begins with the first of them."""

    def __init__(self) -> None:
        self._lock = threading.Lock()
        self._channel: socket.socket | None = None

    def run(
        self, command: list[str], cwd: Path, env: dict[str, str], timeout: float
    ) -> subprocess.CompletedProcess[str]:
        """Run a command as subprocess.run does, and take what it prints."""
        with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
            status, told = os.pipe()
            request = json.dumps({"command": command, "cwd": str(cwd), "env": env}).encode()
            with self._lock:
                socket.send_fds(self._begun(), [request], [out.fileno(), err.fileno(), told])
            os.close(told)
            with os.fdopen(status, "rb", buffering=0) as answers:
                process = int(answers.readline() or 0)
                assert process, "what forks the commands has ended; it says why on standard error"
                if not select.select([answers], [], [], timeout)[0]:
                    os.kill(process, signal.SIGKILL)
                    raise subprocess.TimeoutExpired(command, timeout)
                code = int(answers.readline())
            texts = []
            for file in (out, err):
                file.seek(0)
                texts.append(file.read().decode())
        return subprocess.CompletedProcess(command, code, *texts)

    def _begun(self) -> socket.socket:
        if self._channel is None:
            self._channel, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
            self._channel.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, LONGEST_REQUEST)
            process = subprocess.Popen(
                [sys.executable, __file__, str(theirs.fileno())], pass_fds=[theirs.fileno()], stdout=subprocess.DEVNULL
            )
            theirs.close()
            atexit.register(process.kill)  # it has nothing to end with
        return self._channel


def serve(channel: socket.socket) -> None:
    """Fork a process for each command that is asked for, until nobody asks any more."""
    scripts = {script.name: script for script in entry_points(group="console_scripts")}
    for name in IMPORTED:
        import_module(name)
    assert len(list(Path("/proc/self/task").iterdir())) == 1, "something that is imported here has started a thread"
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # whoever waits here has nobody to wait for it
    while True:
        request, descriptors, _, _ = socket.recv_fds(channel, LONGEST_REQUEST, 3)
        if not request:
            return
        if os.fork() == 0:
            signal.signal(signal.SIGCHLD, signal.SIG_DFL)
            channel.close()
            out, err, told = descriptors
            if process := os.fork():
                wait_for(process, told)
            os.close(told)
            asked = json.loads(request)
            script = scripts[Path(asked["command"][0]).name]
            become(script, out, err, **asked)
        for descriptor in descriptors:
            os.close(descriptor)


def wait_for(process: int, told: int) -> NoReturn:
    """Tell which process a command has, and how it ended."""
    with suppress(BrokenPipeError):  # whoever asked has ended
        os.write(told, f"{process}\n".encode())
        _, status = os.waitpid(process, 0)
        os.write(told, f"{os.waitstatus_to_exitcode(status)}\n".encode())
    os._exit(0)


def become(script: EntryPoint, out: int, err: int, command: list[str], cwd: str, env: dict[str, str]) -> NoReturn:
    """Be the process of a command from here on."""
    for descriptor, known in ((out, 1), (err, 2)):
        os.dup2(descriptor, known)
        os.close(descriptor)
    os.chdir(cwd)
    os.environ.clear()
    os.environ.update(env)
    time.tzset()
    sys.argv = command
    sys.path[0] = str(Path(command[0]).parent)
    sys.exit(script.load()())


if __name__ == "__main__":
    serve(socket.socket(fileno=int(sys.argv[1])))
