"""What is to be ingested: the ``meta`` of dbt's own source files, read and checked.

Where an environment has a source elsewhere, ``HUBSPOKE_SOURCES`` names a file of the same shape; what it says of a
source's ingestion counts instead.
"""

import difflib
import importlib.util
import os
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Any, Literal, get_args

import yaml
from croniter import croniter
from pydantic import BaseModel, BeforeValidator, ByteSize, ConfigDict, Field, ValidationError, model_validator
from pydantic_core import PydanticCustomError

from hubspoke.errors import HubspokeError
from hubspoke.yaml_file import LOADER

VARIABLE = "HUBSPOKE_SOURCES"
"""Environment variable that names a file: where the sources are in this environment."""
PACKAGE = "package:"
FORMATS = ("csv", "json", "jsonl", "parquet", "xlsx")

Names = Annotated[tuple[str, ...], BeforeValidator(lambda value: [value] if isinstance(value, str) else value)]


def _time(given: object) -> object:
    """Read a time such as ``90 days``; a month has 30 of them, a year 365."""
    found = re.fullmatch(r"(\d+) (day|week|month|year)s?", given) if isinstance(given, str) else None
    if found and int(found[1]):
        return int(found[1]) * timedelta(days={"day": 1, "week": 7, "month": 30, "year": 365}[found[2]])
    raise PydanticCustomError(
        "time", "{given} is no time; write for example 90 days, 6 months or 2 years", {"given": given}
    )


Time = Annotated[timedelta, BeforeValidator(_time)]


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid", frozen=True)


class Csv(_Strict):
    """How a text file is written; nothing is guessed.

    Attributes:
        delimiter: What stands between values.
        quote: What stands around a value that holds a delimiter or a line's end.
        escape: What stands before a quote that belongs to the value.
        header: Whether the first line holds the names.
        encoding: Any that Python knows.
        missing: How an empty value is written; an empty text always is one.
        skip: Lines before the header.
    """

    delimiter: str = Field(default=",", min_length=1, max_length=1)
    quote: str = Field(default='"', min_length=1, max_length=1)
    escape: str = Field(default='"', min_length=1, max_length=1)
    header: bool = True
    encoding: str = "utf-8"
    missing: str = ""
    skip: int = Field(default=0, ge=0)


class Pages(_Strict):
    """How the rows of an interface are divided into pages.

    Attributes:
        by: ``page``: a page's number; ``offset``: a row's number; ``cursor``: a text that the page before tells;
            ``link``: the page before holds the next one's address; ``header``: its Link header does; ``none``:
            there is one page.
        parameter: For the first three: name of the parameter that asks for a page.
        size: Rows of a page.
        size_parameter: Name of the parameter that asks for so many.
        next: For ``cursor`` and ``link``: where in the page before the text or address is, for example ``meta.next``.
        first: For ``page``: the first page's number.
    """

    by: Literal["none", "page", "offset", "cursor", "link", "header"] = "none"
    parameter: str = ""
    size: int | None = Field(default=None, ge=1)
    size_parameter: str = ""
    next: str = ""
    first: int = 1

    @model_validator(mode="after")
    def _is_complete(self) -> "Pages":
        if self.by in ("page", "offset", "cursor") and not self.parameter:
            raise PydanticCustomError("incomplete", f"parameter: needed where pages are by {self.by}")
        if self.by in ("cursor", "link") and not self.next:
            raise PydanticCustomError("incomplete", f"next: needed where pages are by {self.by}")
        if self.by == "offset" and not self.size:
            raise PydanticCustomError("incomplete", "size: needed where pages are by offset")
        return self


class Rest(_Strict):
    """What to ask a REST interface for.

    Attributes:
        path: Below the connection's address.
        parameters: Sent with each request.
        records: Where in an answer the rows are, for example ``data.items``; default: the answer is a list of them.
        pages: How they are divided.
        since: Name of the parameter that asks for rows whose cursor is at least a value.
    """

    path: str
    parameters: dict[str, str | int | bool] = {}
    records: str = "$"
    pages: Pages = Pages()
    since: str = ""


