"""What the quality gate costs beside the best statements by hand, beside a query for each rule, and in a build.

Start it with: make bench. The gate's own statements are taken from dbt's log of a build of a small project over real
rows, and run again in one process and on one table, in turn with the others; the best of several counts.

    gate        what the gate runs: counts for each rule; where rows are taken out, those rows with a flag for each rule
    by hand     the same rows and counts by statements that know this table, the quickest of several shapes
    one a rule  what dbt does by itself: a query for each rule, which keeps its rows where rows are taken out

It stops if these do not count the same. Nothing of the project's own warehouse is touched.
"""

import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import duckdb
import yaml
from build import BIN, ROOT, run, write_empty_project
from rich.console import Console
from rich.table import Table

from hubspoke.sources import read_sources

REPEATS = {"transactions": 20, "promotions": 2}
"""The shorter a statement, the more does one run of it tell of the machine."""
BUILDS = 4
"""Builds of the example with the gate, and as many without."""
MEMORY_LIMIT = "1500MB"
COUNTS = "as rows_tested"
KEY_COUNTS = "from gate_repeated"
"""What tells the gate's statements that count for all rules, and for a key whose rows are taken out, from others."""

Rule = dict[str, Any]

KEYS = {"transactions": ["basket_id", "product_id"], "promotions": ["product_id", "store_id", "week"]}
SPOILT = {"transactions": "quantity", "promotions": "week"}
"""The column that bad rows are made bad in."""

ACTIONS = [("transactions", "fail"), ("transactions", "quarantine"), ("promotions", "quarantine")]
CASES = [(table, action, share) for table, action in ACTIONS for share in (0.0, 0.001, 0.05, 0.6)]


def in_range(column: str, least: int, most: int) -> Rule:
    """A rule that both bounds of must hold, named after them."""
    arguments = {"column_name": column, "min_value": least, "max_value": most}
    return {"accepted_range": {"name": f"{column}_{most}", "arguments": arguments}}


def given(column: str) -> Rule:
    """A rule that a column has a value."""
    return {"not_null": {"name": f"{column}_given", "arguments": {"column_name": column}}}


def rules_for(table: str) -> list[Rule]:
    """Make 100 rules on the rows of transactions, a relationship and a key among them, or 20 on those of promotions."""
    key: Rule = {"unique_combination": {"name": "key", "arguments": {"columns": KEYS[table]}}}
    if table == "promotions":
        columns = ["product_id", "store_id", "week", "display_location", "mailer_location"]
        return [*[in_range("week", -n, 53 + n) for n in range(14)], *map(given, columns), key]
    numbers = ["quantity", "sales_value", "retail_disc", "coupon_disc", "coupon_match_disc", "week", "store_id"]
    ranges = [in_range(column, -n, 10**6 + n) for n in range(13) for column in numbers]
    household = {"column_name": "household_id", "to": "ref('households')", "field": "household_id"}
    relationship: Rule = {"relationships": {"name": "household", "arguments": household}}
    return [*ranges, *map(given, numbers), relationship, key]


def write_project(folder: Path, table: str, action: str, share: float) -> str:
    """Write a project of one model over real rows, of which a share is made bad; return the model's query."""
    write_empty_project(folder)
    core = folder / "models/hub/core"
    core.mkdir(parents=True)
    [path] = [source.path for source in read_sources(ROOT) if source.table == table]
    column = SPOILT[table]
    # spread over the table, as bad rows are in life
    is_bad = f"hash({', '.join(KEYS[table])}) % 1000 < {round(share * 1000)}"
    query = f"select * replace (if({is_bad}, -100, {column}) as {column}) from read_parquet('{path}')"
    (core / "households.sql").write_text("select range as household_id from range(1, 2501)")
    (core / f"{table}.sql").write_text(f"{query}\n-- depends_on: {{{{ ref('households') }}}}\n")
    columns = [{"name": name} for name in duckdb.sql(f"{query} limit 0").columns]
    rules = rules_for(table)
    for rule in rules:
        next(iter(rule.values()))["config"] = {"meta": {"on_failure": action}}
    (core / f"{table}.yml").write_text(
        yaml.safe_dump({"models": [{"name": table, "columns": columns, "data_tests": rules}]})
    )
    return query


