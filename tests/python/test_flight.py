"""The Flight SQL server, asked by the driver that people use: ADBC."""

import base64
import os
import re
import shutil
import signal
import socket
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import adbc_driver_flightsql.dbapi as dbapi
import adbc_driver_manager
import duckdb
import pandas
import polars
import psutil
import pyarrow as pa
import pyarrow.flight as flight
import pytest
from conftest import BIN
from test_release import node

from hubspoke import flight_sql
from hubspoke.errors import HubspokeError
from hubspoke.flight import FlightServer, Settings
from hubspoke.project import Project
from hubspoke.release import ReleaseStore

SPOKES = [node("spoke_bi__sales", "bi"), node("spoke_ml__features", "ml")]
ROWS = 300_000
PASSWORDS = {"bi": "bi-password", "ml": "ml-password"}
ENDLESS = "select count(*) from range(100000000000) as a, range(100000) as b where a.range + b.range = -1"
PINNED = "adbc.flight.sql.rpc.call_header.x-hubspoke-release"


def make_store(folder: Path) -> tuple[Project, duckdb.DuckDBPyConnection]:
    (folder / "dbt_project.yml").write_text("name: small\n")
    project = Project(folder, folder / "warehouse")
    hub = duckdb.connect()
    hub.execute(
        f"create table spoke_bi__sales as select range as id, (range % 7)::decimal(18,2) as amount from range({ROWS})"
    )
    hub.execute("create table spoke_ml__features as select range as id, 'canary' as secret from range(50)")
    ReleaseStore(project.release).publish(hub, SPOKES, "run 1")
    return project, hub


@pytest.fixture(scope="module", autouse=True)
def passwords() -> Iterator[None]:
    with pytest.MonkeyPatch.context() as patch:
        for spoke, password in PASSWORDS.items():
            patch.setenv(f"HUBSPOKE_PASSWORD_{spoke.upper()}", password)
        yield


@pytest.fixture(scope="module")
def project(tmp_path_factory: pytest.TempPathFactory) -> Project:
    return make_store(tmp_path_factory.mktemp("project"))[0]


@pytest.fixture(scope="module")
def server(project: Project) -> Iterator[FlightServer]:
    server = FlightServer(project, Settings(port=0))
    yield server
    assert server.close()


@pytest.fixture
def serve() -> Iterator[Callable[..., FlightServer]]:
    """Servers with settings of the test's own."""
    servers = []

    def start(project: Project, **settings: Any) -> FlightServer:
        servers.append(FlightServer(project, Settings(port=0, **settings)))
        return servers[-1]

    yield start
    for server in servers:
        server.close()


def connect(server: FlightServer, spoke: str = "bi", password: str | None = None, **options: str) -> dbapi.Connection:
    given = {"username": spoke, "password": password or PASSWORDS[spoke], **options}
    return dbapi.connect(server.address, db_kwargs=given)


def ask(connection: dbapi.Connection, sql: str, parameters: Any = None) -> pa.Table:
    with connection.cursor() as cursor:
        cursor.execute(sql, parameters)
        return cursor.fetch_arrow_table()


@pytest.fixture(scope="module")
def bi(server: FlightServer) -> Iterator[dbapi.Connection]:
    with connect(server) as connection:
        yield connection


def eventually(is_so: Callable[[], bool]) -> None:
    until = time.monotonic() + 10
    while not is_so():
        assert time.monotonic() < until
        time.sleep(0.02)


def is_idle(server: FlightServer) -> bool:
    """Whether no query runs and each has given back all it held."""
    gates = [gate._free == server.settings.queries for gate in server._gates.values()]
    users = [held.users == 0 for held in server._releases._open.values()]
    return not server._queries and all(gates) and all(users)


# -- what it answers


