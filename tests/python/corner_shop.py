"""A corner shop: a small project in the house's rooms, for tests of what Hubspoke does with any project.

Three sources of one table each, seventeen models, and two spokes, with a rule of every severity on the way.
"""

from pathlib import Path
from typing import Any

import duckdb
import yaml

TABLES = {
    "till.sales": """
        select
            sale_id,
            1 + sale_id % 20 as product_id,
            1 + sale_id * 7 % 40 as customer_id,
            timestamp '2024-01-01 12:00:00' + interval 1 day * (sale_id % 28) as sold_at,
            cast(50 + sale_id * 37 % 1000 as double) / 100 as amount
        from (select unnest(range(1, 301)) as sale_id union all select 300)
    """,
    "catalog.products": """
        select
            range as product_id,
            'product ' || range as name,
            ['bakery', 'dairy', 'produce'][1 + range % 3] as department
        from range(1, 21)
    """,
    "crm.customers": "select range as customer_id, ['19-24', '25-34', '35-44'][1 + range % 3] as age from range(1, 41)",
}
"""What the sources send, by source and table; one line of the till comes twice."""

LANDED = {"_load_id": "varchar", "_loaded_at": "timestamp"}
PERSONAL = {"meta": {"class": "personal"}}
KEY = ["unique", "not_null"]
QUARANTINE = {"config": {"meta": {"on_failure": "quarantine"}}}
SALES = {
    "sale_id": "bigint",
    "product_id": "bigint",
    "customer_id": "bigint",
    "sale_date": "date",
    "sales_amount": "decimal(18,2)",
}
PRODUCTS = {"product_id": "bigint", "product_name": "varchar", "department_name": "varchar"}
CUSTOMERS = {"customer_id": "bigint", "age_range": "varchar"}
DEPARTMENTS = {"department_name": "varchar", "sale_count": "bigint", "sales_amount": "decimal(18,2)"}
DAYS = {"sale_date": "date", "sale_count": "bigint", "sales_amount": "decimal(18,2)"}
WEEKS = {"week_start_date": "date", "sale_count": "bigint", "sales_amount": "decimal(18,2)"}
REGULARS = {"customer_id": "bigint", "age_range": "varchar", "sale_count": "bigint"}

STAGING = {
    "till.sales": [
        "sale_id",
        "product_id",
        "customer_id",
        "cast({{ store_local_time('sold_at') }} as date) as sale_date",
        "cast(amount as decimal(18, 2)) as sales_amount",
    ],
    "catalog.products": ["product_id", "name as product_name", "department as department_name"],
    "crm.customers": ["customer_id", "age as age_range"],
}

MARTS = {
    "sales/mart_sales__departments": """\
with sales as (

    select * from {{ ref('fct_sales') }}

),

products as (

    select * from {{ ref('dim_products') }}

),

final as (

    select
        products.department_name,
        count(*) as sale_count,
        cast(sum(sales.sales_amount) as decimal(18, 2)) as sales_amount
    from sales
    inner join products on sales.product_id = products.product_id
    group by products.department_name

)

select * from final
""",
    "sales/mart_sales__days": """\
with sales as (

    select * from {{ ref('fct_sales') }}

),

final as (

    select
        sale_date,
        count(*) as sale_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount
    from sales
    group by sale_date

)

select * from final
""",
    "sales/mart_sales__weeks": """\
with days as (

    select * from {{ ref('mart_sales__days') }}

),

final as (

    select
        cast({{ dbt.date_trunc('week', 'sale_date') }} as date) as week_start_date,
        cast(sum(sale_count) as bigint) as sale_count,
        cast(sum(sales_amount) as decimal(18, 2)) as sales_amount
    from days
    group by cast({{ dbt.date_trunc('week', 'sale_date') }} as date)

)

select * from final
""",
    "customers/mart_customers__regulars": """\
with sales as (

    select * from {{ ref('fct_sales') }}

),

customers as (

    select * from {{ ref('dim_customers') }}

),

final as (

    select
        customers.customer_id,
        customers.age_range,
        count(*) as sale_count
    from sales
    inner join customers on sales.customer_id = customers.customer_id
    group by
        customers.customer_id,
        customers.age_range

)

select * from final
""",
}

