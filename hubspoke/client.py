"""Reading a spoke's relations from Python: on the machine of the warehouse, or through ``hubspoke serve flight``.

import hubspoke

ml = hubspoke.connect("ml")                                       # here: straight from the release's files
ml = hubspoke.connect("ml", server="grpc://warehouse:31337")      # there: over Flight SQL
result = ml.sql("select * from spoke_ml__household_features")
result.release, result.pandas()
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import TYPE_CHECKING, Any, Protocol

import duckdb

from hubspoke import reading
from hubspoke.credentials import password as password_of
from hubspoke.errors import HubspokeError
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

if TYPE_CHECKING:
    import pandas as pd
    import polars as pl
    import pyarrow as pa


@dataclass(frozen=True)
class Column:
    """A column of a relation.

    Attributes:
        type: DuckDB's name of its type.
        description: What the model's YAML says of it.
    """

    type: str
    description: str


@dataclass(frozen=True)
class Relation:
    """A relation that a spoke may read.

    Attributes:
        name: Its name.
        rows: Rows.
        description: What the model's YAML says of it.
        columns: By name, in order.
    """

    name: str
    rows: int
    description: str
    columns: dict[str, Column]


class Result:
    """Rows of one release. Each method reads them anew, from that release, whichever is current by then."""

    def __init__(self, release: int, schema: "pa.Schema", read: Callable[[], "pa.RecordBatchReader"]) -> None:
        self.release = release
        """Number of the release that the rows come from."""
        self.schema = schema
        """Arrow schema; its metadata holds ``hubspoke.release``."""
        self._read = read

    def reader(self) -> "pa.RecordBatchReader":
        """Return the rows as Arrow record batches, one after the other, for what does not fit into memory."""
        return self._read()

    def arrow(self) -> "pa.Table":
        """Return the rows as an Arrow table; its schema's metadata holds ``hubspoke.release``."""
        with _clear_words():
            return self._read().read_all()

    def pandas(self) -> "pd.DataFrame":
        """Return the rows as a pandas data frame; its ``attrs`` hold ``hubspoke.release``."""
        frame = self.arrow().to_pandas()
        frame.attrs[reading.RELEASE] = self.release
        return frame

    def polars(self) -> "pl.DataFrame":
        """Return the rows as a polars data frame.

        Raises:
            HubspokeError: polars is not installed.
        """
        try:
            import polars
        except ImportError:
            raise HubspokeError("polars is not installed. Run: pip install polars") from None
        return polars.DataFrame(self.arrow())

    def __repr__(self) -> str:
        """Say what it is, without reading it."""
        return f"<Result of release {self.release}: {', '.join(self.schema.names)}>"


class _Source(Protocol):
    """Where a connection reads."""

    def start(self, sql: str, parameters: Sequence[Any]) -> Result: ...
    def read(self, relation: str, shards: int, shard: int) -> Result: ...
    def relations(self) -> list[Relation]: ...
    def release(self) -> int: ...
    def close(self) -> None: ...


class Connection:
    """What one spoke may read. Made by ``connect``; a context manager."""

    def __init__(self, spoke: str, source: _Source, pinned: int | None) -> None:
        self.spoke = spoke
        self.pinned = pinned
        """Number of the release that it keeps to, or None if it follows the current one."""
        self._source = source

    @property
    def release(self) -> int:
        """Number of the release that it reads now."""
        return self._source.release()

    def sql(self, query: str, parameters: Sequence[Any] = ()) -> Result:
        """Ask one select.

        Args:
            query: SQL as DuckDB speaks it.
            parameters: Values for its ``?``.

        Raises:
            HubspokeError: It is no select, or names what does not exist.
        """
        return self._source.start(query, parameters)

    def relations(self) -> list[Relation]:
        """Return what there is to read, by name."""
        return self._source.relations()

    def read(self, relation: str, *, shards: int = 1, shard: int = 0) -> Result:
        """Read a relation, or one of several disjoint shards that are all of it together.

        Args:
            relation: Its name.
            shards: How many shards there are. More than one need a connection that keeps to one release.
            shard: Which one, from 0.

        Raises:
            HubspokeError: There is no such relation or shard, or the connection follows the current release.
        """
        if shards != 1 and self.pinned is None:
            raise HubspokeError(
                "shards must come from one release: connect with its number, the same everywhere, for example "
                f"connect({self.spoke!r}, release={self.release})"
            )
        return self._source.read(relation, shards, shard)

    def close(self) -> None:
        """Let go of files and connections."""
        self._source.close()

    def __enter__(self) -> "Connection":
        """Return itself."""
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        """Close."""
        self.close()


