"""Whether an edit of a model breaks what others read: by the SQL and the columns before and after, without data.

An edit is safe if every column that was there keeps its name, type and values, in the same rows. Whatever cannot be
shown to be so is called breaking.
"""

from collections import Counter
from dataclasses import dataclass

from sqlglot import exp, parse_one
from sqlglot.errors import SqlglotError
from sqlglot.optimizer.scope import traverse_scope

from hubspoke.canonical import canonical

Columns = dict[str, str]
"""Types by name."""


@dataclass(frozen=True)
class Edit:
    """What an edit does to those who read the model.

    Attributes:
        added: Columns that were not there.
        removed: Columns that are gone.
        retyped: Columns of another type, with ``old → new``.
        changed: Columns that may have other values, with what was edited.
        rows: What may make more or fewer rows, or rows of another grain; empty if nothing does.
    """

    added: tuple[str, ...] = ()
    removed: tuple[str, ...] = ()
    retyped: tuple[tuple[str, str], ...] = ()
    changed: tuple[str, ...] = ()
    rows: str = ""

    @property
    def is_breaking(self) -> bool:
        """Whether somebody who reads the columns that were there may find them otherwise."""
        return bool(self.removed or self.retyped or self.changed or self.rows)

    @property
    def is_nothing(self) -> bool:
        """Whether nobody notices it."""
        return not (self.added or self.is_breaking)

    @property
    def touched(self) -> set[str] | None:
        """The columns that somebody may find otherwise; None for all."""
        return None if self.rows else {*self.removed, *(name for name, _ in self.retyped), *self.changed}

    def __str__(self) -> str:
        """Say it in one line."""
        told = [
            f"rows: {self.rows}" if self.rows else "",
            f"removes {', '.join(self.removed)}" if self.removed else "",
            "retypes " + ", ".join(f"{name} ({change})" for name, change in self.retyped) if self.retyped else "",
            f"computes otherwise {', '.join(self.changed)}" if self.changed else "",
            f"adds {', '.join(self.added)}" if self.added else "",
        ]
        return "; ".join(filter(None, told)) or "readers find the same"


def judge(before: str, after: str, columns_before: Columns, columns_after: Columns) -> Edit:
    """Compare a model's compiled SQL and its columns before and after an edit."""
    old, new = ({name.lower(): kind for name, kind in found.items()} for found in (columns_before, columns_after))
    added, removed = (tuple(name for name in one if name not in other) for one, other in ((new, old), (old, new)))
    retyped = tuple((name, f"{old[name]} → {new[name]}") for name in old if name in new and old[name] != new[name])
    if canonical(before) == canonical(after):
        return Edit(added, removed, retyped)
    try:
        query_before, query_after = (_normal(parse_one(sql, dialect="duckdb")) for sql in (before, after))
    except SqlglotError:
        return Edit(added, removed, retyped, rows="the query cannot be read")
    comparison = _Comparison(query_before, query_after)
    comparison.compare(query_before, query_after)
    kept = set(old) & set(new)
    changed = kept if comparison.is_changed_within else comparison.changed & kept
    return Edit(added, removed, retyped, tuple(sorted(changed)), comparison.rows)


