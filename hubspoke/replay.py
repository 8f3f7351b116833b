"""Replay: the landing log, built again from a moment on in a warehouse of its own, and held against the hub.

The hub is a function of what has landed. So the same models over the same loads, however they are cut into builds,
come to the same relations; where they do not, a model depends on something else: the clock, chance, or its own past.

    <warehouse>/replay/<name>/    the second warehouse: loads as hard links, a hub, no release; removed at the end
"""

import os
import shutil
import subprocess
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.files import UNFINISHED, discard_folder, exclusive
from hubspoke.landing import LandingZone, Load, Position
from hubspoke.manifest import Manifest, Node
from hubspoke.pins import landed_tables
from hubspoke.project import Project
from hubspoke.quality import open_hub
from hubspoke.sources import read_sources
from hubspoke.sql import rows_and_checksum

Tell = Callable[[str], None]

Landed = dict[tuple[str, str], list[Load]]
"""Loads by source and table."""


@dataclass(frozen=True)
class Comparison:
    """A relation of the hub, and what the replay made of it.

    Attributes:
        name: Its name in the project.
        rows: Rows in the hub.
        rows_replayed: Rows in the replay.
        is_same: Whether the rows are the same, as a checksum over all of them says.
    """

    name: str
    rows: int
    rows_replayed: int
    is_same: bool


def replay(project: Project, since: datetime | None, steps: int, keep: bool, tell: Tell) -> list[Comparison]:
    """Build what had landed by a moment, then what came later step by step, and compare the end with the hub.

    Args:
        project: The project; its hub has taken in all that has landed.
        since: UTC time from which loads come one after the other; default: as soon as every table has one.
        steps: In how many builds they come.
        keep: Leave the second warehouse where it is.
        tell: Told what is done.

    Returns:
        Every model and seed that rests on what landed, in the order of their names.

    Raises:
        HubspokeError: The hub is older than the landing zone, nothing had landed by then, or a build failed.
    """
    _refuse_if_outdated(project)
    folder = project.warehouse / "replay"
    second = Project(project.root, folder / ("kept" if keep else f"warehouse{UNFINISHED}"))
    with exclusive(folder, "replaying"):
        if second.warehouse.exists():
            discard_folder(second.warehouse)
        landed = _landed(project)
        started = since or max(loads[0].loaded_at for loads in landed.values())
        later = sorted({load.loaded_at for loads in landed.values() for load in loads if load.loaded_at > started})
        ends = [started, *(later[(step + 1) * len(later) // steps - 1] for step in range(min(steps, len(later))))]
        for end in ends:
            began = time.monotonic()
            loads = _show(project, second, landed, end)
            if not loads:
                raise HubspokeError(f"nothing had landed by {end:%Y-%m-%d %H:%M:%S} UTC; the first load is later")
            _build(second)
            tell(f"as of {end:%Y-%m-%d %H:%M:%S} UTC: {loads} loads, built in {time.monotonic() - began:.0f} s")
        return _compare(project, second)


def _refuse_if_outdated(project: Project) -> None:
    with open_hub(project) as hub:
        pinned = dict(
            hub.execute(
                "select node_id, fingerprint from runs.builds where node_id like 'source.%' "
                "qualify row_number() over (partition by node_id order by build_number desc) = 1"
            ).fetchall()
        )
    taken_in = {".".join(node_id.split(".")[-2:]): load_id for node_id, load_id in pinned.items()}
    in_place = {table.name for table in read_sources(project.root) if not table.is_landed}
    for name, landed in landed_tables(project).items():
        if name not in in_place and taken_in.get(name, landed["load_id"]) != landed["load_id"]:
            raise HubspokeError(f"the hub has not taken in the newest load of {name}. First run: hubspoke build")


def _landed(project: Project) -> Landed:
    """Read all loads of all tables, each source as of one instant."""
    zone = LandingZone(project.landing)
    tables = zone.tables()
    reached = {source: zone.reached(source) for source, _ in tables}
    found: Landed = {}
    for source, table in tables:
        if loads := zone.loads(source, table, reached[source]):
            found[source, table] = loads
    if not found:
        raise HubspokeError("Nothing has landed yet. Land it first: hubspoke ingest")
    return found


def _show(project: Project, second: Project, landed: Landed, end: datetime) -> int:
    """Link the loads that were visible at a moment; returns how many there are."""
    count = 0
    reached: dict[str, int] = {}
    for (source, _), loads in landed.items():
        positions = [load.position for load in loads if load.position is not None and load.loaded_at <= end]
        reached[source] = max([reached.get(source, 0), *positions])
    for (source, table), loads in landed.items():
        for load in loads:
            # a log's loads of one batch are visible together, whenever each was begun
            is_visible = load.loaded_at <= end if load.position is None else load.position <= reached[source]
            target = second.landing / source / table / load.load_id
            if is_visible and not target.exists():
                shutil.copytree(project.landing / source / table / load.load_id, target, copy_function=os.link)
            count += is_visible
    for source, position in reached.items():
        if position:
            note = Position(position=position, as_of=end)
            (second.landing / source / "position.json").write_text(note.model_dump_json(indent=2) + "\n")
    return count


def _build(second: Project) -> None:
    """Have dbt build models and seeds; as its manifest is not the project's, the run releases nothing."""
    result = subprocess.run(  # noqa: S603 -- our own
        [Path(sys.executable).with_name("dbt"), "build", "--quiet", "--exclude-resource-type", "test", "unit_test"],
        cwd=second.root,
        env={
            **os.environ,
            "NO_COLOR": "1",
            "HUBSPOKE_WAREHOUSE": str(second.warehouse),
            "DBT_TARGET_PATH": str(second.warehouse / "target"),
            "DBT_LOG_PATH": str(second.warehouse / "logs"),
        },
        capture_output=True,
        text=True,
        check=False,
    )
    if result.returncode:
        raise HubspokeError(f"the replay's build failed:\n{result.stdout.strip() or result.stderr.strip()}")


def _compare(project: Project, second: Project) -> list[Comparison]:
    manifest = Manifest.read(second.warehouse)
    logged = _rests_on_the_log(project, manifest)
    compared = []
    with open_hub(project) as hub, duckdb.connect(second.hub, read_only=True) as replayed:
        for connection in (hub, replayed):
            connection.execute("set TimeZone = 'UTC'")
        for node in sorted(logged, key=lambda node: str(node["name"])):
            try:
                there, here = (rows_and_checksum(each, node["relation_name"]) for each in (hub, replayed))
            except duckdb.Error as error:
                raise HubspokeError(f"{node['name']} cannot be compared: {str(error).splitlines()[0]}") from None
            compared.append(Comparison(node["name"], there[0], here[0], there == here))
    return compared


def _rests_on_the_log(project: Project, manifest: Manifest) -> list[Node]:
    """List models and seeds, without those that read a source where it is: that one moves, and is in no log."""
    names = {(table.source, table.table) for table in read_sources(project.root) if not table.is_landed}
    in_place = {
        node_id for node_id, source in manifest.sources.items() if (source["source_name"], source["name"]) in names
    }
    return [
        node
        for node_id, node in manifest.nodes.items()
        if node["resource_type"] in {"model", "seed"}
        and node["config"]["materialized"] != "ephemeral"
        and not in_place.intersection(manifest.ancestry([node_id]))
    ]
