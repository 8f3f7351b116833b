"""Which rows of a model can be touched by a change of what it reads, and the SQL that computes just those.

A query may be computed for some keys alone if a filter on these keys, put over its result, can as well be put over what
it reads. That holds for columns which a query hands on as they are: through a filter, a projection, a union; through a
grouping and a window where they are among what is grouped or partitioned by; and through a join to whatever equals
them. The keys that a change touches are the values of these columns in the rows that changed, as they were and as they
are. Where the change is in another relation than the keys, they are found by the equalities that join the two.

Where each row of a relation gives rows of its own (filters, projections, joins to others), new rows need no keys: what
they give is new, and nothing else is. Where such rows are counted, summed up or searched for the least and the greatest
by group, what new rows give is added to what is there, and no row from before is read again.

More keys than need be cost time; a key too few would leave a wrong row. So whatever is not known for sure to hand a
column on ends it, and a query whose columns all end is built as a whole.

The SQL that runs is the model's own text, letter by letter: only the names of what it reads are put in other words. No
more is read off the parsed text than names of columns, and which of them equal each other.
"""

import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from functools import cached_property, lru_cache

from sqlglot import exp
from sqlglot.errors import SqlglotError

from hubspoke.lineage import parse
from hubspoke.sql import identifier

Types = dict[str, dict[str, str]]
"""Columns and their DuckDB types, by what a relation is called in compiled SQL, without quotes and in lower case."""

MAXIMUM_KEY = 4
"""Columns of a key: more make it no better where these already tell rows apart, and slower."""

MAXIMUM_SCANS = 500
"""References that are followed; a query of more is built as a whole."""

_COMPARABLE = re.compile(
    r"(U?(TINY|SMALL|BIG|HUGE)?(INT|INTEGER)|DECIMAL\(.*\)|VARCHAR|DATE|TIME|TIMESTAMP( WITH TIME ZONE)?|BOOLEAN|UUID)"
)
"""Types of which equal values are the same value: not so -0.0 and 0.0, or 1 month and 30 days."""


_ROW_BY_ROW = (
    *(exp.Select, exp.From, exp.Table, exp.TableAlias, exp.With, exp.CTE, exp.Identifier, exp.Column, exp.Star),
    *(exp.Alias, exp.Where, exp.And, exp.Is, exp.EQ, exp.NEQ, exp.Null, exp.Literal),
)
"""What a query is made of that gives a row for each row of what it reads, or none."""

_WHOLE = re.compile(r"U?(TINY|SMALL|BIG)?INT|U?INTEGER|HUGEINT")
_DECIMAL = re.compile(r"DECIMAL\(\d+, ?(\d+)\)")
"""Types of which sums are exact, as DuckDB and as sqlglot write them."""


class NotMaintainable(Exception):
    """A query cannot be computed for some keys alone; the message says why, for the analyst who wrote it."""


@dataclass(frozen=True)
class Changed:
    """What changed in a relation.

    Attributes:
        removed: Name of a relation that holds the rows that went.
        added: Name of one that holds those that came.
        key: Columns by which what was added is whole: no other row is like one of these in all of them.
    """

    removed: str
    added: str
    key: tuple[str, ...] = ()


@dataclass(frozen=True)
class Keys:
    """The keys that a change touches.

    Attributes:
        name: Name of a relation that holds them, as ``_key_1`` and so on.
        columns: Columns of the result that they are of.
        has_null: Of each of these, whether a key is null (``nulls``). The others are compared by plain equality, by
            which the engine leaves out the parts of a table that hold no such value.
    """

    name: str
    columns: tuple[str, ...]
    has_null: tuple[bool, ...]

    def match(self, rows: str, columns: dict[int, str] | None = None) -> str:
        """Return the condition that joins rows to these keys, which are called ``_keys``.

        Args:
            rows: What the rows are called.
            columns: Their columns, by the place in the key; default: rows of the result, by all columns.
        """
        equals = {True: "is not distinct from", False: "="}
        return " and ".join(
            f"_keys._key_{place + 1} {equals[self.has_null[place]]} {rows}.{identifier(name)}"
            for place, name in (columns or dict(enumerate(self.columns))).items()
        )


Column = tuple[int, str]
"""Number of an item of a block, and the name of one of its columns."""


@dataclass(frozen=True)
class Figure:
    """A figure of a group that takes in further rows without those it was made of.

    Attributes:
        united_by: The aggregate that makes one figure of two: ``sum`` of counts, too.
        column: What it is made of; None if it counts.
        cast_to: Type that it is cast to; empty if it is not.
    """

    united_by: str
    column: Column | None = None
    cast_to: str = ""


@dataclass(eq=False)
class Scan:
    """A reference to a relation.

    Attributes:
        relation: What it is called (see ``Types``).
        columns: Its columns and their types.
        place: Where its name begins and ends in the query's text.
        is_named: Whether the query calls it otherwise.
    """

    relation: str
    columns: dict[str, str]
    place: tuple[int, int]
    is_named: bool


@dataclass(eq=False)
class SetOperation:
    """A union, intersection or difference; columns of its branches meet by their place.

    Attributes:
        branches: What it is made of.
        is_bag: Whether rows just come together, whatever is in them.
    """

    branches: list["Relation"]
    is_bag: bool = False

    @cached_property
    def columns(self) -> list[str]:
        """Names, as the first branch has them."""
        return list(self.branches[0].columns)

    def of_branch(self, branch: "Relation", name: str) -> str:
        """Return what a branch calls a column.

        Raises:
            NotMaintainable: It has no such column.
        """
        names, place = list(branch.columns), self.columns.index(name)
        if place >= len(names):
            raise NotMaintainable("it unites relations whose columns are not known")
        return names[place]


@dataclass(eq=False)
class Item:
    """What a block reads, by the name that it has there.

    Attributes:
        name: Its alias, in lower case.
        relation: What it is.
        is_optional: Whether it is joined from the left, so that its columns may be null where it has no row.
        is_hidden: Whether it is only asked for a match.
    """

    name: str
    relation: "Relation"
    is_optional: bool = False
    is_hidden: bool = False


