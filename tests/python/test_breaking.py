"""Whether an edit is told to break what others read, on a set that was labelled by running it over data."""

from pathlib import Path
from typing import Any

import duckdb
import pytest
import yaml

from hubspoke.breaking import Edit, judge

EDITS: list[dict[str, Any]] = yaml.safe_load((Path(__file__).parent / "edits.yml").read_text())
TABLES = """
    create table t as select * from (values (1, 10, 3, 1), (2, 20, 1, 1), (12, 5, 2, 2)) as _ (k, v, w, par);
    create table u as select * from (values (1, 7), (2, 8)) as _ (k, z);
    create table q as select 1 as "t.k", 2 as "k + 1", 3 as k, 'ab' as s;
    create table l as select 1 as k, [1, 2] as many;
"""
X, MORE, MOVED = (f"with x as (select {columns} from t) " for columns in ("k, v", "k, v, w", "v, k"))
FIRST, LAST = (f"with x as (select k, v from t order by {order}) " for order in ("v", "v desc"))

BREAKING = [
    # order
    ("select distinct on (par) par, v from t order by v", "select distinct on (par) par, v from t order by v desc"),
    (FIRST + "select * from x limit 2", LAST + "select * from x limit 2"),
    (FIRST + "select list(k) as k from x", LAST + "select list(k) as k from x"),
    (FIRST + "select first(k) as k from x", LAST + "select first(k) as k from x"),
    (FIRST + "select k, row_number() over () as n from x", LAST + "select k, row_number() over () as n from x"),
    (FIRST + "select x.k, z from x positional join u", LAST + "select x.k, z from x positional join u"),
    ("select k from t order by v limit 1", "select k from t order by w limit 1"),
    ("select k from t order by v limit 1", "select k from t order by v limit 2"),
    ("select k from t order by v nulls first limit 1", "select k from t order by v nulls last limit 1"),
    # columns of common table expressions by their places
    ("with x(a, b) as (select k, v from t) select * from x", "with x(b, a) as (select k, v from t) select * from x"),
    ("select a from (select k, v from t) as x(a, b)", "select a from (select k, v from t) as x(b, a)"),
    ("select o.a from t as o(a, b)", "select o.a from t as o(b, a)"),
    (X + "select a from (select * from x) as y(a, b)", MOVED + "select a from (select * from x) as y(a, b)"),
    (X + "select * from x union all select k, v from t", MOVED + "select * from x union all select k, v from t"),
    (X + "select k, v from t union all select * from x", MOVED + "select k, v from t union all select * from x"),
    (X + "select * from x order by 1 limit 2", MOVED + "select * from x order by 1 limit 2"),
    (X + "select * from x order by all limit 2", MOVED + "select * from x order by all limit 2"),
    ("select k, v from t order by all limit 1", "select v, k from t order by all limit 1"),
    ("select k, v from t order by 1 limit 1", "select v, k from t order by 1 limit 1"),
    (X + "select #1 as a from x", MOVED + "select #1 as a from x"),
    (X + "select * from x except all select * from x where k = 1", MORE + "select * from x except all select * from x"),
    (X + "select * from x intersect select k, v from t", MOVED + "select * from x intersect select k, v from t"),
    ("select k, v from t group by grouping sets ((1), (2))", "select v, k from t group by grouping sets ((1), (2))"),
    (X + "select distinct on (1) * from x order by v", MOVED + "select distinct on (1) * from x order by v"),
    (
        X + "select count(*) as n from (select distinct * from x)",
        MORE + "select count(*) as n from (select distinct * from x)",
    ),
    # names
    (
        "select o.k, (select max(t.w) from t where t.par = o.k) as m from t as o",
        "select o.k, (select max(t.w) from t where t.par = t.k) as m from t as o",
    ),
    (
        "select 1 as a from t as o where exists (select 1 from u where u.k = o.k)",
        "select 1 as a from t as o where exists (select 1 from u as o where o.k = o.k)",
    ),
    ('select q."t.k" as a from q', "select q.k as a from q"),
    ('select "t.k" as a from q, t', "select t.k as a from q, t"),
    ('select "k + 1" as a from q', "select k + 1 as a from q"),
    ("select to_json({'A': k}) as j from t", "select to_json({'a': k}) as j from t"),
    (
        "with x as (select k from t) select to_json(x) as j from x",
        "with x as (select k as K from t) select to_json(x) as j from x",
    ),
    (
        "with x as (select k from t) select x.k from x, u as y where y.k = 1",
        "with x as (select z as k from u) select x.k from x, u as y where y.k = 1",
    ),
    (
        "with a as (select * from u), u as (select 1 as k, 2 as z) select a.z from a, u",
        "with u as (select 1 as k, 2 as z), a as (select * from u) select a.z from a, u",
    ),
    ("select z from u", "with u as (select 1 as k, 2 as z) select z from u"),
    # a row as a value
    (X + "select count(distinct x) as n from x", MORE + "select count(distinct x) as n from x"),
    (X + "select md5(x::varchar) as h from x", MORE + "select md5(x::varchar) as h from x"),
    (X + "select md5(y::varchar) as h from x as y", MORE + "select md5(y::varchar) as h from x as y"),
    (X + "select coalesce(*columns(*)) as h from x", MORE + "select coalesce(*columns(*)) as h from x"),
    (
        X + "select md5(row(*columns(*))::varchar) as h from x",
        MORE + "select md5(row(*columns(*))::varchar) as h from x",
    ),
    # stars
    ("select *, k + 1 as k from t", "select k + 1 as k, * from t"),
    ("select * from u", "select *, k as k from u order by k limit 1"),
    ("select t.*, u.* from t, u", "select u.*, t.* from t, u"),
    (X + "select * from x join u using (k)", "with x as (select k, v, w as z from t) select * from x join u using (k)"),
    (
        X + "select * from x join u on x.k = u.k",
        "with x as (select k, v, w as z from t) select * from x join u on x.k = u.k",
    ),
    (
        X + ", y as (select * from x) select v as w, abs(w) as n from y",
        MORE + ", y as (select * from x) select v as w, abs(w) as n from y",
    ),
    (X + ", y as (select * from x) select *, v as w from y", MORE + ", y as (select * from x) select *, v as w from y"),
    (
        X + "select k from u where exists (select 1 from x where z = 7)",
        "with x as (select k, v, w as z from t) select k from u where exists (select 1 from x where z = 7)",
    ),
    ("select * exclude (v) from t", "select * exclude (w) from t"),
    ("select * replace (v + 1 as v) from t", "select * replace (v + 2 as v) from t"),
    ("select columns('k|v') + 1 from t", "select columns('k|v') + 2 from t"),
    (X + "select max(columns(*)) from x", MORE + "select min(columns(*)) from x"),
    (X + "select * from x natural join t", MORE + "select * from x natural join t"),
    (
        X + "select count(*) as n from (pivot x on k using sum(v))",
        MORE + "select count(*) as n from (pivot x on k using sum(v))",
    ),
    # columns that make other rows
    ("select 1 as a from t", "select 1 as a, sum(sum(v)) over () as s from t"),
    ("select 1 as a from t", "select 1 as a, sum(v) as s from t"),
    ("select 1 as a from t", "select 1 as a, sum(v) as s, max(v) as m from t"),
    ("select 1 as a from t", "select 1 as a, (select sum(t.v) from u) as s from t"),
    ("select 1 as a from t", "select 1 as a, (select sum(v) from u) as s from t"),
    ("select k from l", "select k, unnest(many) as one from l"),
    ("select distinct par from t", "select distinct par, v from t"),
    ("select par, sum(v) as s from t group by all", "select par, k, sum(v) as s from t group by all"),
    ("select k from t where v > 5", "select k, -w as v from t where v > 6"),
    (
        "select k from t qualify row_number() over (order by v) = 1",
        "select k from t qualify row_number() over (order by w) = 1",
    ),
    # places that are not there, values, functions and frames
    (X + "select * from x order by 2 limit 1", X + "select * from x order by 1 limit 1"),
    (X + "select k from x semi join u using (k)", X + "select k from x anti join u using (k)"),
    ("select k, m from t, lateral (select t.v + 1 as m)", "select k, m from t, lateral (select t.v + 2 as m)"),
    ("select k from t union all by name select k from u", "select k from t union all select k from u"),
    ("select k from t union all select k from u", "select k from t union select k from u"),
    ("select a from (values (1, 2)) as _ (a, b)", "select a from (values (1, 3), (2, 2)) as _ (a, b)"),
    ("with x as (values (1), (2)) select * from x", "with x as (values (1), (3)) select * from x"),
    ("select k from t using sample 1 rows (reservoir, 1)", "select k from t using sample 2 rows (reservoir, 1)"),
    (
        "with recursive r as (select 1 as n, 1 as m union all select n + 1, m from r where n < 3) select n from r",
        "with recursive r as (select 1 as n, 1 as m union all select n + 1, m from r where n < 4) select n from r",
    ),
    (
        "with recursive r as (select 1 as n union select 1 from r) select n from r",
        "with recursive r as (select 1 as n union all select n + 1 from r where n < 3) select n from r",
    ),
    ("select regexp_matches(s, 'a') as a from q", "select regexp_full_match(s, 'a') as a from q"),
    (
        "select k, sum(v) over (order by k rows between 1 preceding and current row) as s from t",
        "select k, sum(v) over (order by k rows between 1 preceding and current row exclude current row) as s from t",
    ),
    (
        "select k, sum(v) over o as s from t window o as (order by k)",
        "select k, sum(v) over o as s from t window o as (order by w)",
    ),
    ("select k % 2 as a from t group by a", "select k % 10 as a from t group by a"),
    ("select '{{ a }}' as a from t as o", "select '{{ b }}' as a from t as o"),
    ("select '{# a #}' as a from t", "select '{# b #}' as a from t"),
]

