"""Streams: what NATS and Kafka hold, landed in micro-batches, each message once.

A stream is read by offsets, up to what is its end when a run begins. A micro-batch becomes one load, and the offsets
after it stand in that load's ``commit.json``: whatever is killed, the next run goes on after the last load. The broker
is only read; it keeps nothing for us, no group and no durable consumer.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from typing import Any, Protocol

from hubspoke.changelog import AUDIT, LOADED
from hubspoke.connections import address
from hubspoke.errors import HubspokeError
from hubspoke.file_records import Record, json_record
from hubspoke.landing import Load
from hubspoke.project import Project
from hubspoke.sources import SourceTable

BATCH_MESSAGES = 50_000
BATCH_BYTES = 32 << 20
"""Bounds of a micro-batch, which is in memory at once; the last few messages of a read may go beyond."""

OWN = {"_partition": "INTEGER", "_offset": "BIGINT", "_sent_at": "TIMESTAMP"}
"""Columns of every table that comes from a stream: where its message was, and the broker's time of it (UTC)."""


GONE = "deleted by the broker before they had landed"

RESERVED = {*OWN, *AUDIT, *LOADED}


@dataclass(frozen=True)
class Message:
    """A message as the broker holds it.

    Attributes:
        partition: 0 where a stream has no partitions.
        offset: Its place there; rises, with gaps.
        sent_at: The broker's time of it, in UTC.
        value: What was sent; nothing in a tombstone.
    """

    partition: int
    offset: int
    sent_at: datetime | None
    value: bytes | None


class Reader(Protocol):
    """A topic, opened to be read up to its end.

    Attributes:
        identity: Another once the topic is deleted and made anew, as its offsets begin again then.
        first: The first offset of each partition that is still there.
        end: The offset after the last one, as it was when the topic was opened.
    """

    identity: str
    first: dict[int, int]
    end: dict[int, int]

    def start(self, offsets: dict[int, int]) -> None:
        """Go to an offset of each partition."""

    def read(self) -> list[Message]:
        """Return the next few messages before the end, in the order of each partition; none once all are read."""

    def newest(self) -> Message | None:
        """Return the message that came last, if there is one."""

    def close(self) -> None:
        """Let go of the connection."""


class BrokenStream(Exception):
    """A broker does not answer as it should; the message says how, and what to do if anything but to try again."""


@contextmanager
def opened(project: Project, table: SourceTable) -> Iterator[Reader]:
    """Open the topic that a table is read from.

    Raises:
        HubspokeError: The connection is none of a stream, or the broker or the topic is not to be had.
    """
    source = address(project, str(table.ingest.connection))
    if source.kind not in ("nats", "kafka"):
        raise HubspokeError(
            f"{table.name}: connection {source.name} is no stream. Its address looks like "
            "nats://reader@nats.example.com:4222 or kafka://reader@kafka.example.com:9092"
        )
    reader: Reader | None = None
    try:
        # each driver is imported where a source needs it
        if source.kind == "nats":
            from hubspoke.nats_stream import NatsReader

            reader = NatsReader(source, table.topic)
        else:
            from hubspoke.kafka_stream import KafkaReader

            reader = KafkaReader(source, table.topic)
        yield reader
    except BrokenStream as error:
        raise HubspokeError(
            f"{table.name}: connection {source.name}, topic {table.topic}: {source.scrub(error)}. What has landed "
            "stays, and the next run goes on after it"
        ) from None
    finally:
        if reader:
            reader.close()


@dataclass(frozen=True)
class Batch:
    """A micro-batch.

    Attributes:
        columns: What its messages have, and ``OWN``.
        records: Its messages, each read or with the reason why not.
        lost: Messages that were deleted before they landed: partition, first and last offset.
        state: Where the next one begins, to be kept with the load.
    """

    columns: list[str]
    records: list[Record]
    lost: list[tuple[int, int, int]]
    state: dict[str, Any]