@dataclass(eq=False)
class Block:
    """A ``select``.

    Attributes:
        items: What it reads.
        columns: Its columns: what each hands on as it is, or None if it is computed.
        equal: Columns that equal each other in every row of the result.
        follows: Columns of optional and hidden items, by a column that they equal wherever they have a row.
        barriers: Lists of columns: a filter passes if it is on columns of each of these: what is grouped by, what a
            window is partitioned by; an empty list lets nothing pass.
        obstacle: What the innermost barrier is, in words.
        is_distinct: Whether equal rows are one.
        aside: What it reads in subqueries of which nothing is known.
        reads: What each of its columns is made of; None if that is not known.
        always: What it reads whichever of its columns are asked for; None if that is not known.
        figures: Its columns if each is a figure of a group, or None for what is grouped by; empty for other blocks.
    """

    items: list[Item]
    columns: dict[str, Column | None] = field(default_factory=dict)
    equal: list[tuple[Column, Column]] = field(default_factory=list)
    follows: list[tuple[Column, Column]] = field(default_factory=list)
    barriers: list[list[Column]] = field(default_factory=list)
    obstacle: str = ""
    is_distinct: bool = False
    aside: list["Relation"] = field(default_factory=list)
    reads: dict[str, set[Column] | None] = field(default_factory=dict)
    always: set[Column] | None = field(default_factory=set)
    figures: dict[str, Figure | None] = field(default_factory=dict)

    def same_as(self, column: Column) -> dict[int, str]:
        """Return, by item, a column that holds the same value wherever that item has a row."""
        found, waiting = {column[0]: column[1]}, [column]
        while waiting:
            here = waiting.pop()
            for one, other in [*self.equal, *((b, a) for a, b in self.equal), *self.follows]:
                if one == here and other[0] not in found:
                    found[other[0]] = other[1]
                    waiting.append(other)
        return found

    def passes(self, columns: Sequence[Column]) -> bool:
        """Whether a filter on these columns may as well be put over what is read."""
        return all(set(columns) <= self._widened(barrier) for barrier in self.barriers)

    @property
    def is_by_row(self) -> bool:
        """Whether each row of what it reads gives rows of its own: what aggregates hands no column on ungrouped."""
        return not self.barriers and not self.is_distinct and any(self.columns.values())

    @property
    def is_selection(self) -> bool:
        """Whether each of its rows is one of the one relation that it reads, but for columns that it leaves out."""
        return (
            self.is_by_row
            and len(self.items) == 1
            and not self.aside
            and self.always == set()
            and all(self.columns.values())
        )

    def _widened(self, barrier: list[Column]) -> set[Column]:
        return {found for column in barrier for found in self.same_as(column).items()}


Relation = Scan | SetOperation | Block


def key_of(rows: str, columns: Sequence[str]) -> str:
    """Return SQL for some columns of a relation, as ``_key_1`` and so on."""
    listed = ", ".join(f"{identifier(name)} as _key_{place + 1}" for place, name in enumerate(columns))
    return f"select {listed} from {rows}"


def nulls(keys: str, columns: Sequence[str]) -> str:
    """Return SQL for one row that tells of each column of a relation of keys whether it holds a null."""
    return f"select {', '.join(f'count(*) > count(_key_{place + 1})' for place in range(len(columns)))} from {keys}"


def added_up(before: str, came: str, united: dict[str, str]) -> str:
    """Return SQL for groups to which what came is added.

    Args:
        before: Name of a relation of those that were there.
        came: Name of one of what came, with as many columns in the same order.
        united: See ``Query.united``.
    """
    figures = {identifier(name): aggregate for name, aggregate in united.items()}
    listed = ", ".join(f"{aggregate}({name}) as {name}" if aggregate else name for name, aggregate in figures.items())
    grouped_by = ", ".join(name for name, aggregate in figures.items() if not aggregate)
    return f"select {listed} from (from {before} union all from {came}) group by {grouped_by}"


def difference(before: str, after: str, columns: Sequence[str]) -> str:
    """Return SQL for the rows that differ, both ways at once: quicker than ``except all``, there and back.

    Args:
        before: A relation.
        after: Another.
        columns: Columns of both.

    Returns:
        A query for each such row once, with ``_times``: how often more it is in the second than in the first.

    Raises:
        NotMaintainable: A column is called just so.
    """
    if "_times" in map(str.lower, columns):
        raise NotMaintainable("a column of it is called _times")
    listed = ", ".join(map(identifier, columns))
    return (
        f"select {listed}, cast(sum(_times) as bigint) as _times from "
        f"(select {listed}, -1 as _times from {before} union all select {listed}, 1 as _times from {after}) "
        f"group by {listed} having sum(_times) <> 0"
    )


def repeated(differing: str, columns: Sequence[str], times: str) -> str:
    """Return SQL for rows of what a ``difference`` gave, each as often as it went or came.

    Args:
        differing: The relation that holds it.
        columns: Its columns.
        times: ``-_times`` for rows that went, ``_times`` for those that came.
    """
    listed = ", ".join(map(identifier, columns))
    several = f"select {listed}, unnest(range({times})) from {differing} where {times} > 1"
    return f"select {listed} from {differing} where {times} = 1 union all select {listed} from ({several})"


def inlined(sql: str, views: Callable[[str], str | None]) -> str:
    """Write the queries of views in place of their names.

    Args:
        sql: Compiled SQL.
        views: Returns the compiled SQL of a view by what it is called (see ``Types``), None for what is no view.
    """
    edits = []
    for table in _parsed(sql).find_all(exp.Table):
        query = views(_name(table)) if table.args.get("db") else None
        if query is not None:
            alias = "" if table.alias else f" as {_last(_name(table))}"
            edits.append((_place(table), f"({inlined(query, views)}\n){alias}"))
    return _spliced(sql, edits)