def test_a_query_comes_back_as_arrow_and_says_which_release_it_is_of(bi: dbapi.Connection) -> None:
    answer = ask(bi, "select count(*) as n, max(id) as most from spoke_bi__sales")
    assert answer.to_pylist() == [{"n": ROWS, "most": ROWS - 1}]
    assert answer.schema.metadata == {b"hubspoke.release": b"1"}
    whole = ask(bi, "select * from spoke_bi__sales order by id")
    assert whole["id"].to_pylist() == list(range(ROWS))


@pytest.mark.filterwarnings("error")
def test_the_cursor_pandas_and_polars_need_nothing_special(bi: dbapi.Connection) -> None:
    sql = "select id, amount from spoke_bi__sales where id < 3 order by id"
    with bi.cursor() as cursor:
        cursor.execute(sql)
        assert [row[0] for row in cursor.fetchall()] == [0, 1, 2]
        assert [column[0] for column in cursor.description] == ["id", "amount"]
    assert pandas.read_sql(sql, bi)["id"].tolist() == [0, 1, 2]
    assert polars.read_database(sql, bi)["id"].to_list() == [0, 1, 2]
    bi.commit()
    bi.rollback()


def test_types_of_every_kind_arrive(bi: dbapi.Connection) -> None:
    sql = """
    select true as b, 1::tinyint as t, 1::hugeint as h, 1.5::decimal(18,2) as d, 'a'::enum('a', 'b') as e, [1, 2] as l,
        {'x': 1} as s, map {'k': 1} as m, date '2020-01-01' as dt, timestamp '2020-01-01 01:02:03' as ts,
        timestamptz '2020-01-01 00:00:00+00' as tz, interval 1 day as i, 'a'::blob as bl, null as n, uuid() as u,
        2 as l, [{'e': 'a'::enum('a', 'b')}] as el
    """
    answer = ask(bi, sql)
    assert answer.num_rows == 1
    with bi.cursor() as cursor:
        assert cursor.adbc_execute_schema(sql) == answer.schema


def test_a_prepared_statement_takes_parameters_anew(bi: dbapi.Connection) -> None:
    with bi.cursor() as cursor:
        for limit in (10, 20):
            cursor.execute("select count(*) from spoke_bi__sales where id < ? and ? is not null", [limit, "x"])
            assert cursor.fetchone() == (limit,)
    with pytest.raises(adbc_driver_manager.ProgrammingError, match="invalid date"):
        ask(bi, "select ?::date", ["never"])
    with pytest.raises(adbc_driver_manager.ProgrammingError, match="at most"):
        ask(bi, "select length(?)", ["x" * 300_000])


def test_tools_find_what_there_is(server: FlightServer) -> None:
    with connect(server, "ml") as ml:
        [catalog] = ml.adbc_get_objects(depth="all").read_all().to_pylist()
        [schema] = catalog["catalog_db_schemas"]
        [table] = schema["db_schema_tables"]
        assert (catalog["catalog_name"], schema["db_schema_name"]) == ("ml", "main")
        assert (table["table_name"], table["table_type"]) == ("spoke_ml__features", "TABLE")
        columns = {column["column_name"]: column for column in table["table_columns"]}
        assert columns["id"]["xdbc_type_name"] == "BIGINT"
        assert ml.adbc_get_table_types() == ["TABLE"]
        assert ml.adbc_get_info()["vendor_name"] == "Hubspoke"
        described = ml.adbc_get_table_schema("spoke_ml__features")
        assert described.names == ["id", "secret"]
        assert described.field("id").metadata[b"ARROW:FLIGHT:SQL:REMARKS"] == b"The customer's id."
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="No table found"):
            ml.adbc_get_table_schema("spoke_bi__sales")

        def tables(**filters: str) -> list[str]:
            found = ml.adbc_get_objects(depth="tables", **filters).read_all().to_pylist()
            schemas = [schema for catalog in found for schema in catalog["catalog_db_schemas"]]
            return [table["table_name"] for schema in schemas for table in schema["db_schema_tables"]]

        assert tables(table_name_filter="spoke\\_ml%") == ["spoke_ml__features"]
        assert tables(table_name_filter="x%") == tables(db_schema_filter="other") == tables(catalog_filter="bi") == []
        assert ask(ml, "select current_database() as name").to_pylist() == [{"name": "ml"}]
        assert ask(ml, "select count(*) as n from ml.main.spoke_ml__features").to_pylist() == [{"n": 50}]


