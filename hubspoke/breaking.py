"""Whether an edit of a model breaks what others read: by the SQL and the columns before and after, without data.

An edit is safe if every column that was there keeps its name, type and values, in the same rows. Whatever cannot be
shown to be so is called breaking.
"""

import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass

from sqlglot import exp, parse
from sqlglot.dialects.duckdb import DuckDB
from sqlglot.errors import ErrorLevel, ParseError, SqlglotError

from hubspoke.canonical import canonical

Columns = dict[str, str]
"""Types by name."""

_BRACES = ("{{", "{%", "{#")
_SAID_ALIKE = re.compile(r"\bregexp_(?:full_match|matches)\b", re.IGNORECASE)
"""Functions that sqlglot takes for one another."""
_WORD = re.compile(r"[a-z_][a-z0-9_]*")
_NO_NAMES = {word.lower() for word in DuckDB.Tokenizer.KEYWORDS} | {"user", "current_role", "current_schema", "rowid"}
"""Words that are not a column when they are written without quotes."""


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
    # these braces are Jinja to what reads SQL, but the text is compiled
    has_braces = any(brace in sql for sql in (before, after) for brace in _BRACES)
    if before == after or (not has_braces and canonical(before) == canonical(after)):
        return Edit(added, removed, retyped)
    if has_braces or Counter(_SAID_ALIKE.findall(before.lower())) != Counter(_SAID_ALIKE.findall(after.lower())):
        return Edit(added, removed, retyped, rows="the query cannot be read")
    try:
        comparison = _Comparison(_parsed(before), _parsed(after))
    except (SqlglotError, RecursionError):
        return Edit(added, removed, retyped, rows="the query cannot be read")
    kept = set(old) & set(new)
    changed = comparison.changed & kept
    if comparison.is_changed_within:
        changed = (changed | comparison.made_of_changed & kept) or kept
    # what is changed has a name that only the database knows
    unknown = "" if comparison.changed <= set(old) else "columns cannot be told apart"
    return Edit(added, removed, retyped, tuple(sorted(changed)), comparison.rows or unknown)