class Query:
    """A query as it was read.

    Args:
        sql: The query; views that it reads are written out (``inlined``).
        types: Columns of all that it reads.

    Attributes:
        root: What it is.
        scans: Its references.

    Raises:
        NotMaintainable: It cannot be read.
    """

    def __init__(self, sql: str, types: Types) -> None:
        self.sql = sql
        self._types = types
        self.root = _Reader(types).query(_parsed(sql))
        self.scans = list(_scans(self.root))
        if len(self.scans) > MAXIMUM_SCANS:
            raise NotMaintainable(f"it refers to relations {len(self.scans)} times")

    def used(self, relation: str) -> set[str]:
        """Return the columns of a relation that what the query gives can hang on."""
        places = {scan.place for scan in self.scans if scan.relation == relation}
        return {name for place, names in self._used.items() if place in places for name in names}

    def felt(self, relation: str) -> list[str]:
        """Return the columns of a relation of which a change can be felt; all, where only the number of rows can."""
        used = self.used(relation)
        return [name for name in self._types[relation] if name.lower() in used] or list(self._types[relation])

    def is_by_row(self, relation: str) -> bool:
        """Whether each row of a relation gives rows of the result of its own, whichever others there are."""
        return _is_by_row(self.root, relation)

    def is_only_missed(self, relation: str) -> bool:
        """Whether the query lists rows that have no match in a relation: more rows there leave fewer here."""
        query = _parsed(self.sql)
        searched = [part for part in query.find_all(exp.In) if part.args.get("query")]
        inside = [node for part in searched for node in part.args["query"].walk()]
        is_plain = all(_is_row_by_row(node) for node in query.walk())
        return (
            is_plain
            and not any(isinstance(node, exp.In) for node in inside)
            and all(
                any(table is node for node in inside) for table in query.find_all(exp.Table) if _name(table) == relation
            )
        )

    def united(self, relation: str, stored: dict[str, str]) -> dict[str, str]:
        """Tell how what further rows of a relation give is united with what the query gave before.

        Args:
            relation: The relation.
            stored: Columns and types of the table that keeps the result.

        Returns:
            By column, the aggregate that makes one figure of two; empty for columns that the result is grouped by.
            Nothing at all where that takes more than both figures.
        """
        part, names = self.root, {name: name for name in self.root.columns}
        while isinstance(part, Block) and part.is_selection:
            names = {name: _handed_on(part, inner)[1] for name, inner in names.items()}
            part = part.items[0].relation
        types = {name.lower(): kind for name, kind in stored.items()}
        if not isinstance(part, Block) or not part.figures or not _reads_by_row(part, relation):
            return {}
        grouped_by = {name for name, figure in part.figures.items() if figure is None}
        if names.keys() != types.keys() or not grouped_by <= set(names.values()):
            return {}
        figures = {name: part.figures[inner] for name, inner in names.items()}
        is_exact = all(_is_exact(part, figure, types[name]) for name, figure in figures.items())
        return {name: figure.united_by if figure else "" for name, figure in figures.items()} if is_exact else {}

    def of_rows(self, relation: str, rows: str) -> str:
        """Return SQL for what some rows of a relation give that the query reads once.

        Args:
            relation: The relation.
            rows: Name of one that holds the rows.
        """
        [scan] = [scan for scan in self.scans if scan.relation == relation]
        return _spliced(self.sql, [(scan.place, _read_from(scan, rows))])

    @cached_property
    def _used(self) -> dict[tuple[int, int], set[str]]:
        found: dict[tuple[int, int], set[str]] = {}
        _use(self.root, set(self.root.columns), found)
        return found


@lru_cache(maxsize=1000)
def query_of(sql: str, types: tuple[tuple[str, tuple[tuple[str, str], ...]], ...]) -> Query:
    """Return a query that is read once in a process, however often new data comes; for the rest see ``Query``."""
    return Query(sql, {relation: dict(columns) for relation, columns in types})


