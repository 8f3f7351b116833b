"""What the running example costs at some times its size, on DuckDB and on Spark, side by side.

Start it with: make bench-scale. The data is replicated with new keys, not copied: each copy has stores, households and
baskets of its own; the catalogue, the calendar and the campaigns are shared, as they would be in a larger chain. For
each size and engine: the time, the processor's time, the peak of memory of all processes together, and bytes: landed,
spilled and kept.

    bench/scale.py --sizes 1,5,10 --spark 1        sizes for DuckDB, and those that Spark builds as well
    bench/scale.py --sizes 10 --memory 2GB         under another limit of DuckDB's memory
"""

import argparse
import contextlib
import hashlib
import json
import os
import re
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import duckdb
import psutil
from rich.console import Console
from rich.table import Table

from hubspoke.sources import read_sources

ROOT = Path(__file__).parents[1]
DUCKDB, SPARK = ROOT / ".venv/bin", ROOT / ".spark/bin"
OWN_KEYS = {"household_id": 1_000_000, "store_id": 1_000_000, "basket_id": 1_000_000_000_000}
"""Columns of which each copy has values of its own, and how far apart they lie."""
PARTS = ("models", "macros", "seeds", "tests/singular", "analyses", "profiles", "dbt_project.yml")


@dataclass
class Cost:
    """What a command cost.

    Attributes:
        seconds: Wall time.
        processor: Seconds of a processor, of all processes together.
        memory: Peak of resident bytes, of all processes together.
        spilled: Peak of bytes in the folder for what does not fit into memory.
        kept: Bytes of what was built.
        outside: Share of the wall time in which no statement of a model, a gate or a test ran; Spark only.
    """

    seconds: float = 0.0
    processor: float = 0.0
    memory: int = 0
    spilled: int = 0
    kept: int = 0
    outside: float | None = None


class Watch:
    """Counts the memory and the processor's time of some processes and all that they start."""

    def __init__(self, spill: Path, roots: list[int]) -> None:
        self.spill, self.roots = spill, roots
        self.cost = Cost()
        self._times: dict[int, float] = {}
        self._before = {process.pid: sum(process.cpu_times()[:2]) for process in self._processes()}
        self._ended = threading.Event()

    def _processes(self) -> Iterator[psutil.Process]:
        for root in self.roots:
            try:
                process = psutil.Process(root)
                yield from [process, *process.children(recursive=True)]
            except psutil.NoSuchProcess:
                continue

    def look(self) -> None:
        """Take one look."""
        memory = 0
        for process in self._processes():
            try:
                memory += process.memory_info().rss
                self._times[process.pid] = sum(process.cpu_times()[:2])
            except psutil.NoSuchProcess:
                continue
        self.cost.memory = max(self.cost.memory, memory)
        self.cost.spilled = max(self.cost.spilled, size(self.spill))

    @contextmanager
    def watching(self) -> Iterator[None]:
        """Look ten times a second until the block ends."""

        def watch() -> None:
            while not self._ended.wait(0.1):
                self.look()

        thread = threading.Thread(target=watch)
        thread.start()
        started = time.monotonic()
        try:
            yield
        finally:
            self.cost.seconds = time.monotonic() - started
            self._ended.set()
            thread.join()
            self.cost.processor = sum(self._times.values()) - sum(self._before.values())


def size(folder: Path) -> int:
    """Count the bytes below a folder."""
    total = 0
    for place, _, names in os.walk(folder):  # what goes while it is counted is passed over
        for name in names:
            with contextlib.suppress(OSError):
                total += (Path(place) / name).stat().st_size
    return total


def write_project(root: Path, times: int) -> None:
    """Copy the project, with sources that send so many times the data."""
    for part in PARTS:
        source, copy = ROOT / part, root / part
        copy.parent.mkdir(parents=True, exist_ok=True)
        shutil.copytree(source, copy) if source.is_dir() else shutil.copy(source, copy)
    (root / "profiles.yml").symlink_to("profiles/profiles.yml")
    exports = root / "exports"
    exports.mkdir()
    with duckdb.connect() as connection:
        for table in read_sources(ROOT):
            columns = [row[0] for row in connection.execute(f"describe from '{table.path}'").fetchall()]
            shifted = [f"{column} + copy * {OWN_KEYS[column]} as {column}" for column in columns if column in OWN_KEYS]
            query = f"from '{table.path}'"
            if shifted:
                query += f" cross join range({times}) as t (copy)"
                query = f"select * exclude (copy) replace ({', '.join(shifted)}) {query}"
            connection.execute(f"copy ({query}) to '{exports / table.path.name}' (format parquet)")
    for file in (root / "models/hub/staging").rglob("*__sources.yml"):
        file.write_text(re.sub(r"location: package:\S+", f"location: {exports}", file.read_text()))
    settings = root / "dbt_project.yml"
    text = settings.read_text()
    pairs = re.search(r"category_pair_minimum_baskets: (\d+)", text)
    assert pairs  # noqa: S101 -- one basket in a hundred, of however many there are
    settings.write_text(text.replace(pairs[0], f"category_pair_minimum_baskets: {int(pairs[1]) * times}"))