ALL_ROWS = [
    ("select k % 10 as k, sum(v) as s from t group by all", "select k % 2 as k, sum(v) as s from t group by all"),
    ("select k % 10 as a, sum(v) as s from t group by a", "select k % 2 as a, sum(v) as s from t group by a"),
    ("select distinct k % 10 as a, par from t", "select distinct k % 2 as a, par from t"),
    ("select k % 10 as a, v from t where a = 2", "select k % 2 as a, v from t where a = 2"),
    ("select k % 10 as a, v from t order by a limit 1", "select k % 2 as a, v from t order by a limit 1"),
    ("select sum(v) as a, 1 as b from t", "select v as a, 1 as b from t"),
    (
        "with x as (select k % 10 as a, v from t), y as (select a as b, v from x) select v from y where b = 2",
        "with x as (select k % 2 as a, v from t), y as (select a as b, v from x) select v from y where b = 2",
    ),
    (
        X + "select v from x semi join u using (k)",
        "with x as (select par as k, v from t) select v from x semi join u using (k)",
    ),
    (
        X + "select v from x where (select count(*) from u where u.k = x.k) = 1",
        "with x as (select par as k, v from t) select v from x where (select count(*) from u where u.k = x.k) = 1",
    ),
]


def is_called_breaking(edit: dict[str, Any]) -> bool:
    return judge(edit["before"], edit["after"], edit["columns_before"], edit["columns_after"]).is_breaking


