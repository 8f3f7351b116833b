"""Addresses of databases and interfaces that are read: from the environment, never from a file of the project.

    HUBSPOKE_CONNECTION_<NAME>       an address, for example postgresql://reader@db.example.com/shop,
                                     mysql://reader@db.example.com/shop, sqlite:///data/shop.db,
                                     https://api.example.com/v2, nats://reader@nats.example.com:4222 or
                                     kafka://reader@one.example.com:9092,two.example.com:9092; it may hold the password
    <warehouse>/secrets/<name>       the password, if it is not there: one line, readable by its owner alone

An address may hold a secret, so it is never printed. A database is attached with a secret that DuckDB keeps in memory.
"""

import importlib
import os
import re
from dataclasses import dataclass, field
from pathlib import Path
from urllib.parse import parse_qsl, unquote, urlsplit, urlunsplit

import duckdb
from psycopg.conninfo import conninfo_to_dict

from hubspoke.credentials import secret_file
from hubspoke.errors import HubspokeError, first_line
from hubspoke.project import Project
from hubspoke.sql import identifier, quoted

KINDS = {
    "postgresql": "postgres",
    "postgres": "postgres",
    "mysql": "mysql",
    "mariadb": "mysql",
    "sqlite": "sqlite",
    "http": "rest",
    "https": "rest",
    "nats": "nats",
    "tls": "nats",
    "kafka": "kafka",
}
EXAMPLES = (
    "postgresql://reader@db.example.com/shop, mysql://…, sqlite:///data/shop.db, https://api.example.com/v2, "
    "nats://… or kafka://…"
)
SCHEMAS = {"postgres": "public", "sqlite": "main"}
"""Where a table is whose relation names no schema; in MySQL it is the address's database."""


@dataclass(frozen=True)
class Address:
    """Where a source is.

    Attributes:
        name: The connection's name.
        kind: ``postgres``, ``mysql``, ``sqlite``, ``rest``, ``nats`` or ``kafka``.
        url: Of a REST interface or a stream: its address without user and password. Of SQLite: the file.
        parameters: Of a server: host, port, user, password and dbname. Of REST and NATS: user and password. Of Kafka:
            these, and whatever else the address says.
    """

    name: str
    kind: str
    url: str = ""
    parameters: dict[str, str] = field(default_factory=dict, repr=False)

    def scrub(self, error: object) -> str:
        """Return the first line of what an error says, without a password."""
        line = first_line(error)
        for name, value in self.parameters.items():
            if value and ("password" in name or "secret" in name):
                line = line.replace(value, "***")
        return line


def address(project: Project, name: str) -> Address:
    """Return what a connection's name stands for.

    Raises:
        HubspokeError: It has no address, or one of no known kind.
    """
    variable = f"HUBSPOKE_CONNECTION_{name.upper()}"
    given = os.environ.get(variable)
    if not given:
        raise HubspokeError(
            f"connection {name} has no address. Set {variable}, for example to {EXAMPLES}; "
            f"its password may stand in {secret_file(project, name)} instead"
        )
    try:
        parts = urlsplit(given)
        kind = KINDS.get(parts.scheme, "postgres" if re.search(r"\b(host|dbname|service)\s*=", given) else "")
        if kind == "sqlite":
            path = unquote(parts.netloc + parts.path)
            return Address(name, kind, str(project.root / (path[1:] if path.startswith("/") else path)))
        is_stream = kind in ("nats", "kafka")  # which may name several servers
        parameters = {
            key: value
            for key, value in {
                "host": parts.hostname if not is_stream else None,
                "port": str(parts.port) if not is_stream and parts.port else None,
                "user": unquote(parts.username) if parts.username else None,
                "password": unquote(parts.password) if parts.password else None,
                "dbname": unquote(parts.path.strip("/")),
            }.items()
            if value
        }
        if kind == "postgres":
            parameters = {key: str(value) for key, value in conninfo_to_dict(given).items()}
        if kind == "kafka":
            parameters |= dict(parse_qsl(parts.query))
    except Exception:
        kind = ""
    if not kind:
        raise HubspokeError(f"{variable} is no address that is known. It looks like {EXAMPLES}") from None
    file = secret_file(project, name)
    if "password" not in parameters and file.is_file():
        parameters["password"] = file.read_text().strip()
    host = parts.netloc.rpartition("@")[2]
    url = ""
    if kind == "rest":
        url = urlunsplit((parts.scheme, host, parts.path, parts.query, ""))
    if is_stream:
        url = f"{parts.scheme}://{host}"
    return Address(name, kind, url, parameters)