class _Comparison:
    """Two queries beside each other, select by select.

    Attributes:
        rows: See ``Edit.rows``.
        changed: Columns of the result that are computed otherwise.
        is_changed_within: Whether a column of a common table expression is.
        made_of_changed: Names of all columns that are made of those, in any select.
    """

    def __init__(self, before: exp.Query, after: exp.Query) -> None:
        self.rows = ""
        self.changed: set[str] = set()
        self.is_changed_within = False
        self.made_of_changed: set[str] = set()
        self._says_all = _says_all(before) or _says_all(after)
        self._before = _normal(before, keeps_case=self._says_all)
        after = _normal(after, keeps_case=self._says_all)
        if not self._says_all:
            _call_alike(self._before, after)
        # what the query gives as it is: nothing else reads it
        self._last = {"", _read_as_it_is(before)} & {"", _read_as_it_is(after)}
        self._compare(self._before, after)

    def _compare(self, old: exp.Expr, new: exp.Expr, name: str = "") -> None:
        """Compare two queries of which one has become the other; without a name, the last select."""
        if self.rows or _sql(old) == _sql(new):
            return
        before, after = _branches(old), _branches(new)
        if len(before) != len(after) or not before:
            self._rows(f"{name or 'the query'} is another")
            return
        self._compare_tables(old, new)
        where = name or "the last select"
        for old_select, new_select in zip(before, after, strict=True):
            self._compare_rows(old_select, new_select, name)
        self._compare_columns(before, after, name, where)

    def _rows(self, reason: str) -> None:
        self.rows = self.rows or reason

    def _compare_tables(self, old: exp.Expr, new: exp.Expr) -> None:
        withs = [query.args.get("with_") or exp.With(expressions=[]) for query in (old, new)]
        before, after = ({table.alias: table for table in one.expressions} for one in withs)
        if [alias for alias in before if alias in after] != [alias for alias in after if alias in before]:
            self._rows("the order of common table expressions is another")
        if any(one.args.get("recursive") for one in withs) and _sql(withs[0]) != _sql(withs[1]):
            self._rows("a recursive query is another")
        for alias in [*before, *(alias for alias in after if alias not in before)]:
            if alias in before and alias in after:
                one, other = before[alias], after[alias]
                if any(
                    _texts(one.args.get(part)) != _texts(other.args.get(part))
                    for part in {*one.args, *other.args} - {"this"}
                ):
                    self._rows(f"{alias} is another")
                self._compare(one.this, other.this, alias)
            # a name that was the query's own is a table's of the hub now, or the other way round
            elif any(
                table.name == alias and not table.db for table in (new if alias in before else old).find_all(exp.Table)
            ):
                self._rows(f"{alias} is another")

    def _compare_rows(self, old: exp.Select, new: exp.Select, name: str) -> None:
        """Compare all but the columns."""
        takes_some = any(
            query.args.get(part) for query in (old, new) for part in ("limit", "offset", "distinct", "sample")
        )
        for part in sorted({*old.args, *new.args} - {"with_", "expressions"}):
            if part == "order" and name in self._last and not takes_some:
                continue  # nothing reads the rows by their order
            if _texts(old.args.get(part)) != _texts(new.args.get(part)):
                self._rows(f"{part.rstrip('_')} of {name or 'the last select'} is another")

    def _compare_columns(self, old: list[exp.Select], new: list[exp.Select], name: str, where: str) -> None:
        """Compare the columns of selects that are put together; they are called as in the first, and go by places."""
        before, after = _columns(old), _columns(new)
        if before is None or after is None:
            self._rows(f"columns of {where} cannot be told apart")
            return
        said_old, said_new = ([_texts(select.expressions) for select in selects] for selects in (old, new))
        if said_old == said_new:
            return
        changed = {column for column, parts in before.items() if after.get(column) != parts}
        added = after.keys() - before.keys()
        kept = [column for column in after if column in before]
        is_moved = kept != [column for column in before if column in after]
        if any("*" in column for column in changed | added):
            self._rows(f"{where} takes other columns")
        elif name and self._says_all:
            self._rows(f"what reads {name} may take a column for another")
        elif any(map(_goes_by_places, [*old, *new])):
            self._rows(f"{where} goes by the places of its columns")
        elif any(select.is_star for select in old) and list(before) != list(after)[: len(before)]:
            self._rows(f"{where} may call its columns otherwise")
        elif is_moved and any(_aliases(select) & _bare_names(select) for select in [*old, *new]):
            self._rows(f"{where} may take a column for another")
        for column in sorted(added):
            place = list(after).index(column)
            for old_select, new_select in zip(old, new, strict=True):
                self._judge_added(old_select, new_select, new_select.expressions[place], where)
            if name and {column, "*"} & _names_in_readers(self._before, name):
                self._rows(f"what reads {name} may take {column} for another")
        if changed:
            self._spread(changed, old, new, name, where)

    def _judge_added(self, old: exp.Select, new: exp.Select, column: exp.Expr, where: str) -> None:
        is_plain = isinstance(column, exp.Column) and not column.table
        if new.args.get("distinct"):
            self._rows(f"{where} is distinct by one more column")
        elif _may_multiply(column):
            self._rows(f"a column that is added to {where} may make more rows")
        elif _folds(column) and not new.args.get("group") and not any(map(_folds, old.expressions)):
            self._rows(f"a column that is added to {where} makes one row of all")
        elif _groups_by_all(new) and not _folds(column):
            self._rows(f"{where} is grouped by one more column")
        elif not is_plain and _name(column) in _bare_names(old):
            self._rows(f"{where} may take the new {_name(column)} for another")

    def _spread(self, changed: set[str], old: list[exp.Select], new: list[exp.Select], name: str, where: str) -> None:
        """Find what else is another as columns are: columns that are made of them, or the rows."""
        for before, after in zip(old, new, strict=True):
            sides = [{_name(column): column for column in select.expressions} for select in (before, after)]
            for column in sorted(changed):
                parts = [side[column] for side in sides if column in side]
                if (
                    any(map(_may_multiply, parts))
                    or {_folds(part) for part in parts} == {True, False}
                    or (len(parts) < 2 and any(map(_folds, parts)))
                ):
                    self._rows(f"{column} may make other rows of {where}")
        if len(old) > 1 or (name and self._says_all) or (name and not _is_followed(self._before)):
            self._rows(f"what is made of {', '.join(sorted(changed))} cannot be told")
        said = _mentioned if name else _bare
        selects = list(self._before.find_all(exp.Select)) if name else old
        columns = [column for select in selects for column in select.expressions]
        names, more = set[str](), set(changed)
        while not more <= names:
            names |= more
            more = {_name(column) for column in columns if names & said(column)}
        for select in selects:
            by_value = select.args.get("distinct") or _groups_by_all(select)
            if any(key != "expressions" and names & said(part) for key, part in _parts(select)) or any(
                _name(column) in names and (_may_multiply(column) or (by_value and not _folds(column)))
                for column in select.expressions
            ):
                self._rows(f"rows go by what is made of {', '.join(sorted(changed))}")
        if name:
            self.is_changed_within = True
            self.made_of_changed |= names
        else:
            self.changed |= names


