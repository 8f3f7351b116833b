"""``hubspoke run``: land, plan, build and release, again and again, as late as the declared freshness allows.

The fewer builds, the more each takes in. So new data waits until the model that may lag least has to be built, with the
time that a build takes; what nobody declares a freshness for is built at once. An edit is built at once, too.
"""

import time
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta

from rich.console import Console

from hubspoke import plan as plans
from hubspoke.build import build
from hubspoke.errors import HubspokeError
from hubspoke.freshness import History, say, suspended, targets
from hubspoke.manifest import Manifest
from hubspoke.plan import Plan
from hubspoke.project import Project
from hubspoke.stopping import until_stopped

MARGIN = 1.2
"""A build is begun so much sooner than the last ones took."""


@dataclass(frozen=True)
class Turn:
    """What is to be done now.

    Attributes:
        is_due: Whether to build.
        why: What for, or what is waited for.
    """

    is_due: bool
    why: str


def judge(plan: Plan, waiting: dict[str, datetime], history: History, away: set[str], now: datetime) -> Turn:
    """Decide whether what is planned is to be built now.

    Args:
        plan: What a build would do.
        waiting: When the oldest load of each source landed that readers do not see.
        history: Of the releases.
        away: Names of models that nobody is to keep fresh.
        now: UTC time.
    """
    own = [step for step in plan.steps if step.why not in {"data", "ancestor", "volatile"}]
    if own:
        return Turn(True, f"{own[0].node['name']}: {own[0].reason}")
    if not plan.steps or not waiting:
        return Turn(False, "")  # volatile alone: there is no new data to look at
    manifest, declared = plan.manifest, targets(plan.manifest)
    expected = history.expected_build() * MARGIN
    begin: list[tuple[datetime, str]] = []
    for node_id, since in waiting.items():
        readers = [model for model in declared if node_id in manifest.ancestry([model])]
        kept = [model for model in readers if manifest.get(model)["name"] not in away]
        if readers and not kept:
            continue  # whoever wants it fresh has been suspended
        tightest = min(kept, key=lambda model: declared[model], default=None)
        wait = max(0.0, declared[tightest] - expected) if tightest else 0.0
        about = manifest.get(tightest)["name"] if tightest else "no freshness is declared"
        source = manifest.sources[node_id]
        begin.append((since + timedelta(seconds=wait), f"{source['source_name']}.{source['name']} for {about}"))
    if not begin:
        return Turn(False, "all that rests on what is new is suspended")
    at, about = min(begin)
    return Turn(at <= now, f"{about}, begun {at:%H:%M:%S} UTC")


def warn(project: Project, manifest: Manifest, tell: Callable[[str], None]) -> None:
    """Name the targets that cannot be met before they are missed."""
    expected = History(project).expected_build()
    for node_id, target in targets(manifest).items():
        if 0 < target < expected:
            name = manifest.get(node_id)["name"]
            tell(f"{name}: {say(target)} cannot be kept: a build takes {say(expected)}; hubspoke status tells of what")


def run(project: Project, every: float, land: Callable[[], list[str]], console: Console) -> None:
    """Keep the release fresh until stopped.

    Args:
        project: The project.
        every: Seconds from one turn to the next.
        land: Lands what is due, and returns what went wrong.
        console: Where to print; a turn with nothing to do prints nothing.
    """
    told = red_goal = ""
    is_warned = was_red = False
    with until_stopped() as finished:
        while not finished.is_set():
            began = time.monotonic()
            faults = land()
            try:
                plan = plans.make(project)
                if not is_warned:
                    warn(project, plan.manifest, lambda line: console.print(line, highlight=False))
                    is_warned = True
                history = History(project)
                turn = judge(plan, history.waiting(plan.manifest), history, suspended(project), datetime.now(UTC))
                if was_red:  # it would be again, until something is edited or lands
                    red_goal = plan.goal
                was_red = False
                if turn.is_due and plan.goal != red_goal:
                    console.print(f"{datetime.now(UTC):%H:%M:%S} building: {turn.why}", highlight=False, markup=False)
                    was_red = True  # if it raises, too
                    was_red = not build(project, (), False, console)
            except HubspokeError as error:
                faults.append(str(error))
            if faults and (said := "\n".join(faults)) != told:
                console.print(f"Error: {said}", highlight=False, markup=False, soft_wrap=True)
            told = "\n".join(faults)
            finished.wait(max(0.0, began + every - time.monotonic()))