AS_SENT = """\
-- what the departments sold is what the till sent, to the cent
with sent as (

    select sum(cast(amount as decimal(18, 2))) as sales_amount
    from (select distinct * from {{ source('till', 'sales') }}) as distinct_lines

),

departments as (

    select sum(sales_amount) as sales_amount from {{ ref('mart_sales__departments') }}

)

select
    sent.sales_amount as sent_amount,
    departments.sales_amount
from sent
inner join departments on sent.sales_amount != departments.sales_amount
"""


def selected(parent: str, columns: list[str]) -> str:
    """A query that takes columns of one parent, in the form of the house."""
    listed = ",\n        ".join(columns)
    return (
        f"with given as (\n\n    select * from {{{{ {parent} }}}}\n\n),\n\n"
        f"final as (\n\n    select\n        {listed}\n    from given\n\n)\n\nselect * from final\n"
    )


def write_yaml(file: Path, kind: str, content: dict[str, Any]) -> None:
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(yaml.safe_dump({kind: [content]}, sort_keys=False, width=1000))


def write_model(
    file: Path, sql: str, columns: dict[str, str], tests: dict[str, Any] | None = None, **about: Any
) -> None:
    """Write a model and the YAML beside it; what a row is of goes by its first column.

    Args:
        file: Where the model lies, without a suffix.
        sql: Its query.
        columns: Data types by name.
        tests: Rules of the columns by their names, and of the model itself by "".
        about: What else is said of the model.
    """
    key = next(iter(columns))
    described: list[dict[str, Any]] = []
    for column, data_type in columns.items():
        said: dict[str, Any] = {"name": column, "data_type": data_type, "description": column.replace("_", " ") + "."}
        if column == "age_range":
            said["config"] = PERSONAL
        if tests and column in tests:
            said["data_tests"] = tests[column]
        described.append(said)
    own = {"data_tests": tests[""]} if tests and "" in tests else {}
    name = file.name
    file.parent.mkdir(parents=True, exist_ok=True)
    file.with_name(f"{name}{'_v1' if 'versions' in about else ''}.sql").write_text(sql)
    description = f"Of a corner shop. Grain: one row per {key.replace('_', ' ')}."
    model = {"name": name, "description": description, **about, **own, "columns": described}
    write_yaml(file.with_name(f"{name}.yml"), "models", model)


def write_table(root: Path, table: str, query: str = "") -> None:
    """Let a source send a table anew: what it sent at first, or another query."""
    file = root / f"exports/{table.split('.')[1]}.parquet"
    file.parent.mkdir(exist_ok=True)
    # written beside it first: the query may read what it replaces
    duckdb.sql(f"copy ({query or TABLES[table]}) to '{file}.new' (format parquet)")
    Path(f"{file}.new").replace(file)


def write_corner_shop(root: Path) -> None:
    """Write the shop's models, rules and exposures, and what its sources send, into a project that has none."""
    for table in TABLES:
        write_table(root, table)
        source, name = table.split(".")
        columns: list[dict[str, Any]] = [{"name": column} for column in [*duckdb.sql(TABLES[table]).columns, *LANDED]]
        if source == "crm":
            columns[1]["config"] = PERSONAL
        else:
            columns[0]["data_tests"] = ["not_null"] if source == "till" else KEY
        content = {
            "name": source,
            "schema": f"landing_{source}",
            "config": {"meta": {"owner": "Owner", "ingest": {"mechanism": "export", "location": "exports"}}},
            "tables": [{"name": name, "config": {"meta": {"file": f"{name}.parquet"}}, "columns": columns}],
        }
        write_yaml(root / f"models/hub/staging/{source}/_{source}__sources.yml", "sources", content)
    write_hub(root / "models")
    write_marts(root / "models")
    write_spokes(root / "models/spokes")
    (root / "tests/singular").mkdir(parents=True)
    (root / "tests/singular/department_sales_are_as_sent.sql").write_text(AS_SENT)