class Maintenance:
    """How a query is kept up to date by change.

    Args:
        query: The query.
        changed: What of it changed, or is thought to change.
        keys: Columns that the result is known to be unique by: the best keys there are.
        coarse: Columns of keys that are too coarse: find others with them, by joins.

    Attributes:
        key: Columns of the result by which touched rows are found.
        by_join: Whether the keys of some changes are found by a join to what has not changed.

    Raises:
        NotMaintainable: A change may touch all rows, or nobody can tell which.
    """

    def __init__(self, query: Query, changed: set[str], keys: Sequence[str] = (), coarse: Sequence[str] = ()) -> None:
        self._query, self._keys, self._coarse = query, keys, set(coarse)
        self._sql, self._root, self._scans = query.sql, query.root, query.scans
        self._changed = changed
        self.by_join = bool(coarse)
        reasons: dict[str, None] = {}
        self.key = self._find_key(keys, reasons)
        if not self.key and not coarse:
            self.by_join = True
            self.key = self._find_key(keys, reasons)
        if not self.key:
            raise NotMaintainable(next(iter(reasons), "it hands no column on as it is"))

    def finer(self) -> "Maintenance | None":
        """Return the way by keys of one more column, some of which are found by a join; None if there is none."""
        other = None if self.by_join else Maintenance(self._query, self._changed, self._keys, self.key)
        return other if other and set(other.key) > set(self.key) else None

    def touched(self, changes: dict[str, Changed]) -> str:
        """Return SQL for the keys that changes touch, as ``_key_1`` and so on, each once.

        Args:
            changes: What changed, by relation.
        """
        selects = self._touched(self._root, self.key, changes)
        names = ", ".join(f"_key_{number + 1}" for number in range(len(self.key)))
        return f"select distinct {names} from ({' union all '.join(selects)})"

    def recomputed(self, keys: Keys, changes: dict[str, Changed]) -> str:
        """Return SQL for the rows of the result that have these keys.

        Args:
            keys: The keys.
            changes: What changed, by relation.
        """
        narrowed: dict[tuple[int, int], list[dict[int, str]]] = {}
        self._narrow(self._root, dict(enumerate(self.key)), narrowed)
        scans = {scan.place: scan for scan in self._scans}
        edits = []
        for place, found in narrowed.items():
            # what matches in some columns and others, too, matches in some
            filters = [each for each in found if not any(other.items() < each.items() for other in found)]
            if all(filters):
                change = changes.get(scans[place].relation) if len(changes) == 1 else None
                edits.append((place, self._filtered(scans[place], filters, keys, change)))
        return (
            f"select _rows.* from (\n{_spliced(self._sql, edits)}\n) as _rows "
            f"semi join {keys.name} as _keys on {keys.match('_rows')}"
        )

    def _find_key(self, preferred: Sequence[str], reasons: dict[str, None]) -> tuple[str, ...]:
        """Take as many columns as all changes can be told by, those first that tell rows apart."""
        found: tuple[str, ...] = ()
        columns = list(self._root.columns)
        wanted = [column for column in preferred if column in columns]
        for column in [*wanted, *(column for column in columns if column not in wanted)]:
            is_fine = (wanted and set(wanted) <= set(found)) or (self._coarse and self._coarse < set(found))
            if is_fine or len(found) == MAXIMUM_KEY:
                break
            if not _COMPARABLE.fullmatch(_type(self._root, column)):
                continue
            try:
                self._touched(self._root, (*found, column), {})
            except NotMaintainable as reason:
                reasons[str(reason)] = None
            else:
                found = (*found, column)
        return found

    def _is_changed(self, relation: Relation) -> bool:
        return any(scan.relation in self._changed for scan in _scans(relation))

    def _touched(self, relation: Relation, wanted: Sequence[str], changes: dict[str, Changed]) -> list[str]:
        """Return selects of values of some columns, those in every row of a relation that changes can touch."""
        if not self._is_changed(relation):
            return []
        if isinstance(relation, Scan):
            change = changes.get(relation.relation)
            return [key_of(part, wanted) for part in ((change.removed, change.added) if change else ())]
        if isinstance(relation, SetOperation):
            return [
                select
                for branch in relation.branches
                for select in self._touched(branch, [relation.of_branch(branch, name) for name in wanted], changes)
            ]
        if any(map(self._is_changed, relation.aside)):
            raise NotMaintainable("a subquery reads what changes")
        columns = [_handed_on(relation, name) for name in wanted]
        if not relation.passes(columns):
            raise NotMaintainable(relation.obstacle)
        same = [relation.same_as(column) for column in columns]
        selects = []
        for number, item in enumerate(relation.items):
            if not self._is_changed(item.relation):
                continue
            if all(number in there for there in same):
                selects += self._touched(item.relation, [there[number] for there in same], changes)
            elif self.by_join:
                selects += self._joined(relation, number, columns, changes)
            else:
                raise NotMaintainable(f"what changes in {item.name} does not tell which rows it touches")
        return selects

    def _joined(self, block: Block, changed: int, columns: Sequence[Column], changes: dict[str, Changed]) -> list[str]:
        """Find by equalities which rows of other items, and so which keys, what changed in one item belongs to.

        Conditions that are no equalities are left out: that gives more keys, not fewer.
        """
        ways = self._ways(block, changed, {column[0] for column in columns})
        used = [pair for pair in ways if pair[0][0] != pair[1][0]]
        needed: dict[int, dict[str, None]] = {}
        for item, name in [*columns, *(column for pair in used for column in pair)]:
            needed.setdefault(item, {})[name] = None
        own = list(needed.get(changed, {}))
        parts = self._touched(block.items[changed].relation, own, changes)
        tables = [
            f"({self._superset(block, item, list(names), changes)}) as _item_{item}"
            for item, names in needed.items()
            if item != changed
        ]
        if not parts:
            return []
        tables.append(f"({' union all '.join(parts)}) as _item_{changed}")

        def said(column: Column) -> str:
            number, name = column
            return f"_item_{number}." + (f"_key_{own.index(name) + 1}" if number == changed else identifier(name))

        listed = ", ".join(f"{said(column)} as _key_{place + 1}" for place, column in enumerate(columns))
        where = " and ".join(f"{said(one)} = {said(other)}" for one, other in used)
        found = f"(select {listed} from {', '.join(tables)} where {where}) as _found"
        others = [item for item in range(len(block.items)) if item not in {*needed, changed}]
        return [f"select distinct _found.* from {found} {self._present(block, others, columns, changes)}"]

    def _present(
        self, block: Block, items: Iterable[int], columns: Sequence[Column], changes: dict[str, Changed]
    ) -> str:
        """Return joins that leave, of keys called ``_found``, those that some items have or had a row of.

        No other is in the result. An item that need not have a row, or of which that is not told, leaves all.
        """
        joins = []
        for item in items:
            names = [name for column in columns if (name := block.same_as(column).get(item))]
            if block.items[item].is_optional or block.items[item].is_hidden or len(names) < len(columns):
                continue
            with suppress(NotMaintainable):
                rows = self._superset(block, item, list(dict.fromkeys(names)), changes)
                same = [
                    f"_found._key_{place + 1} = _item_{item}.{identifier(name)}" for place, name in enumerate(names)
                ]
                joins.append(f"semi join ({rows}) as _item_{item} on {' and '.join(same)}")
        return " ".join(joins)

    def _ways(self, block: Block, start: int, ends: set[int]) -> list[tuple[Column, Column]]:
        """Find the equalities that lead from one item to others."""
        came: dict[int, tuple[Column, Column] | None] = {start: None}
        waiting = [start]
        while waiting:
            here = waiting.pop(0)
            for pair in [*block.equal, *block.follows]:
                for one, other in (pair, pair[::-1]):
                    if one[0] == here and other[0] not in came:
                        came[other[0]] = (one, other)
                        waiting.append(other[0])
        found: dict[tuple[Column, Column], None] = {}
        for end in ends:
            if end not in came:
                raise NotMaintainable(f"nothing equal joins {block.items[start].name} to {block.items[end].name}")
            way = came[end]
            while way is not None:
                found[way] = None
                way = came[way[0][0]]
        used = {item for pair in found for item in (pair[0][0], pair[1][0])}
        # all that is known between items on the way
        for pair in [*block.equal, *block.follows]:
            if {pair[0][0], pair[1][0]} <= used and pair[0][0] != pair[1][0] and pair[::-1] not in found:
                found[pair] = None
        return list(found)

    def _superset(self, block: Block, item: int, names: list[str], changes: dict[str, Changed]) -> str:
        """Return SQL that gives at least the values that an item had or has in some columns."""
        scan, columns = _grounded(block.items[item].relation, names)
        listed = ", ".join(
            f"{identifier(column)} as {identifier(name)}" for name, column in zip(names, columns, strict=True)
        )
        source = self._sql[slice(*scan.place)]
        selects = [f"select {listed} from {source}"]
        if change := changes.get(scan.relation):
            selects.append(f"select {listed} from {change.removed}")
        return " union all ".join(selects)

    def _narrow(
        self, relation: Relation, wanted: dict[int, str], found: dict[tuple[int, int], list[dict[int, str]]]
    ) -> None:
        """Find the columns of every reference that a filter on the key comes down to, by the place in the key."""
        if isinstance(relation, Scan):
            narrowed = found.setdefault(relation.place, [])
            if wanted not in narrowed:
                narrowed.append(wanted)
        elif isinstance(relation, SetOperation):
            for branch in relation.branches:
                here = {place: relation.of_branch(branch, name) for place, name in wanted.items()}
                self._narrow(branch, here, found)
        else:
            handed = {place: relation.columns.get(name) for place, name in wanted.items()}
            known = {
                place: column
                for place, column in handed.items()
                # a row less in what is joined from the left would leave a row without a match
                if column and relation.passes([column]) and not relation.items[column[0]].is_optional
            }
            for number, item in enumerate(relation.items):
                same = {place: relation.same_as(column).get(number) for place, column in known.items()}
                self._narrow(item.relation, {place: name for place, name in same.items() if name}, found)
            for aside in relation.aside:
                self._narrow(aside, {}, found)

    def _filtered(self, scan: Scan, filters: list[dict[int, str]], keys: Keys, change: Changed | None) -> str:
        source = self._sql[slice(*scan.place)]
        # all rows that are like those that came are those that came
        if change and change.key and set(change.key) <= set(filters[0].values()) and len(filters) == 1:
            source = change.added
        if len(filters) == 1:
            matched = f"semi join {keys.name} as _keys on {keys.match('_scan', filters[0])}"
        else:
            matched = "where " + " or ".join(
                f"exists (select 1 from {keys.name} as _keys where {keys.match('_scan', columns)})"
                for columns in filters
            )
        return _read_from(scan, source, matched)