def test_what_other_drivers_ask_is_answered_in_the_shape_of_the_specification(server: FlightServer) -> None:
    client = flight.connect(server.address)
    options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("bi", PASSWORDS["bi"])])
    for name, schema in flight_sql.SCHEMAS.items():
        command = flight.FlightDescriptor.for_command(flight_sql.pack(flight_sql.message(name)))
        info = client.get_flight_info(command, options)
        rows = client.do_get(info.endpoints[0].ticket, options).read_all()
        rows.validate(full=True)
        assert rows.schema == schema == info.schema == client.get_schema(command, options).schema
    assert len(list(client.list_actions(options))) == 7
    unknown = flight.FlightDescriptor.for_command(b"what?")
    with pytest.raises(pa.ArrowInvalid, match="no Flight SQL command"):
        client.get_flight_info(unknown, options)
    with pytest.raises(pa.ArrowNotImplementedError, match="no action Fly"):
        list(client.do_action("Fly", options))
    for handle in (b"", b"[]", b'{"name": 1}', b'{"name": "a", "release": "1"}'):
        ticket = flight_sql.pack(flight_sql.message("TicketStatementQuery", statement_handle=handle))
        with pytest.raises(pa.ArrowInvalid, match="not one of this server's"):
            client.do_get(flight.Ticket(ticket), options).read_all()
    client.close()


# -- what it refuses


@pytest.mark.parametrize(
    ("sql", "told"),
    [
        ("insert into spoke_bi__sales values (1, 1)", "only read.*INSERT"),
        ("create temp table x (i int)", "only read.*CREATE"),
        ("copy (select 1) to '{folder}/x.csv'", "only read.*COPY"),
        ("attach '{folder}/x.db'", "only read.*ATTACH"),
        ("detach bi", "only read.*DETACH"),
        ("use system", "only read.*USE"),
        ("set memory_limit = '100GB'", "only read.*SET"),
        ("pragma threads = 8", "only read.*PRAGMA"),
        ("-- first\n/* then */ pragma database_list", "only read.*PRAGMA"),
        ("install httpfs", "only read.*INSTALL"),
        ("load httpfs", "only read.*LOAD"),
        ("call pragma_version()", "only read.*CALL"),
        ("explain analyze select 1", "only read.*EXPLAIN"),
        ("select 1; select 2", "only read.*2 statements"),
        ("-- nothing", "only read.*nothing"),
        ("select * from spoke_ml__features", "does not exist"),
        ("select * from ml.main.spoke_ml__features", "does not exist"),
        ("select * from read_csv('/etc/passwd')", "own relations only"),
        ("select * from read_text('/etc/passwd')", "own relations only"),
        ("select * from glob('/etc/*')", "own relations only"),
        ("select * from read_parquet('{store}/tables/ml/spoke_ml__features/data/*.parquet')", "own relations only"),
        ("select * from read_parquet('{store}/tables/bi/../ml/spoke_ml__features/data/*')", "own relations only"),
        ("select * from read_parquet('https://example.com/x.parquet')", "httpfs|own relations only"),
        ("select * from query('create table x (i int)')", "single SELECT"),
        ("select * from server", "does not exist"),
        ("select * from pandas", "does not exist"),
        ("selec 1", "syntax error"),
        ("select nope from spoke_bi__sales", "nope"),
    ],
)
def test_a_question_that_is_not_a_select_of_its_own_relations_is_refused(
    bi: dbapi.Connection, project: Project, tmp_path: Path, sql: str, told: str
) -> None:
    with pytest.raises(adbc_driver_manager.ProgrammingError, match=f"(?s){told}") as refusal:
        ask(bi, sql.replace("{store}", str(project.release)).replace("{folder}", str(tmp_path)))
    assert "Traceback" not in str(refusal.value)
    assert "canary" not in str(refusal.value)
    assert not list(tmp_path.iterdir())


