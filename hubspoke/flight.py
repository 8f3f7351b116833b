"""``hubspoke serve flight``: the release over Arrow Flight SQL, for notebooks and everything else that speaks ADBC.

One process serves every spoke. A query is answered from the release that is current when it begins, and goes on in that
one when another becomes current. What a spoke's queries may use (memory, how many at once, for how long) is limited for
each spoke by itself, so that none can take it from another.
"""

import base64
import binascii
import hmac
import json
import logging
import os
import resource
import secrets
import tempfile
import threading
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any

import duckdb
import pyarrow as pa
import pyarrow.flight as flight

from hubspoke import flight_sql, reading
from hubspoke.credentials import password, secret_place
from hubspoke.errors import HubspokeError
from hubspoke.ports import free_port
from hubspoke.project import Project
from hubspoke.release import Release, ReleaseStore
from hubspoke.stopping import until_stopped

TOKEN_HOURS = 12
MESSAGE_BYTES = 4_000_000
"""A record batch that is larger is sent in pieces: some clients take at most 16 MB at a time."""
IDLE_S = 60
"""Seconds that a release stays open after its last reader: opening one takes 15 ms."""
PREPARED_AT_MOST = 1_000
PARAMETER_BYTES = 256_000
_LOG = logging.getLogger("hubspoke.flight")


@dataclass(frozen=True)
class Settings:
    """How to serve.

    Attributes:
        host: Address to listen on.
        port: Port; 0 takes a free one.
        tls_cert: PEM file of the certificate and its chain; with ``tls_key``, connections are encrypted.
        tls_key: PEM file of its key.
        plaintext: Whether passwords and rows may leave this machine unencrypted.
        memory_limit: DuckDB's memory for all queries of a spoke on one release, for example ``1GB``.
        spill_limit: Disk for what does not fit into it.
        timeout_s: Seconds after which a statement ends, its rows sent or not.
        queries: Queries of a spoke that run at the same time; others wait.
        waiting: Queries of a spoke that wait at the same time; others are refused.
    """

    host: str = "127.0.0.1"
    port: int = 31337
    tls_cert: Path | None = None
    tls_key: Path | None = None
    plaintext: bool = False
    memory_limit: str = "1GB"
    spill_limit: str = "10GB"
    timeout_s: float = 300
    queries: int = 8
    waiting: int = 1000


# -- who asks ----------------------------------------------------------------------------------------------------------


class _Caller(flight.ServerMiddleware):  # type: ignore[misc]
    """Who makes one call, and of which release."""

    def __init__(self, spoke: str, release: str | None, token: str | None) -> None:
        self.spoke = spoke
        self.release = release
        self._token = token

    def sending_headers(self) -> dict[str, str]:
        """Give the token to whoever has signed in."""
        return {"authorization": f"Bearer {self._token}"} if self._token else {}


class _SignIn(flight.ServerMiddlewareFactory):  # type: ignore[misc]
    """Lets a call in by a spoke's name and password, or by the token that it was given for them.

    A token holds for 12 hours, as long as this process runs and the password stays.
    """

    def __init__(self, project: Project, spokes: Callable[[], list[str]]) -> None:
        self._project = project
        self._spokes = spokes
        self._key = secrets.token_bytes(32)

    def start_call(self, info: Any, headers: dict[str, list[Any]]) -> _Caller:
        """Find out who calls, or refuse."""

        def header(name: str) -> str:
            value = next((values[0] for key, values in headers.items() if key.lower() == name and values), "")
            return value.decode(errors="replace") if isinstance(value, bytes) else value

        scheme, _, value = header("authorization").partition(" ")
        pinned = header(reading.PINNED) or None
        if scheme.lower() == "basic":
            spoke = self._by_password(value.strip())
            return _Caller(spoke, pinned, self._token(spoke))
        if scheme.lower() == "bearer":
            return _Caller(self._by_token(value.strip()), pinned, None)
        raise flight.FlightUnauthenticatedError("sign in: the user is the spoke's name, with its password")

    def _by_password(self, encoded: str) -> str:
        try:
            padded = encoded + "=" * (-len(encoded) % 4)  # some clients leave the padding out
            spoke, _, given = base64.b64decode(padded, validate=True).decode().partition(":")
        except (binascii.Error, UnicodeDecodeError):
            raise flight.FlightUnauthenticatedError("the user and password cannot be read") from None
        right = self._password(spoke)
        if right is None or not hmac.compare_digest(right.encode(), given.encode()):
            _LOG.warning("refused: wrong user or password for %r", spoke[:64])
            raise flight.FlightUnauthenticatedError(
                "wrong user or password: the user is the spoke's name, as in: hubspoke spokes password <spoke>"
            )
        return spoke

    def _by_token(self, token: str) -> str:
        spoke, _, rest = token.partition(".")
        until, _, _ = rest.partition(".")
        right = self._password(spoke)
        if (
            right is None
            or not until.isdigit()
            or int(until) < time.time()
            or not hmac.compare_digest(token.encode(), self._sign(spoke, until, right).encode())
        ):
            raise flight.FlightUnauthenticatedError("this session has ended: connect again")
        return spoke

    def _token(self, spoke: str) -> str:
        right = self._password(spoke)
        return self._sign(spoke, str(int(time.time()) + TOKEN_HOURS * 3600), right or secrets.token_hex())

    def _sign(self, spoke: str, until: str, right: str) -> str:
        digest = hmac.digest(self._key, "\0".join((spoke, until, right)).encode(), "sha256").hex()
        return f"{spoke}.{until}.{digest}"

    def _password(self, spoke: str) -> str | None:
        """Return a spoke's password, read anew: it may have changed. None if it has none, or there is no such spoke."""
        if spoke not in self._spokes():
            return None
        try:
            return password(self._project, spoke) or None
        except HubspokeError:
            return None


