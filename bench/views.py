"""Is a view kept up to date by change what its query gives? Random changes of tables under views of many shapes.

Start it with: make bench-views. Each batch inserts, deletes and updates rows of some tables, keys and nulls included.
For every view that reads them, the keys that the batch touches are computed, and the rows of these keys, by what
``hubspoke/maintenance.py`` says; then the view is held against its query, row by row, with the number of equal rows.
"""

import argparse
import random
import re
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

import duckdb
from rich.console import Console
from rich.progress import track
from rich.table import Table

from hubspoke.maintenance import (
    Changed,
    Keys,
    Maintenance,
    NotMaintainable,
    Query,
    Types,
    added_up,
    difference,
    key_of,
    nulls,
    repeated,
)

SEED = 20261126

TABLES = {
    "lines": "id int, k int, s varchar, d int, v decimal(10, 2)",
    "more": "id int, k int, s varchar, d int, v decimal(10, 2)",
    "products": "k int, dep varchar",
    "regions": "dep varchar, reg varchar",
}
ROWS = {"lines": 20, "more": 10, "products": 6, "regions": 3}
"""Few, so that changes meet."""

KEPT = {
    "filter": "select id, k, v from {lines} where v > 3",
    "projection": "with x as (select * from {lines}) select id, k, v * 2 as w, coalesce(s, 'none') as s from x",
    "join dim": (
        "with l as (select * from {lines}), p as (select * from {products}) select l.id, l.k, p.dep, l.v from"
        " l inner join p on l.k = p.k"
    ),
    "left dim": "select l.id, l.k, p.dep, l.v from {lines} as l left join {products} as p on l.k = p.k",
    "group sum": (
        "select k, sum(v) as v, count(*) as n, min(v) as lo, max(v) as hi, avg(v) as mean from {lines} group by k"
    ),
    "group dim": (
        "with l as (select * from {lines}), p as (select * from {products}) select p.dep, count(distinct l.s)"
        " as n, sum(l.v) as v from l inner join p on l.k = p.k group by p.dep"
    ),
    "group two": (
        "select p.dep, l.d, sum(l.v) as v from {lines} as l join {products} as p on l.k = p.k group by p.dep, l.d"
    ),
    "group all": "select s, d, sum(v) as v from {lines} group by all",
    "group place": "select s, k, sum(v) as v from {lines} group by 1, 2 having sum(v) > 4",
    "distinct": "select distinct k, s from {lines}",
    "union all": "select id, k, v from {lines} union all select id, k, v from {more}",
    "union": "select k from {lines} union select k from {more} union select k from {products}",
    "except": "select k, s from {lines} except select k, s from {more}",
    "intersect": "select k from {lines} intersect select k from {products}",
    "window": "select id, k, v, rank() over (partition by k order by v desc nulls last, id) as r from {lines}",
    "window named": (
        "select id, k, v, sum(v) over w as r from {lines} window w as (partition by k order by v nulls last, id)"
    ),
    "qualify": (
        "select * from {lines} "
        "qualify row_number() over (partition by k, s order by v nulls last, id, d nulls last) = 1"
    ),
    "two steps": (
        "with a as (select k, s, sum(v) as v from {lines} group by k, s), b as (select k, count(*) as n, "
        "max(v) as v from a group by k) select b.*, p.dep from b inner join {products} as p using (k)"
    ),
    "self join": (
        "with a as (select k, d, sum(v) as v from {lines} group by k, d) select x.k, x.d, x.v, y.v as before "
        "from a as x left join a as y on x.k = y.k and x.d = y.d + 1"
    ),
    "semi": "select id, k, v from {lines} where k in (select k from {products} where dep <> 'b')",
    "semi tuple": "select id, k, v from {lines} where (k, s) in (select k, s from {more})",
    "anti": "select l.id, l.k from {lines} as l anti join {products} as p on l.k = p.k",
    "semi join": "select * from {lines} semi join {products} using (k)",
    "left agg": (
        "with n as (select k, count(*) as n from {more} group by k) select p.k, p.dep, coalesce(n.n, 0) as n "
        "from {products} as p left join n on p.k = n.k"
    ),
    "coarse": (
        "with x as (select l.k, p.dep, sum(l.v) as v from {lines} as l join {products} as p on l.k = p.k "
        "group by l.k, p.dep) select dep, sum(v) as v, count(*) as n from x group by dep"
    ),
    "rank dim": (
        "with x as (select k, sum(v) as v from {lines} group by k) select p.k, p.dep, x.v, rank() over "
        "(partition by p.dep order by x.v desc nulls last) as r from x inner join {products} as p on x.k = "
        "p.k"
    ),
    "case": (
        "select k, sum(case when s = 'x' then v else 0 end) as vx, bool_or(v > 5) as b, string_agg(s, ',' "
        "order by id, s) as all_s from {lines} group by k"
    ),
    "three": (
        "select l.s, p.dep, q.reg, sum(l.v) as v from {lines} as l join {products} as p on l.k = p.k join "
        "{regions} as q on p.dep = q.dep group by l.s, p.dep, q.reg"
    ),
    "three reg": (
        "select q.reg, sum(l.v) as v from {lines} as l, {products} as p, {regions} as q where l.k = p.k and "
        "p.dep = q.dep group by q.reg"
    ),
    "in other": "select id, v from {lines} where v > (select avg(v) from {more})",
    "not in": "select id, v from {lines} where k not in (select k from {products} where k is not null)",
    "exists": "select id, k, v from {lines} as l where exists (select 1 from {products} as p where p.k = l.k)",
    "nested": (
        "select * exclude (s) from (select l.*, p.dep from {lines} as l left join {products} as p using (k)) "
        "where dep is distinct from 'a'"
    ),
    "star replace": "select * replace (v + 1 as v) from {lines}",
    "distinct on": "select distinct on (k) k, id, v from {lines} order by k, v nulls last, id",
    "alias group": "select upper(s) as u, k, sum(v) as v from {lines} group by u, k",
    "using left": "select k, l.id, p.dep from {lines} as l left join {products} as p using (k)",
    "chain": (
        "with a as (select k, s, sum(v) as v from {lines} group by k, s), c as (select s, sum(v) as v from a "
        "group by s) select c.s, c.v, count(m.id) as n from c left join {more} as m on c.s = m.s group by "
        "c.s, c.v"
    ),
    "inner after left": (
        "select l.id, p.dep, q.reg from {lines} as l left join {products} as p on l.k = p.k inner join "
        "{regions} as q on p.dep = q.dep"
    ),
    "where eq": "select l.id, m.id as mid, l.s from {lines} as l, {more} as m where l.s = m.s and l.v < m.v",
    "count star dim": (
        "select p.k, p.dep, count(l.id) as n from {products} as p left join {lines} as l on l.k = p.k and l.v"
        " > 2 group by p.k, p.dep"
    ),
    "values": "select l.id, c.t from {lines} as l join (values ('x', 1), ('y', 2)) as c(s, t) on l.s = c.s",
    "except star": "select * exclude (v) from {lines} where s is not null",
    "lag": "select id, k, d, lag(v) over (partition by k, s order by d, id, v) as p from {lines}",
    "two windows": (
        "select id, k, s, v, count(*) over (partition by k) as n, count(*) over (partition by k, s) as m from {lines}"
    ),
    "sums": (
        "select k, s, count(*) as n, count(d) as d, sum(v) as v, "
        "cast(sum(v) filter (where d > 3) as decimal(12, 3)) as w, max(d) as last, "
        "min(s) as first, count_if(v > 5) as many from {lines} where id > 3 group by k, s"
    ),
    "sums dim": (
        "with l as (select l.*, p.dep from {lines} as l left join {products} as p on l.k = p.k), x as (select dep, "
        "upper(s) as u, d // 2 as h, sum(l.v) as v, count(*) as n from l group by dep, upper(s), 3) "
        "select h, dep, v, u, n from x"
    ),
    "non ascii": "select id, k, 'é—ü' as e, v from {lines} where s <> 'ß' /* ☃ */",
}
"""Shapes of which only what changes touch is computed."""

