"""What differs between two states of a relation, by key: the feed that a reader needs who keeps a copy."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, field

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.release import ReleaseStore
from hubspoke.sql import columns_of, identifier, quoted

NUMBER = re.compile(r"U?(TINY|SMALL|BIG|HUGE)?INT(EGER)?|FLOAT|DOUBLE|DECIMAL\(.*\)")
"""Types of which DuckDB compares any two by value."""


@dataclass(frozen=True)
class Counts:
    """How many rows differ.

    Attributes:
        added: Rows that only the later state has.
        changed: Rows that both have, with another value in a column; 0 if they were compared without a key.
        removed: Rows that only the earlier state has.
        columns: Changed rows in which a column differs, by its name; columns that differ in none are left out.
    """

    added: int = 0
    changed: int = 0
    removed: int = 0
    columns: dict[str, int] = field(default_factory=dict)

    @property
    def is_nothing(self) -> bool:
        """Whether no row differs."""
        return not self.added and not self.changed and not self.removed


def changes(
    store: ReleaseStore, before: int, after: int, name: str, key: tuple[str, ...] = ()
) -> duckdb.DuckDBPyRelation:
    """Compare a relation of two releases.

    Args:
        store: The releases.
        before: Number of the release to start from; it may be the later one.
        after: Number of the release to arrive at.
        name: The relation.
        key: Columns that no two rows share; default: those that tests on the relation say so of.

    Returns:
        One row for each row that differs: ``_change`` (``added``, ``changed`` or ``removed``), ``_columns`` (those that
        differ in a changed row), then the row as it is after, or as it was if it was removed. A column that only one
        of the two has is null in the rows of the other; one whose type is another kind of type is compared as text.

    Raises:
        HubspokeError: There is no such release or relation, no key is known, or rows share it.
    """
    old, new = (store.get(number).relation(name) for number in (before, after))
    keys = list(key or new.key or old.key)
    if not keys:
        raise HubspokeError(f"no test says which columns of {name} are unique; name them: --key column,column")
    connection = duckdb.connect()
    store.location.let_read(connection)
    for view, relation in (("old", old), ("new", new)):
        connection.execute(f"create view _{view} as {store.rows_of(relation)}")
    columns = {view: connection.table(f"_{view}").columns for view in ("old", "new")}
    for wanted in keys:
        if wanted not in columns["old"] or wanted not in columns["new"]:
            both = [column for column in columns["new"] if column in columns["old"]]
            raise HubspokeError(f"{name} has no column {wanted} in both releases; it has {', '.join(both)}")
    for view, number in (("old", before), ("new", after)):
        if is_shared(connection, f"_{view}", keys):
            raise HubspokeError(f"rows of {name} in release {number} share {', '.join(keys)}; name another key: --key")
    listed = ", ".join(map(identifier, keys))
    return connection.sql(
        f"select * replace (array_to_string(_columns, ', ') as _columns) "
        f"from ({differing(connection, '_old', '_new', keys)}) order by {listed}"
    )


def is_shared(connection: duckdb.DuckDBPyConnection, relation: str, keys: Sequence[str]) -> bool:
    """Whether two rows of a relation have the same key."""
    listed = ", ".join(map(identifier, keys))
    query = f"select 1 from {relation} group by {listed} having count(*) > 1 limit 1"
    return connection.execute(query).fetchone() is not None


def differing(connection: duckdb.DuckDBPyConnection, old: str, new: str, keys: Sequence[str]) -> str:
    """Return SQL for the rows in which two relations differ.

    Args:
        connection: Where both are.
        old: The earlier one, as it stands in SQL.
        new: The later one.
        keys: Columns of both that no two rows of either share.

    Returns:
        A query with the columns that ``changes`` describes, but ``_columns`` as a list, and in no order.
    """
    sides = _sides(connection, old, new)
    same = " and ".join(f"{sides[key][0]} is not distinct from {sides[key][1]}" for key in keys)
    values = [f"if(_new._is_here, {after}, {before}) as {identifier(name)}" for name, (before, after) in sides.items()]
    differs = [
        f"if({before} is distinct from {after}, '{quoted(name)}', null)"
        for name, (before, after) in sides.items()
        if name not in keys
    ]
    changed = f"list_filter([{', '.join(differs)}], lambda name: name is not null)" if differs else "[]::varchar[]"
    return f"""
        select * from (
            select
                case
                    when _old._is_here is null then 'added'
                    when _new._is_here is null then 'removed'
                    else 'changed'
                end as _change,
                case when _old._is_here and _new._is_here then {changed} else [] end as _columns,
                {", ".join(values)}
            from (select *, true as _is_here from {old}) as _old
            full join (select *, true as _is_here from {new}) as _new on {same}
        )
        where _change <> 'changed' or len(_columns) > 0
    """


def count(connection: duckdb.DuckDBPyConnection, old: str, new: str, keys: Sequence[str]) -> Counts:
    """Count the rows in which two relations differ.

    Args:
        connection: Where both are.
        old: The earlier one, as it stands in SQL.
        new: The later one.
        keys: Columns of both that no two rows of either share; none to compare whole rows, with repetitions.
    """
    if not keys:
        return _count_whole_rows(connection, old, new)
    rows = connection.execute(
        f"""
        with differing as materialized (
            select _change, _columns, count(*) as row_count from ({differing(connection, old, new, keys)}) group by all
        )

        select _change, '', sum(row_count)::bigint from differing group by all
        union all
        select '', name, sum(row_count)::bigint from differing, unnest(_columns) as listed (name) group by all
        """
    ).fetchall()
    by_kind = {change: number for change, name, number in rows if not name}
    by_column = {name: number for _, name, number in rows if name}
    in_order = {name: by_column[name] for name in columns_of(connection, new) | by_column if name in by_column}
    return Counts(by_kind.get("added", 0), by_kind.get("changed", 0), by_kind.get("removed", 0), in_order)


def _count_whole_rows(connection: duckdb.DuckDBPyConnection, old: str, new: str) -> Counts:
    sides = _sides(connection, old, new)
    before = f"select {', '.join(side for side, _ in sides.values())} from {old} as _old"
    after = f"select {', '.join(side for _, side in sides.values())} from {new} as _new"
    row = connection.execute(
        f"select (select count(*) from ({after} except all {before})), "
        f"(select count(*) from ({before} except all {after}))"
    ).fetchone()
    added, removed = row or (0, 0)
    return Counts(added=added, removed=removed)


def _sides(connection: duckdb.DuckDBPyConnection, old: str, new: str) -> dict[str, tuple[str, str]]:
    """Return what stands for each column in the rows of ``_old`` and of ``_new``, so that the two can be compared.

    Columns of the later relation come first, in order.
    """
    before, after = columns_of(connection, old), columns_of(connection, new)
    found = {}
    for name in after | before:
        sides = [f"{view}.{identifier(name)}" for view in ("_old", "_new")]
        kinds = [columns.get(name, "") for columns in (before, after)]
        if "" in kinds:
            sides[kinds.index("")] = "null"
        elif kinds[0] != kinds[1] and not all(NUMBER.fullmatch(kind) for kind in kinds):
            sides = [f"{side}::varchar" for side in sides]
        found[name] = (sides[0], sides[1])
    return found
