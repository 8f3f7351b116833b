"""What is to be ingested: the ``meta`` of dbt's own source files, read and checked."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ByteSize, ConfigDict, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hubspoke.errors import HubspokeError

PACKAGE = "package:"


class Ingest(BaseModel):
    """How a source's data is fetched (``config.meta.ingest`` of a source).

    Attributes:
        mechanism: ``export``: the source leaves whole files; each table names its own. ``cdc``: the source is a
            PostgreSQL database, of which a whole copy and then the change log is landed.
        location: For ``export``: folder of those files, absolute or from the project's root, or
            ``package:<module>/<folder>`` for files that an installed Python package ships.
        connection: For ``cdc``: name of the database's address (``hubspoke/connections.py``).
        publication: For ``cdc``: PostgreSQL's publication of the tables; default: ``hubspoke_<source>``.
        slot: For ``cdc``: the replication slot to make and follow; default: ``hubspoke_<source>``.
        retained_wal_limit: For ``cdc``: ``hubspoke cdc status`` is alarmed once the database keeps more of its log for
            this source, for example ``500MB``.
    """

    model_config = ConfigDict(extra="forbid")
    mechanism: Literal["export", "cdc"]
    location: str | None = None
    connection: str | None = None
    publication: str | None = None
    slot: str | None = None
    retained_wal_limit: ByteSize = ByteSize(10_000_000_000)

    @model_validator(mode="after")
    def _is_complete(self) -> "Ingest":
        needed = {"export": "location", "cdc": "connection"}[self.mechanism]
        if not getattr(self, needed):
            raise PydanticCustomError("incomplete", f"{needed}: Field required for mechanism {self.mechanism}")
        return self


class SourceTable(BaseModel):
    """One table of a source, ready to be ingested.

    Attributes:
        source: dbt source, for example ``pos``.
        table: dbt source table, for example ``transactions``.
        path: The file that holds it now; none where the mechanism has no files.
        declared_in: YAML file that says so.
        ingest: How its source is ingested.
        relation: For ``cdc``: the table in the database, ``<schema>.<table>``; default: its name here, in ``public``.
        key: For ``cdc``: columns that tell its rows apart, where the database declares none.
    """

    source: str
    table: str
    path: Path = Path()
    declared_in: Path
    ingest: Ingest = Ingest(mechanism="export", location=".")
    relation: str = ""
    key: tuple[str, ...] = ()

    @property
    def name(self) -> str:
        """Name of the table as a user writes it: ``<source>.<table>``."""
        return f"{self.source}.{self.table}"


def read_sources(root: Path) -> list[SourceTable]:
    """List every source table of the project that says where it comes from, in the order of the files.

    Args:
        root: The project's folder.

    Raises:
        HubspokeError: A source file is not YAML, or its ``meta`` is not what ingestion understands.
    """
    tables: list[SourceTable] = []
    for path in sorted((root / "models").rglob("*__sources.yml")):
        where = path.relative_to(root)
        try:
            content = yaml.safe_load(path.read_text()) or {}
        except yaml.YAMLError as error:
            raise HubspokeError(f"{where}: not valid YAML: {error}") from None
        for source in content.get("sources", []):
            ingest = _meta(source).get("ingest")
            if ingest is not None:
                tables += _read_source(root, where, source, ingest)
    return tables


def _read_source(root: Path, where: Path, source: dict[str, Any], meta: dict[str, Any]) -> list[SourceTable]:
    try:
        ingest = Ingest.model_validate(meta)
        location = _resolve(root, ingest.location) if ingest.mechanism == "export" and ingest.location else Path()
    except ValidationError as error:
        faults = "; ".join(": ".join([*map(str, fault["loc"]), fault["msg"]]) for fault in error.errors())
        raise HubspokeError(f"{where}: source {source['name']}: meta.ingest: {faults}") from None
    except HubspokeError as error:
        raise HubspokeError(f"{where}: source {source['name']}: {error}") from None
    tables = []
    for table in source.get("tables", []):
        meta = _meta(table)
        known = {"source": source["name"], "table": table["name"], "declared_in": where, "ingest": ingest}
        if ingest.mechanism == "cdc":
            relation = meta.get("relation") or f"public.{table['name']}"
            tables.append(SourceTable(**known, relation=relation, key=tuple(meta.get("key") or ())))
        elif meta.get("file"):
            tables.append(SourceTable(**known, path=location / meta["file"]))
        else:
            raise HubspokeError(
                f"{where}: source {source['name']}, table {table['name']}: say which file it is: "
                f"config: {{ meta: {{ file: {table['name']}.parquet }} }}"
            )
    return tables


def _meta(entry: dict[str, Any]) -> dict[str, Any]:
    return dict((entry.get("config") or {}).get("meta") or {})


def _resolve(root: Path, location: str) -> Path:
    if not location.startswith(PACKAGE):
        return (root / location).resolve()
    module, _, folder = location.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise HubspokeError(f"location {location}: the Python package {module} is not installed. Run: make install")
    return Path(spec.origin).parent / folder
