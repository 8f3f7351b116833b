"""A topic of Kafka, read by the offsets of its partitions: assigned by us, so no group of the broker takes part."""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import UTC, datetime
from typing import Any

from confluent_kafka import Consumer, KafkaError, KafkaException, TopicCollection, TopicPartition, Uuid
from confluent_kafka import Message as Answer
from confluent_kafka.admin import AdminClient

from hubspoke.connections import Address
from hubspoke.errors import first_line
from hubspoke.streams import BrokenStream, Message

PATIENCE_S = 10.0
READ_MESSAGES = 500
QUEUE_KB = 16_384
"""What the client may have fetched ahead, in all partitions."""


class KafkaReader:
    """Reads all partitions of one topic (``hubspoke.streams.Reader``)."""

    def __init__(self, source: Address, topic: str) -> None:
        self._topic = topic
        self._refusal = ""
        settings = _settings(source) | {"error_cb": self._note}
        ours = {
            "group.id": "hubspoke",  # the client asks for a name; nothing is kept under it
            "enable.auto.commit": False,
            "auto.offset.reset": "error",
            "enable.partition.eof": True,
            "queued.max.messages.kbytes": QUEUE_KB,
        }
        with self._asking():
            self._consumer = Consumer(settings | ours)
            try:
                self._look(AdminClient(settings))
            except KafkaException:
                self._consumer.poll(0)  # has it tell what it noted
                self._consumer.close()
                raise

    def _look(self, admin: AdminClient) -> None:
        found = self._consumer.list_topics(self._topic, timeout=PATIENCE_S)
        about = found.topics[self._topic]
        if about.error:
            raise KafkaException(about.error)
        asked = admin.describe_topics(TopicCollection([self._topic]), request_timeout=PATIENCE_S)
        identity = asked[self._topic].result().topic_id
        # brokers before 2.8 know no identity of a topic
        self.identity = f"{self._topic} {found.cluster_id if str(identity) == str(Uuid(0, 0)) else identity}"
        self.first, self.end = {}, {}
        for partition in sorted(about.partitions):
            place = TopicPartition(self._topic, partition)
            self.first[partition], self.end[partition] = self._consumer.get_watermark_offsets(place, timeout=PATIENCE_S)

    def _note(self, error: KafkaError) -> None:
        # the first reason says more than that all brokers are down after it
        self._refusal = self._refusal or error.str()

    @contextmanager
    def _asking(self) -> Iterator[None]:
        try:
            yield
        except KafkaException as error:
            said = error.args[0] if error.args else error
            raise BrokenStream(
                self._refusal or (said.str() if isinstance(said, KafkaError) else first_line(said))
            ) from None

    def start(self, offsets: dict[int, int]) -> None:
        """Go to an offset of each partition."""
        self._open = {partition for partition, offset in offsets.items() if offset < self.end[partition]}
        self._consumer.assign([TopicPartition(self._topic, partition, offsets[partition]) for partition in self._open])

    def read(self) -> list[Message]:
        """Return the next few messages before the ends."""
        messages: list[Message] = []
        with self._asking():
            until = time.monotonic() + PATIENCE_S
            while self._open and not messages:
                # it waits for so many or for so long
                for answer in self._consumer.consume(READ_MESSAGES, timeout=0.1):
                    self._take(answer, messages)
                if time.monotonic() > until:
                    raise BrokenStream(self._refusal or f"nothing came for {PATIENCE_S:.0f} s")
        return messages

    def _take(self, answer: Answer, messages: list[Message]) -> None:
        """Take a message that is before the end, and note which partitions have reached it."""
        error, partition, offset = answer.error(), int(answer.partition() or 0), int(answer.offset() or 0)
        if error and error.code() != KafkaError._PARTITION_EOF:
            raise KafkaException(error)
        if partition not in self._open:
            return
        if not error and offset < self.end[partition]:
            kind, milliseconds = answer.timestamp()
            sent_at = datetime.fromtimestamp(milliseconds / 1000, UTC) if kind else None
            messages.append(Message(partition, offset, sent_at, answer.value()))
        # before an end there may be no message: marks of transactions have offsets, too
        if error or offset + 1 >= self.end[partition]:
            self._open.discard(partition)
            self._consumer.pause([TopicPartition(self._topic, partition)])

    def newest(self) -> Message | None:
        """Return the message that came last, if there is one."""
        self.start({partition: max(self.first[partition], end - 1) for partition, end in self.end.items()})
        found: list[Message] = []
        while some := self.read():
            found += some
        return max(found, key=lambda message: message.sent_at or datetime.min.replace(tzinfo=UTC), default=None)

    def close(self) -> None:
        """Let go of the connection."""
        self._consumer.close()


def _settings(source: Address) -> dict[str, Any]:
    """Return the client's settings: an address may say any of them, written with _ where Kafka writes a dot."""
    given = dict(source.parameters)
    settings: dict[str, Any] = {"bootstrap.servers": source.url.removeprefix("kafka://"), "log_level": 0}
    user, password = given.pop("user", None), given.pop("password", "")
    if user:
        settings |= {"security.protocol": "SASL_SSL", "sasl.mechanism": "PLAIN"}
        settings |= {"sasl.username": user, "sasl.password": password}
    return settings | {name.replace("_", "."): value for name, value in given.items()}