class Ingest(_Strict):
    """How a source's data is fetched (``config.meta.ingest`` of a source).

    Attributes:
        mechanism: ``export``: files, a SQL database or a REST interface, read whole or by what is new. ``federated``: a
            SQL database that is asked in place, by the build. ``cdc``: the change log of a PostgreSQL database.
            ``stream``: messages of NATS JetStream or Kafka.
        location: Folder of the files, absolute or from the project's root; ``package:<module>/<folder>`` for files that
            an installed Python package ships; or an address that fsspec knows (``https://…``, ``s3://…``).
        connection: Name of the address of a database, REST interface or stream (``hubspoke/connections.py``).
        auth: For REST: how the secret is sent.
        auth_name: For ``auth: key``: the header that carries it.
        requests_per_second: For REST: at most so many.
        schedule: When ``hubspoke ingest --every`` lands it, as cron writes it, in UTC; default: at each turn.
        on_schema_change: What happens to columns that are not as declared. ``evolve``: they land, what is missing is
            null. ``freeze``: nothing lands. ``quarantine``: rows that have them are rejected; not for ``cdc``.
        max_rejected: More rejected rows than this, and nothing lands.
        max_rejected_share: A larger share of rejected rows than this, and nothing lands.
        retention: How long its tables' history is kept, for example ``90 days``; default: for ever.
        pin: For ``federated``: land a copy instead.
        publication: For ``cdc``: PostgreSQL's publication of the tables; default: ``hubspoke_<source>``.
        slot: For ``cdc``: the replication slot to make and follow; default: ``hubspoke_<source>``.
        retained_wal_limit: For ``cdc``: ``hubspoke cdc status`` is alarmed once the database keeps more of its log for
            this source, for example ``500MB``.
    """

    mechanism: Literal["export", "federated", "cdc", "stream"]
    location: str | None = None
    connection: str | None = Field(default=None, pattern=r"^[A-Za-z][A-Za-z0-9_]*$")
    auth: Literal["none", "bearer", "basic", "key"] = "none"
    auth_name: str = "X-API-Key"
    requests_per_second: float | None = Field(default=None, gt=0)
    schedule: str | None = None
    on_schema_change: Literal["evolve", "freeze", "quarantine"] = "evolve"
    max_rejected: int | None = Field(default=None, ge=0)
    max_rejected_share: float | None = Field(default=None, ge=0, le=1)
    retention: Time | None = None
    pin: bool = False
    publication: str | None = None
    slot: str | None = None
    retained_wal_limit: ByteSize = ByteSize(10_000_000_000)

    @model_validator(mode="after")
    def _is_complete(self) -> "Ingest":
        if self.mechanism == "export" and self.location is None and self.connection is None:
            raise PydanticCustomError(
                "incomplete", "mechanism export: needs location (files) or connection (a database or REST)"
            )
        if self.mechanism != "export" and not self.connection:
            raise PydanticCustomError("incomplete", f"mechanism {self.mechanism}: needs connection")
        if self.mechanism == "cdc" and self.on_schema_change == "quarantine":
            raise PydanticCustomError(
                "contradiction", "on_schema_change: a change log that lacks changes is none; say evolve or freeze"
            )
        if self.schedule is not None and not (len(self.schedule.split()) == 5 and croniter.is_valid(self.schedule)):
            raise PydanticCustomError(
                "schedule", "schedule: five fields as cron writes them, for example '0 5 * * *' for daily at 05:00"
            )
        return self


