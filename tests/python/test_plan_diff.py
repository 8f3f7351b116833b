"""What a plan would change of what readers see, by rows: counted before anything is built, and the same afterwards."""

import csv
import io
import json
import signal
import subprocess
import time
from collections import Counter
from pathlib import Path
from typing import Any

import duckdb
import pytest
from conftest import BIN, Sandbox

from hubspoke.changes import Counts, count
from hubspoke.files import exclusive

DEPARTMENTS = "models/marts/sales/mart_sales__departments.sql"
SPOKE = "models/spokes/bi/spoke_bi__departments.sql"


def diff(sandbox: Sandbox) -> dict[str, Any]:
    found: dict[str, Any] = json.loads(sandbox.run("hubspoke", "plan", "--diff", "--json").stdout)["diff"]
    return found


def counted(sandbox: Sandbox, relation: str) -> dict[str, Any]:
    """Count what hubspoke diff lists between the first two releases."""
    rows = list(csv.DictReader(io.StringIO(sandbox.run("hubspoke", "diff", "1", "2", relation).stdout)))
    kinds = Counter(row["_change"] for row in rows)
    columns = Counter(name for row in rows for name in row["_columns"].split(", ") if name)
    return {kind: kinds[kind] for kind in ("added", "changed", "removed")} | {"columns": dict(columns)}


def state(sandbox: Sandbox) -> dict[str, bytes]:
    """Read what a trial may not touch."""
    warehouse = sandbox.root / "warehouse"
    kept = [warehouse / "hub.duckdb", *(path for path in warehouse.glob("release/**/*") if path.is_file())]
    return {str(path): path.read_bytes() for path in kept}


def test_rows_are_counted_by_key_and_column_as_the_build_then_changes_them(settled: Sandbox) -> None:
    rows = settled.read("bi", "select count(*) from spoke_bi__departments")[0][0]
    before = state(settled)
    # one row goes and one comes, two others differ in one column, one of them in two
    for model, column, changed in [
        (
            DEPARTMENTS,
            "counted.product_count",
            "counted.product_count + if(summed.department_name in ('MEAT', 'PRODUCE'), 1, 0) as product_count",
        ),
        (
            DEPARTMENTS,
            "summed.item_count",
            "summed.item_count + if(summed.department_name = 'MEAT', 7, 0) as item_count",
        ),
        (
            SPOKE,
            "department_name",
            "if(departments.department_name = 'GROCERY', 'FOOD', departments.department_name) as department_name",
        ),
    ]:
        settled.edit(model, f"\n        {column},\n", f"\n        {changed},\n")
    found = diff(settled)
    assert (found["release"], found["note"], found["faults"]) == (1, "", [])
    [one] = found["relations"]
    expected = {"added": 1, "changed": 2, "removed": 1, "columns": {"product_count": 2, "item_count": 1}}
    assert one == {
        "name": "spoke_bi__departments",
        "spoke": "bi",
        "kind": "changed",
        "rows_before": rows,
        "rows_after": rows,
        "key": ["department_name"],
        **expected,
    }
    assert state(settled) == before
    assert [path.name for path in (settled.root / "warehouse/trial").iterdir()] == [".lock"]

    text = settled.run("hubspoke", "plan", "--diff")
    assert text.stderr == ""
    assert (
        "Rows compared with release 1:\n"
        f"  spoke_bi__departments of bi: 1 added, 2 changed, 1 removed; {rows} rows before, {rows} after; "
        "by department_name\n    changed: product_count 2, item_count 1\nTo do: 2 models, 4 rules;"
    ) in text.stdout
    page = settled.run("hubspoke", "plan", "--diff", "--markdown").stdout
    assert "| `spoke_bi__departments` | bi | 1 | 2 | 1 | product_count 2, item_count 1 |" in page
    assert "Rows compared" not in settled.run("hubspoke", "plan").stdout
    assert "diff" not in json.loads(settled.run("hubspoke", "plan", "--json").stdout)

    settled.run("hubspoke", "build")
    assert counted(settled, "spoke_bi__departments") == expected
    assert diff(settled) == {"release": 2, "note": "", "faults": [], "relations": []}

    settled.run("hubspoke", "rollback")  # the hub is as before, readers are not
    assert one in diff(settled)["relations"]