class _Comparison:
    """Two queries beside each other, select by select.

    Attributes:
        rows: See ``Edit.rows``.
        changed: Columns of the result that are computed otherwise.
        is_changed_within: Whether a column of a common table expression is.
    """

    def __init__(self, before: exp.Query, after: exp.Query) -> None:
        self.rows = ""
        self.changed: set[str] = set()
        self.is_changed_within = False
        self._after = after
        # what a query says of all columns at once says another thing when there is one more
        self._says_all = any(
            (isinstance(part, exp.Join) and part.args.get("method") == "NATURAL")
            or isinstance(part, (exp.Pivot, exp.Columns))
            or (isinstance(part, exp.SetOperation) and part.args.get("distinct") is not False)
            or (isinstance(part, exp.Select) and part.is_star and (part.args.get("distinct") or _groups_by_all(part)))
            for part in after.walk()
        )

    def compare(self, old: exp.Query, new: exp.Query, name: str = "") -> None:
        """Compare two queries of which one has become the other."""
        if self.rows or _sql(old) == _sql(new):
            return
        self._compare_tables(old, new)
        before, after = _branches(old), _branches(new)
        if len(before) != len(after) or not before:
            self._rows(f"{name or 'the query'} is another")
            return
        where = name or "the last select"
        for old_select, new_select in zip(before, after, strict=True):
            self._compare_rows(old_select, new_select, where)
        self._compare_columns(before, after, name, where)

    def _rows(self, reason: str) -> None:
        self.rows = self.rows or reason

    def _compare_tables(self, old: exp.Query, new: exp.Query) -> None:
        before, after = ({table.alias: table for table in query.ctes} for query in (old, new))
        for alias in before.keys() | after.keys():
            if alias in before and alias in after:
                self.compare(before[alias].this, after[alias].this, alias)
            # a name that was the query's own is a table's of the hub now, or the other way round
            elif any(table.name == alias for table in (new if alias in before else old).find_all(exp.Table)):
                self._rows(f"{alias} is another")

    def _compare_rows(self, old: exp.Select, new: exp.Select, where: str) -> None:
        """Compare all but the columns."""
        is_limited = any(query.args.get(part) for query in (old, new) for part in ("limit", "offset"))
        for part in sorted({*old.args, *new.args} - {"with_", "expressions", "kind"}):
            if part == "order" and not is_limited:
                continue
            if _texts(old.args.get(part)) != _texts(new.args.get(part)):
                self._rows(f"{part.rstrip('_')} of {where} is another")

    def _compare_columns(self, old: list[exp.Select], new: list[exp.Select], name: str, where: str) -> None:
        """Compare the columns of selects that are put together; they are called as in the first, and go by places."""
        before, after = _columns(old), _columns(new)
        if before is None or after is None:
            self._rows(f"columns of {where} cannot be told apart")
            return
        changed = {column for column, parts in before.items() if after.get(column) != parts}
        added = after.keys() - before.keys()
        if any("*" in column for column in changed | added):
            self._rows(f"{where} takes other columns")
        if name:
            self.is_changed_within = self.is_changed_within or bool(changed)
        else:
            self.changed |= changed
        for column in sorted(added):
            place = list(after).index(column)
            for select in new:
                self._judge_added(select, select.expressions[place], where)
            if name and (self._says_all or column in self._names_in_readers_of(name)):
                self._rows(f"what reads {name} may take {column} for another")

    def _judge_added(self, select: exp.Select, column: exp.Expr, where: str) -> None:
        is_plain = isinstance(column, exp.Column)
        if select.args.get("distinct"):
            self._rows(f"{where} is distinct by one more column")
        elif _may_multiply(column):
            self._rows(f"a column that is added to {where} may make more rows")
        elif _folds(column) and not select.args.get("group") and not _folds_elsewhere(select, column):
            self._rows(f"a column that is added to {where} makes one row of all")
        elif _groups_by_all(select) and not _folds(column):
            self._rows(f"{where} is grouped by one more column")
        elif not is_plain and _name(column) in _names_without_a_table(select):
            self._rows(f"{where} may take the new {_name(column)} for another")

    def _names_in_readers_of(self, name: str) -> set[str]:
        """Names without a table in the selects that read a common table expression."""
        readers = [table.find_ancestor(exp.Select) for table in self._after.find_all(exp.Table) if table.name == name]
        return {column for reader in readers if reader for column in _names_without_a_table(reader)}