class SourceTable(_Strict):
    """One table of a source, ready to be ingested; what is said of it in ``config.meta`` is marked (meta).

    Attributes:
        source: dbt source, for example ``pos``.
        table: dbt source table, for example ``transactions``.
        declared_in: YAML file that says how it is ingested.
        path: Of a table that one file on this machine holds: that file.
        folder: Where its files are, on this machine or as fsspec writes it.
        ingest: How its source is ingested.
        columns: Its declared columns and their types, without those that begin with ``_``.
        file: (meta) The one file that holds it.
        files: (meta) A pattern for several, for example ``orders-*.csv``.
        load: (meta) ``whole``: the files of now are the table. ``append``: each file adds rows to it.
        format: (meta) Default: by the file's ending.
        csv: (meta) How text files are written.
        sheet: (meta) Of a workbook; default: the first.
        relation: (meta) The table in the database; default: its name here, for ``cdc`` in ``public``.
        key: (meta) Columns that tell its rows apart.
        cursor: (meta) Column that rises with every new or changed row: only those rows are read.
        lookback: (meta) Rows are read again from so far before the highest cursor, for those that come late: a number,
            or an interval such as ``1 day``.
        rest: (meta) What to ask a REST interface for.
        topic: (meta) Of a stream: the topic, or in NATS the subject.
        frequency: (meta) How often something new is to be expected.
        retention: (meta) How long its history is kept, for example ``90 days``; default: as its source says.
        retries: (meta) How often a REST request is tried.
    """

    source: str
    table: str
    declared_in: Path
    path: Path = Path()
    folder: str = ""
    ingest: Ingest = Ingest(mechanism="export", location=".")
    columns: dict[str, str] = {}
    file: str = ""
    files: str = ""
    load: Literal["whole", "append"] = "whole"
    format: Literal["csv", "json", "jsonl", "parquet", "xlsx"] | None = None
    csv: Csv = Csv()
    sheet: str | None = None
    relation: str = ""
    key: Names = ()
    cursor: str = ""
    lookback: str | int | float | None = None
    rest: Rest | None = None
    topic: str = ""
    frequency: Literal["hourly", "daily", "weekly", "monthly", "yearly"] | None = None
    retention: Time | None = None
    retries: int = Field(default=5, ge=1)

    @property
    def name(self) -> str:
        """Name of the table as a user writes it: ``<source>.<table>``."""
        return f"{self.source}.{self.table}"

    @property
    def has_files(self) -> bool:
        """Whether files hold it; a ``location`` may stay in the YAML while another mechanism is tried."""
        return self.ingest.mechanism == "export" and self.ingest.location is not None

    @property
    def is_stream(self) -> bool:
        """Whether it comes as messages."""
        return self.ingest.mechanism == "stream"

    @property
    def is_landed(self) -> bool:
        """Whether it is copied into the landing zone; a federated source stays where it is."""
        return self.ingest.mechanism != "federated" or self.ingest.pin

    @property
    def kept_for(self) -> timedelta | None:
        """How long its history is kept; None is for ever."""
        return self.retention or self.ingest.retention

    @property
    def is_incremental(self) -> bool:
        """Whether its later loads may hold changes only."""
        return bool(self.cursor) or self.load == "append" or self.is_stream


_ABOUT = {"owner", "class"}
"""What else may be said in the ``meta`` of a table; it is not about ingestion."""
_SAID = (
    "file",
    "files",
    "load",
    "format",
    "csv",
    "sheet",
    "relation",
    "key",
    "cursor",
    "lookback",
    "rest",
    "topic",
    "frequency",
    "retention",
    "retries",
)


def read_sources(root: Path, environment: Mapping[str, str] = os.environ) -> list[SourceTable]:
    """List every source table of the project that says where it comes from, in the order of the files.

    Args:
        root: The project's folder.
        environment: Where ``HUBSPOKE_SOURCES`` may stand.

    Raises:
        HubspokeError: A source file is not YAML, or its ``meta`` is not what ingestion understands: every mistake with
            its file and line.
    """
    faults: list[str] = []
    instead = _read_elsewhere(root, environment, faults)
    declared = [
        source
        for path in sorted((root / "models").rglob("*__sources.yml"))
        for source in _Entry(_File(path, path.relative_to(root), faults)).entries("sources")
    ]
    _refuse_unknown(instead, declared, "the project has no such source")
    tables: list[SourceTable] = []
    for source in declared:
        said = instead.get(source.name, source)
        if said.meta.get("ingest") is not None:
            tables += _read_source(root, source, said)
    if faults:
        raise HubspokeError("\n".join(faults))
    return tables