def write_hub(models: Path) -> None:
    rooms: dict[str, tuple[dict[str, str], dict[str, Any], str]] = {
        "till.sales": (
            SALES,
            {
                "": [{"rows_conserved": {"arguments": {"from_model": "ref('stg_till__sales')"}}}],
                "sale_id": [{"unique": {"name": "sale_sent_twice", **QUARANTINE}}, "not_null"],
                "product_id": [{"relationships": {"arguments": {"to": "ref('core_products')", "field": "product_id"}}}],
                "sales_amount": [{"accepted_range": {"name": "no_sale_below_zero", "arguments": {"min_value": 0}}}],
            },
            "fct_sales",
        ),
        "catalog.products": (PRODUCTS, {"product_id": KEY}, "dim_products"),
        "crm.customers": (CUSTOMERS, {"customer_id": KEY}, "dim_customers"),
    }
    for table, (columns, tests, interface) in rooms.items():
        source, name = table.split(".")
        landed = selected(f"source('{source}', '{name}')", [*STAGING[table], *LANDED])
        write_model(models / f"hub/staging/{source}/stg_{source}__{name}", landed, columns | LANDED)
        core = selected(f"ref('stg_{source}__{name}')", [*columns, *LANDED])
        write_model(models / f"hub/core/core_{name}", core, columns | LANDED, tests)
        write_model(
            models / f"facade/{interface}",
            selected(f"ref('core_{name}')", list(columns)),
            columns,
            latest_version=1,
            versions=[{"v": 1}],
        )


def write_marts(models: Path) -> None:
    for columns, (place, sql) in zip((DEPARTMENTS, DAYS, WEEKS, REGULARS), MARTS.items(), strict=True):
        write_model(models / f"marts/{place}", sql, columns, {next(iter(columns)): KEY})
    about = models / "marts/sales/mart_sales__weeks.yml"
    case = {
        "name": "a_week_begins_on_monday",
        "model": "mart_sales__weeks",
        "given": [{"input": "ref('mart_sales__days')", "rows": [{"sale_date": "2024-01-07", "sale_count": 2}]}],
        "expect": {"rows": [{"week_start_date": "2024-01-01", "sale_count": 2}]},
    }
    about.write_text(about.read_text() + yaml.safe_dump({"unit_tests": [case]}, sort_keys=False))


def write_spokes(spokes: Path) -> None:
    ordered = {
        "bi": {"sales__departments": DEPARTMENTS, "sales__days": DAYS, "sales__weeks": WEEKS},
        "crm": {"customers__regulars": REGULARS},
    }
    for spoke, marts in ordered.items():
        names = []
        for mart, columns in marts.items():
            names.append(f"spoke_{spoke}__{mart.split('__')[1]}")
            write_model(spokes / spoke / names[-1], selected(f"ref('mart_{mart}')", list(columns)), columns)
        how = ["file", "postgres"] if spoke == "bi" else "file"
        meta: dict[str, Any] = {"spoke": spoke, "delivery": {"how": how, "when": "every release"}}
        if spoke == "crm":
            meta["personal_data_purpose"] = "A letter is worded by the age."
        exposure = {
            "name": f"{spoke}_reports",
            "type": "dashboard",
            "owner": {"name": spoke, "email": f"{spoke}@example.com"},
            "depends_on": [f"ref('{name}')" for name in names],
            "config": {"meta": meta},
        }
        write_yaml(spokes / spoke / f"_{spoke}__exposures.yml", "exposures", exposure)