def statements_of_the_gate(folder: Path, table: str) -> list[str]:
    """Build the project and return what its gate ran to find and to count the rows, as dbt logged it."""
    run(folder / "warehouse", BIN / "dbt", "--log-format-file", "json", "run", project=folder)
    found = []
    for line in (folder / "logs/dbt.log").read_text().splitlines():
        event = json.loads(line)
        # dbt's comment on top of a statement says for which node it is
        if event["info"]["name"] == "SQLQuery" and f'"model.hubspoke.{table}"' in event["data"]["sql"]:
            sql = event["data"]["sql"].replace('"hub".', "")
            if any(part in sql for part in ("temp table gate_", COUNTS, KEY_COUNTS, "as quarantined")):
                found.append(sql)
    return found


def by_hand(table: str, action: str, rules: list[Rule]) -> dict[str, list[str]]:
    """Write the statements that find the same counts, and the same rows where rows are taken out.

    Returns:
        By shape; ``one a rule`` is a query for each.
    """
    relation = f'core."{table}"'
    key = ", ".join(KEYS[table])
    broken = []
    for rule in rules:
        [(template, body)] = rule.items()
        asked = body["arguments"]
        column = asked.get("column_name")
        if template == "accepted_range":
            broken.append(f"({column} < {asked['min_value']} or {column} > {asked['max_value']})")
        elif template == "not_null":
            broken.append(f"({column} is null)")
        elif template == "relationships":
            broken.append(f"({column} not in (select household_id from core.households))")
    is_broken = " or ".join(broken)
    hashes = f"select hash({key}) as h from {relation}"
    in_order = f"select h, lag(h) over (order by h) as before from ({hashes})"
    may_repeat = f"hash({key}) in (select h from ({in_order}) where h = before)"
    numbered = f"select row_number() over (partition by {key} order by {key}) as nth from {relation}"
    if action == "fail":

        def more(where: str = "true") -> str:
            again = f"select count(*) - 1 as more from {relation} where {where} group by {key} having count(*) > 1"
            return f"(select coalesce(sum(more), 0) from ({again}))"

        filtered = ", ".join(f"count(*) filter (where {sql})" for sql in broken)
        folded = ", ".join(f"count_if({sql})" for sql in broken)
        return {
            "count of bad rows": [f"select {filtered}, {more()} from {relation} where {is_broken}"],
            "count_if": [f"select {folded}, {more()} from {relation}"],
            "hashes of the key first": [f"select {folded}, {more(may_repeat)} from {relation}"],
            "one a rule": [
                *[f"select count(*) from {relation} where {sql}" for sql in broken],
                f"select count(*) from ({numbered}) where nth > 1",
            ],
        }
    nth = f"row_number() over (partition by {key} order by ({is_broken}) is true, {key})"
    flags = [*[f"coalesce({sql}, false)" for sql in broken], f"{nth} > 1"]
    named = ", ".join(f"{flag} as f{n}" for n, flag in enumerate(flags))
    counts = f"select {', '.join(f'coalesce(count_if(f{n}), 0)' for n in range(len(flags)))} from failing"
    any_flag = " or ".join(f"f{n}" for n in range(len(flags)))
    create = "create or replace temp table failing as"

    def keep_failing(where: str = "true") -> str:
        repeated = f"({key}) in (select ({key}) from {relation} where {where} group by {key} having count(*) > 1)"
        return f"{create} select rowid as row, {named} from {relation} where {is_broken} or {repeated}"

    keeping = f"select * from (select rowid as row, {nth} as nth from {relation}) where nth > 1"
    return {
        "first the rows": [keep_failing(), counts],
        "hashes of the key first": [keep_failing(may_repeat), counts],
        "flags at once": [
            f"{create} select * from (select rowid as row, {named} from {relation}) where {any_flag}",
            counts,
        ],
        "one a rule": [
            statement
            for query in [*[f"select rowid as row from {relation} where {sql}" for sql in broken], keeping]
            for statement in (f"{create} {query}", "select count(*) from failing")
        ],
    }