class Stream:
    """A table's stream during one run: micro-batches, from where the last load ended.

    Attributes:
        notes: What a person should know of it.
    """

    def __init__(self, table: SourceTable, reader: Reader, newest: Load | None, is_new: bool) -> None:
        """Go to where the last load ended.

        Args:
            table: The table.
            reader: Its topic.
            newest: The table's last load.
            is_new: Take up a topic that was made anew.

        Raises:
            HubspokeError: The topic is not the one that has landed so far, or what has landed is of no stream.
        """
        self._table, self._reader = table, reader
        state = newest.state if newest else {"next": {}}
        if "next" not in state:
            raise HubspokeError(
                f"{table.name}: what has landed so far did not come from a stream. Nothing was landed. Give the "
                "stream's table a name of its own, or move that table's folder out of the landing zone"
            )
        before: dict[int, int] = {int(partition): offset for partition, offset in state["next"].items()}
        reason = ""
        if before and state["stream"] != reader.identity:
            reason = f"this is not the stream that has landed so far ({reader.identity}, not {state['stream']})"
        for partition, end in reader.end.items():
            if not reason and before.get(partition, 0) > end:
                reason = f"partition {partition} ends at offset {end}, before {before[partition]}, the next to land"
        if reason and not is_new:
            raise HubspokeError(
                f"{table.name}: {reason}: it was made anew or set back. Nothing was landed. To land it from its "
                f"beginning, beside what has landed: hubspoke ingest {table.name} --new-stream"
            )
        before = {} if reason else before
        # what was deleted before we came is no loss of ours; in a partition that came later it is
        start = {partition: before.get(partition, 0 if before else first) for partition, first in reader.first.items()}
        self._lost = [
            (partition, start[partition], first - 1)
            for partition, first in reader.first.items()
            if first > start[partition]
        ]
        self.notes = tuple(
            f"{table.name}: partition {partition}, offsets {first} to {last}: {GONE}"
            for partition, first, last in self._lost
        )
        self._start = {partition: max(offset, reader.first[partition]) for partition, offset in start.items()}
        self._next = dict(self._start)
        names = [*table.columns, *(newest.columns if newest else ())]
        self._spelled = {name.lower(): name for name in reversed(names)}
        reader.start(self._next)

    @property
    def share(self) -> float:
        """How much of what there is has been read, 0 to 1."""
        done = sum(self._next.values()) - sum(self._start.values())
        return done / max(sum(self._reader.end.values()) - sum(self._start.values()), 1)

    def next_batch(self) -> Batch | None:
        """Read the next messages; None if there are none.

        Raises:
            HubspokeError: A message has a field that is not declared, and the source says freeze.
        """
        messages: list[Message] = []
        size = 0
        while len(messages) < BATCH_MESSAGES and size < BATCH_BYTES:
            some = self._reader.read()
            for message in some:
                self._next[message.partition] = message.offset + 1
                size += len(message.value or b"")
            messages += some
            if not some:
                self._next = {partition: max(at, self._reader.end[partition]) for partition, at in self._next.items()}
                break
        lost, self._lost = self._lost, []
        if not messages and not lost:
            return None
        records = [self._record(message) for message in messages]
        columns = dict.fromkeys(name for record in records for name in record.values or ()) | dict.fromkeys(OWN)
        state = {"stream": self._reader.identity, "next": {str(key): at for key, at in self._next.items()}}
        return Batch(list(columns), records, lost, state)

    def _record(self, message: Message) -> Record:
        """Read a message; its fields get the names of the table's columns."""
        record = read_message(message)
        own: dict[str, str | None] = {
            "_partition": str(message.partition),
            "_offset": str(message.offset),
            "_sent_at": message.sent_at.isoformat() if message.sent_at else None,
        }
        values: dict[str, str | None] = {}
        if record.values is not None:
            values = {self._spelled.setdefault(name.lower(), name): text for name, text in record.values.items()}
        reason = record.reason or self._fault(record, values)
        return Record(message.offset, record.raw, own if reason else values | own, reason)

    def _fault(self, record: Record, values: dict[str, str | None]) -> str:
        """Say why a message cannot be a row, if it cannot."""
        table = self._table
        if len(values) < len(record.values or ()):
            return "two of its fields differ in upper and lower case only"
        if taken := sorted(name for name in values if name.lower() in RESERVED):
            return f"it has fields with names of Hubspoke's own: {', '.join(taken)}"
        if table.columns and not values.keys() & table.columns.keys():
            return f"it has none of the columns {', '.join(table.columns)}"
        if missing := [name for name in table.key if values.get(name) is None]:
            return f"it has no {', '.join(missing)}, which is the key"
        policy = table.ingest.on_schema_change
        fresh = [name for name in values if name not in table.columns] if table.columns else []
        if fresh and policy == "freeze":
            raise HubspokeError(
                f"{table.name}: its columns have changed: {', '.join(fresh)} is not declared (offset {record.line}). "
                f"Its micro-batch was not landed, as {table.declared_in} says on_schema_change: freeze. Declare them, "
                "or say evolve"
            )
        return f"its columns have changed: {', '.join(fresh)} is not declared" if fresh and policy != "evolve" else ""


def read_message(message: Message) -> Record:
    """Read a message as one JSON object; its line is its offset."""
    if not message.value:
        return Record(message.offset, "", None, "it is empty")
    return json_record(message.offset, message.value)
