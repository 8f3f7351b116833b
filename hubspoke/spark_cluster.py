"""A Spark cluster on this machine: a master, two workers, and the catalog's PostgreSQL. A company has its own.

Its folder::

    <warehouse>/spark/cluster.json   the processes, and where they listen
    <warehouse>/spark/log/           what they say
    <warehouse>/spark/conf/          how much of its log a driver shows
    <warehouse>/spark/pgpass         the catalog's password, as PostgreSQL's clients read it
    <warehouse>/spark/postgres/      the catalog's server
    <warehouse>/spark/scratch/       what does not fit into the workers' memory
    <warehouse>/spark/tables/        the tables that Spark makes; these and the catalog outlive the processes
"""

import os
import signal
import subprocess
import sys
import time
from importlib.util import find_spec
from pathlib import Path

from pydantic import BaseModel

from hubspoke.errors import HubspokeError
from hubspoke.files import write_whole
from hubspoke.ports import free_port
from hubspoke.postgres_server import LocalServer, write_private
from hubspoke.project import Project

HOST = "127.0.0.1"
WORKERS = 2
STARTED = {True: "Starting Spark master", False: "Successfully registered with master"}
"""What the master says once it listens, and a worker once it has been found."""
QUIET = """\
rootLogger.level = error
rootLogger.appenderRef.stderr.ref = console
appender.console.type = Console
appender.console.name = console
appender.console.target = SYSTEM_ERR
appender.console.layout.type = PatternLayout
appender.console.layout.pattern = %d{HH:mm:ss} %p %c{1}: %m%n
logger.gateway.name = org.apache.spark.api.python.PythonGatewayServer
logger.gateway.level = error
"""
"""Of Spark's own log, errors alone: a build says a thousand things twice."""
ICEBERG = "jars/iceberg-spark-runtime-3.5_2.12-*.jar"
"""Iceberg's runtime for this Spark and its Scala, in the package that brings it."""
POSTGRES = Path("/usr/share/java/postgresql.jar")
"""PostgreSQL's JDBC driver, where Debian puts it."""


class Process(BaseModel):
    """A process of the cluster.

    Attributes:
        pid: Its number.
        started: What the system says of its start; another process of the same number has another.
    """

    pid: int
    started: str

    @classmethod
    def of(cls, pid: int) -> "Process":
        """Describe a process that runs."""
        return cls(pid=pid, started=_started(pid))

    @property
    def is_running(self) -> bool:
        """Whether it still runs."""
        return bool(self.started) and _started(self.pid) == self.started


class Cluster(BaseModel):
    """What ``cluster.json`` says.

    Attributes:
        master: The master's address, as ``spark.master`` has it.
        processes: By name: master, worker-1, worker-2.
    """

    master: str
    processes: dict[str, Process]