def _parsed(sql: str) -> exp.Query:
    query, *more = parse(sql, dialect="duckdb")
    if not isinstance(query, exp.Query) or any(not isinstance(part, exp.Semicolon | None) for part in more):
        raise ParseError("no query, or more than one")
    return query


def _says_all(query: exp.Query) -> bool:
    """Whether a query says something of all columns, or by their places: it says another thing if there is one more."""
    tables = {table.name.lower() for table in query.find_all(exp.Table, exp.TableAlias)}
    return any(_says_all_itself(part, tables) for part in query.walk())


def _says_all_itself(part: exp.Expr, tables: set[str]) -> bool:
    match part:
        case exp.Pivot() | exp.Columns() | exp.PositionalColumn() | exp.Summarize() | exp.Describe():
            return True
        case exp.Join():
            return part.args.get("method") == "NATURAL"
        case exp.SetOperation():
            is_plain = isinstance(part, exp.Union) and part.args.get("distinct") is False
            return not is_plain or any(select.is_star for select in part.find_all(exp.Select))
        case exp.Select() if part.is_star:
            is_table = isinstance(part.parent, exp.CTE | exp.Exists | None) or (
                isinstance(part.parent, exp.Subquery) and isinstance(part.parent.parent, exp.From | exp.Join)
            )
            return bool(not is_table or part.args.get("distinct") or _groups_by_all(part) or _goes_by_places(part))
        case exp.TableAlias():
            return bool(part.args.get("columns")) and not isinstance(part.parent, exp.Values)
        case exp.Table():
            return isinstance(part.this, exp.Anonymous)
        case exp.Star():
            holder = part.parent if isinstance(part.parent, exp.Column) else part
            return not isinstance(holder.parent, exp.Select) and not (
                holder is part and isinstance(holder.parent, exp.Count)
            )
        case exp.Column():  # a row as a value
            return not part.table and part.name.lower() in tables
    return False


def _normal(query: exp.Query, *, keeps_case: bool) -> exp.Query:
    """Write a query so that what says the same is the same: names, joins, places, conditions."""
    named = exp.Column | exp.Alias | exp.Table | exp.TableAlias | exp.Join
    for identifier in query.find_all(exp.Identifier):
        if not keeps_case and isinstance(identifier.parent, named):
            identifier.set("this", identifier.name.lower())
            identifier.set("quoted", not _WORD.fullmatch(identifier.name) or identifier.name in _NO_NAMES)
    for join in query.find_all(exp.Join):
        if join.kind == "INNER":
            join.set("kind", None)
    for select in query.find_all(exp.Select):
        for place in _places(select):
            is_told = isinstance(place.parent, exp.Group | exp.Ordered) and not select.is_star and place.is_int
            if is_told and 0 < int(place.name) <= len(select.expressions):
                meant = select.expressions[int(place.name) - 1].unalias().copy()
                place.replace(exp.Anonymous(this="place", expressions=[meant]))
        _leave_out_aliases(select)
    for connector in list(query.find_all(exp.And)):
        if not isinstance(connector.parent, exp.And):
            connector.replace(exp.and_(*sorted(connector.flatten(), key=_sql), copy=False))
    return query


def _call_alike(before: exp.Query, after: exp.Query) -> None:
    """Call a common table expression as before, if it has a new name that nothing else has."""
    if len(before.ctes) != len(after.ctes):
        return
    names = {new.alias: old.alias for old, new in zip(before.ctes, after.ctes, strict=True) if old.alias != new.alias}
    said_before, said = (list(query.find_all(exp.Identifier)) for query in (before, after))
    taken = {one.name.lower() for one in said_before} & names.keys() | {one.name.lower() for one in said} & set(
        names.values()
    )
    called = [one for one in said if one.name.lower() in names]
    if taken or not all(_calls_a_table(one) for one in called):
        return
    for one in called:
        one.set("this", names[one.name.lower()])