def test_writing_by_the_driver_is_refused(bi: dbapi.Connection) -> None:
    with bi.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="only read"):
        cursor.adbc_ingest("x", pa.table({"a": [1]}))
    with bi.cursor() as cursor, pytest.raises(adbc_driver_manager.Error, match="only read"):
        cursor.executemany("insert into x values (?)", [[1], [2]])


def test_whoever_is_not_a_spoke_learns_nothing(
    server: FlightServer, project: Project, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    told = set()
    for spoke, password in [("bi", "wrong-one"), ("bi", PASSWORDS["ml"]), ("nobody", "x"), ("../bi", "x"), ("", "x")]:
        with pytest.raises(adbc_driver_manager.ProgrammingError, match="UNAUTHENTICATED") as refusal:
            connect(server, spoke, password)
        told.add(str(refusal.value))
    assert len(told) == 1
    assert not any(password in caplog.text for password in ("wrong-one", *PASSWORDS.values()))
    client = flight.connect(server.address)
    name, token = client.authenticate_basic_token("bi", PASSWORDS["bi"])
    spoke, until, signature = token.decode().removeprefix("Bearer ").split(".")
    forged = [f"ml.{until}.{signature}", f"{spoke}.{int(until) + 1}.{signature}", f"{spoke}.{until}.", ""]
    basic = base64.b64encode(b"bi").decode()
    for header in [*(f"Bearer {token}" for token in forged), f"Basic {basic}", "Basic %", "Digest x"]:
        with pytest.raises(flight.FlightUnauthenticatedError):
            list(client.list_actions(flight.FlightCallOptions(headers=[(name, header.encode())])))
    with pytest.raises(flight.FlightUnauthenticatedError, match="sign in"):
        list(client.list_actions())
    options = flight.FlightCallOptions(headers=[(name, token)])
    assert list(client.list_actions(options))
    monkeypatch.setenv("HUBSPOKE_PASSWORD_BI", "a new one")
    with pytest.raises(flight.FlightUnauthenticatedError, match="connect again"):
        list(client.list_actions(options))
    client.close()


def test_one_spoke_cannot_use_or_stop_what_another_has_prepared(server: FlightServer) -> None:
    client = flight.connect(server.address)
    bi, ml = (
        flight.FlightCallOptions(headers=[client.authenticate_basic_token(spoke, password)])
        for spoke, password in PASSWORDS.items()
    )
    request = flight_sql.pack(flight_sql.message("ActionCreatePreparedStatementRequest", query="select 1"))
    [answer] = client.do_action(("CreatePreparedStatement", request), bi)
    handle = flight_sql.unpack(answer.body.to_pybytes())[1].prepared_statement_handle
    command = flight_sql.pack(flight_sql.message("CommandPreparedStatementQuery", prepared_statement_handle=handle))
    descriptor = flight.FlightDescriptor.for_command(command)
    assert client.get_flight_info(descriptor, bi).endpoints
    with pytest.raises(pa.ArrowInvalid, match="prepare it again"):
        client.get_flight_info(descriptor, ml)
    ticket = client.get_flight_info(flight.FlightDescriptor.for_path("spoke_bi__sales", "2"), bi).endpoints[0].ticket
    assert 0 < client.do_get(ticket, bi).read_all().num_rows < ROWS
    with pytest.raises(pa.ArrowInvalid, match="spoke ml has no relation spoke_bi__sales"):
        client.do_get(ticket, ml).read_all()
    client.close()


def test_a_name_is_listened_at_wherever_it_leads_or_not_at_all(project: Project) -> None:
    # gRPC would listen at [::1] alone
    with socket.create_server(("127.0.0.1", 0)) as other, pytest.raises(HubspokeError, match="in use"):
        FlightServer(project, Settings(host="localhost", port=other.getsockname()[1]))
    with pytest.raises(HubspokeError, match="cannot listen"):
        FlightServer(project, Settings(host="no-such-host.invalid", plaintext=True))


def test_passwords_leave_the_machine_encrypted_or_not_at_all(
    project: Project, tmp_path: Path, serve: Callable[..., FlightServer]
) -> None:
    with pytest.raises(HubspokeError, match="unencrypted"):
        serve(project, host="0.0.0.0")  # noqa: S104
    with pytest.raises(HubspokeError, match="go together"):
        serve(project, tls_cert=tmp_path / "cert.pem")
    with pytest.raises(HubspokeError, match="cannot listen"):
        serve(project, host="192.0.2.1", plaintext=True)
    if not shutil.which("openssl"):
        pytest.skip("openssl is not installed")
    names = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    made = ["-keyout", "key.pem", "-out", "cert.pem", "-days", "2", "-nodes"]
    subprocess.run(
        ["openssl", "req", "-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", *names, *made],
        cwd=tmp_path,
        check=True,
        capture_output=True,
    )
    server = serve(project, host="localhost", tls_cert=tmp_path / "cert.pem", tls_key=tmp_path / "key.pem")
    trusted = {"adbc.flight.sql.client_option.tls_root_certs": (tmp_path / "cert.pem").read_text()}
    with connect(server, **trusted) as connection:
        assert ask(connection, "select 1 as a").to_pylist() == [{"a": 1}]
    with pytest.raises(adbc_driver_manager.Error, match="certificate"):
        connect(server)


# -- releases


def test_a_new_release_is_followed_while_old_results_are_read_to_their_end(
    tmp_path: Path, serve: Callable[..., FlightServer]
) -> None:
    project, hub = make_store(tmp_path)
    server = serve(project)
    store = ReleaseStore(project.release)
    with connect(server) as connection, connection.cursor() as old:
        old.execute("select id from spoke_bi__sales")
        rows = old.fetch_record_batch()
        seen = rows.read_next_batch().num_rows
        hub.execute("delete from spoke_bi__sales where id >= 10")
        store.publish(hub, SPOKES, "run 2")
        new = ask(connection, "select count(*) as n from spoke_bi__sales")
        assert (new["n"][0].as_py(), new.schema.metadata[b"hubspoke.release"]) == (10, b"2")
        assert seen + sum(batch.num_rows for batch in rows) == ROWS
        store.rollback()
        assert ask(connection, "select count(*) as n from spoke_bi__sales")["n"][0].as_py() == ROWS
    with connect(server, **{PINNED: "2"}) as kept:
        assert ask(kept, "select count(*) as n from spoke_bi__sales")["n"][0].as_py() == 10
    with connect(server, **{PINNED: "9"}) as kept, pytest.raises(adbc_driver_manager.Error, match="no release 9"):
        ask(kept, "select 1")
    eventually(lambda: is_idle(server))
    server._releases.close_unused(0)
    assert not server._releases._open
    assert not list(server._spill.iterdir())


def test_a_store_that_is_made_anew_is_not_taken_for_the_old_one(
    tmp_path: Path, serve: Callable[..., FlightServer]
) -> None:
    project, hub = make_store(tmp_path)
    server = serve(project)
    with connect(server) as connection:
        assert ask(connection, "select count(*) as n from spoke_bi__sales")["n"][0].as_py() == ROWS
        shutil.rmtree(project.release)
        with pytest.raises(adbc_driver_manager.Error, match="no release yet"):
            ask(connection, "select 1")
        hub.execute("delete from spoke_bi__sales where id >= 7")
        ReleaseStore(project.release).publish(hub, SPOKES, "run 1")
        assert ask(connection, "select count(*) as n from spoke_bi__sales")["n"][0].as_py() == 7


# -- how much at once, and how it ends


def test_a_query_ends_when_it_is_cancelled(server: FlightServer, bi: dbapi.Connection) -> None:
    with bi.cursor() as cursor:
        stopper = threading.Timer(0.5, cursor.adbc_cancel)
        stopper.start()
        with pytest.raises(adbc_driver_manager.Error, match=r"(?i)cancel"):
            cursor.execute(ENDLESS)
            cursor.fetchone()
    eventually(lambda: is_idle(server))


@pytest.mark.parametrize("action", ["CancelQuery", "CancelFlightInfo"])
def test_a_query_ends_when_another_call_cancels_it(server: FlightServer, action: str) -> None:
    client = flight.connect(server.address)
    bi, ml = (
        flight.FlightCallOptions(headers=[client.authenticate_basic_token(spoke, password)])
        for spoke, password in PASSWORDS.items()
    )
    command = flight_sql.pack(flight_sql.message("CommandStatementQuery", query=ENDLESS))
    info = client.get_flight_info(flight.FlightDescriptor.for_command(command), bi)
    request = {
        "CancelQuery": flight_sql.pack(flight_sql.message("ActionCancelQueryRequest", info=info.serialize())),
        "CancelFlightInfo": flight_sql.message("CancelFlightInfoRequest", info=info.serialize()).SerializeToString(),
    }[action]

    def cancel(options: Any) -> int:
        [answer] = client.do_action((action, request), options)
        body = answer.body.to_pybytes()
        return flight_sql.unpack(body)[1].result if action == "CancelQuery" else body[1]

    assert cancel(bi) == 3  # it does not run yet
    with ThreadPoolExecutor(1) as pool:
        running = pool.submit(lambda: client.do_get(info.endpoints[0].ticket, bi).read_all())
        eventually(lambda: bool(server._queries))
        assert cancel(ml) == 3
        assert cancel(bi) == 1
        with pytest.raises(flight.FlightCancelledError):
            running.result(timeout=10)
    eventually(lambda: is_idle(server))
    client.close()


def test_a_query_ends_at_its_timeout_whether_it_works_or_nobody_reads_it(
    project: Project, serve: Callable[..., FlightServer]
) -> None:
    server = serve(project, timeout_s=1)
    with connect(server) as connection:
        with pytest.raises(adbc_driver_manager.OperationalError, match="longer than 1 s"):
            ask(connection, ENDLESS)
        eventually(lambda: is_idle(server))
        client = flight.connect(server.address)
        options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("bi", PASSWORDS["bi"])])
        sql = "select a.*, b.* from spoke_bi__sales as a, range(1000) as b"
        command = flight_sql.pack(flight_sql.message("CommandStatementQuery", query=sql))
        info = client.get_flight_info(flight.FlightDescriptor.for_command(command), options)
        unread = client.do_get(info.endpoints[0].ticket, options)
        unread.read_chunk()
        assert server._queries
        eventually(lambda: is_idle(server))
        with pytest.raises(flight.FlightTimedOutError):
            unread.read_all()
        client.close()