class _Reader:
    """Reads a parsed query as blocks."""

    def __init__(self, types: Types) -> None:
        self._types = types

    def query(self, node: exp.Expr, above: "dict[str, Callable[[], Relation]] | None" = None) -> Relation:
        """Read a query.

        Args:
            node: What was parsed.
            above: Queries that it may refer to by name.
        """
        known = dict(above or {})
        if with_queries := node.args.get("with_"):
            if with_queries.args.get("recursive"):
                raise NotMaintainable("it is recursive")
            for table in with_queries.expressions:
                if table.args["alias"].columns:
                    raise NotMaintainable("a common table expression names its columns anew")
                known[table.alias.lower()] = self._later(table.this, dict(known))
        if isinstance(node, exp.Subquery):
            if node.args.get("pivots") or node.args.get("sample"):
                raise NotMaintainable("it pivots or samples")
            return self._limited(node, self.query(node.this, known))
        if isinstance(node, exp.SetOperation):
            if node.args.get("by_name"):
                raise NotMaintainable("it unites by name")
            is_bag = isinstance(node, exp.Union) and not node.args.get("distinct")
            branches = [self.query(node.left, known), self.query(node.right, known)]
            return self._limited(node, SetOperation(branches, is_bag))
        if isinstance(node, exp.Select):
            return self._select(node, known)
        raise NotMaintainable(f"it holds a part that is no select ({type(node).__name__.lower()})")

    def _later(self, node: exp.Expr, known: "dict[str, Callable[[], Relation]]") -> "Callable[[], Relation]":
        return lambda: self.query(node, known)

    def _limited(self, node: exp.Expr, relation: Relation) -> Relation:
        """Nothing passes a limit."""
        if not (node.args.get("limit") or node.args.get("offset")):
            return relation
        columns: dict[str, Column | None] = {name: (0, name) for name in relation.columns}
        limited = Block([Item("limited", relation)], columns, barriers=[[]], obstacle="it is limited to some rows")
        limited.always = None
        return limited

    def _item(self, node: exp.Expr, known: "dict[str, Callable[[], Relation]]") -> Item:
        if isinstance(node, exp.Subquery):
            if node.args.get("alias") and node.args["alias"].columns:
                raise NotMaintainable("a subquery names its columns anew")
            return Item(node.alias.lower(), self.query(node, known))
        if isinstance(node, exp.Values):
            names = [column.name.lower() for column in node.args["alias"].columns] if node.args.get("alias") else []
            return Item(node.alias.lower(), Block([], dict.fromkeys(names)))
        if not isinstance(node, exp.Table) or not isinstance(node.this, exp.Identifier):
            raise NotMaintainable(f"it reads from what is no relation ({node.sql('duckdb')[:40]})")
        if node.args.get("pivots") or node.args.get("sample") or node.args.get("joins") or node.args.get("when"):
            raise NotMaintainable("it pivots or samples")
        if node.args.get("alias") and node.args["alias"].columns:
            raise NotMaintainable("a table's columns are named anew")
        name = node.name.lower()
        if not node.args.get("db") and name in known:
            return Item((node.alias or name).lower(), known[name]())
        types = self._types.get(_name(node))
        if types is None:
            raise NotMaintainable(f"it reads {node.sql('duckdb')}, whose columns are not known")
        lower = {column.lower(): kind for column, kind in types.items()}
        return Item((node.alias or name).lower(), Scan(_name(node), lower, _place(node), bool(node.alias)))

    def _select(self, node: exp.Select, known: "dict[str, Callable[[], Relation]]") -> Relation:
        if any(node.args.get(name) for name in ("laterals", "pivots", "sample", "match", "connect")):
            raise NotMaintainable("it pivots, samples or repeats")
        begin = node.args.get("from_")
        block = Block([self._item(begin.this, known)] if begin else [])
        scope = _Scope(block, node)
        for join in node.args.get("joins") or []:
            self._join(scope, join, known)
        subqueries = list(_subqueries(node))
        if where := node.args.get("where"):
            for condition in _conditions(where.this):
                taken = self._condition(scope, condition, known)
                subqueries = [query for query in subqueries if query is not taken]
        block.aside += [self.query(query, known) for query in subqueries]
        scope.read_columns()
        scope.read_always()
        scope.read_figures()
        self._set_barriers(scope, node)
        return self._limited(node, block)

    def _join(self, scope: "_Scope", join: exp.Join, known: "dict[str, Callable[[], Relation]]") -> None:
        side, kind, method = (str(join.args.get(name) or "").upper() for name in ("side", "kind", "method"))
        if side not in {"", "LEFT"} or kind not in {"", "INNER", "CROSS", "OUTER", "SEMI", "ANTI"} or method:
            raise NotMaintainable(f"it has a {' '.join(filter(None, (method, side, kind))).lower()} join")
        item = self._item(join.this, known)
        item.is_hidden = kind in {"SEMI", "ANTI"}
        item.is_optional = side == "LEFT" and not item.is_hidden
        block = scope.block
        block.items.append(item)
        number = len(block.items) - 1
        pairs: list[tuple[Column, Column]] = []
        for using in join.args.get("using") or []:
            name = using.name.lower()
            left = next((place for place in range(number) if name in block.items[place].relation.columns), None)
            if left is None or name not in item.relation.columns:
                raise NotMaintainable(f"it joins by {name}, and where that comes from is not known")
            pairs.append(((left, name), (number, name)))
            scope.merged.add((number, name))
        on = join.args.get("on")
        for condition in _conditions(on) if on else []:
            pair = scope.equality(condition)
            if pair:
                pairs.append(pair)
        for one, other in pairs:
            if not scope.is_comparable(one, other):
                continue
            if not (item.is_hidden or item.is_optional):
                block.equal.append((one, other))
            elif number in {one[0], other[0]} and one[0] != other[0]:
                block.follows.append((one, other) if other[0] == number else (other, one))

    def _condition(
        self, scope: "_Scope", condition: exp.Expr, known: "dict[str, Callable[[], Relation]]"
    ) -> exp.Expr | None:
        """Take what a condition says is equal; return the subquery that it asks for a match, if it asks one."""
        if (pair := scope.equality(condition)) and scope.is_comparable(*pair):
            scope.block.equal.append(pair)
        query: exp.Expr | None = condition.args.get("query") if isinstance(condition, exp.In) else None
        if query is None:
            return None
        asked = [part.unnest() for part in condition.this.unnest().expressions] or [condition.this.unnest()]
        relation = self.query(query, known)
        names = list(relation.columns)
        scope.block.items.append(Item("", relation, is_hidden=True))
        number = len(scope.block.items) - 1
        for part, name in zip(asked, names, strict=False):
            column = scope.resolve(part)
            if column and scope.is_comparable(column, (number, name)):
                scope.block.follows.append((column, (number, name)))
        return query

    def _set_barriers(self, scope: "_Scope", node: exp.Select) -> None:
        block = scope.block
        if group := node.args.get("group"):
            if any(group.args.get(name) for name in ("grouping_sets", "rollup", "cube", "totals")):
                raise NotMaintainable("it groups by several sets of columns")
            if group.args.get("all"):
                keys = [column for column in block.columns.values() if column]
            else:
                keys = [column for part in group.expressions if (column := scope.grouped_by(part))]
            block.barriers.append(keys)
            block.obstacle = "what it groups by is computed, or is not told by what changes"
        distinct = node.args.get("distinct")
        block.is_distinct = bool(distinct)
        if distinct and distinct.args.get("on"):
            parts = distinct.args["on"].expressions or [distinct.args["on"]]
            block.barriers.append([column for part in parts if (column := scope.resolve(part.unnest()))])
            block.obstacle = "it keeps one row of several"
        for window in _windows(node):
            alias = window.args.get("alias")
            named = [one for one in node.args.get("windows") or [] if alias and one.name.lower() == alias.name.lower()]
            parts = [part for one in [window, *named] for part in one.args.get("partition_by") or []]
            block.barriers.append([column for part in parts if (column := scope.resolve(part))])
            block.obstacle = "a window looks at rows of several keys" if parts else "a window looks at all rows"