class LocalCluster:
    """The cluster of one warehouse."""

    def __init__(self, project: Project) -> None:
        self.folder = project.warehouse / "spark"
        self.postgres = LocalServer(Project(project.root, self.folder))

    @property
    def state(self) -> Cluster | None:
        """What was started last; None if nothing was."""
        note = self.folder / "cluster.json"
        return Cluster.model_validate_json(note.read_text()) if note.is_file() else None

    def is_running(self) -> bool:
        """Whether all of it is up."""
        state = self.state
        return bool(state and all(one.is_running for one in state.processes.values()) and self.postgres.is_running())

    def start(self, cores: int | None = None, memory: str = "2g") -> dict[str, str]:
        """Start it, and wait until its workers have found its master.

        Args:
            cores: Of each worker; default: this machine's, shared out.
            memory: Of each worker, as Java writes it.

        Returns:
            The settings to reach it by; see ``settings``.

        Raises:
            HubspokeError: It runs already, something that it needs is not installed, or a part does not start.
        """
        if self.is_running():
            raise HubspokeError("it runs already. To stop it: hubspoke spark stop")
        home, _ = _home(), _jars()
        self.stop()
        (self.folder / "log").mkdir(parents=True, exist_ok=True)
        self.postgres.start()
        cores = cores or max((os.cpu_count() or 1) // WORKERS, 1)
        port = free_port()
        master = f"spark://{HOST}:{port}"
        listening = ["--host", HOST, "--webui-port", "0"]
        commands = {"master": ["master.Master", *listening, "--port", str(port)]}
        for number in range(1, WORKERS + 1):
            asked = ["--cores", str(cores), "--memory", memory, "--work-dir", str(self.folder / "work" / str(number))]
            commands[f"worker-{number}"] = ["worker.Worker", *listening, *asked, master]
        processes = {}
        for name, arguments in commands.items():
            processes[name] = self._launch(home, name, arguments)
            # noted at once: whatever happens now, there is somebody to stop
            state = Cluster(master=master, processes=processes)
            write_whole(self.folder / "cluster.json", state.model_dump_json() + "\n")
            self._await(name, processes[name], STARTED[name == "master"])
        return self.settings()

    def settings(self) -> dict[str, str]:
        """Return the variables of the environment by which the profile's target ``spark`` reaches it.

        Raises:
            HubspokeError: It does not run.
        """
        state = self.state
        if state is None or not self.is_running():
            raise HubspokeError("no cluster runs here. To start one: hubspoke spark start")
        quiet = self.folder / "conf"
        quiet.mkdir(exist_ok=True)
        write_whole(quiet / "log4j2.properties", QUIET)
        catalog = self.postgres.parameters()
        passwords = self.folder / "pgpass"
        write_private(passwords, ":".join(str(catalog[key]) for key in ("host", "port", "dbname", "user", "password")))
        return {
            "SPARK_LOCAL_IP": HOST,
            "SPARK_CONF_DIR": str(quiet),
            "DBT_TARGET": "spark",
            "DBT_TARGET_PATH": "target/spark",
            "PGPASSFILE": str(passwords),
            "HUBSPOKE_SPARK_MASTER": state.master,
            "HUBSPOKE_SPARK_JARS": ",".join(map(str, _jars())),
            "HUBSPOKE_SPARK_PARTITIONS": "8",
            "HUBSPOKE_SPARK_CATALOG": f"jdbc:postgresql://{catalog['host']}:{catalog['port']}/{catalog['dbname']}",
            "HUBSPOKE_SPARK_CATALOG_USER": catalog["user"],
            "HUBSPOKE_SPARK_WAREHOUSE": f"file://{(self.folder / 'tables').absolute()}",
        }

    def stop(self) -> bool:
        """Stop all of it, and say whether anything ran."""
        state = self.state
        running = [one for one in state.processes.values() if one.is_running] if state else []
        for process in running:
            os.killpg(process.pid, signal.SIGTERM)
        deadline = time.monotonic() + 20
        while any(one.is_running for one in running):
            if time.monotonic() > deadline:
                for process in running:
                    if process.is_running:
                        os.killpg(process.pid, signal.SIGKILL)
            time.sleep(0.1)
        return self.postgres.stop() or bool(running)

    def _launch(self, home: Path, name: str, arguments: list[str]) -> Process:
        with (self.folder / "log" / name).open("wb") as log:
            started = subprocess.Popen(  # noqa: S603 -- Spark's own launcher, with settings of ours
                [home / "bin" / "spark-class", f"org.apache.spark.deploy.{arguments[0]}", *arguments[1:]],
                stdin=subprocess.DEVNULL,
                stdout=log,
                stderr=log,
                cwd=self.folder,
                env=self._environment(home),
                start_new_session=True,
            )
        return Process.of(started.pid)

    def _environment(self, home: Path) -> dict[str, str]:
        """Return the variables of a process of the cluster: none of those that are for its drivers."""
        inherited = {name: value for name, value in os.environ.items() if name != "SPARK_CONF_DIR"}
        own = {"SPARK_HOME": str(home), "SPARK_LOCAL_IP": HOST, "SPARK_DAEMON_MEMORY": "256m"}
        return inherited | own | {"SPARK_LOCAL_DIRS": str(self.folder / "scratch")}

    def _await(self, name: str, process: Process, words: str, seconds: float = 60) -> None:
        log = self.folder / "log" / name
        deadline = time.monotonic() + seconds
        while words not in log.read_text(errors="replace"):
            if not process.is_running or time.monotonic() > deadline:
                last = log.read_text(errors="replace").strip().splitlines()[-1:]
                raise HubspokeError(f"Spark's {name} did not start: {''.join(last)} (see {log})")
            time.sleep(0.1)


def _home() -> Path:
    """Find Spark in this environment."""
    found = find_spec("pyspark")
    if found is None or found.origin is None:
        raise HubspokeError(
            f"Spark is not in this environment ({sys.prefix}). Install it: make .spark/.ready, and then call "
            ".spark/bin/hubspoke"
        )
    return Path(found.origin).parent


def _jars() -> list[Path]:
    """Find what Spark needs beside itself: Iceberg's runtime, and the driver for the catalog's database."""
    found = find_spec("snowpark_connect_deps_iceberg")
    runtime = sorted(Path(found.origin).parent.glob(ICEBERG)) if found and found.origin else []
    if not runtime:
        raise HubspokeError("Iceberg's runtime is not in this environment. Install it: make .spark/.ready")
    if not POSTGRES.is_file():
        raise HubspokeError(f"{POSTGRES} is missing. Run: sudo apt-get install libpostgresql-jdbc-java")
    return [runtime[-1], POSTGRES]


def _started(pid: int) -> str:
    """Return when a process started, as the system counts; empty if there is none, or it has ended."""
    try:
        fields = Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()
    except OSError:
        return ""
    return "" if fields[0] == "Z" else fields[19]