class _NoHandshake(flight.ServerAuthHandler):  # type: ignore[misc]
    """The handshake carries nothing: who calls is in the headers."""

    def authenticate(self, outgoing: Any, incoming: Any) -> None:
        """Ask nothing."""

    def is_valid(self, token: Any) -> str:
        """Believe nothing."""
        return ""


# -- what is read ------------------------------------------------------------------------------------------------------


@dataclass
class _Open:
    """A spoke's file of one release, opened; closed when nobody has read it for a while."""

    release: Release
    spoke: str
    connection: duckdb.DuckDBPyConnection
    spill: Path
    users: int = 0
    used_at: float = 0.0
    known: dict[str, "_Known"] = field(default_factory=dict)
    idle: list[duckdb.DuckDBPyConnection] = field(default_factory=list)

    def take(self) -> duckdb.DuckDBPyConnection:
        """Return a connection that nobody else uses; ``idle.append`` it when it is free again."""
        try:
            return self.idle.pop()
        except IndexError:
            return reading.cursor(self.connection, self.spoke)


@dataclass(frozen=True)
class _Known:
    """What a select is found to be: its result's schema and the names of its parameters."""

    schema: Any
    parameters: list[str]


class _Releases:
    """The opened files, and which release is current."""

    def __init__(self, store: ReleaseStore, settings: Settings, spill: Path) -> None:
        self.store = store
        self._settings = settings
        self._spill = spill
        self._pointer = store.root / "current" / "manifest.json"
        self._lock = threading.Lock()
        self._open: dict[tuple[Any, ...], _Open] = {}
        self._seen: tuple[Any, ...] | None = None
        self._current: Release | None = None

    def current(self) -> Release:
        """Return the current release; its manifest is read again only when another one is in its place.

        Raises:
            FlightUnavailableError: There is none yet.
        """
        with self._lock:
            return self._now()

    def _now(self) -> Release:
        try:
            seen = _identity(self._pointer)
        except OSError:
            raise flight.FlightUnavailableError("there is no release yet") from None
        if seen != self._seen or self._current is None:
            self._current, self._seen = self.store.current(), seen
            if self._current is None:
                raise flight.FlightUnavailableError("there is no release yet")
            _LOG.info("release %s is current", self._current.number)
        return self._current

    @contextmanager
    def reading(self, spoke: str, number: int | None) -> Iterator[_Open]:
        """Hold a spoke's file of a release open; ``None`` is the current one.

        Raises:
            HubspokeError: There is no such release, or it has nothing for the spoke.
        """
        with self._lock:
            current = self._now()
            release = current
            if number is not None and number != current.number:
                kept = [held.release for held in self._open.values() if held.release.number == number]
                release = kept[0] if kept else self.store.get(number)
            path = reading.spoke_file(self.store, release, spoke)
            key = (spoke, *_identity(path))
            held = self._open.get(key)
            if held is None:
                spill = Path(tempfile.mkdtemp(prefix=f"{spoke}-", dir=self._spill))
                limits = reading.Limits(self._settings.memory_limit, spill, self._settings.spill_limit)
                held = _Open(release, spoke, reading.open_spoke(self.store, release, spoke, limits), spill)
                self._open[key] = held
            held.users += 1
        try:
            yield held
        finally:
            with self._lock:
                held.users -= 1
                held.used_at = time.monotonic()

    def close_unused(self, idle_s: float = IDLE_S) -> None:
        """Close what nobody has read for so many seconds."""
        with self._lock:
            for key, held in list(self._open.items()):
                if held.users == 0 and time.monotonic() - held.used_at > idle_s:
                    del self._open[key]
                    for connection in (*held.idle, held.connection):
                        connection.close()
                    reading.clear(held.spill)