def measure(table: str, action: str, share: float, folder: Path) -> dict[str, float]:
    """Time every way in turn.

    Returns:
        The best seconds of each way, and the peak memory of the process in bytes.
    """
    query = write_project(folder, table, action, share)
    rules = rules_for(table)
    ways = {"gate": statements_of_the_gate(folder, table), **by_hand(table, action, rules)}
    best: dict[str, float] = {}
    config: dict[str, str | bool | int | float | list[str]] = {
        "memory_limit": MEMORY_LIMIT,
        "preserve_insertion_order": False,
    }
    with duckdb.connect(folder / "warehouse/hub.duckdb", config=config) as hub:
        hub.execute(f'create or replace table core."{table}" as {query}')  # the gate has taken rows out
        for _ in range(REPEATS[table]):
            counted = {}
            for way, statements in ways.items():
                started = time.monotonic()
                answers = [hub.execute(statement).fetchone() or () for statement in statements]
                best[way] = min(time.monotonic() - started, best.get(way, 1e9))
                counted[way] = answers[-1]
                if way == "gate":
                    [counts] = [answer for answer, sql in zip(answers, statements, strict=True) if COUNTS in sql]
                    of_keys = [answer for answer, sql in zip(answers, statements, strict=True) if KEY_COUNTS in sql]
                    counted[way] = counts[1:] + tuple(number for answer in of_keys for number in answer)
            kept = 2 if action == "quarantine" else 1
            counted["one a rule"] = tuple(answer[0] for answer in answers[kept - 1 :: kept])
            # what is compared must be the same work
            assert len(set(counted.values())) == 1, counted  # noqa: S101
    return {**best, "memory": resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024.0}


def cost_in_a_build(folder: Path) -> tuple[float, float]:
    """Return the seconds that a build of the example's models takes with their gate and without.

    The best of some, in turn. Tests are left out: without a gate, each would scan its model.
    """
    hook = '      - { sql: "{{ quality_gate() }}", transaction: false }\n'
    best: dict[str, float] = {}
    for name in ("gated", "plain"):
        copy = folder / name
        tracked = subprocess.run(["git", "ls-files", "-z"], cwd=ROOT, capture_output=True, text=True, check=True).stdout
        for file in filter(None, tracked.split("\0")):
            (copy / file).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(ROOT / file, copy / file, follow_symlinks=False)
    settings = folder / "plain/dbt_project.yml"
    assert hook in settings.read_text()  # noqa: S101 -- else both builds are gated
    settings.write_text(settings.read_text().replace(hook, ""))
    warehouse = folder / "warehouse"
    run(warehouse, BIN / "hubspoke", "ingest", project=folder / "gated")
    for name in ("gated", "plain"):
        run(warehouse, BIN / "dbt", "seed", project=folder / name)
    os.environ["DBT_INDIRECT_SELECTION"] = "empty"  # the models, and not their tests
    for _ in range(BUILDS):
        for name in ("plain", "gated"):
            cost = run(warehouse, BIN / "hubspoke", "build", "--select", "resource_type:model", project=folder / name)
            best[name] = min(cost.seconds, best.get(name, 1e9))
    return best["gated"], best["plain"]


def main() -> None:
    """Measure every case in a process of its own, and print the tables."""
    report = Table(title="The gate beside statements by hand and a query for each rule, in seconds")
    headings = (
        "rows of",
        "rules",
        "bad",
        "gate",
        "by hand",
        "ratio",
        "limit",
        "one a rule",
        "ratio",
        "limit",
        "memory",
    )
    for heading in headings:
        report.add_column(heading, justify="left" if heading == "rows of" else "right")
    found = []
    for table, action, share in CASES:
        with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
            command = [sys.executable, __file__, table, action, str(share), temporary]
            process = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True)
        best = json.loads(process.stdout)
        memory = best.pop("memory")
        hand = min(seconds for way, seconds in best.items() if way not in {"gate", "one a rule"})
        report.add_row(
            table,
            f"{len(rules_for(table))} {action}",
            f"{share:.1%}",
            f"{best['gate']:.2f}",
            f"{hand:.2f}",
            f"{best['gate'] / hand:.2f}",
            "1.2",
            f"{best['one a rule']:.2f}",
            f"{best['gate'] / best['one a rule']:.2f}",
            "1.0",
            f"{memory / 2**30:.2f} GiB",
        )
        found.append({"table": table, "action": action, "bad": share, "memory": memory, **best})
    with tempfile.TemporaryDirectory(prefix="hubspoke-bench-") as temporary:
        gated, plain = cost_in_a_build(Path(temporary))
    report.caption = (
        f"Memory is the whole process's, DuckDB limited to {MEMORY_LIMIT}. The example's models: {gated:.1f} s with "
        f"the gate, {plain:.1f} s without, ratio {gated / plain:.2f}, limit 1.15."
    )
    Console(width=120).print(report)
    print(json.dumps([*found, {"gated": gated, "plain": plain}]))


if __name__ == "__main__":
    match sys.argv[1:]:
        case []:
            main()
        case [table, action, share, folder]:
            print(json.dumps(measure(table, action, float(share), Path(folder) / "project")))
        case _:
            sys.exit(__doc__)