class _TableMeta(_Strict):
    meta: dict[str, Any]


class _TableElsewhere(_Strict):
    name: str
    config: _TableMeta = _TableMeta(meta={})


class _SourceIngest(_Strict):
    ingest: dict[str, Any]


class _SourceMeta(_Strict):
    meta: _SourceIngest


class _SourceElsewhere(_Strict):
    name: str
    config: _SourceMeta
    tables: list[_TableElsewhere] = []


class _Elsewhere(_Strict):
    """The file that ``HUBSPOKE_SOURCES`` names: of dbt's source files, what is about ingestion."""

    sources: list[_SourceElsewhere]


def _read_elsewhere(root: Path, environment: Mapping[str, str], faults: list[str]) -> "dict[str, _Entry]":
    """Return the sources of the file that the environment names; none if it names no file, or that is not right."""
    given = environment.get(VARIABLE)
    if not given:
        return {}
    path = root / given
    if not path.is_file():
        raise HubspokeError(f"{VARIABLE} names {path}, and there is no such file")
    file = _File(path, path.relative_to(root) if path.is_relative_to(root) else path, faults)
    try:
        _Elsewhere.model_validate(file.content)
    except ValidationError as error:
        file.faults_of(error, (), f"named by {VARIABLE}", _Elsewhere)
        return {}
    return _by_name(_Entry(file).entries("sources"))


class _File:
    """A source file: what it says, and on which line."""

    def __init__(self, path: Path, where: Path, faults: list[str]) -> None:
        self.where = where
        self.faults = faults
        text = path.read_text()
        try:
            self.content: dict[str, Any] = yaml.load(text, Loader=LOADER) or {}  # noqa: S506 -- a safe one
            self._tree = yaml.compose(text, Loader=LOADER)
        except yaml.YAMLError as error:
            raise HubspokeError(f"{where}: not valid YAML: {error}") from None

    def line(self, *place: str | int) -> int:
        """Return the line of what lies at a place, or of the nearest thing around it."""
        node, line = self._tree, 1
        for step in place:
            if isinstance(node, yaml.SequenceNode) and isinstance(step, int) and step < len(node.value):
                node = node.value[step]
                line = node.start_mark.line + 1
            elif isinstance(node, yaml.MappingNode):
                found = [(key, value) for key, value in node.value if key.value == str(step)]
                if not found:
                    break
                key, node = found[0]
                line = key.start_mark.line + 1
            else:
                break
        return line

    def fault(self, place: tuple[str | int, ...], text: str) -> None:
        """Note a mistake."""
        self.faults.append(f"{self.where}:{self.line(*place)}: {text}")

    def faults_of(self, error: ValidationError, place: tuple[str | int, ...], about: str, model: type) -> None:
        """Note what a model does not accept."""
        for fault in error.errors():
            where = fault["loc"]
            said = ".".join(map(str, where))
            self.fault((*place, *where), f"{about}: {said + ': ' if said else ''}{_said(fault, model)}")


