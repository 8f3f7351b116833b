"""Freshness that models declare: how it is read, when a build is due for it, and the loop that keeps to it."""

import os
import signal
import subprocess
from datetime import UTC, datetime, timedelta
from typing import Any

import pytest
from conftest import BIN, Sandbox
from corner_shop import write_table

from hubspoke.errors import HubspokeError
from hubspoke.freshness import History, Measurement, say, targets
from hubspoke.loop import judge
from hubspoke.manifest import Manifest
from hubspoke.plan import Plan, Step

NOON = datetime(2026, 11, 2, 12, 0, tzinfo=UTC)


def node(name: str, parents: list[str], **config: Any) -> dict[str, Any]:
    return {
        "unique_id": f"model.{name}",
        "name": name,
        "resource_type": "model",
        "original_file_path": f"models/marts/sales/{name}.sql",
        "patch_path": f"hubspoke://models/marts/sales/{name}.yml",
        "depends_on": {"nodes": parents},
        "config": config,
    }


def manifest(**said: Any) -> Manifest:
    nodes = [
        node("quick", ["source.pos"], meta={"freshness": said.get("quick", "10 minutes")}),
        node("slow", ["source.pos", "source.crm"], freshness={"build_after": {"count": 2, "period": "hour"}}),
        node("other", ["source.web"]),
    ]
    sources = {
        f"source.{name}": {"unique_id": f"source.{name}", "source_name": name, "name": "it", "resource_type": "source"}
        for name in ("pos", "crm", "web")
    }
    return Manifest({"nodes": {one["unique_id"]: one for one in nodes}, "sources": sources, "exposures": {}})


class Known(History):
    """A history in which builds take so long."""

    def __init__(self, seconds: float) -> None:
        self.seconds = seconds

    def expected_build(self) -> float:
        return self.seconds


def due(
    waiting: dict[str, timedelta], build: float = 60, away: frozenset[str] = frozenset(), why: Any = "data"
) -> bool:
    project = manifest()
    steps = tuple(Step(one, why) for one in project.models)
    plan = Plan(project, steps, (), "", {}, {})
    landed = {f"source.{name}": NOON - age for name, age in waiting.items()}
    return judge(plan, landed, Known(build), set(away), NOON).is_due


def test_a_freshness_is_read_in_either_way_and_a_wrong_one_is_named_with_its_file() -> None:
    assert targets(manifest()) == {"model.quick": 600, "model.slow": 7200}
    with pytest.raises(
        HubspokeError, match=r"models/marts/sales/quick.yml: quick: freshness: soon is none; .* 15 minutes"
    ):
        targets(manifest(quick="soon"))


def test_new_data_waits_as_long_as_the_tightest_freshness_allows() -> None:
    minutes = timedelta(minutes=1)
    assert not due({"pos": 5 * minutes})
    assert due({"pos": 9 * minutes})  # a build takes a minute, and some more
    assert not due({"crm": 9 * minutes})  # only the slow one rests on it
    assert due({"crm": 119 * minutes})
    assert due({"pos": 0 * minutes}, build=3600)  # it cannot be met: as soon as can be


def test_what_nobody_declares_a_freshness_for_is_built_at_once_and_what_is_suspended_is_not() -> None:
    assert due({"web": timedelta(0)})
    assert not due({"pos": timedelta(hours=1)}, away=frozenset(["quick"]))
    assert due({"pos": timedelta(hours=2)}, away=frozenset(["quick"]))
    assert not due({"pos": timedelta(days=1)}, away=frozenset(["quick", "slow"]))


def test_an_edit_is_built_at_once_and_the_clock_alone_is_no_reason() -> None:
    assert due({}, why="edited")
    assert not due({}, why="volatile")


def test_spans_are_said_as_people_do() -> None:
    assert [say(seconds) for seconds in (3, 60, 150, 900, 5400, 172800)] == [
        "3 seconds",
        "1 minute",
        "2.5 minutes",
        "15 minutes",
        "90 minutes",
        "2 days",
    ]


def test_a_miss_is_one_beyond_the_target() -> None:
    assert Measurement(NOON, "quick", 600, 601, 60).is_missed
    assert not Measurement(NOON, "quick", 600, 600, 60).is_missed


def declare(sandbox: Sandbox, freshness: str) -> None:
    file = sandbox.root / "models/spokes/crm/spoke_crm__regulars.yml"
    lines = [line for line in file.read_text().splitlines() if "freshness:" not in line]
    place = lines.index("- name: spoke_crm__regulars") + 1
    lines.insert(place, f"  config: {{ meta: {{ freshness: {freshness} }} }}")
    file.write_text("\n".join(lines) + "\n")


def run_until(sandbox: Sandbox, word: str, timeout: float) -> str:
    """Run the loop until it prints a word or the time is over, then stop it; return what it printed."""
    process = subprocess.Popen(
        [BIN / "hubspoke", "run", "--no-ingest", "--every", "1"],
        cwd=sandbox.root,
        env={**os.environ, "NO_COLOR": "1", "HUBSPOKE_WAREHOUSE": "warehouse", "PYTHONUNBUFFERED": "1"},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    assert process.stdout
    told = []
    signal.signal(signal.SIGALRM, lambda *_: process.send_signal(signal.SIGINT))
    signal.alarm(int(timeout))
    try:
        for line in process.stdout:
            told.append(line)
            if word in line:
                process.send_signal(signal.SIGINT)
    finally:
        signal.alarm(0)
        process.kill()
        process.wait()
    return "".join(told)


def test_the_loop_waits_while_it_may_builds_in_time_and_says_what_a_miss_came_from(settled_shop: Sandbox) -> None:
    declare(settled_shop, "1 hour")
    settled_shop.run("hubspoke", "build")
    assert "lags 0.0 seconds of 1 hour" in settled_shop.run("hubspoke", "status").stdout
    write_table(settled_shop.root, "crm.customers", "select range as customer_id, '19-24' as age from range(1, 41)")
    settled_shop.run("hubspoke", "ingest", "crm")
    assert "building" not in run_until(settled_shop, "building", 12)
    declare(settled_shop, "0.1 seconds")  # no build is as fast
    late = settled_shop.run("hubspoke", "status", "--strict", check=False)
    assert (late.returncode, "LATE" in late.stdout) == (1, True)
    told = run_until(settled_shop, "release ", 60)
    assert "building: spoke_crm__regulars" in told or "building: crm.customers for" in told
    assert "release " in told
    kept = settled_shop.run("hubspoke", "status", "--strict").stdout
    assert "fresh      lags 0.0 seconds of 0.1 seconds" in kept
    assert "1 missed  cannot be met: a build takes" in kept
    assert "spoke_crm__regulars: 0.1 seconds cannot be kept: a build takes" in run_until(settled_shop, "cannot", 30)
    settled_shop.run("hubspoke", "suspend", "spoke_crm__regulars")
    assert "suspended" in settled_shop.run("hubspoke", "status").stdout
    settled_shop.run("hubspoke", "resume", "spoke_crm__regulars")
    refused = settled_shop.run("hubspoke", "suspend", "spoke_bi__departments", check=False)
    assert refused.stderr.startswith("Error: spoke_bi__departments declares no freshness; those that do: spoke_crm__")
