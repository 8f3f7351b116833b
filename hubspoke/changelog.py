"""A table out of its loads, in SQL: a whole copy and the changes since, resolved to what the table is now.

    current    the table's columns as a whole load has them, each row as its last change left it
    log        every row of the whole copy as a ``snapshot``, then every change, each as it was landed
    history    each row as it was from ``valid_from`` until ``valid_to``, which is null for what is there now

A change may leave a column out that it did not change (``_unchanged``): its value is the one that the row had before.
A change of the key comes as two changes with adjacent numbers, the deletion of the old row and an update that brings
the new one, so what was before may stand under another key: a row and those that it was before are its line.
"""

from collections.abc import Callable, Iterable
from dataclasses import dataclass

from hubspoke.landing import Content, LandingZone, Load, sequence_of
from hubspoke.sql import identifier, quoted

AUDIT = {
    "_change": "varchar",
    "_change_number": "bigint",
    "_lsn": "bigint",
    "_xid": "bigint",
    "_committed_at": "timestamp",
    "_unchanged": "varchar[]",
    "_uncast": "varchar",
}
"""Columns that a change may have beside the table's own, ``_load_id`` and ``_loaded_at``."""

LOADED = ("_load_id", "_loaded_at")

SEQUENCE = "cast(split_part(_load_id, '-', 1) as bigint) * 1099511627776 + _change_number"
"""Order of all changes of a table: by load, then by number."""


@dataclass(frozen=True)
class News:
    """What was landed since a load.

    Attributes:
        changes: SQL of a relation of the changes, with all of the table's columns.
        key: The table's key; of a table without one, rows only ever come.
        is_by_key: Whether what a key's row is hangs on its last change alone: not where changes leave values out.
        now: SQL for the rows that the keys of the changes have now, where that is so, and nothing was truncated.
        before: Returns SQL for the rows that the keys in a relation had before, in the same case.
    """

    changes: str
    key: tuple[str, ...]
    is_by_key: bool
    now: str
    before: Callable[[str], str]


def changes_since(zone: LandingZone, source: str, table: str, load_id: str) -> News | None:
    """Find the changes of a table that were landed after a load; None if the table may be another altogether."""
    content = zone.content(source, table, zone.reached(source))
    if content is None or not content.newest.columns:
        return None
    last = sequence_of(load_id)
    loads = [*([content.whole] if content.whole else []), *content.changes]
    new = [load for load in loads if load.sequence > last]
    # one that stands for others may hold what was there before; without a new one, the zone has gone back
    if not last or not new or any(load.kind == "whole" or load.first <= last for load in new):
        return None
    content_before = Content.of([load for load in loads if load.sequence <= last])
    if content_before is None or content_before.newest.columns != content.newest.columns:
        return None

    def before_of(keys: str) -> str:
        return Views(zone, source, table, content_before, keys).current

    fresh = Views(zone, source, table, Content(None, new))
    is_by_key = not any(load.unchanged for load in content.changes)
    return News(fresh.changes, tuple(content.newest.key), is_by_key, fresh.current, before_of)


def table_views(zone: LandingZone, source: str, table: str, content: Content) -> dict[str, str]:
    """Return the SQL of the views that show a table, by what is added to its name."""
    if not content.newest.columns:
        files = ", ".join(f"'{quoted(file)}'" for file in zone.files(source, table, content.newest))
        return {"": f"select * from read_parquet([{files}])"}
    views = Views(zone, source, table, content)
    return {"": views.current, "__log": views.log} | ({"__history": views.history} if views.history else {})