@dataclass(frozen=True)
class _Entry:
    """A source or a table where a file speaks of it; without a place, the whole file."""

    file: _File
    place: tuple[str | int, ...] = ()

    @property
    def content(self) -> Any:
        found: Any = self.file.content
        for step in self.place:
            found = found[step]
        return found

    @property
    def name(self) -> str:
        return str(self.content.get("name"))

    @property
    def meta(self) -> dict[str, Any]:
        return dict((self.content.get("config") or {}).get("meta") or {})

    def entries(self, key: str) -> "list[_Entry]":
        """List the entries that stand under a key of this one."""
        return [_Entry(self.file, (*self.place, key, number)) for number in range(len(self.content.get(key) or []))]

    def fault(self, place: tuple[str | int, ...], text: str) -> None:
        """Note a mistake at a place within."""
        self.file.fault((*self.place, *place), text)

    def faults_of(self, error: ValidationError, place: tuple[str | int, ...], about: str, model: type) -> None:
        """Note what a model does not accept, at a place within."""
        self.file.faults_of(error, (*self.place, *place), about, model)


def _by_name(entries: list[_Entry]) -> dict[str, _Entry]:
    found: dict[str, _Entry] = {}
    for entry in entries:
        if found.setdefault(entry.name, entry) is not entry:
            entry.fault(("name",), f"{entry.name} stands here twice")
    return found


def _refuse_unknown(said: dict[str, _Entry], declared: list[_Entry], text: str) -> None:
    """Note those that a file speaks of and the project does not have."""
    known = [entry.name for entry in declared]
    for name, entry in said.items():
        if name not in known:
            entry.fault(("name",), _nearest(f"{name}: {text}; there are {', '.join(known)}", name, known))


def _said(fault: Any, model: type[BaseModel]) -> str:
    """Say what is wrong with a value, and what would be right."""
    kind, given = fault["type"], fault["input"]
    if kind == "extra_forbidden":
        inner = _inner(model, fault["loc"][:-1])
        known = [name for name in inner.model_fields if inner is not SourceTable or name in _SAID or name in _ABOUT]
        return _nearest(f"there is no such setting; there are {', '.join(known)}", fault["loc"][-1], known)
    if kind == "literal_error":
        allowed = [word.strip("'") for word in fault["ctx"]["expected"].replace(" or ", ", ").split(", ")]
        return _nearest(f"{given} is not one of {', '.join(allowed)}", given, allowed)
    if kind == "missing":
        return "is missing"
    return str(fault["msg"])


def _inner(model: type[BaseModel], place: tuple[str | int, ...]) -> type[BaseModel]:
    """Return the model of what lies at a place within a model."""
    for step in place:
        if isinstance(step, str):
            kind = model.model_fields[step].annotation
            model = next(found for found in (kind, *get_args(kind)) if hasattr(found, "model_fields"))
    return model


def _nearest(text: str, given: object, known: list[str]) -> str:
    near = difflib.get_close_matches(str(given), known, n=1, cutoff=0.5)
    return f"{text}. Do you mean {near[0]}?" if near else text


def _read_source(root: Path, source: _Entry, said: _Entry) -> list[SourceTable]:
    """Read the tables of a source: columns as the project declares them, ingestion as said there or elsewhere."""
    name, at = source.name, ("config", "meta", "ingest")
    try:
        ingest = Ingest.model_validate(said.meta["ingest"])
        folder = resolve(root, ingest.location) if ingest.location is not None else ""
    except ValidationError as error:
        said.faults_of(error, at, f"source {name}: meta.ingest", Ingest)
        return []
    except HubspokeError as error:
        said.fault((*at, "location"), f"source {name}: {error}")
        return []
    instead = _by_name(said.entries("tables"))
    _refuse_unknown(instead, source.entries("tables"), f"source {name} has no such table")
    return [
        table
        for declared in source.entries("tables")
        if (table := _read_table(name, ingest, folder, declared, instead.get(declared.name, declared), said))
    ]