def connect(
    spoke: str,
    *,
    release: int | None = None,
    server: str | None = None,
    password: str | None = None,
    tls_root_certificate: Path | None = None,
    project: Path | None = None,
) -> Connection:
    """Connect to what a spoke may read.

    Args:
        spoke: Its name.
        release: Number of the release to keep to; default: each question is answered from the one that is current.
        server: Address of ``hubspoke serve flight``, for example ``grpc://127.0.0.1:31337`` or, encrypted,
            ``grpc+tls://…``; default: the files of the project.
        password: For a server; default: what ``hubspoke spokes password`` has made, or ``HUBSPOKE_PASSWORD_<SPOKE>``.
        tls_root_certificate: PEM file of who has signed the server's certificate, if the machine does not know them.
        project: Folder in the project; default: the working directory.

    Raises:
        HubspokeError: There is no such project, release, spoke or server, or the password is wrong.
    """
    if server is not None:
        return Connection(spoke, _Server(spoke, release, server, password, tls_root_certificate, project), release)
    return Connection(spoke, _Files(ReleaseStore(Project.find(project).release), spoke, release), release)


class _clear_words:
    """Turn what DuckDB and Flight raise into the message for a person."""

    def __enter__(self) -> None:
        return None

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        import pyarrow as pa

        if isinstance(error, duckdb.Error | pa.ArrowException | OSError) and not isinstance(error, HubspokeError):
            raise HubspokeError(_message(error)) from None


def _message(error: BaseException) -> str:
    """Return what the server said, without what its transport adds."""
    text = str(error)
    for before in (", with message: ", " returned error. Message: "):
        text = text.rpartition(before)[2] if before in text else text
    for after in (". gRPC client debug context", ". Detail: ", " gRPC client debug context"):
        text = text.partition(after)[0]
    return text


class _Files:
    """Reads the files of the release store on this machine."""

    def __init__(self, store: ReleaseStore, spoke: str, pinned: int | None) -> None:
        self._store = store
        self._spoke = spoke
        self._pinned = pinned
        self._opened: dict[int, tuple[Any, duckdb.DuckDBPyConnection]] = {}
        self._now()

    def _now(self) -> tuple[Any, duckdb.DuckDBPyConnection]:
        release = self._store.get(self._pinned)
        if release.number not in self._opened:
            self._opened = {release.number: (release, reading.open_spoke(self._store, release, self._spoke))}
        return self._opened[release.number]

    def release(self) -> int:
        return int(self._now()[0].number)

    def start(self, sql: str, parameters: Sequence[Any]) -> Result:
        release, opened = self._now()
        values = list(parameters)
        with _clear_words():
            asking = reading.cursor(opened, self._spoke)
            schema = reading.tagged(reading.schema_of(asking, sql, values), release.number)

        def read() -> Any:
            import pyarrow as pa

            with _clear_words():
                own = reading.cursor(opened, self._spoke)
                rows = own.execute(reading.selection(own, sql), values).to_arrow_reader(reading.BATCH_ROWS)
                return pa.RecordBatchReader.from_batches(schema, (batch.cast(schema) for batch in rows))

        return Result(release.number, schema, read)

    def read(self, relation: str, shards: int, shard: int) -> Result:
        release, _ = self._now()
        reading.make_sure_of(release, self._spoke, relation)
        return self.start(reading.shard_sql(self._store, release, relation, shards, shard), ())

    def relations(self) -> list[Relation]:
        release, opened = self._now()
        own = reading.cursor(opened, self._spoke)
        return [
            _described(name, reading.relation_schema(own, release, name))
            for name in reading.relations_of(release, self._spoke)
        ]

    def close(self) -> None:
        for _, opened in self._opened.values():
            opened.close()
        self._opened = {}


