"""REST interfaces as sources: a real HTTP server of the suite's own, with faults planted."""

import json
import threading
import time
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb
import pytest

from hubspoke.errors import HubspokeError
from hubspoke.exports import ingest
from hubspoke.landing import LandingZone, Outcome
from hubspoke.project import Project
from hubspoke.sources import read_sources


class Interface(ThreadingHTTPServer):
    """Serves ``rows``; each entry of ``faults`` spoils one answer."""

    def __init__(self) -> None:
        super().__init__(("127.0.0.1", 0), Handler)
        self.rows: list[Any] = []
        self.faults: list[str] = []
        self.asked: list[dict[str, str]] = []
        self.moves = 0

    @property
    def url(self) -> str:
        return f"127.0.0.1:{self.server_port}/v1"


class Handler(BaseHTTPRequestHandler):
    server: Interface

    def log_message(self, *_: Any) -> None:
        pass

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        self.server.asked.append({**asked, "authorization": self.headers.get("Authorization") or ""})
        fault = self.server.faults.pop(0) if self.server.faults else ""
        if fault == "429":
            self.send_response(429)
            self.send_header("Retry-After", "1")
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        if fault.isdigit():
            self.send_response(int(fault))
            self.send_header("Content-Length", "0")
            self.end_headers()
            return
        rows = [row for row in self.server.rows if row.get("seen", 0) >= int(asked.get("since", 0))]
        size = int(asked.get("limit", 1000))
        start = int(asked.get("offset", 0)) + (int(asked.get("page", 1)) - 1) * size + int(asked.get("after", 0))
        page = rows[start : start + size]
        after = str(start + size) if start + size < len(rows) else None
        following = f"http://{self.server.url}/orders?after={after}&limit={size}" if after else None
        body = json.dumps({"data": {"items": page}, "after": after, "next": following}).encode()
        if self.server.moves and page:
            self.server.moves -= 1
            self.server.rows.insert(0, {"id": 1000 + self.server.moves, "name": "new"})
        sent = body[: len(body) // 2] if fault in ("cut", "half") else body
        self.send_response(200)
        self.send_header("Content-Type", "application/json")
        if following and asked.get("style") == "header":
            self.send_header("Link", f'<{following}&style=header>; rel="next"')
        # cut: the connection ends before what was promised; half: what was promised is no whole JSON
        self.send_header("Content-Length", str(len(body if fault == "cut" else sent)))
        self.end_headers()
        self.wfile.write(sent)


@pytest.fixture
def interface() -> Iterator[Interface]:
    server = Interface()
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    yield server
    server.shutdown()
    server.server_close()


PAGES = {
    "page": "{ by: page, parameter: page, size: 10, size_parameter: limit }",
    "offset": "{ by: offset, parameter: offset, size: 10, size_parameter: limit }",
    "cursor": "{ by: cursor, parameter: after, next: after, size: 10, size_parameter: limit }",
    "link": "{ by: link, next: next, size: 10, size_parameter: limit }",
}


@pytest.fixture
def project(interface: Interface, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Project:
    monkeypatch.setenv("HUBSPOKE_CONNECTION_API", f"http://:hush-hush@{interface.url}")
    return declare(tmp_path)


def declare(root: Path, pages: str = PAGES["page"], more: str = "", rest: str = "") -> Project:
    (root / "models").mkdir(exist_ok=True)
    (root / "models/_api__sources.yml").write_text(
        f"""
sources:
  - name: api
    config: {{ meta: {{ ingest: {{ mechanism: export, connection: api, auth: bearer }} }} }}
    tables:
      - name: orders
        config: {{ meta: {{ rest: {{ path: orders, records: data.items, pages: {pages} {rest} }} {more} }} }}
        columns: [{{ name: id, data_type: bigint }}, {{ name: name, data_type: varchar }}]
"""
    )
    return Project(root, root / "warehouse")


def run(project: Project) -> Outcome:
    [outcome] = ingest(project, read_sources(project.root))
    return outcome


def rows(project: Project) -> list[int]:
    zone = LandingZone(project.landing)
    load = zone.current("api", "orders")
    assert load is not None
    [data] = zone.files("api", "orders", load)
    return [row[0] for row in duckdb.sql(f"select id from '{data}' order by id").fetchall()]


@pytest.mark.parametrize("style", list(PAGES))
def test_every_page_is_read_with_the_secret_and_again_adds_nothing(
    project: Project, interface: Interface, style: str
) -> None:
    declare(project.root, PAGES[style])
    interface.rows = [{"id": number, "name": "ä"} for number in range(35)]
    assert run(project) == Outcome("api.orders", 35, is_new=True)
    assert rows(project) == list(range(35))
    assert {asked["authorization"] for asked in interface.asked} == {"Bearer hush-hush"}
    assert not run(project).is_new


@pytest.mark.parametrize("fault", ["429", "500", "503", "cut", "half"])
def test_an_answer_that_fails_is_asked_for_again(project: Project, interface: Interface, fault: str) -> None:
    interface.rows = [{"id": number, "name": "x"} for number in range(25)]
    interface.faults = ["", fault]
    started = time.monotonic()
    assert run(project).rows == 25
    assert rows(project) == list(range(25))
    if fault == "429":
        assert time.monotonic() - started >= 1


def test_one_that_fails_for_good_is_an_error_and_lands_nothing(project: Project, interface: Interface) -> None:
    declare(project.root, more=", retries: 2")
    interface.rows = [{"id": 1, "name": "x"}]
    interface.faults = ["500"] * 9
    with pytest.raises(HubspokeError, match=r"api.orders: connection api, orders: it answers 500"):
        run(project)
    interface.faults = ["401"]
    with pytest.raises(HubspokeError, match="look at the secret") as error:
        run(project)
    assert "hush" not in str(error.value)
    assert LandingZone(project.landing).loads("api", "orders") == []


def test_a_listing_that_moves_while_it_is_read_is_read_again(project: Project, interface: Interface) -> None:
    declare(project.root, more=", key: id")
    interface.rows = [{"id": number, "name": "x"} for number in range(25)]
    interface.moves = 1
    assert run(project).rows == 26
    assert rows(project) == [*range(25), 1000]
    interface.moves = 99
    with pytest.raises(HubspokeError, match="rows came on two pages"):
        run(project)


def test_by_cursor_only_new_rows_are_asked_for(project: Project, interface: Interface) -> None:
    declare(project.root, more=", cursor: seen, key: id", rest=", since: since")
    text = (project.root / "models/_api__sources.yml").read_text()
    seen = "{ name: seen, data_type: bigint }, { name: id,"
    (project.root / "models/_api__sources.yml").write_text(text.replace("{ name: id,", seen))
    interface.rows = [{"id": number, "name": "x", "seen": number} for number in range(25)]
    assert run(project).rows == 25
    assert not run(project).is_new
    interface.rows += [{"id": 3, "name": "changed", "seen": 30}, {"id": 40, "name": "same instant", "seen": 24}]
    interface.asked.clear()
    assert run(project) == Outcome("api.orders", 2, is_new=True)
    assert {asked["since"] for asked in interface.asked} == {"24"}
    assert not run(project).is_new


def test_a_value_that_is_none_becomes_a_rejected_row(project: Project, interface: Interface) -> None:
    interface.rows = [{"id": 1, "name": "x"}, {"id": "one", "name": "y"}, {"id": 2.5, "name": "z"}]
    assert run(project) == Outcome("api.orders", 1, is_new=True, rejected=2)
    load = LandingZone(project.landing).current("api", "orders")
    assert load is not None
    assert (load.rows_in, load.rows, load.rejected) == (3, 1, 2)
