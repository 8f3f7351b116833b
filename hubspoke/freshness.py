"""How old what readers see may be, and how old it is: declared for a model, measured at every release.

A model says ``meta: { freshness: 15 minutes }``, or in dbt's words ``freshness: { build_after: { count: 15, period:
minute } }``. Its lag is the age of the oldest load that has landed in a source that it rests on and that readers do not
see yet; none is 0.

<release store>/seen.json        the loads that the current release holds, and when that was found
<release store>/freshness.jsonl  one line for each release and model that declares a freshness
"""

import json
import re
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

from hubspoke.errors import HubspokeError
from hubspoke.files import write_whole
from hubspoke.landing import LandingZone, sequence_of
from hubspoke.manifest import Manifest, Node, meta
from hubspoke.project import Project

SECONDS = {"second": 1, "minute": 60, "hour": 3600, "day": 86400}
LINES_KEPT = 10_000


@dataclass(frozen=True)
class Measurement:
    """How fresh a model was when it was released.

    Attributes:
        at: UTC time of the release.
        model: Name of the model.
        target: Seconds that it may lag.
        lag: Seconds that the oldest load that it shows since then had waited.
        build: Seconds that the build took.
        cause: What a miss comes from; empty if there was none.
    """

    at: datetime
    model: str
    target: float
    lag: float
    build: float
    cause: str = ""

    @property
    def is_missed(self) -> bool:
        """Whether it was older than it may be."""
        return self.lag > self.target


def targets(manifest: Manifest) -> dict[str, float]:
    """Read the freshness that models declare, in seconds, by unique id.

    Raises:
        HubspokeError: One is not written as it is to be.
    """
    found = {node["unique_id"]: _target(node) for node in manifest.models}
    return {node_id: seconds for node_id, seconds in found.items() if seconds is not None}


def _target(node: Node) -> float | None:
    said = meta(node).get("freshness")
    after = (node["config"].get("freshness") or {}).get("build_after") or {}
    if said is None and after.get("count") and after.get("period"):
        said = f"{after['count']} {after['period']}"
    if said is None:
        return None
    match = re.fullmatch(r"(\d+(?:\.\d+)?) (second|minute|hour|day)s?", str(said).strip())
    if not match or not float(match[1]):
        where = (node.get("patch_path") or node["original_file_path"]).split("://")[-1]
        raise HubspokeError(
            f"{where}: {node['name']}: freshness: {said} is none; it is a number and seconds, minutes, hours or days: "
            "15 minutes"
        )
    return float(match[1]) * SECONDS[match[2]]


def say(seconds: float) -> str:
    """Say a time span as a person would."""
    for unit, length in reversed(SECONDS.items()):
        if seconds >= 2 * length or (seconds >= length and seconds % length == 0):
            number = round(seconds / length, 1)
            return f"{number:g} {unit}{'' if number == 1 else 's'}"
    return f"{seconds:.1f} seconds"


class History:
    """What is known of the releases' freshness."""

    def __init__(self, project: Project) -> None:
        self._project = project
        self._seen = project.release / "seen.json"
        self._log = project.release / "freshness.jsonl"

    def seen(self) -> dict[str, str]:
        """Return the loads that readers see, by the source table's unique id."""
        try:
            loads: dict[str, str] = json.loads(self._seen.read_text())["loads"]
        except FileNotFoundError:
            return {}
        return loads

    def waiting(self, manifest: Manifest, until: dict[str, str] | None = None) -> dict[str, datetime]:
        """Return when the oldest load of each source table landed that readers do not see, by unique id.

        Args:
            manifest: The project.
            until: Loads by unique id; of each table, later ones are left out.
        """
        zone, seen = LandingZone(self._project.landing), self.seen()
        found = {}
        for node_id, source in manifest.sources.items():
            names = source["source_name"], source["name"]
            newest = zone.current(*names)
            if newest is None or newest.load_id == seen.get(node_id):
                continue
            first = sequence_of(seen.get(node_id, ""))
            last = newest.sequence if until is None else sequence_of(until.get(node_id, ""))
            new = [load.loaded_at for load in zone.loads(*names) if first < load.sequence <= last]
            if new:
                found[node_id] = min(new)
        return found

    def lags(self, manifest: Manifest, now: datetime, waiting: dict[str, datetime] | None = None) -> dict[str, float]:
        """Return the lag of each model that declares a freshness, in seconds, by unique id."""
        waiting = self.waiting(manifest) if waiting is None else waiting
        found = {}
        for node_id in targets(manifest):
            since = [waiting[above] for above in manifest.ancestry([node_id]) if above in waiting]
            found[node_id] = max(0.0, (now - min(since)).total_seconds()) if since else 0.0
        return found

    def note_release(self, manifest: Manifest, loads: dict[str, str], build: float, hold_up: str, slowest: str) -> None:
        """Note that readers see some loads from now on, and how long those had waited.

        Args:
            manifest: The project.
            loads: Loads that the hub's sources are pinned to.
            build: Seconds that the build took.
            hold_up: What kept an earlier build from a release since the last one; empty if nothing did.
            slowest: The model that took longest, and how long.
        """
        now, declared = datetime.now(UTC), targets(manifest)
        shown = self.waiting(manifest, until=loads) if self.seen() else {}  # before the first release nobody waited
        measured = []
        for node_id, lag in self.lags(manifest, now, shown).items():
            if lag > 0:
                target, name = declared[node_id], manifest.get(node_id)["name"]
                cause = "" if lag <= target else hold_up or _cause(lag, target, build, slowest)
                measured.append(Measurement(now, name, target, round(lag, 1), round(build, 1), cause))
        if measured:
            lines = [*self._lines(), *(json.dumps(asdict(one), default=str) for one in measured)][-LINES_KEPT:]
            write_whole(self._log, "\n".join(lines) + "\n")
        write_whole(self._seen, json.dumps({"at": now.isoformat(), "loads": loads}, indent=1) + "\n")

    def measurements(self) -> list[Measurement]:
        """Return what was measured, oldest first."""
        found = [json.loads(line) for line in self._lines()]
        return [Measurement(**{**one, "at": datetime.fromisoformat(one["at"])}) for one in found]

    def expected_build(self) -> float:
        """Return how long a build takes, in seconds: the longest of the last five; 0 if none is known."""
        builds: dict[datetime, float] = {one.at: one.build for one in self.measurements()}
        return max(list(builds.values())[-5:], default=0.0)

    def _lines(self) -> list[str]:
        try:
            return self._log.read_text().splitlines()
        except FileNotFoundError:
            return []