def _calls_a_table(name: exp.Identifier) -> bool:
    match name.parent:
        case exp.Column():
            return name.parent.args.get("table") is name and not name.parent.args.get("db")
        case exp.Table():
            return name.parent.this is name and not name.parent.db
        case exp.TableAlias():
            return name.parent.this is name and isinstance(name.parent.parent, exp.CTE)
    return False


def _read_as_it_is(query: exp.Query) -> str:
    """Return the name of the common table expression that a query is all of, and that nothing else reads."""
    if not isinstance(query, exp.Select) or {key for key, _ in _parts(query)} != {"expressions", "from_"}:
        return ""
    table = query.args["from_"].this
    is_whole = isinstance(table, exp.Table) and [_sql(one) for one in query.expressions] == ["*"]
    is_read_once = is_whole and sum(other.name == table.name for other in query.find_all(exp.Table)) == 1
    return table.name if is_read_once and _sql(table) == table.name else ""


def _leave_out_aliases(select: exp.Select) -> None:
    """Call the tables of a select by their names, where that can mean nothing else."""
    from_ = select.args.get("from_")
    tables = [from_.this, *(join.this for join in select.args.get("joins") or [])] if from_ else []
    parts = [part for _, value in _parts(select) for part in value.walk()]
    if any(isinstance(part, exp.Query | exp.Dot | exp.Lateral) for part in parts) or not _is_in_no_select(select):
        return
    columns = [part for part in parts if isinstance(part, exp.Column)]
    bare = {name for column in columns for name in (_bare(column) - {column.table})}
    if any(column.args.get("db") for column in columns):
        return
    names = Counter(name for table in tables for name in {table.name, table.alias_or_name})
    own = {
        table.alias: table
        for table in tables
        if isinstance(table, exp.Table)
        and isinstance(table.this, exp.Identifier)
        and table.alias
        and not table.args["alias"].columns
        and not table.args.get("pivots")
        and not table.args.get("joins")
        and names[table.name] == names[table.alias] == 1
        and not {table.name, table.alias} & bare
        and (table.name == table.alias or all(column.table != table.name for column in columns))
    }
    for column in columns:
        if column.table in own:
            column.set("table", own[column.table].this.copy())
    for table in own.values():
        table.set("alias", None)


def _is_in_no_select(part: exp.Expr) -> bool:
    """Whether a select is the query or a common table expression of it: it can name no table of a select around it."""
    while parent := part.parent:
        if isinstance(part, exp.Select | exp.SetOperation) and not isinstance(parent, exp.CTE | exp.SetOperation):
            return False
        part = parent
    return True


def _branches(query: exp.Expr) -> list[exp.Select]:
    """Return the selects of a query that are put together as they are; none if it is another kind of query."""
    if isinstance(query, exp.Select):
        return [query]
    is_plain = isinstance(query, exp.Union) and query.args.get("distinct") is False
    if not is_plain or any(query.args.get(part) for part in query.args.keys() - {"this", "expression", "with_"}):
        return []
    parts = [_branches(query.args[side]) for side in ("this", "expression")]
    is_apart = any(query.args[side].args.get("with_") for side in ("this", "expression"))
    return [*parts[0], *parts[1]] if all(parts) and not is_apart else []


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
    return part.sql(dialect="duckdb", comments=False, unsupported_level=ErrorLevel.RAISE)


def _texts(part: object) -> list[str]:
    if isinstance(part, exp.Group):
        return [*sorted(map(_sql, part.expressions)), *_texts([v for k, v in part.args.items() if k != "expressions"])]
    parts = part if isinstance(part, list) else [part]
    return [_sql(one) if isinstance(one, exp.Expr) else str(one) for one in parts if one]


def _name(column: exp.Expr) -> str:
    return (_sql(column) if column.is_star else column.alias_or_name or _sql(column)).lower()


def _parts(select: exp.Select) -> Iterator[tuple[str, exp.Expr]]:
    """Give the parts of a select, common table expressions apart."""
    for key, value in select.args.items():
        for part in value if isinstance(value, list) else [value]:
            if key != "with_" and isinstance(part, exp.Expr):
                yield key, part


