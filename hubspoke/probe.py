"""What a source looks like: asked before it is declared, and held against what was declared."""

from dataclasses import dataclass
from pathlib import Path

import duckdb

from hubspoke.connections import address, attach, relation
from hubspoke.conversion import canonical
from hubspoke.errors import HubspokeError
from hubspoke.file_export import BadFile, fetch, list_files
from hubspoke.file_records import csv_names, sheet_names
from hubspoke.project import Project
from hubspoke.rest import download
from hubspoke.sources import SourceTable, file_format
from hubspoke.sql import columns_of, quoted
from hubspoke.streams import opened, read_message


@dataclass(frozen=True)
class Finding:
    """What asking a table's source came to.

    Attributes:
        table: ``<source>.<table>``.
        is_reached: Whether it answered.
        says: What is wrong, or nothing.
    """

    table: str
    is_reached: bool
    says: str


def probe(project: Project, table: SourceTable, scratch: Path) -> dict[str, str]:
    """Ask a source for the columns of a table.

    Args:
        project: The project.
        table: The table.
        scratch: An empty folder for what has to be fetched.

    Returns:
        Columns and their types in DuckDB; of texts, as DuckDB would guess them. Of a stream those of its newest
        message, none if it has none.

    Raises:
        HubspokeError: It cannot be reached, or not be read.
    """
    with duckdb.connect() as connection:
        if table.has_files:
            files = list_files(table)
            if not files:
                raise HubspokeError(f"{table.name}: no file matches {table.files} in {table.folder}")
            try:
                [(name, path), *_] = fetch(table, files[-1], scratch)
                return _file_columns(connection, table, name, path)
            except (BadFile, duckdb.Error) as error:
                raise HubspokeError(f"{table.name}: {files[-1].url}: {str(error).splitlines()[0]}") from None
        if table.is_stream:
            return _message_columns(connection, project, table, scratch)
        source = address(project, str(table.ingest.connection))
        if source.kind == "rest":
            answer = scratch / "answer.jsonl"
            download(table, source, answer, None, lambda rows: None)
            return columns_of(connection, f"select * from read_json('{quoted(answer)}', format = 'newline_delimited')")
        attach(connection, source, "source")
        try:
            return columns_of(connection, f"select * from {relation(source, 'source', table.relation or table.table)}")
        except duckdb.Error as error:
            raise HubspokeError(f"{table.name}: connection {source.name}: {source.scrub(error)}") from None


def check(project: Project, tables: list[SourceTable], scratch: Path) -> list[Finding]:
    """Ask every table's source, and compare its columns with those declared."""
    findings = []
    for number, table in enumerate(tables):
        folder = scratch / str(number)
        folder.mkdir(parents=True)
        try:
            found = probe(project, table, folder)
        except HubspokeError as error:
            findings.append(Finding(table.name, False, str(error)))
            continue
        findings.append(Finding(table.name, True, "; ".join(_differences(table, found))))
    return findings


def _differences(table: SourceTable, found: dict[str, str]) -> list[str]:
    if table.is_stream and not found:
        return ["it has no message yet"]
    given = {name.lower(): data_type for name, data_type in found.items()}
    with duckdb.connect() as connection:
        declared = {
            name: canonical(connection, data_type, f"{table.declared_in}: {table.name}, column {name}")
            for name, data_type in table.columns.items()
        }
    # what a text says is read as declared; only a source that has types can have others
    has_types = not table.has_files or file_format(table.file or table.files) == "parquet"
    is_typed = has_types and table.rest is None and not table.is_stream
    differences = [f"{name} is declared and not there" for name in declared if name.lower() not in given]
    known = {name.lower() for name in declared}
    differences += [f"{name} is there and not declared" for name in found if declared and name.lower() not in known]
    differences += [
        f"{name} is {given[name.lower()].lower()}, declared {data_type.lower()}"
        for name, data_type in declared.items()
        if is_typed and given.get(name.lower(), data_type) != data_type
    ]
    return differences


def _message_columns(
    connection: duckdb.DuckDBPyConnection, project: Project, table: SourceTable, scratch: Path
) -> dict[str, str]:
    with opened(project, table) as reader:
        newest = reader.newest()
    if newest is None:
        return {}
    record = read_message(newest)
    if record.values is None:
        raise HubspokeError(f"{table.name}: its newest message cannot be read (offset {record.line}): {record.reason}")
    file = scratch / "message.json"
    file.write_text(record.raw)
    return columns_of(connection, f"select * from read_json('{quoted(file)}')")


def _file_columns(connection: duckdb.DuckDBPyConnection, table: SourceTable, name: str, path: Path) -> dict[str, str]:
    form = table.format or file_format(name) or "parquet"
    if form == "xlsx":
        return dict.fromkeys(sheet_names(path, table.sheet), "VARCHAR")
    if form == "csv":
        names = csv_names(path, table.csv)
        try:
            guessed = columns_of(
                connection,
                f"select * from read_csv('{quoted(path)}', header = true, delim = '{quoted(table.csv.delimiter)}', "
                f"quote = '{quoted(table.csv.quote)}', ignore_errors = true)",
            )
        except duckdb.Error:
            guessed = {}
        return {column: guessed.get(column, "VARCHAR") for column in names}
    reader = {"parquet": "read_parquet", "json": "read_json", "jsonl": "read_json"}[form]
    return columns_of(connection, f"select * from {reader}('{quoted(path)}')")
