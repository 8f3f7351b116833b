"""When a source that declares a schedule is landed again.

<landing>/<source>/asked.json    when each of its tables was last asked for what is new, without a fault
"""

import json
from datetime import datetime

from croniter import croniter

from hubspoke.files import write_whole
from hubspoke.project import Project
from hubspoke.sources import SourceTable


def due(project: Project, tables: list[SourceTable], now: datetime) -> list[SourceTable]:
    """Return the tables that are to be landed now: those whose schedule said so since, and those without one.

    Args:
        project: The project.
        tables: Some tables.
        now: The time, in UTC, which schedules are in.
    """
    return [table for table in tables if _is_due(table, _asked(project, table.source).get(table.table, ""), now)]


def _is_due(table: SourceTable, asked: str, now: datetime) -> bool:
    schedule = table.ingest.schedule
    if schedule is None or not asked:
        return True
    last: datetime = croniter(schedule, now).get_prev(datetime)
    return datetime.fromisoformat(asked) < last


def note(project: Project, tables: list[SourceTable], began: datetime) -> None:
    """Note that the tables of one source were asked for what is new, from ``began`` on (UTC)."""
    source = tables[0].source
    if tables[0].ingest.schedule is not None:
        asked = _asked(project, source) | dict.fromkeys((table.table for table in tables), began.isoformat())
        write_whole(project.landing / source / "asked.json", json.dumps(asked, indent=2) + "\n")


def _asked(project: Project, source: str) -> dict[str, str]:
    try:
        found: dict[str, str] = json.loads((project.landing / source / "asked.json").read_text())
    except FileNotFoundError:
        return {}
    return found
