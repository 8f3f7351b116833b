"""The Iceberg tables behind the releases: written in one commit each, and cleared of what no kept release refers to.

The catalog is SQLite in the store's own folder. Another one, PostgreSQL or REST for example, is named as pyiceberg
itself is configured: for the catalog ``hubspoke``, in ``.pyiceberg.yaml`` or ``PYICEBERG_CATALOG__HUBSPOKE__URI`` and
so on.
"""

import json
import threading
import uuid
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import duckdb

from hubspoke.errors import HubspokeError
from hubspoke.location import Location
from hubspoke.sql import identifier, quoted

if TYPE_CHECKING:
    from pyiceberg.catalog import Catalog
    from pyiceberg.table import Table

WIDE = {"HUGEINT", "UHUGEINT"}
"""DuckDB types that Parquet has no whole number for; DuckDB would write them as doubles, so they become decimals."""


class IcebergTables:
    """The tables ``<spoke>.<relation>`` of a release store.

    Files are named by their path below the location throughout.

    Args:
        root: The store's folder, which holds the catalog.
        location: Where the files are.
    """

    def __init__(self, root: Path, location: Location) -> None:
        self.root, self.location = root, location
        self._one_by_one = threading.Lock()

    def write(
        self, hub: duckdb.DuckDBPyConnection, spoke: str, name: str, relation: str, columns: dict[str, str]
    ) -> str:
        """Write a relation's rows as one Parquet file, which is of no snapshot yet.

        Args:
            hub: Connection to the hub.
            spoke: Consumer that may read it.
            name: The relation's name in releases.
            relation: The relation in the hub, as SQL names it.
            columns: DuckDB type by column.

        Returns:
            The file.
        """
        folder = f"{_folder(spoke, name)}/data"
        file = f"{folder}/{uuid.uuid4()}.parquet"
        self.location.make(folder)
        wide = [identifier(column) for column, type_name in columns.items() if type_name in WIDE]
        casts = f" replace ({', '.join(f'{column}::decimal(38, 0) as {column}' for column in wide)})" if wide else ""
        path = quoted(self.location.name(file))
        with self.location.durable(folder):
            hub.execute(f"copy (select *{casts} from {relation}) to '{path}' (format parquet, compression zstd)")
        return file

    def commit(self, spoke: str, name: str, columns: dict[str, str], file: str) -> tuple[int, str]:
        """Make a relation's table hold the rows of a file, as a new snapshot; several threads may, of several tables.

        Args:
            spoke: Consumer that may read it.
            name: The relation's name in releases.
            columns: DuckDB type by column.
            file: What ``write`` returned.

        Returns:
            The snapshot, and the table's metadata file as of it.

        Raises:
            HubspokeError: The catalog's table belongs to another store.
        """
        # slow to import (1 s), and not needed by a run that changes nothing
        import pyarrow.parquet as parquet
        from pyiceberg.exceptions import NoSuchTableError

        from hubspoke.iceberg_commit import replace_rows

        folder = _folder(spoke, name)
        url = f"{self.location.url}/{folder}"
        with self.location.durable(folder):
            schema = parquet.read_schema(self.location.name(file), filesystem=self.location.filesystem)
            with self._one_by_one:
                catalog = self.catalog
            try:
                table = catalog.load_table((spoke, name))
            except NoSuchTableError:
                with self._one_by_one:
                    catalog.create_namespace_if_not_exists(spoke)
                    table = catalog.create_table((spoke, name), schema, location=url)
            if table.location() != url:
                raise HubspokeError(
                    f"table {spoke}.{name} of the Iceberg catalog belongs to the release store at {table.location()}; "
                    "give this store a catalog of its own"
                )
            replace_rows(table, schema, columns, [f"{self.location.url}/{file}"])
        snapshot = table.current_snapshot()
        assert snapshot is not None  # noqa: S101 -- it has just been made
        return snapshot.snapshot_id, self.location.relative(table.metadata_location)

    @cached_property
    def catalog(self) -> "Catalog":
        """The catalog, opened once."""
        from pyiceberg.catalog import load_catalog
        from pyiceberg.utils.config import Config

        given: dict[str, Any] = Config().get_catalog_config("hubspoke") or {}
        own = {"type": "sql", "uri": f"sqlite:///{self.root}/catalog.db"} if "uri" not in given else {}
        # what pyiceberg would choose for S3 does not heed AWS_ENDPOINT_URL
        reach = {} if self.location.is_local else {"py-io-impl": "pyiceberg.io.fsspec.FsspecFileIO"}
        # given, too: pyiceberg itself reads the environment when it is imported, not when it is asked
        return load_catalog("hubspoke", **given, **own, **reach, warehouse=f"{self.location.url}/tables")

    def forget(self) -> None:
        """Start the store's own catalog anew: what it says is of another folder."""
        (self.root / "catalog.db").unlink(missing_ok=True)

    def clear(self, kept: dict[tuple[str, str], list[tuple[int, list[str], str]]]) -> int:
        """Remove what no kept release refers to: data files, snapshots, metadata; of tables and of whole tables.

        A table whose last commit never became a release, because its writer was killed, is what it was at the newest
        release again. May be killed and run again.

        Args:
            kept: What the kept releases hold, by spoke and relation: snapshot, data files, metadata file; oldest first.

        Returns:
            Bytes of data that are free now.
        """
        freed = 0
        by_table: dict[tuple[str, str], dict[str, int]] = {}
        for file, size in self.location.files("tables").items():
            spoke, name = file.split("/")[1:3]
            by_table.setdefault((spoke, name), {})[file] = size
        for (spoke, name), found in sorted(by_table.items()):
            versions = kept.get((spoke, name), [])
            held = {file for _, version, _ in versions for file in version}
            folder = _folder(spoke, name)
            orphans = [file for file in found if file.startswith(f"{folder}/data/") and file not in held]
            # data is written first and removed last: without such a file there is nothing else to clear
            if not orphans and versions:
                continue
            self._restore(spoke, name, [(snapshot, metadata) for snapshot, _, metadata in versions])
            for file in orphans:
                freed += found[file]
                self.location.remove(file)
            if not versions:
                self.location.remove_folder(folder)
        return freed

    def _restore(self, spoke: str, name: str, versions: list[tuple[int, str]]) -> None:
        """Make a table what it was at the last of these versions, with no other snapshot than theirs."""
        from pyiceberg.exceptions import NoSuchTableError

        catalog = self.catalog
        wanted = versions[-1] if versions else (0, "")
        try:
            table = catalog.load_table((spoke, name))
            snapshot = table.current_snapshot()
        except NoSuchTableError:
            table, snapshot = None, None
        if table and table.location() != f"{self.location.url}/{_folder(spoke, name)}":
            return  # another store's, in a catalog that both were given
        if table and (snapshot is None or snapshot.snapshot_id != wanted[0]):
            catalog.drop_table((spoke, name))
            table = None
        if table is None and self._is_of_this_store(wanted[1], spoke, name):
            catalog.create_namespace_if_not_exists(spoke)
            table = catalog.register_table((spoke, name), f"{self.location.url}/{wanted[1]}")
        if table is None:
            return
        kept = {snapshot_id for snapshot_id, _ in versions}
        gone = [known.snapshot_id for known in table.snapshots() if known.snapshot_id not in kept]
        if gone:
            # the head is a version, so none of these is
            table.maintenance.expire_snapshots().by_ids(gone).commit()
            table = catalog.load_table((spoke, name))
        self._remove_metadata(table, {metadata for _, metadata in versions})

    def _remove_metadata(self, table: "Table", kept: set[str]) -> None:
        """Remove the metadata files of a table that neither it nor a kept version of it names."""
        relative = self.location.relative
        named = kept | {relative(table.metadata_location)}
        named |= {relative(entry.metadata_file) for entry in table.metadata.metadata_log}
        for snapshot in table.snapshots():
            named.add(relative(snapshot.manifest_list))
            named |= {relative(manifest.manifest_path) for manifest in snapshot.manifests(table.io)}
        for file in self.location.files(f"{_folder(*table.name()[-2:])}/metadata"):
            if file not in named:
                self.location.remove(file)

    def _is_of_this_store(self, metadata: str, spoke: str, name: str) -> bool:
        text = self.location.read(metadata) if metadata else None
        return text is not None and json.loads(text)["location"] == f"{self.location.url}/{_folder(spoke, name)}"


def _folder(spoke: str, name: str) -> str:
    """Return the folder of a table, below the location."""
    return f"tables/{spoke}/{name}"
