"""What is to be ingested: the ``meta`` of dbt's own source files, read and checked."""

import importlib.util
from pathlib import Path
from typing import Any, Literal

import yaml
from pydantic import BaseModel, ConfigDict, ValidationError

from hubspoke.errors import HubspokeError

PACKAGE = "package:"


class Ingest(BaseModel):
    """How a source's data is fetched (``config.meta.ingest`` of a source).

    Attributes:
        mechanism: ``export``: the source leaves whole files; each table names its own.
        location: Folder of those files, absolute or from the project's root, or ``package:<module>/<folder>`` for
            files that an installed Python package ships.
    """

    model_config = ConfigDict(extra="forbid")
    mechanism: Literal["export"]
    location: str


class SourceTable(BaseModel):
    """One table of a source, ready to be ingested.

    Attributes:
        source: dbt source, for example ``pos``.
        table: dbt source table, for example ``transactions``.
        path: The file that holds it now.
        declared_in: YAML file that says so.
    """

    source: str
    table: str
    path: Path
    declared_in: Path

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


def _read_source(root: Path, where: Path, source: dict[str, Any], ingest: dict[str, Any]) -> list[SourceTable]:
    try:
        location = _resolve(root, Ingest.model_validate(ingest).location)
    except ValidationError as error:
        faults = "; ".join(f"{'.'.join(map(str, fault['loc']))}: {fault['msg']}" for fault in error.errors())
        raise HubspokeError(f"{where}: source {source['name']}: meta.ingest: {faults}") from None
    except HubspokeError as error:
        raise HubspokeError(f"{where}: source {source['name']}: {error}") from None
    tables = []
    for table in source.get("tables", []):
        file = _meta(table).get("file")
        if not file:
            raise HubspokeError(
                f"{where}: source {source['name']}, table {table['name']}: say which file it is: "
                f"config: {{ meta: {{ file: {table['name']}.parquet }} }}"
            )
        tables.append(SourceTable(source=source["name"], table=table["name"], path=location / file, declared_in=where))
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