def _identity(path: Path) -> tuple[Any, ...]:
    """Tell a file from another one that comes to lie at the same path."""
    found = path.stat()
    return str(path), found.st_dev, found.st_ino, found.st_mtime_ns


# -- how much at once --------------------------------------------------------------------------------------------------


class _Gate:
    """Lets so many queries of one spoke run, and so many wait."""

    def __init__(self, running: int, waiting: int) -> None:
        self._free = running
        self._may_wait = waiting
        self._condition = threading.Condition()

    def enter(self, is_gone: Callable[[], bool], patience_s: float) -> None:
        """Wait for a place.

        Raises:
            FlightUnavailableError: Too many wait, none came free in time, or the server is being stopped.
            FlightCancelledError: Whoever asked has gone.
        """
        until = time.monotonic() + patience_s
        with self._condition:
            if self._free == 0:
                self._wait(is_gone, until, patience_s)
            self._free -= 1

    def _wait(self, is_gone: Callable[[], bool], until: float, patience_s: float) -> None:
        if self._may_wait == 0:
            raise flight.FlightUnavailableError("too many queries of this spoke wait already; try again later")
        self._may_wait -= 1
        try:
            while self._free == 0:
                self._condition.wait(1)
                if is_gone():
                    self._condition.notify()
                    raise flight.FlightCancelledError("cancelled while it waited")
                if time.monotonic() > until:
                    raise flight.FlightUnavailableError(
                        f"other queries of this spoke kept this one waiting for {patience_s:g} s; try again later"
                    )
        finally:
            self._may_wait += 1

    def leave(self) -> None:
        """Give the place back."""
        with self._condition:
            self._free += 1
            self._condition.notify()


class _Query:
    """One query that runs: it can be stopped from another thread, and gives back all it holds exactly once."""

    def __init__(self, name: str, spoke: str, context: Any, timeout_s: float) -> None:
        self.name = name
        self.spoke = spoke
        self.timeout_s = timeout_s
        self.deadline = time.monotonic() + timeout_s
        self.stopped: Exception | None = None
        self.working = threading.Lock()
        self._context = context
        self._lock = threading.Lock()
        self._connection: duckdb.DuckDBPyConnection | None = None
        self._give_back: list[Callable[[], Any]] = []
        self._is_over = False

    def use(self, connection: duckdb.DuckDBPyConnection) -> None:
        """Say on which connection it runs."""
        self._connection = connection

    def finally_do(self, action: Callable[[], Any]) -> None:
        """Have something given back at its end; the last first."""
        self._give_back.append(action)

    def look(self) -> None:
        """Stop it if whoever asked has gone, or its time is over."""
        with self._lock:
            # the context is memory of the call, which must not be looked at once the call is over
            if self._is_over:
                return
            is_gone = self._context.is_cancelled()
        if self.stopped:  # the interruption came too early to be noticed
            self.stop(self.stopped)
        elif is_gone:
            self.stop(flight.FlightCancelledError("cancelled"))
        elif time.monotonic() > self.deadline:
            self.stop(
                flight.FlightTimedOutError(f"it took longer than {self.timeout_s:g} s, and was stopped; ask for less")
            )

    def stop(self, reason: Exception) -> None:
        """Interrupt it, and take back what it holds even if its reader no longer reads."""
        with self._lock:
            if self._is_over:
                return
            self.stopped = self.stopped or reason
            if self._connection:
                self._connection.interrupt()
        if self.working.acquire(blocking=False):
            try:
                self.end()
            finally:
                self.working.release()

    def check(self) -> None:
        """Raise what it was stopped for, if it was."""
        if self.stopped:
            raise self.stopped

    def end(self) -> None:
        """Give back what it holds."""
        with self._lock:
            if self._is_over:
                return
            self._is_over = True
            self._context = self._connection = None
        for action in reversed(self._give_back):
            action()