class _Scope:
    """What names mean in a ``select``."""

    def __init__(self, block: Block, node: exp.Select) -> None:
        self.block = block
        self.merged: set[Column] = set()
        self._node = node

    def resolve(self, node: exp.Expr | None) -> Column | None:
        """Find the column that an expression is, and nothing else."""
        if not isinstance(node, exp.Column) or isinstance(node.this, exp.Star) or node.args.get("db"):
            return None
        name, table = node.name.lower(), node.table.lower()
        for number, item in enumerate(self.block.items):
            if item.name and name in item.relation.columns and table in {"", item.name}:
                return (number, name)
        return None

    def is_comparable(self, *columns: Column) -> bool:
        """Whether columns are of one type, of which equal values are the same value."""
        types = {_type(self.block.items[number].relation, name) for number, name in columns}
        return len(types) == 1 and bool(_COMPARABLE.fullmatch(types.pop()))

    def equality(self, condition: exp.Expr) -> tuple[Column, Column] | None:
        """Return the two columns that a condition says are equal."""
        if not isinstance(condition, exp.EQ):
            return None
        one, other = self.resolve(condition.this.unnest()), self.resolve(condition.expression.unnest())
        return (one, other) if one and other else None

    def grouped_by(self, part: exp.Expr) -> Column | None:
        """Find the column that rows are grouped by: by its name, by the place or the name of what is selected."""
        if isinstance(part, exp.Literal) and not part.is_string:
            places = list(self.block.columns.values())
            return places[int(part.name) - 1] if int(part.name) <= len(places) else None
        if isinstance(part, exp.Column):
            return self.resolve(part) or (None if part.table else self.block.columns.get(part.name.lower()))
        return None

    def read_columns(self) -> None:
        """Read what is selected."""
        for place, part in enumerate(self._node.expressions):
            star = part.this if isinstance(part, exp.Column) and isinstance(part.this, exp.Star) else part
            if isinstance(star, exp.Star):
                self._read_star(star, part.table.lower() if part is not star else "")
                continue
            if part.find(exp.Columns):
                raise NotMaintainable("it selects columns by a pattern")
            name = (part.alias_or_name or f"_unnamed_{place}").lower()
            self._add(name, self.resolve(part.unalias()), self._reads(part))

    def _read_star(self, star: exp.Star, table: str) -> None:
        if star.args.get("rename"):
            raise NotMaintainable("it renames columns of a star")
        left_out = {part.name.lower() for part in star.args.get("except_") or []}
        replaced = {part.alias.lower(): self._reads(part.this) for part in star.args.get("replace") or []}
        for number, item in enumerate(self.block.items):
            if item.is_hidden or table not in {"", item.name}:
                continue
            for name in item.relation.columns:
                if name not in left_out and (table or (number, name) not in self.merged):
                    column = None if name in replaced else (number, name)
                    reads = replaced.get(name, {(number, name)})
                    self._add(name, column, reads)

    def _add(self, name: str, column: Column | None, reads: set[Column] | None) -> None:
        """Add a column; of two of one name neither is known, and both have their place."""
        columns = self.block.columns
        if name in columns:
            columns[name] = None
            name, column = f"{name}_{len(columns)}_again", None
            self.block.always = None
        columns[name] = column
        self.block.reads[name] = reads

    def read_always(self) -> None:
        """Find what is read whichever columns are asked for."""
        node, block = self._node, self.block
        group, distinct = node.args.get("group"), node.args.get("distinct")
        if distinct or (
            group and (group.args.get("all") or any(isinstance(p, exp.Literal) for p in group.expressions))
        ):
            parts: list[exp.Expr] = list(node.expressions)
            if any(part.find(exp.Star) and not part.find(exp.Count) for part in parts):
                block.always = None
        else:
            parts = []
        names = ("where", "group", "having", "qualify", "order", "windows", "distinct")
        for value in [node.args.get(name) for name in names]:
            parts += [part for part in (value if isinstance(value, list) else [value]) if isinstance(part, exp.Expr)]
        for join in node.args.get("joins") or []:
            parts += [join.args["on"]] if join.args.get("on") else []
            for using in join.args.get("using") or []:
                name = using.name.lower()
                block.always = self._and(
                    block.always, {(n, name) for n, item in enumerate(block.items) if name in item.relation.columns}
                )
        for part in parts:
            block.always = self._and(block.always, self._reads(part))
        for number, item in enumerate(block.items):
            if not item.name:
                block.always = self._and(block.always, {(number, name) for name in item.relation.columns})

    def read_figures(self) -> None:
        """Read what is selected of groups, if that is what they are grouped by, and figures that can be added to.

        Distinct rows are groups by all that is selected.
        """
        node, found = self._node, dict[str, Figure | None]()
        group, distinct = node.args.get("group"), node.args.get("distinct")
        if any(node.args.get(name) for name in ("having", "qualify")):
            return
        if distinct:
            is_plain = not group and not distinct.args.get("on") and not any(_windows(node))
            if is_plain and any(self.block.columns.values()):  # and so nothing is aggregated
                self.block.figures = dict.fromkeys(self.block.columns)
            return
        if not group:
            return
        told: set[int] = set()
        for place, part in enumerate(node.expressions):
            figure = self._figure(part.unalias())
            if not figure:
                of = [number for number, key in enumerate(group.expressions) if self._is_key(key, part, place)]
                if not of and not (group.args.get("all") and self.resolve(part.unalias())):
                    return
                told.update(of)
            found[part.alias_or_name.lower()] = figure
        if len(told) == len(group.expressions) and len(found) == len(node.expressions):
            self.block.figures = found

    def _figure(self, node: exp.Expr) -> Figure | None:
        cast_to = ""
        if isinstance(node, exp.Cast) and not isinstance(node, exp.TryCast):
            node, cast_to = node.this, node.args["to"].sql("duckdb")
        aggregate = node.this if isinstance(node, exp.Filter) else node
        is_plain = {name for name, value in aggregate.args.items() if value} <= {"this", "big_int"}
        if not is_plain or isinstance(aggregate.this, exp.Distinct):
            return None
        if isinstance(aggregate, exp.Count | exp.CountIf):
            return Figure("sum", None, cast_to)
        column = self.resolve(aggregate.this) if isinstance(aggregate, exp.Sum | exp.Min | exp.Max) else None
        return Figure(aggregate.key, column, cast_to) if column else None

    def _is_key(self, key: exp.Expr, part: exp.Expr, place: int) -> bool:
        """Whether something that is grouped by is just what is selected."""
        if isinstance(key, exp.Literal) and not key.is_string:
            return int(key.name) == place + 1
        if not isinstance(key, exp.Column):
            return key == part.unalias()
        if column := self.resolve(key):
            return column == self.resolve(part.unalias())
        return not key.table and key.name.lower() == part.alias.lower()

    def _reads(self, node: exp.Expr) -> set[Column] | None:
        """Return what an expression is made of; None if that is not known."""
        found: set[Column] | None = set()
        waiting: list[tuple[exp.Expr, bool]] = [(node, False)]
        while waiting:
            part, is_inner = waiting.pop()
            if isinstance(part, exp.Column):
                column = self.resolve(part)
                if column is not None:
                    found = self._and(found, {column})
                elif not is_inner:  # a name of a query inside has a meaning there
                    found = self._and(found, None if part.table else self.block.reads.get(part.name.lower()))
            waiting += [(child, is_inner or isinstance(part, exp.Query)) for child in part.iter_expressions()]
        return found

    @staticmethod
    def _and(one: set[Column] | None, other: set[Column] | None) -> set[Column] | None:
        return None if one is None or other is None else one | other