def _cause(lag: float, target: float, build: float, slowest: str) -> str:
    if build >= target:
        return f"the build took {say(build)}; longest: {slowest}"
    return f"nobody built for {say(lag - build)}, then it took {say(build)}"


@dataclass(frozen=True)
class Status:
    """How fresh a model is.

    Attributes:
        model: Its name.
        target: Seconds that it may lag.
        lag: Seconds that it lags now.
        worst: The worst lag of the last day, in seconds.
        misses: Times in the last day that it was released later than it may be.
        warning: Why it cannot be as fresh as it is to be, or what its last miss came from.
        is_suspended: Whether nobody keeps it fresh.
    """

    model: str
    target: float
    lag: float
    worst: float
    misses: int
    warning: str
    is_suspended: bool

    @property
    def is_late(self) -> bool:
        """Whether it is older than it may be."""
        return self.lag > self.target and not self.is_suspended

    def __str__(self) -> str:
        """Say it in one line."""
        state = "suspended" if self.is_suspended else "LATE" if self.is_late else "fresh"
        worst = f", worst of a day {say(self.worst)}" if self.worst else ""
        misses = f", {self.misses} missed" if self.misses else ""
        warning = f"  {self.warning}" if self.warning else ""
        return f"{self.model:<40} {state:<10} lags {say(self.lag)} of {say(self.target)}{worst}{misses}{warning}"


def status(project: Project, manifest: Manifest) -> list[Status]:
    """Tell how fresh every model is that declares a freshness, the most behind first."""
    history, now = History(project), datetime.now(UTC)
    recent = [one for one in history.measurements() if one.at > now - timedelta(days=1)]
    declared, away, expected = targets(manifest), suspended(project), history.expected_build()
    found = []
    for node_id, lag in history.lags(manifest, now).items():
        name, target = manifest.get(node_id)["name"], declared[node_id]
        own = [one for one in recent if one.model == name]
        missed = [one for one in own if one.is_missed]
        warning = f"last missed at {missed[-1].at:%H:%M} UTC: {missed[-1].cause}" if missed else ""
        if expected > target:
            warning = f"cannot be met: a build takes {say(expected)}"
        found.append(
            Status(name, target, lag, max((one.lag for one in own), default=0.0), len(missed), warning, name in away)
        )
    return sorted(found, key=lambda one: one.lag / one.target, reverse=True)


def suspended(project: Project) -> set[str]:
    """Return the models that nobody is to keep fresh, by name."""
    try:
        return set(json.loads(_suspensions(project).read_text()))
    except FileNotFoundError:
        return set()


def suspend(project: Project, names: set[str], is_on: bool) -> None:
    """Take models out of what is kept fresh, or take them in again.

    Raises:
        HubspokeError: One declares no freshness.
    """
    manifest = Manifest.read_current(project.root)
    known = {manifest.get(node_id)["name"] for node_id in targets(manifest)}
    if unknown := sorted(names - known):
        there = ", ".join(sorted(known)) or "none does"
        raise HubspokeError(f"{', '.join(unknown)} declares no freshness; those that do: {there}")
    now = suspended(project) | names if is_on else suspended(project) - names
    project.warehouse.mkdir(parents=True, exist_ok=True)
    write_whole(_suspensions(project), json.dumps(sorted(now)) + "\n")


def _suspensions(project: Project) -> Path:
    return project.warehouse / "suspended.json"