def call(root: Path, *command: str | Path, **environment: str) -> str:
    """Run a command of the project; one that fails ends the bench with what it printed."""
    settings = {**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse", **environment}
    done = subprocess.run(
        list(map(str, command)), cwd=root, env=settings, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True
    )
    if done.returncode:
        sys.exit(f"{' '.join(map(str, command))} failed:\n{done.stdout[-5000:]}")
    return done.stdout


def build_with_duckdb(root: Path, memory: str) -> Cost:
    """Have dbt build and release all of it."""
    watch = Watch(root / "warehouse/tmp", [os.getpid()])
    with watch.watching():
        call(root, DUCKDB / "dbt", "build", HUBSPOKE_MEMORY_LIMIT=memory)
    watch.cost.kept = (root / "warehouse/hub.duckdb").stat().st_size
    return watch.cost


def released(root: Path) -> str:
    """Return a hash of all rows that were released: the same for the same rows, whoever has built them."""
    relations = json.loads((root / "warehouse/release/current/manifest.json").read_text())["relations"]
    said = {name: (relation["rows"], relation["checksum"]) for name, relation in sorted(relations.items())}
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()[:12]


def build_with_spark(root: Path) -> tuple[Cost, bool]:
    """Build and release all of it on a cluster of this machine, and say whether it is what DuckDB has built."""
    call(root, SPARK / "hubspoke", "spark", "start")
    try:
        lines = call(root, SPARK / "hubspoke", "spark", "env").splitlines()
        settings = dict(line.removeprefix("export ").split("=", 1) for line in lines)
        state = json.loads((root / "warehouse/spark/cluster.json").read_text())
        cluster = [process["pid"] for process in state["processes"].values()]
        catalog = int((root / "warehouse/spark/postgres/data/postmaster.pid").read_text().split()[0])
        watch = Watch(root / "warehouse/spark/scratch", [os.getpid(), *cluster, catalog])
        with watch.watching():
            call(root, SPARK / "hubspoke", "spark", "land", **settings)
            call(root, SPARK / "dbt", "build", **settings)
            call(root, SPARK / "hubspoke", "spark", "release", **settings)
        watch.cost.kept = size(root / "warehouse/spark/tables")
        watch.cost.outside = outside(root / "logs")
        compared = call(root, SPARK / "hubspoke", "spark", "compare", **settings)
    finally:
        call(root, SPARK / "hubspoke", "spark", "stop")
    return watch.cost, ": 0 differ" in compared


def outside(folder: Path) -> float:
    """Find in dbt's logs the share of its last run in which no statement of a model, its gate or a test ran."""
    logs = sorted(folder.glob("dbt.log*"), key=lambda file: file.stat().st_mtime)  # it begins a new one at 10 MB
    text = re.sub(r"\x1b\[\d*m", "", "".join(log.read_text() for log in logs))
    text = text[text.rindex("Running with dbt") :]
    line = r"^(\d\d):(\d\d):(\d\d\.\d+) \[\w+ *\] \[([^\]]+)\]: (?:On ([\w.]+): /\*|(SQL status))?"
    began: dict[str, float] = {}
    spans = []
    first = last = 0.0
    for hours, minutes, seconds, thread, node, ended in re.findall(line, text, re.MULTILINE):
        moment = int(hours) * 3600 + int(minutes) * 60 + float(seconds)
        first = first or moment
        last = moment if moment >= first else moment + 86_400  # over midnight
        if thread.startswith("Thread") and node:
            began[thread] = last
        elif ended and thread in began:
            spans.append((began.pop(thread), last))
    busy, reached = 0.0, first
    for start, end in sorted(spans):
        busy += max(end - max(start, reached), 0.0)
        reached = max(reached, end)
    return 1 - busy / (last - first)


def row_of(name: str, times: int, rows: int, cost: Cost, note: str = "") -> list[str]:
    """Lay one measurement out."""
    gib = 2**30
    return [
        *(f"{times}", name, f"{rows / 1e6:,.0f}", f"{cost.seconds:,.0f}", f"{cost.processor:,.0f}"),
        *(f"{cost.memory / gib:.2f}", f"{cost.spilled / gib:.2f}", f"{cost.kept / gib:.2f}"),
        *(f"{1e6 * cost.seconds / rows:.2f}", "" if cost.outside is None else f"{cost.outside:.0%}", note),
    ]


def main() -> None:
    """Measure each size, and print a line as soon as it is there."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--sizes", default="1,5,10", help="times the data, for DuckDB")
    parser.add_argument("--spark", default="1", help="of these, those that Spark builds, too")
    parser.add_argument("--memory", default="3GB", help="DuckDB's memory")
    parser.add_argument("--folder", type=Path, help="where to work; default: a temporary folder")
    arguments = parser.parse_args()
    on_spark = {int(part) for part in arguments.spark.split(",") if part}
    console = Console(width=130)
    headings = ("times", "engine", "M rows", "s", "processor s", "peak GiB", "spilled GiB", "kept GiB", "us a row")
    lines = []
    for times in map(int, arguments.sizes.split(",")):
        with tempfile.TemporaryDirectory(prefix="hubspoke-scale-", dir=arguments.folder) as temporary:
            root = Path(temporary) / "project"
            write_project(root, times)
            call(root, DUCKDB / "hubspoke", "ingest")
            with duckdb.connect() as connection:
                [[rows]] = connection.execute(
                    f"select count(*) from read_parquet('{root}/exports/*.parquet', union_by_name = true)"
                ).fetchall()
            cost = build_with_duckdb(root, arguments.memory)
            lines.append(row_of(f"DuckDB, {arguments.memory}", times, rows, cost, released(root)))
            print(lines[-1], flush=True)
            if times in on_spark:
                cost, is_equal = build_with_spark(root)
                note = released(root) if is_equal else "DIFFERENT"
                lines.append(row_of("Spark", times, rows, cost, note))
                print(lines[-1], flush=True)
    table = Table(title="The running example at some times its size")
    for heading in (*headings, "outside of SQL", "released rows"):
        table.add_column(heading, justify="left" if heading in {"engine", "released rows"} else "right")
    for line in lines:
        table.add_row(*line)
    console.print(table)


if __name__ == "__main__":
    main()