ADDED_UP = {
    *("group two", "group all", "alias group", "three", "three reg", "count star dim", "sums", "sums dim", "distinct"),
}
"""Those of groups to which new rows are added without a look at the others."""

REBUILT = {
    "cross": (
        "with m as (select max(d) as d from {lines}) select k, count(*) as n, max(m.d) as d from {lines} "
        "cross join m group by k"
    ),
    "limit": "select id, v from {lines} order by v desc nulls last, id limit 5",
    "global": "select count(*) as n, sum(v) as v from {lines}",
    "mixed windows": (
        "select id, k, s, v, count(*) over (partition by k) as n, count(*) over (partition by s) as m from {lines}"
    ),
}
"""Shapes that are always computed as a whole."""


@dataclass
class Shop:
    """Tables, and the views over them, in a database in memory.

    Attributes:
        chance: What the changes are drawn from.
        by_change: How often each view was kept up to date by change, how often of these by the new rows alone, and
            by adding what they give, how often it was computed as a whole, and how often nothing of what it reads had
            changed.
        fewer: How often there could only be fewer rows of each view, as more came where others are missed.
    """

    chance: random.Random
    hub: duckdb.DuckDBPyConnection = field(default_factory=duckdb.connect)
    by_change: Counter[str] = field(default_factory=Counter)
    by_row: Counter[str] = field(default_factory=Counter)
    added_up: Counter[str] = field(default_factory=Counter)
    as_a_whole: Counter[str] = field(default_factory=Counter)
    unfelt: Counter[str] = field(default_factory=Counter)
    fewer: Counter[str] = field(default_factory=Counter)
    rows: int = 0
    rows_computed: int = 0

    def __post_init__(self) -> None:
        """Fill the tables, and compute the views."""
        self.hub.execute("attach ':memory:' as hub; use hub; set threads = 1")
        for table, columns in TABLES.items():
            self.hub.execute(f"create table {table} ({columns})")
            for _ in range(ROWS[table]):
                self._insert(table)
        self.views = {
            name: re.sub(r"\{(\w+)\}", r'"hub"."main"."\1"', sql) for name, sql in {**KEPT, **REBUILT}.items()
        }
        self.types: Types = {
            f"hub.main.{table}": {name: kind for name, kind, *_ in self.hub.execute(f"describe {table}").fetchall()}
            for table in TABLES
        }
        for name, sql in self.views.items():
            self.hub.execute(f'create table "{name}" as {sql}')

    def _row(self, table: str) -> list[Any]:
        def perhaps(value: object) -> object:
            return None if self.chance.random() < 0.1 else value

        if table == "products":
            return [perhaps(self.chance.randint(1, 8)), perhaps(self.chance.choice("abc"))]
        if table == "regions":
            return [perhaps(self.chance.choice("abc")), self.chance.choice("uv")]
        small = [perhaps(self.chance.randint(0, highest)) for highest in (8, 5, 9)]
        return [self.chance.randint(1, 40), small[0], perhaps(self.chance.choice("xyz")), *small[1:]]

    def _insert(self, table: str) -> None:
        row = self._row(table)
        self.hub.execute(f"insert into {table} values ({', '.join('?' * len(row))})", row)

    def change(self) -> dict[str, Changed]:
        """Change some tables; return what changed in each."""
        found = {}
        for table in self.chance.sample(list(TABLES), self.chance.choice([1, 1, 1, 2, 3])):
            self.hub.execute(f"create or replace temp table before_{table} as from {table}")
            only_inserts = self.chance.random() < 0.3
            for _ in range(self.chance.randint(1, 3)):
                some = f"rowid in (select rowid from {table} order by hash(rowid, {self.chance.random()}) limit 1)"
                kind, row = self.chance.random(), self._row(table)
                if only_inserts or kind < 0.4:
                    self._insert(table)
                elif kind < 0.7:
                    self.hub.execute(f"delete from {table} where {some}")
                else:
                    place = self.chance.randrange(len(row))
                    column = list(self.types[f"hub.main.{table}"])[place]
                    self.hub.execute(f"update {table} set {column} = ? where {some}", [row[place]])
            found[f"hub.main.{table}"] = self._difference(table, whole=self.chance.random() < 0.5)
        return found

    def _difference(self, table: str, *, whole: bool) -> Changed:
        """Keep the rows that differ; or, as where changes are known by key, all rows of the keys of these."""
        key = next(iter(self.types[f"hub.main.{table}"]))
        rows = {"removed": (f"before_{table}", table), "added": (table, f"before_{table}")}
        for name, (one, other) in rows.items():
            self.hub.execute(f"create or replace temp table {name}_{table} as from {one} except all from {other}")
        if not whole:
            return Changed(f"removed_{table}", f"added_{table}")
        both = f"select {key} from removed_{table} union select {key} from added_{table}"
        self.hub.execute(f"create or replace temp table keys_{table} as {both}")
        for name, (one, _) in rows.items():
            like = f"exists (select 1 from keys_{table} as keys where keys.{key} is not distinct from it.{key})"
            self.hub.execute(f"create or replace temp table {name}_{table} as select * from {one} as it where {like}")
        return Changed(f"removed_{table}", f"added_{table}", (key,))

    def keep_up(self, name: str, changes: dict[str, Changed]) -> None:
        """Bring a view up to date, and hold it against its query.

        Raises:
            AssertionError: It is not what its query gives.
        """
        sql = self.views[name]
        mine = {table: change for table, change in changes.items() if f'"{table.split(".")[-1]}"' in sql}
        self.hub.execute(f"create or replace temp table truth as {sql}")
        try:
            query = Query(sql, self.types)
            kept = {table: self._narrowed(query, table, change) for table, change in mine.items()}
            felt = {
                table: change
                for table, change in kept.items()
                if self._count(f"(from {change.removed}) union all (from {change.added})")
            }
            [alone] = felt if len(felt) == 1 else [""]
            if alone and query.is_only_missed(alone) and not self._count(f"from {felt[alone].removed}"):
                assert not self._count(f'from truth except all from "{name}"'), (name, changes)  # noqa: S101
                self.fewer[name] += 1
            if not felt:
                self.unfelt[name] += 1
            elif alone and query.is_by_row(alone):
                self._by_row(name, query, alone, mine)
            elif (
                alone
                and not self._count(f"from {mine[alone].removed}")
                and (united := self._united(name, query, alone))
            ):
                self._add_up(name, query.of_rows(alone, mine[alone].added), united)
            else:
                maintenance = Maintenance(query, set(felt))
                finer = maintenance.finer() if self.by_change[name] % 2 else None  # in turn
                self._by_change(name, finer or maintenance, felt, mine)
        except NotMaintainable:
            self.as_a_whole[name] += 1
            self.hub.execute(f'create or replace table "{name}" as from truth')
        wrong = self._count(f'(from "{name}" except all from truth) union all (from truth except all from "{name}")')
        assert not wrong, (name, wrong, changes)  # noqa: S101 -- what is shown

    def _narrowed(self, query: Query, table: str, change: Changed) -> Changed:
        columns, short = query.felt(table), table.split(".")[-1]
        if len(columns) == len(self.types[table]):
            return change
        differing = difference(change.removed, change.added, columns)
        self.hub.execute(f"create or replace temp table differing_{short} as {differing}")
        for name, times in {"fewer": "-_times", "further": "_times"}.items():
            rows = repeated(f"differing_{short}", columns, times)
            self.hub.execute(f"create or replace temp table {name}_{short} as {rows}")
        return Changed(f"fewer_{short}", f"further_{short}")

    def _by_row(self, name: str, query: Query, table: str, mine: dict[str, Changed]) -> None:
        """Bring a view up to date by what new rows give, where none went; else see that what went gave the rest."""
        went, came = (query.of_rows(table, rows) for rows in (mine[table].removed, mine[table].added))
        now = f'((from "{name}" except all from ({went})) union all from ({came}))'
        wrong = self._count(f"({now} except all from truth) union all (from truth except all {now})")
        assert not wrong, (name, wrong, mine)  # noqa: S101 -- what is shown
        if self._count(f"from {mine[table].removed}"):
            self._by_change(name, Maintenance(query, {table}), {table: mine[table]}, mine)
            return
        self.hub.execute(f"create or replace temp table fresh as {came}")
        self.hub.execute(f'insert into "{name}" from fresh')
        self.by_row[name] += 1
        self._note(name)

    def _united(self, name: str, query: Query, table: str) -> dict[str, str]:
        described = self.hub.execute(f'describe "{name}"').fetchall()
        return query.united(table, {column: kind for column, kind, *_ in described})

    def _add_up(self, name: str, rows: str, united: dict[str, str]) -> None:
        """Add what new rows give to the groups that are there."""
        key = tuple(column for column, aggregate in united.items() if not aggregate)
        self.hub.execute(f'create or replace temp table came as from "{name}" limit 0')
        self.hub.execute(f"insert into came by name {rows}")
        self.hub.execute(f"create or replace temp table keys as {key_of('came', key)}")
        keys = Keys("keys", key, self.hub.execute(nulls("keys", key)).fetchall()[0])
        stale = f'select _rows.* from "{name}" as _rows semi join keys as _keys on {keys.match("_rows")}'
        self.hub.execute(f"create or replace temp table stale as {stale}")
        self.hub.execute(f'create or replace temp table fresh as from "{name}" limit 0')
        self.hub.execute(f"insert into fresh by name {added_up('stale', 'came', united)}")
        self._replace(name, keys)
        self.added_up[name] += 1

    def _by_change(
        self, name: str, maintenance: Maintenance, felt: dict[str, Changed], mine: dict[str, Changed]
    ) -> None:
        self.hub.execute(f"create or replace temp table keys as {maintenance.touched(felt)}")
        keys = Keys("keys", maintenance.key, self.hub.execute(nulls("keys", maintenance.key)).fetchall()[0])
        rows = maintenance.recomputed(keys, {table: mine[table] for table in felt})
        self.hub.execute(f"create or replace temp table fresh as {rows}")
        self._replace(name, keys)

    def _replace(self, name: str, keys: Keys) -> None:
        self.hub.execute(f'delete from "{name}" as it using keys as _keys where {keys.match("it")}')
        self.hub.execute(f'insert into "{name}" from fresh')
        self._note(name)

    def _note(self, name: str) -> None:
        self.by_change[name] += 1
        self.rows_computed += self._count("from fresh")
        self.rows += self._count("from truth")

    def _count(self, sql: str) -> int:
        [(number,)] = self.hub.execute(f"select count(*) from ({sql})").fetchall()
        return int(number)