def test_a_query_ends_when_its_client_dies_in_mid_stream(server: FlightServer) -> None:
    code = f"""
import adbc_driver_flightsql.dbapi as dbapi, sys, time
connection = dbapi.connect({server.address!r}, db_kwargs={{"username": "bi", "password": {PASSWORDS["bi"]!r}}})
cursor = connection.cursor()
cursor.execute("select a.* from spoke_bi__sales as a, range(100000)")
cursor.fetch_record_batch().read_next_batch()
print("reading", flush=True)
time.sleep(60)
"""
    client = subprocess.Popen([sys.executable, "-W", "ignore", "-c", code], stdout=subprocess.PIPE)
    assert client.stdout
    assert client.stdout.readline() == b"reading\n"
    assert server._queries
    client.send_signal(signal.SIGKILL)
    client.wait()
    client.stdout.close()
    eventually(lambda: is_idle(server))


def test_too_many_queries_wait_or_are_told_so_and_no_spoke_holds_up_another(
    project: Project, serve: Callable[..., FlightServer]
) -> None:
    server = serve(project, queries=1, waiting=1)
    with (
        connect(server) as first,
        connect(server) as second,
        connect(server) as third,
        connect(server, "ml") as ml,
        ThreadPoolExecutor(2) as pool,
        first.cursor() as cursor,
    ):
        endless = pool.submit(ask_with, cursor, ENDLESS)
        eventually(lambda: bool(server._queries))
        waiting = pool.submit(ask, second, "select 1 as a")
        eventually(lambda: server._gates["bi"]._may_wait == 0)
        with pytest.raises(adbc_driver_manager.OperationalError, match="try again later"):
            ask(third, "select 1")
        assert ask(ml, "select count(*) as n from spoke_ml__features").to_pylist() == [{"n": 50}]
        cursor.adbc_cancel()
        assert waiting.result(timeout=10).to_pylist() == [{"a": 1}]
        assert isinstance(endless.exception(timeout=10), adbc_driver_manager.Error)
    eventually(lambda: is_idle(server))


