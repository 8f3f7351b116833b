"""One commit to an Iceberg table, in which its rows become others."""

import json

import pyarrow as pa
from pyiceberg.io.pyarrow import parquet_file_to_data_file
from pyiceberg.manifest import ManifestEntry, ManifestEntryStatus, ManifestFile
from pyiceberg.table import Table, TableProperties, Transaction
from pyiceberg.table.metadata import TableMetadata
from pyiceberg.table.snapshots import Operation
from pyiceberg.table.update.snapshot import _OverwriteFiles


def replace_rows(table: Table, schema: pa.Schema, columns: dict[str, str], files: list[str], **properties: str) -> None:
    """Make a table's rows those of some Parquet files, which become its own.

    What the rows are and the rows themselves change in one commit and one snapshot: a kill leaves the table as it was.

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
        if transaction.table_metadata.name_mapping() is None:  # the files know columns by their names alone
            mapping = transaction.table_metadata.schema().name_mapping
            properties[TableProperties.DEFAULT_NAME_MAPPING] = mapping.model_dump_json()
        if properties:
            transaction.set_properties(properties)
        with _Replacement(Operation.OVERWRITE, transaction, table.io) as snapshot:
            for file in files:
                snapshot.append_data_file(parquet_file_to_data_file(table.io, transaction.table_metadata, file))


class _Replacement(_OverwriteFiles):
    """A snapshot of which no row is one of the snapshot before.

    The library's own would carry on, from each snapshot to the next, what was noted of the files that left the table;
    and it would have to be told of each file that leaves, which takes reading what it then reads itself.
    """

    def _deleted_entries(self) -> list[ManifestEntry]:
        before = self._transaction.table_metadata.current_snapshot()
        entries = []
        for manifest in before.manifests(self._io) if before else ():
            if not (manifest.has_added_files() or manifest.has_existing_files()):
                continue
            for entry in manifest.fetch_manifest_entry(self._io):
                self.delete_data_file(entry.data_file)  # the snapshot's summary counts them
                gone = ManifestEntry.from_args(
                    status=ManifestEntryStatus.DELETED,
                    snapshot_id=self._snapshot_id,
                    sequence_number=entry.sequence_number,
                    file_sequence_number=entry.file_sequence_number,
                    data_file=entry.data_file,
                )
                entries.append(gone)
        return entries

    def _existing_manifests(self) -> list[ManifestFile]:
        return []


class _Transaction(Transaction):
    """A transaction that works out once what each of its updates makes of the table.

    The library's own does so wherever it looks at the table, almost forty times a commit, and copies all snapshots each
    time: that was most of a commit, and the more the more releases are kept.
    """

    def __init__(self, table: Table) -> None:
        super().__init__(table)
        self._worked_out: tuple[object, object, TableMetadata] = (table.metadata, (), table.metadata)

    @property
    def table_metadata(self) -> TableMetadata:
        """The table as it is after the updates so far."""
        base, updates, metadata = self._worked_out
        if base is not self._table.metadata or updates is not self._updates:
            metadata = super().table_metadata if self._updates else self._table.metadata
            self._worked_out = (self._table.metadata, self._updates, metadata)
        return metadata