class _Rows:
    """Record batches of a query, for Flight to send; what the query holds is given back at any end."""

    def __init__(self, query: _Query, readers: Iterator[Any], first: Any) -> None:
        self._query = query
        self.schema = reading.plain(first.schema)
        self._is_plain = self.schema == first.schema
        self._readers = readers
        self._reader = first
        self._pieces: list[Any] = []

    def __iter__(self) -> "_Rows":
        return self

    def __next__(self) -> Any:
        if self._pieces:
            return self._pieces.pop()
        try:
            with self._query.working:
                self._query.check()
                batch = self._next_batch()
                if not self._is_plain:
                    batch = batch.cast(self.schema)
        except StopIteration:
            self._close()
            raise
        except Exception as error:
            self._close()
            raise _told(error, self._query) from None
        if batch.nbytes > MESSAGE_BYTES and batch.num_rows > 1:
            rows = max(1, batch.num_rows * MESSAGE_BYTES // batch.nbytes)
            self._pieces = [batch.slice(start, rows) for start in range(0, batch.num_rows, rows)][::-1]
            return self._pieces.pop()
        return batch

    def _next_batch(self) -> Any:
        while True:
            try:
                return self._reader.read_next_batch()
            except StopIteration:
                following = next(self._readers, None)
                if following is None:
                    raise
                self._reader = following

    def _close(self) -> None:
        self._reader = self._readers = None  # type: ignore[assignment]
        self._query.end()

    def __del__(self) -> None:
        self._close()


class _Untraceable(Exception):
    """An error of which Arrow sends the message and no stack trace.

    Arrow appends the trace of whatever is not a Flight error, but only the class's name where a trace cannot be made;
    and no Flight error means that the question was wrong.
    """

    @property
    def __cause__(self) -> BaseException | None:  # type: ignore[override]
        raise AttributeError("no trace is made of this")


class Refused(_Untraceable, pa.ArrowInvalid):  # type: ignore[misc]
    """What was asked is wrong: INVALID_ARGUMENT."""


class Unknown(_Untraceable, pa.ArrowNotImplementedError):  # type: ignore[misc]
    """Nobody answers such a question here: UNIMPLEMENTED."""


def _told(error: Exception, query: _Query | None = None) -> Any:
    """Turn any error into one that a client understands and that gives nothing away."""
    if query and query.stopped:
        return query.stopped
    if isinstance(error, flight.FlightError | _Untraceable):
        return error
    if isinstance(error, HubspokeError | ValueError | duckdb.Error | pa.ArrowException | OSError):
        # while rows are read, what DuckDB says comes through Arrow, as an error of input and output
        text = str(error)
        if isinstance(error, duckdb.OutOfMemoryException) or "Out of Memory Error" in text:
            return _out_of_memory()
        if isinstance(error, duckdb.InterruptException) or "INTERRUPT Error" in text:
            return flight.FlightCancelledError("cancelled")
        if isinstance(error, duckdb.PermissionException) or "Permission Error" in text:
            return flight.FlightUnauthorizedError(f"a spoke reads its own relations only. {text}")
        if not isinstance(error, OSError) or "Error: " in text:
            return Refused(text)
    _LOG.error("internal error", exc_info=error)
    return flight.FlightInternalError("internal error; the server's log says more")


def _out_of_memory() -> Any:
    return flight.FlightServerError("it needs more memory than the server gives to a spoke; ask for less at a time")


def _being_stopped() -> Any:
    return flight.FlightUnavailableError("the server is being stopped")


# -- the server --------------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class _Ask:
    """What a ticket stands for: a select with its parameters, or a shard of a relation, in one release."""

    name: str
    release: int
    sql: str = ""
    parameters: str = ""
    relation: str = ""
    shards: int = 1
    shard: int = 0

    def ticket(self) -> Any:
        handle = json.dumps(self.__dict__).encode()
        return flight.Ticket(flight_sql.pack(flight_sql.message("TicketStatementQuery", statement_handle=handle)))

    @classmethod
    def read(cls, handle: bytes) -> "_Ask":
        try:
            content = json.loads(handle)
            ask = cls(**content)
        except (ValueError, TypeError):
            raise ValueError("this ticket is not one of this server's") from None
        for name, kind in cls.__annotations__.items():
            if type(getattr(ask, name)) is not kind:
                raise ValueError("this ticket is not one of this server's")
        return ask


@dataclass
class _Prepared:
    spoke: str
    sql: str
    parameters: str = ""


def _answering(method: Callable[..., Any]) -> Callable[..., Any]:
    """Have what a method raises told as ``_told`` does."""

    def answer(self: Any, context: Any, *arguments: Any) -> Any:
        try:
            return method(self, context, *arguments)
        except Exception as error:
            raise _told(error) from None

    return answer


class FlightServer(flight.FlightServerBase):  # type: ignore[misc]
    """The server; it listens once it is made, until ``close``."""

    def __init__(self, project: Project, settings: Settings | None = None) -> None:
        """Start to listen.

        Raises:
            HubspokeError: The address is taken or not this machine's, a file of TLS cannot be read, or passwords would
                leave the machine in plain text.
        """
        self.settings = settings = settings or Settings()
        certificates = _certificates(settings)
        spill = project.warehouse / "tmp"
        spill.mkdir(parents=True, exist_ok=True)
        self._spill = Path(tempfile.mkdtemp(prefix="flight-", dir=spill))
        self._releases = _Releases(ReleaseStore(project.release), settings, self._spill)
        self._gates: dict[str, _Gate] = {}
        self._queries: dict[str, _Query] = {}
        self._prepared: OrderedDict[bytes, _Prepared] = OrderedDict()
        self._lock = threading.Lock()
        self._is_closing = threading.Event()
        scheme = "grpc+tls" if certificates else "grpc"
        host = f"[{settings.host}]" if ":" in settings.host else settings.host
        try:
            super().__init__(
                f"{scheme}://{host}:{free_port(settings.host, settings.port)}",
                auth_handler=_NoHandshake(),
                tls_certificates=certificates,
                middleware={"caller": _SignIn(project, lambda: reading.spokes_of(self._releases.current()))},
            )
        except (pa.ArrowException, OSError) as error:
            reading.clear(self._spill)
            raise HubspokeError(f"cannot listen on {settings.host} port {settings.port}: {error}") from None
        self.address = f"{scheme}://{host}:{self.port}"
        self._watcher = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._watcher.start()

    def close(self, patience_s: float = 5) -> bool:
        """Stop all queries and end.

        Args:
            patience_s: Seconds to wait for connections to end.

        Returns:
            Whether all have.
        """
        self._is_closing.set()
        ending = threading.Thread(target=self.shutdown, daemon=True)
        ending.start()
        until = time.monotonic() + patience_s
        while ending.is_alive() and time.monotonic() < until:
            # again and again: one may just be about to start
            for query in list(self._queries.values()):
                query.stop(_being_stopped())
            ending.join(0.05)
        reading.clear(self._spill)
        return not ending.is_alive()

    def _watch(self) -> None:
        while not self._is_closing.wait(0.05):
            for query in list(self._queries.values()):
                query.look()
            self._releases.close_unused()

    # -- asking

    def _asking(self, context: Any) -> AbstractContextManager[_Open]:
        """Hold the release open that a caller means."""
        caller = context.get_middleware("caller")
        return self._releases.reading(caller.spoke, _number(caller.release))

    def _know(self, held: _Open, sql: str, parameters: str = "") -> _Known:
        """Find out what a select is, once for each release."""
        key = f"{parameters}\0{sql}"
        known = held.known.get(key)
        if known is None:
            with _connection(held) as connection:
                names = sorted(reading.selection(connection, sql).named_parameters)
                rows = _rows_of(parameters)
                is_unbound = bool(names) and not rows
                schema = pa.schema([]) if is_unbound else reading.schema_of(connection, sql, rows[0] if rows else None)
            known = _Known(reading.tagged(schema, held.release.number), names)
            if len(held.known) >= PREPARED_AT_MOST:
                held.known.clear()
            held.known[key] = known
        return known

    def _answer_schema(self, held: _Open, sql: str, parameters: str) -> Any:
        """Return the schema of a select's rows, which cannot come without a value for each parameter."""
        known = self._know(held, sql, parameters)
        if known.parameters and not _rows_of(parameters):
            raise ValueError(f"no value was given for parameter {', '.join(known.parameters)}")
        return known.schema

    @_answering
    def get_flight_info(self, context: Any, descriptor: Any) -> Any:
        """Answer with the schema of what is asked for and the ticket to get it by."""
        if descriptor.path:
            return self._shards_info(context, descriptor)
        name, command = flight_sql.unpack(descriptor.command)
        if name in ("CommandStatementQuery", "CommandPreparedStatementQuery"):
            with self._asking(context) as held:
                sql, parameters = self._meant(held.spoke, name, command)
                schema = self._answer_schema(held, sql, parameters)
                ask = _Ask(secrets.token_hex(8), held.release.number, sql, parameters)
            return self._info(schema, descriptor, [ask.ticket()])
        schema = self._catalog_schema(name, command)
        return self._info(schema, descriptor, [flight.Ticket(descriptor.command)])

    @_answering
    def get_schema(self, context: Any, descriptor: Any) -> Any:
        """Answer with the schema of what is asked for."""
        name, command = flight_sql.unpack(descriptor.command or b"")
        if name in ("CommandStatementQuery", "CommandPreparedStatementQuery"):
            with self._asking(context) as held:
                sql, parameters = self._meant(held.spoke, name, command)
                return flight.SchemaResult(self._answer_schema(held, sql, parameters))
        return flight.SchemaResult(self._catalog_schema(name, command))

    def _info(self, schema: Any, descriptor: Any, tickets: list[Any]) -> Any:
        # no location: rows come from where this answer came from
        return flight.FlightInfo(schema, descriptor, [flight.FlightEndpoint(ticket, []) for ticket in tickets], -1, -1)

    def _shards_info(self, context: Any, descriptor: Any) -> Any:
        """Answer with one endpoint for each shard of a relation; the path is its name and the number of shards."""
        try:
            relation, shards = (part.decode() for part in descriptor.path)
            number = int(shards)
        except ValueError:
            raise ValueError("a path is a relation and a number of shards") from None
        if not 1 <= number <= 10_000:
            raise ValueError(f"there can be 1 to 10,000 shards, not {number}")
        with self._asking(context) as held, _connection(held) as connection:
            reading.make_sure_of(held.release, held.spoke, relation)
            schema = reading.relation_schema(connection, held.release, relation)
            asks = [
                _Ask(secrets.token_hex(8), held.release.number, relation=relation, shards=number, shard=shard)
                for shard in range(number)
            ]
        return self._info(schema, descriptor, [ask.ticket() for ask in asks])

    def _meant(self, spoke: str, name: str, command: Any) -> tuple[str, str]:
        if name == "CommandStatementQuery":
            return command.query, ""
        prepared = self._find(spoke, command.prepared_statement_handle)
        return prepared.sql, prepared.parameters

    # -- rows

    @_answering
    def do_get(self, context: Any, ticket: Any) -> Any:
        """Answer with rows."""
        name, command = flight_sql.unpack(ticket.ticket)
        if name == "CommandGetSqlInfo":
            return flight.RecordBatchStream(flight_sql.sql_info(command.info, version("hubspoke")))
        if name == "CommandGetXdbcTypeInfo":
            wanted = command.data_type if command.HasField("data_type") else None
            return flight.RecordBatchStream(flight_sql.type_info(wanted))
        if name != "TicketStatementQuery":
            with self._asking(context) as held, _connection(held) as connection:
                return flight.RecordBatchStream(self._catalog(name, command, held, connection))
        ask = _Ask.read(command.statement_handle)
        spoke = context.get_middleware("caller").spoke
        with self._lock:
            gate = self._gates.setdefault(spoke, _Gate(self.settings.queries, self.settings.waiting))
        gate.enter(lambda: self._is_gone(context), self.settings.timeout_s)
        query = _Query(ask.name, spoke, context, self.settings.timeout_s)
        query.finally_do(gate.leave)
        try:
            with query.working:
                readers = self._run(query, ask)
                rows = _Rows(query, readers, next(readers))
                query.check()
        except Exception as error:
            query.end()
            raise _told(error, query) from None
        return flight.GeneratorStream(reading.tagged(rows.schema, ask.release), rows)

    def _is_gone(self, context: Any) -> bool:
        """Tell whether whoever asked has gone; raise if the server itself is about to."""
        if self._is_closing.is_set():
            raise _being_stopped()
        return bool(context.is_cancelled())

    def _run(self, query: _Query, ask: _Ask) -> Iterator[Any]:
        """Start a query; yield a reader of its rows, and one more for each further row of parameters."""
        lease = self._releases.reading(query.spoke, ask.release)
        held = lease.__enter__()
        query.finally_do(lambda: lease.__exit__(None, None, None))
        connection = held.take()
        # one that was stopped may have rows on it that nobody has read
        query.finally_do(lambda: connection.close() if query.stopped else held.idle.append(connection))
        query.use(connection)
        key = query.name + secrets.token_hex(4)
        self._queries[key] = query
        query.finally_do(lambda: self._queries.pop(key, None))
        if ask.relation:
            reading.make_sure_of(held.release, query.spoke, ask.relation)
            sql = reading.shard_sql(self._releases.store, held.release, ask.relation, ask.shards, ask.shard)
        else:
            sql = ask.sql
        statement = reading.selection(connection, sql)
        rows: list[Any] = [*_rows_of(ask.parameters)] or [None]
        for row in rows:
            yield connection.execute(statement, row).to_arrow_reader(reading.BATCH_ROWS)

    # -- the catalog

    def _catalog_schema(self, name: str, command: Any) -> Any:
        if name == "CommandGetTables":
            return flight_sql.TABLES_WITH_SCHEMA if command.include_schema else flight_sql.TABLES
        if name in flight_sql.SCHEMAS:
            return flight_sql.SCHEMAS[name]
        raise Unknown(f"{name}: a release is only read")

    def _catalog(self, name: str, command: Any, held: _Open, connection: duckdb.DuckDBPyConnection) -> Any:
        schema = self._catalog_schema(name, command)
        spoke = held.spoke
        rows: list[dict[str, Any]] = []
        if name == "CommandGetCatalogs":
            rows = [{"catalog_name": spoke}]
        elif name == "CommandGetTableTypes":
            rows = [{"table_type": "TABLE"}]
        elif name == "CommandGetDbSchemas" and _matches(connection, command, "db_schema_filter_pattern", "main"):
            rows = [{"catalog_name": spoke, "db_schema_name": "main"}] if _of(command, spoke) else []
        elif name == "CommandGetTables" and _matches(connection, command, "db_schema_filter_pattern", "main"):
            is_wanted = _of(command, spoke) and (not command.table_types or "TABLE" in command.table_types)
            for relation in reading.relations_of(held.release, spoke) if is_wanted else []:
                if _matches(connection, command, "table_name_filter_pattern", relation):
                    row = {
                        "catalog_name": spoke,
                        "db_schema_name": "main",
                        "table_name": relation,
                        "table_type": "TABLE",
                    }
                    if command.include_schema:
                        described = reading.relation_schema(connection, held.release, relation)
                        row["table_schema"] = described.serialize().to_pybytes()
                    rows.append(row)
        return pa.Table.from_pylist(rows, schema=schema)

    # -- prepared statements and other actions

    def _find(self, spoke: str, handle: bytes) -> _Prepared:
        with self._lock:
            prepared = self._prepared.get(handle)
            if prepared is None or prepared.spoke != spoke:
                raise ValueError("there is no such prepared statement any more: prepare it again")
            self._prepared.move_to_end(handle)
            return prepared

    @_answering
    def do_put(self, context: Any, descriptor: Any, reader: Any, writer: Any) -> None:
        """Take the parameters of a prepared statement."""
        name, command = flight_sql.unpack(descriptor.command or b"")
        if name != "CommandPreparedStatementQuery":
            raise ValueError("a release is only read: write one select, and run it as a query")
        prepared = self._find(context.get_middleware("caller").spoke, command.prepared_statement_handle)
        batches = []
        size = 0
        for chunk in reader:
            size += chunk.data.nbytes
            if size > PARAMETER_BYTES:
                raise ValueError(f"parameters are at most {PARAMETER_BYTES:,} bytes")
            batches.append(chunk.data)
        sink = pa.BufferOutputStream()
        with pa.ipc.new_stream(sink, reader.schema) as stream:
            for batch in batches:
                stream.write_batch(batch)
        prepared.parameters = base64.b64encode(sink.getvalue().to_pybytes()).decode()
        result = flight_sql.message(
            "DoPutPreparedStatementResult", prepared_statement_handle=command.prepared_statement_handle
        )
        writer.write(pa.py_buffer(result.SerializeToString()))

    def list_actions(self, context: Any) -> list[tuple[str, str]]:
        """List what can be done."""
        return [
            ("CreatePreparedStatement", "Prepare a select."),
            ("ClosePreparedStatement", "Forget it."),
            ("BeginTransaction", "Each statement reads the release that is current when it begins."),
            ("EndTransaction", "Nothing is left to do at its end."),
            ("CancelQuery", "Stop a query."),
            ("CancelFlightInfo", "Stop a query."),
            ("CloseSession", "Leave."),
        ]

    @_answering
    def do_action(self, context: Any, action: Any) -> list[bytes]:
        """Do what is neither a question nor an answer."""
        body = action.body.to_pybytes() if action.body else b""
        caller = context.get_middleware("caller")
        match action.type:
            case "CreatePreparedStatement":
                return [self._prepare(context, flight_sql.unpack(body)[1].query)]
            case "ClosePreparedStatement":
                handle = flight_sql.unpack(body)[1].prepared_statement_handle
                with self._lock:
                    if handle in self._prepared and self._prepared[handle].spoke == caller.spoke:
                        del self._prepared[handle]
                return []
            case "BeginTransaction":
                begun = flight_sql.message("ActionBeginTransactionResult", transaction_id=b"read committed")
                return [flight_sql.pack(begun)]
            case "EndTransaction":
                return []
            case "CancelQuery":
                status = self._cancel(caller.spoke, flight_sql.unpack(body)[1].info)
                return [flight_sql.pack(flight_sql.message("ActionCancelQueryResult", result=status))]
            case "CancelFlightInfo":
                status = self._cancel(caller.spoke, flight_sql.parse("CancelFlightInfoRequest", body).info)
                return [flight_sql.message("CancelFlightInfoResult", status=status).SerializeToString()]
            case "CloseSession":
                return [flight_sql.message("CloseSessionResult", status=1).SerializeToString()]
        raise Unknown(f"this server has no action {action.type}")

    def _prepare(self, context: Any, sql: str) -> bytes:
        with self._asking(context) as held:
            known = self._know(held, sql)
        names, spoke = known.parameters, held.spoke
        handle = secrets.token_bytes(16)
        with self._lock:
            own = [known for known, prepared in self._prepared.items() if prepared.spoke == spoke]
            if len(own) >= PREPARED_AT_MOST:
                del self._prepared[own[0]]
            self._prepared[handle] = _Prepared(spoke, sql)
        # of which type a parameter is, is known only when it has its value
        parameters = pa.schema([pa.field(name, pa.null()) for name in names])
        return flight_sql.pack(
            flight_sql.message(
                "ActionCreatePreparedStatementResult",
                prepared_statement_handle=handle,
                dataset_schema=b"" if names else known.schema.serialize().to_pybytes(),
                parameter_schema=parameters.serialize().to_pybytes() if names else b"",
            )
        )

    def _cancel(self, spoke: str, info: bytes) -> int:
        """Stop a caller's own query; return 1 if it is stopped and 3 if it does not run."""
        status = 3
        for endpoint in flight.FlightInfo.deserialize(info).endpoints:
            name, command = flight_sql.unpack(endpoint.ticket.ticket)
            if name != "TicketStatementQuery":
                continue
            asked = _Ask.read(command.statement_handle).name
            for query in list(self._queries.values()):
                if (query.name, query.spoke) == (asked, spoke):
                    query.stop(flight.FlightCancelledError("cancelled"))
                    status = 1
        return status


@contextmanager
def _connection(held: _Open) -> Iterator[duckdb.DuckDBPyConnection]:
    connection = held.take()
    try:
        yield connection
    finally:
        held.idle.append(connection)


def _number(text: str | None) -> int | None:
    if text is None:
        return None
    if not text.isdigit():
        raise ValueError(f"the header {reading.PINNED} is a release's number, not {text!r}")
    return int(text)


def _of(command: Any, spoke: str) -> bool:
    return not command.HasField("catalog") or command.catalog == spoke


def _matches(connection: duckdb.DuckDBPyConnection, command: Any, pattern: str, name: str) -> bool:
    if not command.HasField(pattern):
        return True
    found: Any = connection.execute("select ? like ? escape '\\'", [name, getattr(command, pattern)]).fetchone()
    return bool(found[0])


def _rows_of(parameters: str) -> list[list[Any]]:
    """Return the rows of parameters that a client has bound."""
    if not parameters:
        return []
    with pa.ipc.open_stream(base64.b64decode(parameters)) as stream:
        columns = [column.to_pylist() for column in stream.read_all().columns]
    return [list(row) for row in zip(*columns, strict=True)]


def _certificates(settings: Settings) -> list[tuple[bytes, bytes]] | None:
    if (settings.tls_cert is None) != (settings.tls_key is None):
        raise HubspokeError("--tls-cert and --tls-key go together")
    if settings.tls_cert and settings.tls_key:
        try:
            return [(settings.tls_cert.read_bytes(), settings.tls_key.read_bytes())]
        except OSError as error:
            raise HubspokeError(f"TLS: {error}") from None
    is_local = settings.host in ("localhost", "::1") or settings.host.startswith("127.")
    if not is_local and not settings.plaintext:
        raise HubspokeError(
            f"passwords and rows would leave this machine unencrypted on {settings.host}: give --tls-cert and "
            "--tls-key, or --plaintext where something else encrypts them"
        )
    return None


def serve(project: Project, settings: Settings, tell: Callable[[str], None]) -> None:
    """Serve until Ctrl-C or SIGTERM.

    Args:
        project: The project.
        settings: How.
        tell: Takes one line for the person.

    Raises:
        HubspokeError: See ``FlightServer``.
    """
    logging.basicConfig(format="%(asctime)s %(message)s", level=logging.INFO)
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)  # each connection is a file
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    server = FlightServer(project, settings)
    try:
        with until_stopped() as finished:
            tell(f"Flight SQL on {server.address}")
            current = ReleaseStore(project.release).current()
            if current is None:
                tell("There is no release yet: the first one will be served as soon as hubspoke build has made it.")
            for spoke in reading.spokes_of(current) if current else []:
                tell(f"  user {spoke:<12} password: {secret_place(project, spoke)}")
            tell("Ctrl-C stops it.")
            while not finished.wait(1):
                pass
    finally:
        is_over = server.close()
    if not is_over:  # a client that does not read holds its connection; there is nothing left to lose
        os._exit(0)