def ask_with(cursor: dbapi.Cursor, sql: str) -> Any:
    cursor.execute(sql)
    return cursor.fetchall()


def test_a_thousand_connections_are_served(server: FlightServer) -> None:
    host, _, port = server.address.removeprefix("grpc://").rpartition(":")
    silent = [socket.create_connection((host, int(port))) for _ in range(300)]
    # a channel of its own for each client, or gRPC would put all on one connection
    clients = [
        flight.connect(server.address, generic_options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(700)
    ]
    command = flight_sql.pack(flight_sql.message("CommandStatementQuery", query="select count(*) from spoke_bi__sales"))
    descriptor = flight.FlightDescriptor.for_command(command)

    def count(client: flight.FlightClient) -> int:
        options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("bi", PASSWORDS["bi"])])
        info = client.get_flight_info(descriptor, options)
        return client.do_get(info.endpoints[0].ticket, options).read_all()[0][0].as_py()

    with ThreadPoolExecutor(100) as pool:
        assert set(pool.map(count, clients)) == {ROWS}
    for open_one in [*silent, *clients]:
        open_one.close()
    eventually(lambda: is_idle(server))


@pytest.fixture
def command(tmp_path: Path) -> Iterator[Callable[..., tuple[subprocess.Popen[str], str]]]:
    """Run the server as people do, in a process of its own; returns it and its address."""
    make_store(tmp_path)
    started = []

    def run(*arguments: str) -> tuple[subprocess.Popen[str], str]:
        process = subprocess.Popen(
            [BIN / "hubspoke", "serve", "flight", "--port", "0", *arguments],
            cwd=tmp_path,
            env={**os.environ, "HUBSPOKE_WAREHOUSE": "warehouse"},
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        started.append(process)
        assert process.stdout
        address = next(found[1] for line in process.stdout if (found := re.search(r"(grpc://\S+)", line)))
        return process, address

    yield run
    for process in started:
        process.kill()
        process.wait()


def peak_mb(process: subprocess.Popen[str]) -> float:
    [kilobytes] = re.findall(r"VmHWM:\s+(\d+)", Path(f"/proc/{process.pid}/status").read_text())
    return int(kilobytes) / 1024


def processor_s(process: subprocess.Popen[str]) -> float:
    """How many seconds of the processor it has had."""
    return sum(psutil.Process(process.pid).cpu_times()[:2])


def test_results_of_any_size_pass_through_a_bounded_memory(
    command: Callable[..., tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    process, address = command("--memory-limit", "100MB", "--spill-limit", "1GB")
    given = {"username": "bi", "password": PASSWORDS["bi"]}
    with dbapi.connect(address, db_kwargs=given) as connection:
        assert ask(connection, "select count(*) as n from spoke_bi__sales")["n"][0].as_py() == ROWS
        before = peak_mb(process)
        with connection.cursor() as cursor:
            cursor.execute("select a.id, a.amount, repeat('x', 50) from spoke_bi__sales as a, range(30)")
            size = sum(batch.nbytes for batch in cursor.fetch_record_batch()) / 1e6
        assert size > 600
        sort = "select id, repeat('x', 100) as x from spoke_bi__sales, range(7) order by hash(id)"
        assert ask(connection, f"select count(*) as n from ({sort} limit 2000000)")["n"][0].as_py() == 2_000_000
        assert peak_mb(process) - before < 300
        with pytest.raises(adbc_driver_manager.Error, match="needs more memory"):
            ask(connection, "select length(string_agg(repeat('x', 1000), '')) from spoke_bi__sales")
        # a row wider than what is sent at once, and rows that are so together
        assert len(ask(connection, "select repeat('x', 10000000) as x")["x"][0].as_py()) == 10_000_000
        assert ask(connection, "select repeat('x', 100000) as x from range(200)").num_rows == 200
    assert not list((tmp_path / "warehouse/release").rglob("*.tmp"))


def test_a_server_that_is_being_stopped_stops_what_waits_and_what_is_about_to_start(
    project: Project, serve: Callable[..., FlightServer], monkeypatch: pytest.MonkeyPatch
) -> None:
    server = serve(project, queries=1)
    is_let_in, may_go_on = threading.Event(), threading.Event()
    run = FlightServer._run

    def run_later(*arguments: Any) -> Any:
        is_let_in.set()
        assert may_go_on.wait(10)
        return run(*arguments)

    monkeypatch.setattr(FlightServer, "_run", run_later)
    client = flight.connect(server.address)
    options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("bi", PASSWORDS["bi"])])
    command = flight_sql.pack(flight_sql.message("CommandStatementQuery", query=ENDLESS))
    [endpoint] = client.get_flight_info(flight.FlightDescriptor.for_command(command), options).endpoints
    with ThreadPoolExecutor(3) as pool:
        starting = pool.submit(client.do_get, endpoint.ticket, options)
        assert is_let_in.wait(10)
        waiting = pool.submit(client.do_get, endpoint.ticket, options)
        eventually(lambda: server._gates["bi"]._may_wait == server.settings.waiting - 1)
        closing = pool.submit(server.close)
        eventually(server._is_closing.is_set)
        may_go_on.set()
        for query in (starting, waiting):
            with pytest.raises(flight.FlightUnavailableError, match="being stopped"):
                query.result(timeout=20)
        assert closing.result(timeout=20)
    client.close()


def test_control_c_ends_it_cleanly_whatever_runs(
    command: Callable[..., tuple[subprocess.Popen[str], str]], tmp_path: Path
) -> None:
    process, address = command()
    client = flight.connect(address)
    options = flight.FlightCallOptions(headers=[client.authenticate_basic_token("bi", PASSWORDS["bi"])])

    def start(sql: str) -> flight.FlightStreamReader:
        descriptor = flight.FlightDescriptor.for_command(
            flight_sql.pack(flight_sql.message("CommandStatementQuery", query=sql))
        )
        return client.do_get(client.get_flight_info(descriptor, options).endpoints[0].ticket, options)

    with ThreadPoolExecutor(1) as pool:
        before = processor_s(process)
        running = pool.submit(lambda: start(ENDLESS).read_all())
        eventually(lambda: processor_s(process) - before > 1)  # it has begun
        unread = start("select a.* from spoke_bi__sales as a, range(100000)")
        unread.read_chunk()
        process.send_signal(signal.SIGINT)
        with pytest.raises(flight.FlightUnavailableError, match="being stopped"):
            running.result(timeout=20)
    assert process.wait(timeout=20) == 0
    client.close()
    assert process.stdout
    said = process.stdout.read()
    assert "Traceback" not in said
    assert not any(password in said for password in PASSWORDS.values())
    assert not list((tmp_path / "warehouse/tmp").iterdir())