def _normal(query: exp.Expr) -> exp.Query:
    """Write a query so that what says the same is the same: names, joins, places, conditions."""
    if not isinstance(query, exp.Query):
        raise SqlglotError("no query")
    for identifier in query.find_all(exp.Identifier):
        identifier.set("quoted", False)
        identifier.set("this", identifier.name.lower())
    for join in query.find_all(exp.Join):
        if join.kind == "INNER":
            join.set("kind", None)
    for select in query.find_all(exp.Select):
        for part in ("group", "order"):
            for place in list(select.args[part].find_all(exp.Literal)) if select.args.get(part) else []:
                if place.parent in (select.args[part], place.find_ancestor(exp.Ordered)) and not place.is_string:
                    place.replace(select.expressions[int(place.name) - 1].unalias().copy())
    for scope in traverse_scope(query):
        tables = dict(scope.selected_sources)
        names = Counter(node.name for node, _ in tables.values() if isinstance(node, exp.Table))
        for alias, (node, _) in tables.items():
            if isinstance(node, exp.Table) and node.args.get("alias") and names[node.name] == 1:
                if node.name != alias and node.name in tables:
                    continue
                for column in scope.columns:
                    if column.table == alias:
                        column.set("table", exp.to_identifier(node.name))
                for star in scope.expression.find_all(exp.Column):
                    if star.is_star and star.table == alias:
                        star.set("table", exp.to_identifier(node.name))
                node.set("alias", None)
    for connector in list(query.find_all(exp.And)):
        if not isinstance(connector.parent, exp.And):
            connector.replace(exp.and_(*sorted(connector.flatten(), key=_sql), copy=False))
    return query


def _branches(query: exp.Expr) -> list[exp.Select]:
    """Return the selects of a query that are put together as they are; none if it is another kind of query."""
    if isinstance(query, exp.Select):
        return [query]
    is_plain = isinstance(query, exp.Union) and query.args.get("distinct") is False
    if not is_plain or any(query.args.get(part) for part in ("order", "limit", "offset", "by_name")):
        return []
    parts = [_branches(query.args[side]) for side in ("this", "expression")]
    return [*parts[0], *parts[1]] if all(parts) else []


def _columns(selects: list[exp.Select]) -> dict[str, list[str]] | None:
    """Return what the columns are computed of, in each select; None if two have a name, or it cannot be told."""
    if len(selects) > 1 and any(select.is_star for select in selects):
        texts = [[_sql(column) for column in select.expressions] for select in selects]
        return {"*": [str(texts)]}
    if len({len(select.expressions) for select in selects}) > 1:
        return None
    names = [_name(column) for column in selects[0].expressions]
    parts = zip(*([_sql(column.unalias()) for column in select.expressions] for select in selects), strict=True)
    return dict(zip(names, map(list, parts), strict=True)) if len(set(names)) == len(names) else None


def _sql(part: exp.Expr) -> str:
    return part.sql(dialect="duckdb", comments=False)


def _texts(part: object) -> list[str]:
    if isinstance(part, exp.Group):
        return [*sorted(map(_sql, part.expressions)), *_texts([v for k, v in part.args.items() if k != "expressions"])]
    parts = part if isinstance(part, list) else [part]
    return [_sql(one) if isinstance(one, exp.Expr) else str(one) for one in parts if one]


def _name(column: exp.Expr) -> str:
    return _sql(column) if column.is_star else column.alias_or_name or _sql(column)


def _names_without_a_table(select: exp.Select) -> set[str]:
    """Return the names that a select, common table expressions apart, finds a column for by itself."""
    parts = [part for name, value in select.args.items() if name != "with_" for part in _listed(value)]
    return {column.name for part in parts for column in part.find_all(exp.Column) if not column.table}


def _listed(value: object) -> list[exp.Expr]:
    return [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, exp.Expr)]


def _may_multiply(column: exp.Expr) -> bool:
    return column.find(exp.UDTF, exp.Explode, exp.GenerateSeries, exp.Anonymous) is not None


def _folds(column: exp.Expr) -> bool:
    """Whether a column is an aggregate: one outside of a window and of a query of its own."""
    return any(
        not found.find_ancestor(exp.Window) and not found.find_ancestor(exp.Subquery)
        for found in column.find_all(exp.AggFunc)
    )


def _folds_elsewhere(select: exp.Select, column: exp.Expr) -> bool:
    return any(_folds(other) for other in select.expressions if other is not column)


def _groups_by_all(query: exp.Select) -> bool:
    group = query.args.get("group")
    return bool(group and group.args.get("all"))