def _parsed(sql: str) -> exp.Expr:
    try:
        parsed = parse(sql)
    except (SqlglotError, RecursionError) as error:
        raise NotMaintainable("it cannot be read for sure") from error
    if parsed is None:
        raise NotMaintainable("nobody noted what it runs")
    return parsed


def _name(table: exp.Table) -> str:
    return ".".join(part.name for part in table.parts).lower()


def _last(name: str) -> str:
    return identifier(name.rsplit(".", 1)[-1])


def _place(table: exp.Table) -> tuple[int, int]:
    parts = table.parts
    return parts[0].meta["start"], parts[-1].meta["end"] + 1


def _spliced(sql: str, edits: list[tuple[tuple[int, int], str]]) -> str:
    for (begin, end), text in sorted(edits, reverse=True):
        sql = sql[:begin] + text + sql[end:]
    return sql


def _scans(relation: Relation) -> Iterator[Scan]:
    if isinstance(relation, Scan):
        yield relation
    elif isinstance(relation, SetOperation):
        for branch in relation.branches:
            yield from _scans(branch)
    else:
        for part in [*(item.relation for item in relation.items), *relation.aside]:
            yield from _scans(part)


def _read_from(scan: Scan, source: str, matched: str = "") -> str:
    """Return what stands for a reference so that it reads a source instead, and of that what matches."""
    name = "" if scan.is_named else f" as {_last(scan.relation)}"
    return f"(select _scan.* from {source} as _scan {matched}){name}"


