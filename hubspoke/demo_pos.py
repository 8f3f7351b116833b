"""The tills of the running example as a PostgreSQL database: its history in one go, then basket by basket.

How many baskets are in it is a row of the database itself, written in the transaction that brings them: whatever is
killed, the next run goes on with the basket after the last.
"""

import time
from collections.abc import Iterator
from contextlib import contextmanager
from datetime import datetime
from itertools import groupby
from pathlib import Path
from threading import Event
from typing import Any

import duckdb
import psycopg
from psycopg.sql import SQL, Identifier, Literal

from hubspoke.postgres_copy import csv_rows
from hubspoke.postgres_server import LocalServer
from hubspoke.sql import columns_of, quoted

DATABASE = "pos"
PUBLICATION = "hubspoke_pos"

TABLE = """
create table transactions (
    household_id bigint not null,
    store_id bigint not null,
    basket_id bigint,
    product_id bigint,
    quantity bigint not null,
    sales_value numeric(10, 2) not null,
    retail_disc numeric(10, 2) not null,
    coupon_disc numeric(10, 2) not null,
    coupon_match_disc numeric(10, 2) not null,
    week bigint not null,
    transaction_timestamp timestamptz not null
);
create schema demo;
create table demo.written (baskets bigint not null);
insert into demo.written values (0);
"""
"""Money is exact in a till; the source files of the example have it as doubles."""

LINES = """
create view lines as
select dense_rank() over (order by transaction_timestamp, basket_id) as basket, *
from read_parquet('{path}')
"""
COLUMNS = """
household_id, store_id, basket_id, product_id, quantity, cast(sales_value as decimal(10, 2)) as sales_value,
cast(retail_disc as decimal(10, 2)) as retail_disc, cast(coupon_disc as decimal(10, 2)) as coupon_disc,
cast(coupon_match_disc as decimal(10, 2)) as coupon_match_disc, week, transaction_timestamp
"""
ROWS = 5_000
"""Rows that are read at a time."""


class Tills:
    """The database, and what is to be written to it."""

    def __init__(self, server: LocalServer, path: Path, reader: str, password: str) -> None:
        """Make the database, its table and the role that reads it, where they are missing.

        Args:
            server: The server, running.
            path: Parquet file of all lines.
            reader: Name of the role.
            password: Its password.
        """
        with psycopg.connect(**server.parameters(), autocommit=True) as root:
            if not root.execute("select 1 from pg_database where datname = %s", [DATABASE]).fetchall():
                root.execute(SQL("create database {}").format(Identifier(DATABASE)))
            root.execute(SQL("revoke all on database {} from public").format(Identifier(DATABASE)))
            if not root.execute("select 1 from pg_roles where rolname = %s", [reader]).fetchall():
                root.execute(SQL("create role {}").format(Identifier(reader)))
            # computed here: the server is sent, and could log, no more than a verifier
            verifier = root.pgconn.encrypt_password(password.encode(), reader.encode(), b"scram-sha-256").decode()
            given = SQL("alter role {} login replication password {}").format(Identifier(reader), Literal(verifier))
            root.execute(given)
            root.execute(SQL("grant connect on database {} to {}").format(Identifier(DATABASE), Identifier(reader)))
        self._server, self._reader = server, reader
        self._duck = duckdb.connect()
        self._duck.execute(LINES.format(path=quoted(path)))
        self.baskets, self.rows = self._ask("select max(basket), count(*) from lines")

    @contextmanager
    def open(self) -> Iterator[psycopg.Connection[Any]]:
        """Connect to the database as its owner."""
        parameters = self._server.parameters() | {"dbname": DATABASE}
        with psycopg.connect(**parameters, autocommit=True, options="-c TimeZone=UTC") as connection:
            yield connection

    def load(self, until: datetime) -> int:
        """Load all baskets before an instant that are not there yet, in one transaction.

        Returns:
            The rows that it loaded.
        """
        [target] = self._ask("select coalesce(max(basket), 0) from lines where transaction_timestamp < ?", until)
        with self.open() as connection, connection.transaction():
            is_new = not connection.execute("select to_regclass('public.transactions') is not null").fetchall()[0][0]
            if is_new:
                connection.execute(TABLE)
            done = _written(connection)
            loaded = 0
            if target > done:
                loaded = self._copy(connection, done, target)
                connection.execute("update demo.written set baskets = %s", [target])
            if is_new:  # the key last: so its index is made at once
                connection.execute("alter table transactions add primary key (basket_id, product_id)")
                connection.execute(f"create publication {PUBLICATION} for table transactions")
                connection.execute(SQL("grant select on transactions to {}").format(Identifier(self._reader)))
            if loaded:
                connection.execute("analyze transactions")
        return loaded

    def write(self, rows_per_second: float, finished: Event) -> Iterator[tuple[datetime, int]]:
        """Write the baskets that are left in the order of their time, each in a transaction of its own.

        Args:
            rows_per_second: How fast.
            finished: Once it is set, no further basket is written.

        Yields:
            After each basket: its time, and how many baskets are there now.
        """
        with self.open() as connection, connection.cursor() as cursor:
            done = _written(connection)
            query = f"select basket, {COLUMNS} from lines where basket > ? order by basket, product_id"
            self._duck.execute(query, [done])
            insert = f"insert into transactions values ({', '.join(['%s'] * 11)})"
            started, rows_written = time.monotonic(), 0
            for basket, lines in groupby(self._rows(), key=lambda row: row[0]):
                if finished.wait(max(0.0, started + rows_written / rows_per_second - time.monotonic())):
                    return
                rows = [line[1:] for line in lines]
                with connection.pipeline(), connection.transaction():
                    cursor.executemany(insert, rows)
                    cursor.execute("update demo.written set baskets = %s", [basket])
                rows_written += len(rows)
                yield rows[0][-1], basket

    def _copy(self, connection: psycopg.Connection[Any], done: int, target: int) -> int:
        query = (
            f"select {COLUMNS} from lines where basket > {done} and basket <= {target} "
            "order by transaction_timestamp, basket_id, product_id"
        )
        with (
            connection.cursor() as cursor,
            csv_rows(self._duck, query, columns_of(self._duck, query)) as pieces,
        ):
            with cursor.copy("copy transactions from stdin (format csv)") as copy:
                for piece in pieces:
                    copy.write(piece)
            return cursor.rowcount

    def _rows(self) -> Iterator[tuple[Any, ...]]:
        while rows := self._duck.fetchmany(ROWS):
            yield from rows

    def _ask(self, sql: str, *values: object) -> tuple[Any, ...]:
        return self._duck.execute(sql, list(values)).fetchone() or ()


def _written(connection: psycopg.Connection[Any]) -> int:
    """Return how many baskets are in the database."""
    return int(connection.execute("select baskets from demo.written").fetchall()[0][0])