def _bare(part: exp.Expr) -> set[str]:
    """Return the names that stand without a table: of columns, and of what is before a dot."""
    found = {name.name for column in part.find_all(exp.Column) for name in column.parts[:1]}
    return {name.lower() for name in found} | _used(part)


def _mentioned(part: exp.Expr) -> set[str]:
    """Return all names of columns, with a table or without."""
    return {name.name.lower() for column in part.find_all(exp.Column) for name in column.parts} | _used(part)


def _used(part: exp.Expr) -> set[str]:
    return {name.name.lower() for join in part.find_all(exp.Join) for name in join.args.get("using") or []}


def _bare_names(select: exp.Select) -> set[str]:
    """Return the names that a select, common table expressions apart, finds a column for by itself."""
    return {name for _, part in _parts(select) for name in _bare(part)}


def _aliases(select: exp.Select) -> set[str]:
    return {column.alias.lower() for column in select.expressions if column.alias}


def _names_in_readers(query: exp.Query, name: str) -> set[str]:
    """Return what a new column of a common table expression may be taken for by what reads it; "*" for anything."""
    found: set[str] = set()
    names, seen = [name], set()
    while names:
        seen.add(name := names.pop())
        for table in query.find_all(exp.Table):
            if table.name.lower() != name:
                continue
            part, has_star = table.parent, False
            while part and not isinstance(part, exp.CTE):
                if isinstance(part, exp.Select):
                    found |= _bare_names(part)
                    if part.is_star:
                        has_star = True
                        found |= {_name(column) for column in part.expressions if not column.is_star}
                        found |= {"*"} if _has_star_of_many(part) else set()
                part = part.parent
            if has_star and part and part.alias.lower() not in seen:
                names.append(part.alias.lower())
    return found


def _is_followed(query: exp.Query) -> bool:
    """Whether a column goes through a query by its name alone."""
    return not any(
        isinstance(part, exp.SetOperation)
        or (isinstance(part, exp.Star) and (part.args.get("rename") or part.args.get("replace")))
        or (isinstance(part, exp.Select) and _has_star_of_many(part))
        for part in query.walk()
    )


def _has_star_of_many(select: exp.Select) -> bool:
    """Whether stars stand for the columns of more than one table: the second of a name is called otherwise."""
    stars = [column for column in select.expressions if column.is_star]
    return len(stars) > 1 or any(
        isinstance(star, exp.Star) and (select.args.get("joins") or select.args.get("laterals")) for star in stars
    )


def _places(select: exp.Select) -> list[exp.Literal]:
    """Return the numbers that a select says for columns."""
    found = []
    between = exp.Ordered | exp.Paren | exp.Tuple | exp.GroupingSets | exp.Cube | exp.Rollup
    for top in (select.args.get(part) for part in ("group", "order", "distinct")):
        for literal in top.find_all(exp.Literal) if top else []:
            part = literal.parent
            while part and part is not top and isinstance(part, between):
                part = part.parent
            if part is top and not literal.is_string:
                found.append(literal)
    return found


def _goes_by_places(select: exp.Select) -> bool:
    """Whether a select says a column by its place in a way that is not written as the column is."""
    order = select.args.get("order")
    return bool(_places(select) or (order and any(part.name.lower() == "all" for part in order.find_all(exp.Var))))


def _may_multiply(column: exp.Expr) -> bool:
    return column.find(exp.UDTF, exp.Explode, exp.GenerateSeries, exp.Anonymous, exp.Columns) is not None


def _folds(column: exp.Expr) -> bool:
    """Whether a column is an aggregate: one outside of a window, or in a query of its own but of what is around it."""
    around = column.find_ancestor(exp.Select)
    return any(_folds_in(found, around) for found in column.find_all(exp.AggFunc))


def _folds_in(found: exp.Expr, around: exp.Select | None) -> bool:
    top = found
    while isinstance(top.parent, exp.Filter | exp.IgnoreNulls | exp.RespectNulls | exp.WithinGroup):
        top = top.parent
    if isinstance(top.parent, exp.Window) and top.arg_key == "this":
        return False
    select = found.find_ancestor(exp.Select)
    if select is around or not select:
        return True
    tables = [select.args.get("from_"), *(select.args.get("joins") or [])]
    own = {table.this.alias_or_name for table in tables if table}
    return any(column.table not in own for column in found.find_all(exp.Column))


def _groups_by_all(query: exp.Select) -> bool:
    group = query.args.get("group")
    return bool(group and group.args.get("all"))