def _is_by_row(relation: Relation, name: str) -> bool:
    """Whether each row of the relation of that name gives rows of its own, in a relation that reads it once."""
    if isinstance(relation, Scan):
        return True
    if isinstance(relation, SetOperation):
        return False  # another branch gives rows, too
    return relation.is_by_row and _reads_by_row(relation, name)


def _is_row_by_row(node: exp.Expr) -> bool:
    """Whether a part of a query leaves it one that lists rows, and leaves some out, each for what is in it."""
    if isinstance(node, exp.Not):
        return isinstance(node.this, exp.Is) or (isinstance(node.this, exp.In) and _is_condition(node))
    if isinstance(node, exp.In):
        return isinstance(node.parent, exp.Not)
    if isinstance(node, exp.Subquery | exp.Paren):
        return isinstance(node.parent, exp.From | exp.In)
    return isinstance(node, _ROW_BY_ROW)


def _is_condition(node: exp.Expr) -> bool:
    """Whether a row has to fulfil a part of a query to be listed."""
    above = node.parent
    while isinstance(above, exp.And):
        above = above.parent
    return isinstance(above, exp.Where)


def _reads_by_row(block: Block, name: str) -> bool:
    """Whether each row of the relation of that name gives rows of its own to what a block selects from."""

    def reads(part: Relation) -> bool:
        return any(scan.relation == name for scan in _scans(part))

    items = [item for item in block.items if reads(item.relation)]
    return (
        not any(map(reads, block.aside))
        and len(items) == 1
        and not (items[0].is_optional or items[0].is_hidden)
        and _is_by_row(items[0].relation, name)
    )


def _is_exact(block: Block, figure: Figure | None, stored: str) -> bool:
    """Whether a figure as it is stored, and another, tell the one of both: no part of it was rounded away."""
    if figure is None:  # of decimals, a contract may round what was told apart
        return bool(_COMPARABLE.fullmatch(stored)) and not _DECIMAL.fullmatch(stored)
    kind = _type(block.items[figure.column[0]].relation, figure.column[1]) if figure.column else "BIGINT"
    if figure.united_by != "sum":
        return kind == stored and not figure.cast_to and bool(_COMPARABLE.fullmatch(kind))
    places = [_decimal_places(each) for each in (kind, figure.cast_to or kind, stored)]
    return -1 not in places and places[0] == min(places)


def _decimal_places(kind: str) -> int:
    """Return the decimal places of a type that holds numbers exactly; -1 for others."""
    found = _DECIMAL.fullmatch(kind)
    return int(found[1]) if found else 0 if _WHOLE.fullmatch(kind) else -1


def _use(relation: Relation, wanted: set[str], found: dict[tuple[int, int], set[str]]) -> None:
    """Find the columns of every reference that some columns of a relation hang on, by its place."""
    if isinstance(relation, Scan):
        found.setdefault(relation.place, set()).update(wanted)
    elif isinstance(relation, SetOperation):
        for branch in relation.branches:
            is_part = relation.is_bag and len(branch.columns) == len(relation.columns)
            _use(
                branch, {relation.of_branch(branch, name) for name in wanted} if is_part else set(branch.columns), found
            )
    else:
        read = relation.always
        for name in wanted:
            more = relation.reads.get(name)
            read = None if read is None or more is None else read | more
        for number, item in enumerate(relation.items):
            columns = set(item.relation.columns)
            _use(item.relation, columns if read is None else {name for item_, name in read if item_ == number}, found)
        for aside in relation.aside:
            _use(aside, set(aside.columns), found)


def _type(relation: Relation, name: str) -> str:
    """Return the type of a column that is handed on from a relation of the hub; empty for all others."""
    if isinstance(relation, Scan):
        return relation.columns.get(name, "")
    if isinstance(relation, SetOperation):
        types = {_type(branch, relation.of_branch(branch, name)) for branch in relation.branches}
        return types.pop() if len(types) == 1 else ""
    column = relation.columns.get(name)
    return _type(relation.items[column[0]].relation, column[1]) if column else ""


def _handed_on(block: Block, name: str) -> Column:
    column = block.columns.get(name)
    if column is None:
        raise NotMaintainable(f"{name} is computed")
    if block.items[column[0]].is_optional:
        raise NotMaintainable(f"{name} comes from {block.items[column[0]].name}, which is joined from the left")
    return column


def _grounded(relation: Relation, names: list[str]) -> tuple[Scan, list[str]]:
    """Follow columns down to the one reference that they all come from."""
    if isinstance(relation, Scan):
        return relation, names
    if isinstance(relation, SetOperation):
        raise NotMaintainable("what a change belongs to is a union")
    columns = [_handed_on(relation, name) for name in names]
    items = {column[0] for column in columns}
    if len(items) != 1:
        raise NotMaintainable("what a change belongs to is a join")
    return _grounded(relation.items[items.pop()].relation, [column[1] for column in columns])


def _conditions(node: exp.Expr) -> list[exp.Expr]:
    node = node.unnest()
    if isinstance(node, exp.And):
        return [*_conditions(node.this), *_conditions(node.expression)]
    return [node]


def _own(node: exp.Select, kinds: tuple[type[exp.Expr], ...]) -> Iterator[exp.Expr]:
    """Find parts of a ``select``, those outside of the queries that it holds; a query that is searched for is found."""
    waiting = [
        child
        for name, value in node.args.items()
        if name not in {"with_", "from_", "joins"}
        for child in (value if isinstance(value, list) else [value])
        if isinstance(child, exp.Expr)
    ]
    waiting += [join.args["on"] for join in node.args.get("joins") or [] if join.args.get("on")]
    while waiting:
        part = waiting.pop()
        if isinstance(part, kinds):
            yield part
        if not isinstance(part, exp.Query):
            waiting += part.iter_expressions()


def _subqueries(node: exp.Select) -> Iterator[exp.Expr]:
    return _own(node, (exp.Query,))


def _windows(node: exp.Select) -> Iterator[exp.Expr]:
    return _own(node, (exp.Window,))
