"""A subject of NATS JetStream, read by the sequence numbers of its stream.

Each read is one pull request of a consumer that exists in the server's memory for as long as we read. It acknowledges
nothing: its deliveries are numbered, and a number that is missing ends the run.
"""

import asyncio
import json
from collections.abc import Coroutine
from contextlib import suppress
from datetime import UTC
from typing import Any, TypeVar

import nats
from nats.aio.msg import Msg
from nats.errors import Error
from nats.js.api import AckPolicy, ConsumerConfig, DeliverPolicy
from nats.js.errors import NotFoundError

from hubspoke.connections import Address
from hubspoke.errors import first_line
from hubspoke.streams import BrokenStream, Message

PATIENCE_S = 10.0
READ_MESSAGES = 2_000
READ_BYTES = 4 << 20
"""Bounds of one read, beside one message of the largest size that the server allows."""

NO_MESSAGES = "404"

T = TypeVar("T")


class NatsReader:
    """Reads one subject, or several by a wildcard, of one stream (``hubspoke.streams.Reader``)."""

    def __init__(self, source: Address, topic: str) -> None:
        self._source, self._topic = source, topic
        self._runner = asyncio.Runner()
        self._refusal: Exception | None = None
        self._consumer = ""
        self._delivered = 0
        try:
            self._run(self._open())
        except BaseException:
            self._runner.close()
            raise

    def _run(self, work: Coroutine[Any, Any, T]) -> T:
        try:
            return self._runner.run(work)
        except (Error, OSError, TimeoutError) as error:
            # what the server said before it hung up says more than that it did
            said = self._refusal or error
            raise BrokenStream(first_line(said)) from None

    async def _open(self) -> None:
        async def note(error: Exception) -> None:
            self._refusal = error

        scheme, _, hosts = self._source.url.partition("://")
        user, password = (self._source.parameters.get(key) for key in ("user", "password"))
        self._connection = await nats.connect(
            [f"{scheme}://{host}" for host in hosts.split(",")],
            user=user,
            password=password if user else None,
            token=None if user else password,
            allow_reconnect=False,
            max_reconnect_attempts=1,  # which counts for the first connection, too
            reconnect_time_wait=0,
            connect_timeout=int(PATIENCE_S),
            error_cb=note,
        )
        self._jetstream = self._connection.jetstream(timeout=PATIENCE_S)
        asked = json.dumps({"subject": self._topic}).encode()
        answer = await self._connection.request("$JS.API.STREAM.NAMES", asked, timeout=PATIENCE_S)
        names = json.loads(answer.data).get("streams") or []
        if len(names) != 1:
            several = f"its subjects are in several streams ({', '.join(names)}); name subjects of one"
            raise BrokenStream(several if names else "its subject is in no stream")
        self._stream = names[0]
        info = await self._jetstream.stream_info(self._stream)
        self.identity = f"{self._stream}, made {info.created:%Y-%m-%d %H:%M:%S.%f} UTC"
        self.first = {0: max(info.state.first_seq, 1)}
        self.end = {0: info.state.last_seq + 1}

    def start(self, offsets: dict[int, int]) -> None:
        """Go to a sequence number."""
        self._position = offsets[0]
        config = ConsumerConfig(
            filter_subject=self._topic,
            deliver_policy=DeliverPolicy.BY_START_SEQUENCE,
            opt_start_seq=self._position,
            ack_policy=AckPolicy.NONE,
            mem_storage=True,
            inactive_threshold=300,
        )
        if self._position < self.end[0]:
            self._consumer = self._run(self._jetstream.add_consumer(self._stream, config)).name

    def read(self) -> list[Message]:
        """Return the next few messages before the end."""
        if self._position >= self.end[0]:
            return []
        messages = [message for message in self._run(self._pull()) if message.offset < self.end[0]]
        self._position = messages[-1].offset + 1 if messages else self.end[0]
        return messages

    async def _pull(self) -> list[Message]:
        """Ask once; the server answers with messages, and a status where they are fewer than was asked for."""
        # an inbox for each request: what is said late of one is not taken for the next one's
        inbox = self._connection.new_inbox()
        answers = await self._connection.subscribe(inbox, pending_msgs_limit=-1, pending_bytes_limit=-1)
        room = READ_BYTES + self._connection.max_payload
        asked = json.dumps({"batch": READ_MESSAGES, "max_bytes": room, "no_wait": True}).encode()
        await self._connection.publish(f"$JS.API.CONSUMER.MSG.NEXT.{self._stream}.{self._consumer}", asked, reply=inbox)
        messages: list[Message] = []
        while len(messages) < READ_MESSAGES:
            answer = await answers.next_msg(timeout=PATIENCE_S)
            if not answer.reply:  # a status, not a message
                status = answer.headers or {}
                if status.get("Status") != NO_MESSAGES and not messages:
                    raise BrokenStream(f"the server answers {status.get('Status')} {status.get('Description', '')}")
                break
            messages.append(self._message(answer))
        await answers.unsubscribe()
        return messages

    def _message(self, answer: Msg) -> Message:
        about = answer.metadata
        self._delivered += 1
        if about.sequence.consumer != self._delivered:
            raise BrokenStream("messages were lost on their way. Run it again: it goes on after the last that landed")
        return Message(0, about.sequence.stream, about.timestamp.astimezone(UTC), answer.data)

    def newest(self) -> Message | None:
        """Return the message that came last, if there is one."""
        return self._run(self._newest())

    async def _newest(self) -> Message | None:
        try:
            last = await self._jetstream.get_last_msg(self._stream, self._topic)
        except NotFoundError:
            return None
        return Message(0, last.seq or 0, last.time, last.data)

    def close(self) -> None:
        """Let go of the connection."""
        with suppress(Error, OSError, TimeoutError):
            self._runner.run(self._let_go())
        self._runner.close()

    async def _let_go(self) -> None:
        try:
            if self._consumer and self._connection.is_connected:
                await self._jetstream.delete_consumer(self._stream, self._consumer)
        finally:
            await self._connection.close()
