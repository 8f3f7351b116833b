"""PostgreSQL's replication protocol over psycopg: slots, the snapshot that a new slot begins with, and the stream.

psycopg has no class for a replication stream, but its connection speaks libpq, which does: ``START_REPLICATION`` opens
a copy in both directions; messages come one way, and how far they are safe goes the other.
"""

import select
import struct
import time
from dataclasses import dataclass
from typing import Any

import psycopg
from psycopg.sql import SQL, Identifier, Literal

from hubspoke.pgoutput import EPOCH_US, Messages
from hubspoke.postgres_types import SETTINGS

Connection = psycopg.Connection[Any]

STATUS_EVERY_S = 5.0
"""A server that hears nothing for a minute (``wal_sender_timeout``) hangs up."""

_KEEPALIVE = struct.Struct(">cQqB")
_STATUS = struct.Struct(">cQQQqB")


def connect(parameters: dict[str, str], **more: str) -> Connection:
    """Connect to a database; values come as ``hubspoke/postgres_types.py`` reads them."""
    options = " ".join(filter(None, [parameters.get("options"), SETTINGS]))
    defaults = {
        "connect_timeout": "10",
        "application_name": "hubspoke",
        "client_encoding": "UTF8",
        "keepalives_idle": "30",
    }
    return psycopg.connect(**(defaults | parameters | {"options": options} | more), autocommit=True)  # type: ignore[arg-type]


def position(text: str) -> int:
    """Return a place in the log, written as ``16/B374D848``, as a number."""
    high, low = text.split("/")
    return int(high, 16) << 32 | int(low, 16)


def written(place: int) -> str:
    """Return a place in the log as PostgreSQL writes it."""
    return f"{place >> 32:X}/{place & 0xFFFFFFFF:X}"


@dataclass(frozen=True)
class Start:
    """Where a new slot begins, and the database as it was there.

    Attributes:
        position: Transactions that commit later come through the slot.
        snapshot: Name of the snapshot that has the ones before; it lasts until the connection's next command.
    """

    position: int
    snapshot: str


def create_slot(connection: Connection, name: str, temporary: bool = False) -> Start:
    """Make a replication slot on a replication connection, and have its snapshot exported."""
    kind = SQL("TEMPORARY LOGICAL") if temporary else SQL("LOGICAL")
    row = connection.execute(
        SQL("CREATE_REPLICATION_SLOT {} {} pgoutput EXPORT_SNAPSHOT").format(Identifier(name), kind)
    ).fetchone()
    assert row is not None  # noqa: S101 -- the command gives one row or an error
    return Start(position(row[1]), row[2])


class Stream:
    """The change log behind a slot, as it is written.

    Attributes:
        idle_position: The server has sent all that was committed before this place.
        idle_at: The server's clock then, in microseconds since 1970.
        is_asked: Whether it wants to hear what is safe, as it does when it is about to stop.
    """

    def __init__(self, connection: Connection, slot: str, publication: str, start: int) -> None:
        """Begin to stream what was committed after ``start``."""
        self.idle_position = 0
        self.idle_at = 0
        self.is_asked = False
        self._confirmed = start
        self._said_at = time.monotonic()
        self._socket = connection.pgconn
        connection.execute(
            SQL("START_REPLICATION SLOT {} LOGICAL {} (proto_version '1', publication_names {})").format(
                # a list of names as in SQL, in one text
                Identifier(slot), SQL(written(start)), Literal('"' + publication.replace('"', '""') + '"'),
            )
        )  # fmt: skip
        self._socket.nonblocking = 0

    def read(self, messages: Messages, until: float, byte_limit: int, count_limit: int) -> None:
        """Add messages as they come.

        Args:
            messages: What to add them to.
            until: ``time.monotonic()`` at which to return at the latest.
            byte_limit: Return once there are so many bytes.
            count_limit: Return once there are so many messages.

        Raises:
            psycopg.OperationalError: The connection is gone.
        """
        get, content, lengths = self._socket.get_copy_data, messages.content, messages.lengths
        while len(content) < byte_limit and len(lengths) < count_limit:
            length, data = get(1)
            if length > _KEEPALIVE.size or (length > 0 and data[0] != 107):
                content += data
                lengths.append(length)
            elif length > 0:
                _, self.idle_position, clock, is_asked = _KEEPALIVE.unpack(data)
                self.idle_at = clock + EPOCH_US
                if is_asked:
                    self.is_asked = True
                    return
            elif length == 0:
                left = min(until, self._said_at + STATUS_EVERY_S) - time.monotonic()
                if not select.select([self._socket.socket], [], [], max(left, 0))[0]:
                    if time.monotonic() >= until:
                        return
                    self.stay()
                    continue
                self._socket.consume_input()
            else:
                result = self._socket.get_result()
                raise psycopg.OperationalError(result.get_error_message() if result else "the server ended the stream")
        self.stay()

    def confirm(self, place: int, ask: bool = False) -> None:
        """Tell the server that everything before a place is safe: it need not keep it.

        Args:
            place: The place.
            ask: Whether it should say at once how far it is.
        """
        self._confirmed = place
        self.is_asked = False
        self._said_at = time.monotonic()
        now = time.time_ns() // 1000 - EPOCH_US
        self._socket.put_copy_data(_STATUS.pack(b"r", place, place, place, now, ask))
        self._socket.flush()

    def stay(self) -> None:
        """Say that this end is alive, if it has been quiet for some time."""
        if time.monotonic() - self._said_at >= STATUS_EVERY_S:
            self.confirm(self._confirmed)