class Views:
    """The SQL of a table's views.

    Attributes:
        current: What the table is now.
        log: Its changes; empty if it has no key and no log.
        history: What its rows were and when; empty if it has no key.
        changes: A relation of its changes.
    """

    def __init__(self, zone: LandingZone, source: str, table: str, content: Content, keys: str = "") -> None:
        self._newest = content.newest
        self._columns = [identifier(name) for name in self._newest.columns]
        self._key = [identifier(name) for name in self._newest.key]
        loads = [content.whole, *content.changes]
        self._files = {load.load_id: zone.files(source, table, load) for load in loads if load}
        self._whole = self._read([content.whole], ()) if content.whole else ""
        self.changes = self._read(content.changes, AUDIT)
        if keys:
            self._whole = f"(select * from {self._whole} as _rows where {self._of(keys)})" if self._whole else ""
            # one condition on both would be asked of every row: by itself, each leaves out the files that have none
            wanted = (f"_change <> 'truncate' and {self._of(keys)}", "_change = 'truncate'")
            parts = (f"select * from {self.changes} as _rows where {condition}" for condition in wanted)
            self.changes = f"({' union all '.join(parts)})"
        unchanged = {identifier(name) for load in content.changes for name in load.unchanged}
        self._unchanged = [column for column in self._columns if column in unchanged]
        self.current = self._current() if content.changes else f"select {self._listed()} from {self._whole}"
        self.log = f"select {self._listed()}, {', '.join(AUDIT)} from {self._every()}"
        self.history = self._history() if self._key else ""

    def _listed(self) -> str:
        return ", ".join([*self._columns, *LOADED])

    def _of(self, keys: str) -> str:
        """Return SQL that is true for a row that has one of some keys."""
        listed = ", ".join(f"_rows.{column}" for column in self._key)
        return f"({listed}) in (from {keys})" if len(self._key) > 1 else f"{listed} in (from {keys})"

    def _read(self, loads: list[Load], audit: Iterable[str]) -> str:
        """Return a relation of some loads, with all of the table's columns in their types."""
        paths = [f"'{quoted(path)}'" for load in loads for path in self._files[load.load_id]]
        known = {name for load in loads for name in load.columns}
        values = [
            f"cast({identifier(name) if name in known else 'null'} as {data_type}) as {identifier(name)}"
            for name, data_type in self._newest.columns.items()
        ]
        if not paths:  # changes that all fell away
            nothing = [f"cast(null as {AUDIT[name]}) as {name}" for name in audit]
            empty = ["cast(null as varchar) as _load_id", "cast(null as timestamp) as _loaded_at"]
            return f"(select {', '.join([*values, *empty, *nothing])} where false)"
        columns = ", ".join([*values, *LOADED, *audit])
        return f"(select {columns} from read_parquet([{', '.join(paths)}], union_by_name = true))"

    def _every(self, since: str = "") -> str:
        """Return a relation of the whole copy and all changes, or those since a truncation."""
        snapshot = {name: f"cast(null as {data_type})" for name, data_type in AUDIT.items()} | {"_change": "'snapshot'"}
        audit = ", ".join(f"{value} as {name}" for name, value in snapshot.items())
        parts = [f"select {self._listed()}, {', '.join(AUDIT)}, {SEQUENCE} as _sequence from {self.changes}"]
        if self._whole:
            parts.insert(0, f"select {self._listed()}, {audit}, 0 as _sequence from {self._whole}")
        if since:
            parts = [f"select * from ({part}) where _sequence >= {since}" for part in parts]
        return f"({' union all '.join(parts)})"

    def _current(self) -> str:
        listed, key = self._listed(), ", ".join(self._key)
        # a truncation comes after the whole copy and before every change that is later than itself
        head = f"""
            with changes as (select *, {SEQUENCE} as _sequence from {self.changes}),
            emptied as (
                select coalesce(max(_sequence), 0) as since from changes where _change = 'truncate'
            )"""
        since = self._every("(select since from emptied)")
        if not self._key:
            return f"{head} select {listed} from {since} where _change <> 'truncate'"
        # not exists, within a condition, takes six times as long: it is asked of every row of the copy by itself
        same = " and ".join(f"whole.{column} = latest.{column}" for column in self._key)
        untouched = f"""
            union all
            select {listed} from {self._whole} as whole anti join latest on {same}
            where (select since from emptied) = 0"""
        head += f""",
            latest as (
                select {key}, max(_sequence) as _sequence from changes
                where _sequence > (select since from emptied) group by {key}
            ),
            last as (
                select * from changes where _change <> 'delete' and _sequence in (select _sequence from latest)
            )"""
        if not self._whole:
            untouched = ""
        if not self._unchanged:
            return f"{head} select {listed} from last {untouched}"
        names = ", ".join(f"'{quoted(column[1:-1])}'" for column in self._unchanged)
        return f"""{head},
            lacking as (select * from last where list_has_any(_unchanged, [{names}])),
            halves as ({self._halves("changes")}),
            -- what a row that lacks values can have been: itself, and whatever moved
            concerned as (select {key} from lacking union select {key} from halves),
            rows as (select every.* from {since} as every semi join concerned using ({key})),
            {self._lines()}
            select {listed} from last where _sequence not in (select _sequence from lacking)
            union all
            select {listed} from filled where _sequence in (select _sequence from lacking) {untouched}"""

    def _history(self) -> str:
        key = ", ".join(self._key)
        filled = f"halves as ({self._halves('rows')}), {self._lines()}" if self._unchanged else "filled as (from rows)"
        return f"""
            with rows as (select * from {self._every()}),
            {filled},
            truncations as (select _sequence, _committed_at from rows where _change = 'truncate'),
            spans as (
                select *, coalesce(_committed_at, _loaded_at) as valid_from,
                    lead(_sequence) over later as _next, lead(_committed_at) over later as _next_at
                from filled where _change <> 'truncate' window later as (partition by {key} order by _sequence)
            ),
            ended as (
                select spans.*, case
                    when truncations._sequence < coalesce(_next, {2**63 - 1}) then truncations._committed_at
                    else _next_at
                end as valid_to
                from spans asof left join truncations on spans._sequence < truncations._sequence
            )
            select {", ".join(self._columns)}, valid_from, valid_to, {", ".join(LOADED)} from ended
            -- what one transaction changed twice was never seen in between
            where _change <> 'delete' and (valid_to is null or valid_from < valid_to)"""

    def _halves(self, rows: str) -> str:
        """Return both halves of every change of a key: no other changes have adjacent numbers."""
        return f"""
            select * from {rows} where
                _change = 'update' and _sequence - 1 in (select _sequence from {rows} where _change = 'delete')
                or _change = 'delete' and _sequence + 1 in (select _sequence from {rows} where _change = 'update')"""

    def _lines(self) -> str:
        """Return CTEs that end in ``filled``: ``rows`` with the values that changes left out."""
        key = ", ".join(self._key)
        identity = ", ".join(f"{column} := {column}" for column in self._key)
        filled = []
        for column in self._unchanged:
            is_left_out = f"coalesce(list_contains(_unchanged, '{quoted(column[1:-1])}'), false)"
            said = f"case when _change <> 'delete' and not {is_left_out} then struct_pack(value := {column}) end"
            before = f"last_value({said} ignore nulls) over line .value"
            filled.append(f"case when {is_left_out} then {before} else {column} end as {column}")
        return f"""
            -- a row's life under its key begins where it is copied, inserted or moved to
            lives as (
                select rows.*, struct_pack(born := max(case
                    when _change in ('snapshot', 'insert') or _sequence in (
                        select _sequence from halves where _change = 'update'
                    ) then _sequence
                end) over (partition by {key} order by _sequence), {identity}) as _life
                from rows
            ),
            moves as (
                select new._sequence as born, old._life as before
                from lives as new join lives as old on old._sequence = new._sequence - 1
                where new._change = 'update' and old._change = 'delete'
            ),
            roots as (
                with recursive steps as (
                    select born, before from moves
                    union all
                    select steps.born, moves.before from steps join moves on steps.before.born = moves.born
                )
                select born, before from steps where before.born not in (select born from moves)
            ),
            lined as (
                select lives.*, coalesce(roots.before, lives._life) as _line
                from lives left join roots on lives._life.born = roots.born
            ),
            filled as (
                select * replace ({", ".join(filled)}) from lined
                window line as (partition by _line order by _sequence rows unbounded preceding)
            )"""