def run(batches: int, seed: int, turns: Iterable[int]) -> Shop:
    """Bring views up to date until so many batches of changes have reached one.

    Args:
        batches: Views brought up to date, at least.
        seed: Of the changes.
        turns: What the turns are drawn from: as many as are needed.
    """
    shop = Shop(random.Random(seed))  # noqa: S311 -- to be the same again
    done = 0
    for _ in turns:
        changes = shop.change()
        names = {table.split(".")[-1] for table in changes}
        for name, sql in shop.views.items():
            if names & set(re.findall(r'"hub"\."main"\."(\w+)"', sql)):
                shop.keep_up(name, changes)
                done += 1
        if done >= batches:
            break
    return shop


def main() -> None:
    """Change, bring up to date, compare, and print a table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batches", type=int, default=10_000)
    parser.add_argument("--seed", type=int, default=SEED)
    asked = parser.parse_args()
    console = Console()
    turns = track(range(asked.batches), "changing", console=console, disable=not console.is_terminal)
    shop = run(asked.batches, asked.seed, turns)
    total = sum(map(sum, (counts.values() for counts in (shop.by_change, shop.as_a_whole, shop.unfelt))))
    table = Table(
        title=f"{total:,} batches of changes reached one of {len(shop.views)} views; all are as their queries give"
    )
    for heading in ("view", "by change", "by row alone", "added up", "as a whole", "nothing that it reads"):
        table.add_column(heading, justify="left" if heading == "view" else "right")
    for name in shop.views:
        counts = (shop.by_change, shop.by_row, shop.added_up, shop.as_a_whole, shop.unfelt)
        table.add_row(name, *(str(count[name]) for count in counts))
    table.caption = f"by change, {100 * shop.rows_computed / max(1, shop.rows):.0f} % of the rows were computed"
    console.print(table)
    assert all(shop.by_change[name] for name in KEPT), "a shape was never kept up to date by change"  # noqa: S101
    assert set(shop.fewer) <= {"not in"}, "a shape was not thought to list what is missed"  # noqa: S101
    assert set(shop.added_up) <= ADDED_UP, "a shape was not thought to be added to"  # noqa: S101
    assert not any(shop.by_change[name] for name in REBUILT), "a shape was not thought to be kept"  # noqa: S101


if __name__ == "__main__":
    main()