class _Server:
    """Reads through a Flight SQL server."""

    def __init__(
        self,
        spoke: str,
        pinned: int | None,
        address: str,
        password: str | None,
        root: Path | None,
        project: Path | None,
    ) -> None:
        import pyarrow.flight as flight

        self._flight = flight
        self._pinned = pinned
        if password is None:
            here = project or Path.cwd()
            try:
                place = Project.find(here)
            except HubspokeError:
                place = Project(here, here / "warehouse")
            password = password_of(place, spoke)
        import pyarrow as pa

        try:
            options = {"tls_root_certs": root.read_bytes()} if root else {}
            self._client = flight.connect(address, **options)
            self._token = self._client.authenticate_basic_token(spoke, password)
        except flight.FlightUnauthenticatedError as error:
            raise HubspokeError(f"{address}: {_message(error)}") from None
        except (pa.ArrowException, OSError) as error:
            raise HubspokeError(f"no server answers at {address} ({_message(error)})") from None
        self.release()

    def _options(self, release: int | None = None) -> Any:
        number = self._pinned if release is None else release
        pin = [] if number is None else [(reading.PINNED.encode(), str(number).encode())]
        return self._flight.FlightCallOptions(headers=[self._token, *pin])

    def _ask(self, name: str, **fields: Any) -> Any:
        from hubspoke import flight_sql

        command = flight_sql.pack(flight_sql.message(name, **fields))
        with _clear_words():
            return self._client.get_flight_info(self._flight.FlightDescriptor.for_command(command), self._options())

    def _result(self, info: Any, endpoint: int) -> Result:
        ticket = info.endpoints[endpoint].ticket

        def read() -> Any:
            with _clear_words():
                return self._client.do_get(ticket, self._options()).to_reader()

        return Result(int(info.schema.metadata[reading.RELEASE.encode()]), info.schema, read)

    def release(self) -> int:
        return int(self._ask("CommandStatementQuery", query="select 1").schema.metadata[reading.RELEASE.encode()])

    def start(self, sql: str, parameters: Sequence[Any]) -> Result:
        if not parameters:
            return self._result(self._ask("CommandStatementQuery", query=sql), 0)
        import pyarrow as pa

        from hubspoke import flight_sql

        with _clear_words():
            request = flight_sql.pack(flight_sql.message("ActionCreatePreparedStatementRequest", query=sql))
            [answer] = self._client.do_action(("CreatePreparedStatement", request), self._options())
            handle = flight_sql.unpack(answer.body.to_pybytes())[1].prepared_statement_handle
            command = flight_sql.message("CommandPreparedStatementQuery", prepared_statement_handle=handle)
            row = pa.record_batch({str(place): [value] for place, value in enumerate(parameters)})
            descriptor = self._flight.FlightDescriptor.for_command(flight_sql.pack(command))
            writer, answers = self._client.do_put(descriptor, row.schema, self._options())
            writer.write_batch(row)
            writer.done_writing()
            answers.read()
            writer.close()
            info = self._client.get_flight_info(descriptor, self._options())
            request = flight_sql.pack(
                flight_sql.message("ActionClosePreparedStatementRequest", prepared_statement_handle=handle)
            )
            list(self._client.do_action(("ClosePreparedStatement", request), self._options()))
        return self._result(info, 0)

    def read(self, relation: str, shards: int, shard: int) -> Result:
        if shards < 1 or not 0 <= shard < shards:
            raise HubspokeError(
                f"there is no shard {shard} of {shards}: shards are numbered from 0 to {max(shards - 1, 0)}"
            )
        descriptor = self._flight.FlightDescriptor.for_path(relation, str(shards))
        with _clear_words():
            info = self._client.get_flight_info(descriptor, self._options())
        return self._result(info, shard)

    def relations(self) -> list[Relation]:
        info = self._ask("CommandGetTables", include_schema=True)
        with _clear_words():
            rows = self._client.do_get(info.endpoints[0].ticket, self._options()).read_all().to_pylist()
        import pyarrow as pa

        return [_described(row["table_name"], pa.ipc.read_schema(pa.py_buffer(row["table_schema"]))) for row in rows]

    def close(self) -> None:
        self._client.close()


def _described(name: str, schema: Any) -> Relation:
    def said(metadata: dict[bytes, bytes] | None, key: str) -> str:
        return (metadata or {}).get(key.encode(), b"").decode()

    columns = {
        field.name: Column(
            said(field.metadata, "ARROW:FLIGHT:SQL:TYPE_NAME"), said(field.metadata, "ARROW:FLIGHT:SQL:REMARKS")
        )
        for field in schema
    }
    return Relation(
        name, int(said(schema.metadata, "hubspoke.rows")), said(schema.metadata, "hubspoke.description"), columns
    )