def test_new_data_is_read_and_relations_may_come_and_go(settled: Sandbox) -> None:
    file = settled.root / "exports/demographics.parquet"
    duckdb.sql(f"copy (select * replace ('19-24' as age) from '{file}') to '{file}.new' (format parquet)")
    Path(f"{file}.new").replace(file)
    settled.run("hubspoke", "ingest", "crm")
    known = f"household_id::varchar in (select household_id::varchar from '{file}')"
    query = f"select count(*) from spoke_crm__winback_audience where age_range <> '19-24' and {known}"
    older = settled.read("crm", query)[0][0]
    spokes = settled.root / "models/spokes/bi"
    for end in ("sql", "yml"):
        text = (spokes / f"spoke_bi__departments.{end}").read_text()
        (spokes / f"spoke_bi__divisions.{end}").write_text(text.replace("spoke_bi__dep", "spoke_bi__div"))
        (spokes / f"spoke_bi__promotion_lift.{end}").unlink()
    settled.edit("models/spokes/bi/spoke_bi__divisions.yml", "spoke_bi__divartments", "spoke_bi__divisions")
    settled.edit("models/spokes/bi/_bi__exposures.yml", "      - ref('spoke_bi__promotion_lift')\n", "")
    before = state(settled)
    found = {one["name"]: one for one in diff(settled)["relations"]}
    assert {name: one["kind"] for name, one in found.items()} == {
        "spoke_crm__winback_audience": "changed",
        "spoke_bi__divisions": "new",
        "spoke_bi__promotion_lift": "gone",
    }
    winback = found["spoke_crm__winback_audience"]
    assert older > 0
    assert [winback[name] for name in ("added", "changed", "removed")] == [0, older, 0]
    assert winback["columns"] == {"age_range": older}
    departments, lift = (
        settled.read("bi", f"select count(*) from spoke_bi__{name}")[0][0] for name in ("departments", "promotion_lift")
    )
    new, gone = found["spoke_bi__divisions"], found["spoke_bi__promotion_lift"]
    assert (new["rows_before"], new["rows_after"], new["added"]) == (None, departments, departments)
    assert (gone["rows_before"], gone["rows_after"], gone["removed"]) == (lift, None, lift)
    text = settled.run("hubspoke", "plan", "--diff").stdout
    assert f"  spoke_bi__divisions of bi: new, with {departments} rows\n" in text
    assert f"  spoke_bi__promotion_lift of bi: readers lose it, with {lift} rows\n" in text
    assert state(settled) == before


