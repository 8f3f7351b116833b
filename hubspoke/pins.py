"""Which loads of the landing zone the hub's sources show: those that are there now, noted as read."""

import re
from typing import Any

import duckdb

from hubspoke.changelog import table_views
from hubspoke.development import base_tables
from hubspoke.landing import LandingZone
from hubspoke.project import Project

READ = re.compile(r"'(?:[^']*/)?([^/']+/[^/']+/\d+-[^/']+)/[^/']+\.parquet'")
"""A load among the files that a view reads."""


def pinned_tables(project: Project, cursor: duckdb.DuckDBPyConnection) -> dict[str, dict[str, Any]]:
    """Return ``landed_tables``, once it is noted that they are read: compaction lets them be.

    So are those that the hub's views read until now: a run may end before it has made all of its own.
    """
    until_now = cursor.execute("select sql from duckdb_views() where not internal").fetchall()
    landed = landed_tables(project)
    found = landed | base_tables(cursor) if project.is_at_base else landed
    from_now = [(sql,) for table in found.values() for sql in table["views"].values()]
    if landed:
        LandingZone(project.landing).pin({load for (sql,) in until_now + from_now for load in READ.findall(sql)})
    return found


def landed_tables(project: Project) -> dict[str, dict[str, Any]]:
    """Return what makes up every landed table now.

    Returns:
        ``{"pos.transactions": {"load_id": …, "views": {"": <SQL>}}}``: the newest load, and the views to make, by what
        is added to the table's name: where changes land, also ``__log`` and ``__history``.
    """
    zone = LandingZone(project.landing)
    # asked once: all tables of a source are from one instant, whatever lands meanwhile
    tables = zone.tables()
    reached = {source: zone.reached(source) for source, _ in tables}
    found: dict[str, dict[str, Any]] = {}
    for source, table in tables:
        content = zone.content(source, table, reached[source])
        if content:
            views = table_views(zone, source, table, content)
            found[f"{source}.{table}"] = {"load_id": content.newest.load_id, "views": views}
    return found