@pytest.fixture(scope="module")
def data() -> duckdb.DuckDBPyConnection:
    connection = duckdb.connect()
    connection.execute(TABLES)
    return connection


def judged(data: duckdb.DuckDBPyConnection, *edit: str) -> Edit:
    """Judge an edit by the names that DuckDB gives to the columns; types apart, which would tell it too easily."""
    described = [data.execute(f"describe {query}").fetchall() for query in edit]
    before, after = ({row[0]: "integer" for row in rows} for rows in described)
    return judge(edit[0], edit[1], before, after)


def test_no_edit_that_breaks_is_called_safe_and_few_that_do_not_are_called_breaking() -> None:
    called_safe = [edit["name"] for edit in EDITS if edit["breaking"] and not is_called_breaking(edit)]
    called_breaking = [edit["name"] for edit in EDITS if not edit["breaking"] and is_called_breaking(edit)]
    assert len(EDITS) == 100
    assert called_safe == []
    assert len(called_breaking) <= 2, called_breaking


@pytest.mark.parametrize(("before", "after"), BREAKING)
def test_what_may_break_is_called_breaking(data: duckdb.DuckDBPyConnection, before: str, after: str) -> None:
    assert judged(data, before, after).is_breaking


@pytest.mark.parametrize(("before", "after"), ALL_ROWS)
def test_a_column_that_rows_go_by_touches_all(data: duckdb.DuckDBPyConnection, before: str, after: str) -> None:
    assert judged(data, before, after).touched is None


def test_columns_that_are_made_of_a_changed_one_are_touched(data: duckdb.DuckDBPyConnection) -> None:
    query = "with x as (select k, v {} 2 as a, w from t), y as (select k, a as b, b + w as c, w from x) select * from y"
    assert judged(data, query.format("+"), query.format("*")).touched == {"b", "c"}
    query = "select k, v {} 2 as a, a + 1 as b, w from t"
    assert judged(data, query.format("+"), query.format("*")).touched == {"a", "b"}


@pytest.mark.parametrize(
    ("before", "after"),
    [
        (X + "select x.k, x.v from x", MORE + "select x.k, x.v, x.w from x"),
        (X + "select * from x order by 2", X + "select * from x order by 2 desc"),
        ("select o.k from t as o", "select t.k from t"),
        (
            X + "select x.k, u.z from x left join u on x.k = u.k",
            X + "select y.k, u.z from x as y left join u on y.k = u.k",
        ),
        (X + "select x.k from x", "with kept as (select k, v from t) select kept.k from kept"),
        ("select par, sum(v) as s from t group by 1", "select sum(v) as s, par, max(v) as m from t group by 2"),
        ("select k, v from t order by 2 limit 1", "select v, k from t order by 1 limit 1"),
    ],
)
def test_what_is_the_same_is_called_safe(data: duckdb.DuckDBPyConnection, before: str, after: str) -> None:
    assert not judged(data, before, after).is_breaking