def postgres_parameters(project: Project, name: str) -> dict[str, str]:
    """Return what to connect to a PostgreSQL database with.

    Args:
        project: The project.
        name: The connection's name, as a source's ``meta.ingest.connection`` says it.

    Raises:
        HubspokeError: Its address is not set, or is none.
    """
    found = address(project, name)
    if found.kind != "postgres":
        raise HubspokeError(
            f"HUBSPOKE_CONNECTION_{name.upper()} is not an address of PostgreSQL. It looks like "
            "postgresql://reader@db.example.com/shop"
        )
    return found.parameters


def attach(connection: duckdb.DuckDBPyConnection, source: Address, alias: str) -> None:
    """Attach a database, read-only, under a name; what is attached under it already is replaced.

    Raises:
        HubspokeError: It cannot be reached, or is no database.
    """
    if source.kind not in ("postgres", "mysql", "sqlite"):
        raise HubspokeError(f"connection {source.name} is no database")
    name = identifier(alias)
    scanner = f"{source.kind}_scanner"
    connection.execute(f"load '{quoted(_extension(scanner))}'")
    connection.execute(f"detach database if exists {name}")
    try:
        if source.kind == "sqlite":
            if not Path(source.url).is_file():
                raise HubspokeError(f"connection {source.name}: there is no file {source.url}")
            connection.execute(f"attach '{quoted(source.url)}' as {name} (type sqlite, read_only)")
            return
        words = {"dbname": "database"}
        given = {words.get(key, key): value for key, value in source.parameters.items()}
        known = {key: given.pop(key) for key in ("host", "port", "user", "password", "database") if key in given}
        settings = "".join(f", {key} '{quoted(value)}'" for key, value in known.items())
        secret = identifier(f"connection_{alias}")
        connection.execute(f"create or replace temporary secret {secret} (type {source.kind}{settings})")
        # whatever else an address says is no secret: sslmode, connect_timeout
        rest = {"connect_timeout": "10"} | given if source.kind == "postgres" else given
        further = " ".join(f"{key}={_libpq(value)}" for key, value in rest.items())
        connection.execute(f"attach '{quoted(further)}' as {name} (type {source.kind}, secret {secret}, read_only)")
    except duckdb.Error as error:
        raise HubspokeError(f"connection {source.name} cannot be reached ({source.scrub(error)})") from None


def _libpq(value: str) -> str:
    escaped = value.replace("\\", "\\\\").replace("'", "\\'")
    return f"'{escaped}'"


def _extension(name: str) -> Path:
    """Return the file of a DuckDB extension, in the package that brings it: nothing is downloaded or installed."""
    package = Path(str(importlib.import_module(f"duckdb_extension_{name}").__file__)).parent
    [file] = package.glob(f"extensions/v{duckdb.__version__}/{name}.duckdb_extension")
    return file


def relation(source: Address, alias: str, name: str) -> str:
    """Return what DuckDB calls a table of an attached database."""
    schema, _, table = name.rpartition(".")
    schema = schema or SCHEMAS.get(source.kind, "") or source.parameters.get("dbname", "")
    return f"{identifier(alias)}.{identifier(schema)}.{identifier(table)}"
