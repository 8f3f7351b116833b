"""One commit to an Iceberg table, in which its rows become others."""

import json

import pyarrow as pa
from pyiceberg.expressions import AlwaysTrue
from pyiceberg.table import Table, Transaction
from pyiceberg.table.metadata import TableMetadata


def replace_rows(table: Table, schema: pa.Schema, columns: dict[str, str], files: list[str], **properties: str) -> None:
    """Make a table's rows those of some Parquet files, which become its own.

    What the rows are and the rows themselves change in one commit: a kill leaves the table as it was.

    Args:
        table: The table.
        schema: Arrow schema of the files.
        columns: DuckDB type by column; a column whose type is another than before is another column.
        files: URLs of the files.
        properties: What else is noted with the table.
    """
    with _Transaction(table) as transaction:
        known = json.loads(table.properties.get("columns", "null"))
        if known != columns:
            gone = [
                column
                for column in table.schema().column_names
                if not known or known.get(column) != columns.get(column)
            ]
            with transaction.update_schema(allow_incompatible_changes=True) as update:
                for column in gone:
                    update.delete_column(column)
            with transaction.update_schema(allow_incompatible_changes=True) as update:
                update.union_by_name(schema)
            properties["columns"] = json.dumps(columns)
        if properties:
            transaction.set_properties(properties)
        if table.current_snapshot():
            transaction.delete(AlwaysTrue())
        transaction.add_files(files, check_duplicate_files=False)  # those before are gone


class _Transaction(Transaction):
    """A transaction that works out once what each of its updates makes of the table.

    The library's own does so wherever it looks at the table, almost forty times a commit, and copies all snapshots each
    time: that was most of a commit, and the more the more releases are kept.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._worked_out: tuple[object, object, TableMetadata] | None = None

    @property
    def table_metadata(self) -> TableMetadata:
        """The table as it is after the updates so far."""
        known = self._worked_out
        if known is None or known[0] is not self._table.metadata or known[1] is not self._updates:
            known = self._worked_out = (self._table.metadata, self._updates, super().table_metadata)
        return known[2]