def test_what_fails_is_named_and_what_is_stopped_leaves_nothing(settled: Sandbox) -> None:
    before = state(settled)
    sales = "sum(sales_amount) as decimal"
    settled.edit(DEPARTMENTS, sales, f"2 * {sales}")
    red = settled.run("hubspoke", "plan", "--diff", check=False)
    assert (red.returncode, red.stderr) == (1, "")
    assert "Rows are not compared: the build was tried out, and fails:\n" in red.stdout
    assert "  fail: department_sales_equal_the_raw_rows\n" in red.stdout
    assert "Next: put right what fails, then: hubspoke build" in red.stdout

    settled.edit(DEPARTMENTS, f"2 * {sales}", "sum(cast(error('too much') as integer)) as decimal")
    failed = settled.run("hubspoke", "plan", "--diff", "--json", check=False)
    assert failed.returncode == 1
    told = json.loads(failed.stdout)["diff"]
    assert "in model mart_sales__departments" in told["faults"][0]
    assert "too much" in "".join(told["faults"])
    assert told["relations"] == []

    settled.edit(
        DEPARTMENTS,
        "sum(cast(error('too much') as integer)) as decimal",
        "sum(sales_amount + 0) as decimal",
    )
    trial = settled.root / "warehouse/trial"
    process = subprocess.Popen(
        [BIN / "hubspoke", "plan", "--diff"],
        cwd=settled.root,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )
    while process.poll() is None and not (trial / "hub.unfinished/hub.duckdb").exists():
        time.sleep(0.01)
    process.send_signal(signal.SIGINT)
    stdout, stderr = process.communicate(timeout=60)
    assert (process.returncode, stdout, stderr.strip()) == (130, "", "Stopped. Readers see what they saw before.")
    assert [path.name for path in trial.iterdir()] == [".lock"]

    (trial / "hub.unfinished").mkdir()  # as a kill would leave it
    (trial / "hub.unfinished/hub.duckdb").write_text("half")
    text = settled.run("hubspoke", "plan", "--diff").stdout
    assert "Rows compared with release 1:\n  no row differs: spoke_bi__departments\n" in text
    assert [path.name for path in trial.iterdir()] == [".lock"]
    assert state(settled) == before

    with exclusive(trial, "testing"):
        second = settled.run("hubspoke", "plan", "--diff", check=False)
    assert second.returncode == 1
    assert "Another process is trying a plan out in" in second.stderr
    settled.run("hubspoke", "dev", "prices")
    inside = settled.run("hubspoke", "plan", "--diff", check=False, HUBSPOKE_WAREHOUSE="warehouse/dev/prices")
    assert inside.returncode == 1
    assert "is a development environment, and a release is made from its hub: unset" in inside.stderr


def test_without_a_release_there_is_nothing_to_compare_with(sandbox: Sandbox) -> None:
    text = sandbox.run("hubspoke", "plan", "--diff").stdout
    assert "Rows are not compared: there is no release yet to compare with.\n" in text
    assert not (sandbox.root / "warehouse/trial").exists()


@pytest.mark.parametrize(
    ("old", "new", "keys", "expected"),
    [
        # a bag: repetitions count, and nothing is said to have changed
        ("(values (1), (1), (2)) t(a)", "(values (1), (2), (2), (3)) t(a)", [], Counts(added=2, removed=1)),
        # null is a key and a value as any other
        (
            "(values (null, 1), (2, null)) t(a, b)",
            "(values (null, 1), (2, 3)) t(a, b)",
            ["a"],
            Counts(changed=1, columns={"b": 1}),
        ),
        # what only one side has is null on the other
        (
            "(values (1, 'x')) t(a, b)",
            "(values (1, null, 5)) t(a, b, c)",
            ["a"],
            Counts(changed=1, columns={"b": 1, "c": 1}),
        ),
        ("(values (1, 'x')) t(a, b)", "(values (1)) t(a)", [], Counts(added=1, removed=1)),
        ("(values (1, 'x')) t(a, b)", "(values (1, 'x', null)) t(a, b, c)", [], Counts()),
        # numbers are compared by value, other types of another kind as text
        ("(values (1, 2)) t(a, b)", "(values (1::bigint, 2.0)) t(a, b)", ["a"], Counts()),
        (
            "(values (1, 2), (2, 3)) t(a, b)",
            "(values ('1', '2'), ('2', 'x')) t(a, b)",
            ["a"],
            Counts(changed=1, columns={"b": 1}),
        ),
        ("(values (1, [2])) t(a, b)", "(values (1, 2)) t(a, b)", [], Counts(added=1, removed=1)),
        # names that are no words
        (
            '(values (1, 2)) t(a, "it\'s, b")',
            '(values (1, 3)) t(a, "it\'s, b")',
            ["a"],
            Counts(changed=1, columns={"it's, b": 1}),
        ),
        ("(values (1), (2)) t(a)", "(values (2), (3)) t(a)", ["a"], Counts(added=1, removed=1)),
    ],
)
def test_rows_are_counted_once(old: str, new: str, keys: list[str], expected: Counts) -> None:
    with duckdb.connect() as connection:
        connection.execute(f"create table before as from {old}")
        connection.execute(f"create table after as from {new}")
        assert count(connection, "before", "after", keys) == expected
