"""What changed in a relation between two releases, by key: the feed that a reader needs who keeps a copy."""

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.release import ReleaseStore
from hubspoke.sql import identifier, quoted


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
        of the two has is null in the rows of the other.

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
    listed = ", ".join(map(identifier, keys))
    for view, number in (("old", before), ("new", after)):
        if connection.sql(f"select 1 from _{view} group by {listed} having count(*) > 1 limit 1").fetchone():
            raise HubspokeError(f"rows of {name} in release {number} share {', '.join(keys)}; name another key: --key")
    same = " and ".join(f"_old.{column} is not distinct from _new.{column}" for column in map(identifier, keys))
    every = [*columns["new"], *(column for column in columns["old"] if column not in columns["new"])]
    differs: list[str] = []
    values: list[str] = []
    for column in every:
        sides = [f"_{view}.{identifier(column)}" if column in columns[view] else "null" for view in ("old", "new")]
        values.append(f"if(_new._is_here, {sides[1]}, {sides[0]}) as {identifier(column)}")
        if column not in keys:
            differs.append(f"if({sides[0]} is distinct from {sides[1]}, '{quoted(column)}', null)")
    changed = f"list_filter([{', '.join(differs)}], lambda name: name is not null)" if differs else "[]::varchar[]"
    return connection.sql(
        f"""
        select * from (
            select
                case
                    when _old._is_here is null then 'added'
                    when _new._is_here is null then 'removed'
                    else 'changed'
                end as _change,
                case when _old._is_here and _new._is_here then array_to_string({changed}, ', ') else '' end as _columns,
                {", ".join(values)}
            from (select *, true as _is_here from _old) as _old
            full join (select *, true as _is_here from _new) as _new on {same}
        )
        where _change <> 'changed' or _columns <> ''
        order by {listed}
        """
    )
