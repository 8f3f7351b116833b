"""The campaign manager of the running example as a REST interface: pages of JSON, for who has the token.

GET /v1/<table>?page=1&size=5000    {"data": [{…}, …], "next": "http://…/v1/<table>?page=2&size=5000"}
"""

import hmac
import json
import threading
from http import HTTPStatus
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import duckdb

from hubspoke.postgres_server import HOST
from hubspoke.sql import identifier, quoted

VERSION = "/v1/"
LARGEST_PAGE = 5_000


class Interface(ThreadingHTTPServer):
    """Serves some tables on this machine."""

    def __init__(self, port: int, token: str, tables: dict[str, Path]) -> None:
        """Listen.

        Args:
            port: The port; 0: a free one.
            token: What a request has to bear.
            tables: Parquet file by name of the table.

        Raises:
            OSError: The port is taken.
        """
        self.token = token
        self.rows = duckdb.connect()
        for name, path in tables.items():
            self.rows.execute(f"create table {identifier(name)} as from read_parquet('{quoted(path)}')")
        self.tables = set(tables)
        super().__init__((HOST, port), _Handler)

    @property
    def url(self) -> str:
        """Its address."""
        return f"http://{HOST}:{self.server_port}{VERSION.rstrip('/')}"

    def start(self) -> None:
        """Answer requests from now on, beside what else the process does."""
        threading.Thread(target=self.serve_forever, daemon=True).start()

    def stop(self) -> None:
        """Answer no more."""
        self.shutdown()
        self.server_close()


class _Handler(BaseHTTPRequestHandler):
    server: Interface
    protocol_version = "HTTP/1.1"

    def log_message(self, *_: Any) -> None:
        """Stay quiet."""

    def do_GET(self) -> None:
        parts = urlsplit(self.path)
        asked = {name: values[0] for name, values in parse_qs(parts.query).items()}
        table = parts.path.removeprefix(VERSION)
        page, size = asked.get("page", "1"), asked.get("size", "1000")
        given = self.headers.get("Authorization", "").encode()
        if not hmac.compare_digest(given, f"Bearer {self.server.token}".encode()):
            self._refuse(HTTPStatus.UNAUTHORIZED, "send the header Authorization: Bearer <token>")
        elif not parts.path.startswith(VERSION) or table not in self.server.tables:
            self._refuse(HTTPStatus.NOT_FOUND, f"there are {', '.join(sorted(self.server.tables))}")
        elif not (page.isdecimal() and size.isdecimal() and 0 < int(size) <= LARGEST_PAGE and int(page) > 0):
            self._refuse(HTTPStatus.BAD_REQUEST, f"page counts from 1; size is at most {LARGEST_PAGE}")
        else:
            self._answer(HTTPStatus.OK, self._page(table, int(page), int(size)))

    def _page(self, table: str, page: int, size: int) -> str:
        # one more than asked for tells whether there is another page
        rows = [
            row
            for (row,) in self.server.rows.cursor()
            .execute(
                f"select to_json(it) from (from {identifier(table)} limit ? offset ?) as it",
                [size + 1, (page - 1) * size],
            )
            .fetchall()
        ]
        following = f"{self.server.url}/{table}?page={page + 1}&size={size}" if len(rows) > size else None
        return f'{{"data": [{", ".join(rows[:size])}], "next": {json.dumps(following)}}}'

    def _refuse(self, status: HTTPStatus, error: str) -> None:
        self._answer(status, json.dumps({"error": error}))

    def _answer(self, status: HTTPStatus, text: str) -> None:
        body = text.encode()
        self.send_response(status)
        self.send_header("Content-Type", "application/json")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