def _read_table(
    source: str, ingest: Ingest, folder: str, declared: _Entry, said: _Entry, source_said: _Entry
) -> SourceTable | None:
    """Read a table; None if there is a mistake, which is noted."""
    # what stands in the project may be a mistake only because of what is said elsewhere of its source
    spot = said if said.file is source_said.file else source_said
    about = f"source {source}, table {declared.name}"
    meta = {key: value for key, value in said.meta.items() if key not in _ABOUT}
    before = len(spot.file.faults)
    for key in meta:
        if key not in _SAID:
            text = f"there is no such setting; there are {', '.join(_SAID)}"
            spot.fault(("config", "meta", key), f"{about}: meta.{key}: {_nearest(text, key, list(_SAID))}")
    columns = {
        str(column["name"]): str(column.get("data_type") or "varchar")
        for column in declared.content.get("columns") or []
        if not str(column["name"]).startswith("_")
    }
    if ingest.mechanism == "cdc":
        meta.setdefault("relation", f"public.{declared.name}")
    try:
        read = SourceTable(
            source=source,
            table=declared.name,
            declared_in=spot.file.where,
            ingest=ingest,
            folder=folder,
            columns=columns,
            **{key: value for key, value in meta.items() if key in _SAID},
            path=Path(folder) / str(meta["file"]) if meta.get("file") and "://" not in folder else Path(),
        )
    except ValidationError as error:
        spot.faults_of(error, ("config", "meta"), f"{about}: meta", SourceTable)
        return None
    for text in _contradictions(read):
        spot.fault(("config", "meta"), f"{about}: {text}")
    for word in [*read.key, read.cursor]:
        if word and columns and word not in columns:
            text = _nearest(f"{word} is none of its columns", word, list(columns))
            spot.fault(("config", "meta", "cursor" if word == read.cursor else "key"), f"{about}: {text}")
    return read if len(spot.file.faults) == before else None


def _contradictions(table: SourceTable) -> list[str]:
    found = []
    if table.topic and not table.is_stream:
        found.append("topic is for mechanism: stream")
    if table.ingest.mechanism == "cdc":
        return found
    if table.is_stream:
        if not table.topic:
            found.append("say which topic it is, in NATS a subject: config: { meta: { topic: orders.created } }")
        for word in ("cursor", "rest", "load"):
            if word in table.model_fields_set:
                found.append(f"{word} is not for a stream, of which each message lands")
        return found
    if table.has_files:
        if bool(table.file) == bool(table.files):
            found.append(
                f"say which file it is: config: {{ meta: {{ file: {table.table}.parquet }} }}, "
                f"or for several: {{ files: {table.table}-*.csv }}"
            )
        elif not table.format and file_format(table.file or table.files) is None:
            found.append(f"its file's ending says no format; say format: one of {', '.join(FORMATS)}")
        if table.load == "append" and table.file:
            found.append("load: append is for several files: say files, a pattern")
    elif (table.file or table.files) and table.ingest.location is None:
        found.append("file and files are for a source with a location; this one has a connection")
    if table.cursor and table.has_files:
        found.append("cursor is for a database or REST; of files, say load: append")
    if table.lookback is not None and not table.cursor:
        found.append("lookback needs a cursor")
    return found


def file_format(name: str) -> str | None:
    """Return the format that a file's name tells, whatever it is packed with; None if it tells none."""
    parts = name.lower().rsplit("/", 1)[-1].split(".")
    while len(parts) > 1 and parts[-1] in ("gz", "zip"):
        parts.pop()
    ending = {"ndjson": "jsonl", "tsv": "csv", "txt": "csv"}.get(parts[-1], parts[-1]) if len(parts) > 1 else ""
    return ending if ending in FORMATS else None


def resolve(root: Path, location: str) -> str:
    """Return the folder that a source's ``location`` names: a path on this machine, or an address for fsspec.

    Raises:
        HubspokeError: It names a Python package that is not installed.
    """
    if "://" in location:
        return location.rstrip("/")
    if not location.startswith(PACKAGE):
        return str((root / location).resolve())
    module, _, folder = location.removeprefix(PACKAGE).partition("/")
    spec = importlib.util.find_spec(module)
    if spec is None or spec.origin is None:
        raise HubspokeError(f"location {location}: the Python package {module} is not installed. Run: make install")
    return str(Path(spec.origin).parent / folder)
