"""SQL that another engine refuses or reads otherwise is named with its line and what to write; the project has none."""

from pathlib import Path

import pytest
from conftest import ROOT
from sqlglot.dialects.duckdb import DuckDB

from hubspoke.portability import FUNCTIONS, OF_JINJA, OF_SQL, faults, faults_of

BROKEN = {
    "functions": ["select datediff('day', one, other) from it", "select Date_Trunc('week', sold_on) from it"],
    "signs": [
        "select id::int from it",
        "select id from it qualify row_number() over (order by id nulls last) = 1",
        "select id // 2 from it",
        "select id ** 2 from it",
        "select [1, 2] from it",
        "select names[1] from it",
        "select {'a': id} from it",
        "select sold_on + interval '1 day' from it",
        "select one.id from one asof join other on one.id >= other.id",
        "pivot it on name",
        "unpivot it on one, other",
        "select id from it using sample 10",
        "select list_filter(ids, id -> id > 1) from it",
    ],
    "stars": ["select * exclude (id) from it", "select it.* replace (1 as id) from it"],
    "names": ['select "id" from it'],
    "literals": ["select 'it''s' from it", "select 'a\\nb' from it"],
    "orders": [
        "select id from it order by id",
        "select id from it order by one nulls last, other desc",
        "select sum(id) over (partition by one order by other rows unbounded preceding) from it",
    ],
    "types": ["select cast(id as varchar) from it", "select try_cast(id as hugeint) from it"],
    "divisors": ["select one / other from it", "select one / (other + 1) from it", "select one / 0 from it"],
    "ranks": ["select rank() over (order by id nulls last) as place from it"],
}
"""Texts that each break one rule, by the rule."""

SOUND = [
    "select {{ dbt.datediff('one', 'other', 'day') }} as days from {{ ref('it') }}",
    "select cast(id as decimal(18, 2)), cast(name as {{ dbt.type_string() }}) from it",
    "select cast(case when a then cast(b as int) end as bigint) from it",
    "select one / nullif(other, 0), two / 2.5, three / {{ var('share') }} from it",
    "select row_number() over (partition by a, b order by c desc nulls last, d nulls first) as place from it",
    "select id from it order by coalesce(a, b) nulls last limit 10",
    "select a || '-' || b as format from it -- it's \"fine\", a::int",
    "{# qualify #}{% if var('x') %}\nselect * from it\n{% endif %}",
    "select count(*) from it group by all",
    "select cast(ntile(10) over (order by id nulls last) as int) as tenth, rank from it",
]


@pytest.mark.parametrize("text", SOUND)
def test_what_says_the_same_everywhere_is_no_fault(text: str) -> None:
    assert faults_of("models/it.sql", text) == []


@pytest.mark.parametrize(("rule", "text"), [(rule, text) for rule, texts in BROKEN.items() for text in texts])
def test_each_rule_is_broken_by_what_it_forbids(rule: str, text: str) -> None:
    own = {(what, remedy) for _, what, remedy in OF_SQL[rule](DuckDB().tokenize(text), text)}
    assert own
    found = faults_of("models/it.sql", f"\n{text}")
    assert {fault.line for fault in found} == {2}
    assert own <= {(fault.what, fault.remedy) for fault in found}


def test_no_rule_is_left_out() -> None:
    assert BROKEN.keys() == OF_SQL.keys()


@pytest.mark.parametrize("function", FUNCTIONS)
def test_each_function_is_named_with_what_to_write(function: str) -> None:
    [fault] = faults_of("models/it.sql", f"select\n    {function} (a, b) as c\nfrom it")
    assert (fault.line, fault.remedy) == (2, FUNCTIONS[function])


@pytest.mark.parametrize(
    "text", ["target.type", "adapter.type ()", "dbt.safe_cast", "dbt.listagg", "dbt.string_literal"]
)
def test_jinja_that_tells_engines_apart_belongs_into_macros(text: str) -> None:
    [fault] = faults_of("models/it.sql", f"select\n    {{{{ {text} }}}} as c\nfrom it")
    assert fault.line == 2
    assert fault.remedy in {remedy for _, remedy in OF_JINJA.values()}


def test_the_project_has_none(tmp_path: Path) -> None:
    assert [str(fault) for fault in faults(ROOT)] == []
    (tmp_path / "models").mkdir()
    (tmp_path / "models/it.sql").write_text("select\n    id::int as id\nfrom it\n")
    rule = "    data_tests:\n      - expression_is_true: { arguments: { expression: one / other > 0 } }\n"
    (tmp_path / "models/it.yml").write_text(f"models:\n  - name: it\n{rule}")
    assert [str(fault) for fault in faults(tmp_path)] == [
        "models/it.sql:2: a cast by ::; write cast(value as type)",
        "models/it.yml:4: a division by what may be zero; write / nullif(divisor, 0)",
    ]
