"""PostgreSQL for spokes: a release's relations, copied beside what readers see and swapped in at once.

    <spoke>              what readers see: one table for each relation that the spoke has ordered, and hubspoke_release
    <spoke>__next        what the next release brings, until it is swapped in; readers have no right on it
    <spoke>__old         what it has replaced, until it is dropped
    hubspoke             what has been published, so that only what differs is copied; readers have no right on it

The server is the one that ``HUBSPOKE_POSTGRES`` names, else the one that ``hubspoke serve postgres`` runs.
"""

import hashlib
import json
import os
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from datetime import UTC, datetime
from typing import Any

import duckdb
import psycopg

from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest
from hubspoke.orders import Order, Ordered, orders
from hubspoke.postgres_copy import Connection, build_table
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.release import Relation, Release, ReleaseStore
from hubspoke.sql import identifier, quoted

FORMAT = 1
"""Counts up whenever tables are made otherwise than before, so that all are copied again."""

ADVISORY_LOCK = 0x68756273
"""Key of the lock that keeps two publishers apart."""

OLDEST_SERVER = 13

PATIENCE_S = 60.0
"""Seconds for which a swap gives readers SHORT_WAIT_MS and no more."""

SHORT_WAIT_MS = 20
"""Milliseconds for which a swap waits for readers who are at an old table; whoever comes then waits behind it."""

LONG_WAITS_MS = (50, 100, 250, 500, 1000, 2000)
"""The last attempts: on a server where some query is always running, the short wait would never do."""

NOTES = """
create schema if not exists hubspoke;
create table if not exists hubspoke.spokes (spoke text primary key);
create table if not exists hubspoke.relations (
    spoke text, relation text, table_oid oid, fingerprint text, access text, rows bigint, release_number integer,
    primary key (spoke, relation)
);
create table if not exists hubspoke.published (
    is_only boolean primary key default true check (is_only),
    release_number integer, released_at timestamptz, published_at timestamptz
);
create table if not exists hubspoke.roles (role text primary key, spoke text, tenant text);
"""

BUSY = (psycopg.errors.QueryCanceled, psycopg.errors.LockNotAvailable, psycopg.errors.DeadlockDetected)


@dataclass
class Publication:
    """What a publication did.

    Attributes:
        release: Number of the release that PostgreSQL's readers see now.
        copied: Relations that were copied.
        kept: How many were there already.
        removed: Relations that are gone.
        rows: Rows copied.
        copy_s: Seconds that copying, indexing and analysing took.
        pause_ms: Milliseconds for which the swap held readers off; 0 if nothing was swapped.
        attempts: How often the swap was tried, because a reader was at an old table.
    """

    release: int
    copied: list[str] = field(default_factory=list)
    kept: int = 0
    removed: list[str] = field(default_factory=list)
    rows: int = 0
    copy_s: float = 0.0
    pause_ms: float = 0.0
    attempts: int = 0

    def __str__(self) -> str:
        """One sentence."""
        if not self.attempts:
            return f"readers see release {self.release}; nothing to copy."
        removed = f", {len(self.removed)} removed" if self.removed else ""
        total = len(self.copied) + self.kept
        return f"readers see release {self.release}; {len(self.copied)} of {total} relations copied{removed}."


def connect(project: Project, server: LocalServer | None = None) -> Connection | None:
    """Connect to the PostgreSQL server that is configured, as the publisher; None if none is.

    Args:
        project: The project.
        server: This one, whatever is configured.

    Raises:
        HubspokeError: One is configured and cannot be reached, or is too old.
    """
    named = None if server else os.environ.get("HUBSPOKE_POSTGRES")
    local = server or LocalServer(project)
    if not named and not local.is_running():
        return None
    try:
        # a password in the text stays in this process; libpq finds one in PGPASSWORD or ~/.pgpass by itself
        parameters: dict[str, Any] = {} if named else local.parameters()
        connection = psycopg.connect(
            named or "", autocommit=True, application_name="hubspoke", connect_timeout=10, **parameters
        )
    except psycopg.Error as error:
        raise HubspokeError(f"PostgreSQL cannot be reached: {_message(error)}") from None
    if connection.info.server_version < OLDEST_SERVER * 10_000:
        raise HubspokeError(f"PostgreSQL {OLDEST_SERVER} or newer is needed; this server is older")
    # a backend whose publisher was killed ends within a second, and lets go of its locks
    connection.execute(
        "select set_config(name, '1s', false) from pg_settings where name = 'client_connection_check_interval'"
    )
    return connection


@contextmanager
def publishing(connection: Connection) -> Iterator[None]:
    """Keep other publishers out, and make the notes if there are none.

    Raises:
        HubspokeError: Another publisher is at work and does not end within 30 seconds.
    """
    try:
        connection.execute(f"set lock_timeout = '30s'; select pg_advisory_lock({ADVISORY_LOCK}); reset lock_timeout")
    except psycopg.errors.LockNotAvailable:
        raise HubspokeError("another process is publishing to PostgreSQL; wait for it to end") from None
    try:
        connection.execute("set client_min_messages = warning")
        connection.execute(NOTES)
        yield
    finally:
        if not connection.closed:
            connection.execute(f"select pg_advisory_unlock({ADVISORY_LOCK})")


class Publisher:
    """Brings a release to one PostgreSQL database."""

    def __init__(self, connection: Connection, store: ReleaseStore, ordered: dict[str, Order]) -> None:
        self.connection = connection
        self.store = store
        self.orders = ordered
        self.patience_s = PATIENCE_S

    def publish(self) -> Publication:
        """Let PostgreSQL's readers see what readers of the release see now.

        A crash at any instant leaves them the release that they saw; the next publication clears what it left.

        Raises:
            HubspokeError: There is no release, something stands in the way, or readers did not let go in time; readers
                keep the release that they saw.
        """
        with publishing(self.connection):
            release = self.store.get()
            try:
                return self._publish(release)
            except (psycopg.Error, duckdb.Error) as error:
                raise HubspokeError(f"PostgreSQL: {_message(error)}") from None

    def _publish(self, release: Release) -> Publication:
        wanted = {
            (spoke, name): (relation, self.orders[spoke].relations[name])
            for name, relation in release.relations.items()
            if (spoke := relation.spoke) in self.orders and name in self.orders[spoke].relations
        }
        spokes = sorted({spoke for spoke, _ in wanted})
        prints = {key: _fingerprint(*value) for key, value in wanted.items()}
        noted = self._noted()
        changed = [key for key in wanted if noted.get(key, ("", 0))[0] != prints[key]]
        gone = [key for key in noted if key not in wanted]
        ours = {row[0] for row in self._rows("select spoke from hubspoke.spokes")}
        before = self._rows("select release_number, released_at from hubspoke.published")
        outcome = Publication(release.number, kept=len(wanted) - len(changed))
        is_there = before == [(release.number, release.released_at)] and ours == set(spokes)
        if is_there and not changed and not gone:
            return outcome
        self._refuse_strangers(spokes, ours, [noted[key][1] for key in [*changed, *gone] if key in noted])
        self._clear({*ours, *spokes})
        started = time.monotonic()
        for spoke in spokes:
            self._make_schema(spoke)
        access = self._copy(release, wanted, changed, outcome)
        outcome.copy_s = time.monotonic() - started
        leaving = sorted(ours - set(spokes))
        statements = self._swap_statements(release, wanted, changed, gone, noted, spokes, leaving, prints, access)
        replaced = [key for key in [*changed, *gone] if noted.get(key, ("", 0))[1]]
        old = [f"{identifier(spoke)}.{identifier(name)}" for spoke, name in replaced]
        old += [f"{identifier(spoke)}.hubspoke_release" for spoke in sorted(ours) if self._has_view(spoke)]
        new = [f"{identifier(spoke + '__next')}.{identifier(name)}" for spoke, name in changed]
        outcome.pause_ms, outcome.attempts = swap(self.connection, new, old, statements, self.patience_s)
        outcome.copied = [name for _, name in changed]
        outcome.removed = [name for _, name in gone]
        self._clear({*ours, *spokes})
        return outcome

    def _noted(self) -> dict[tuple[str, str], tuple[str, int]]:
        """Fingerprint and oid of what was published, by spoke and relation; empty and 0 if it is gone."""
        rows = self._rows(
            """
            select relations.spoke, relations.relation, relations.fingerprint, tables.oid
            from hubspoke.relations
            left join (pg_class as tables inner join pg_namespace as schemas on schemas.oid = tables.relnamespace)
                on tables.oid = relations.table_oid
                and tables.relname = relations.relation and schemas.nspname = relations.spoke
            """
        )
        return {(row[0], row[1]): (row[2], row[3]) if row[3] else ("", 0) for row in rows}

    def _refuse_strangers(self, spokes: list[str], ours: set[str], replaced: list[int]) -> None:
        """Stop before anything that is not Hubspoke's own would be replaced or dropped."""
        for (name,) in self._rows("select nspname::text from pg_namespace where nspname = any(%s)", spokes):
            if name not in ours:
                raise HubspokeError(
                    f"PostgreSQL: the schema {name} was there before Hubspoke. Name the spoke otherwise, rename the "
                    f'schema, or, if it is empty: drop schema "{name}"'
                )
        views = self._rows(
            """
            select distinct views.oid::regclass::text, relations.oid::regclass::text
            from pg_depend
            inner join pg_rewrite on pg_rewrite.oid = pg_depend.objid
            inner join pg_class as views on views.oid = pg_rewrite.ev_class
            inner join pg_class as relations on relations.oid = pg_depend.refobjid
            where pg_depend.classid = 'pg_rewrite'::regclass and pg_depend.refclassid = 'pg_class'::regclass
                and pg_depend.refobjid = any(%s::oid[]) and views.oid != relations.oid
            """,
            replaced,
        )
        if views:
            view, relation = views[0]
            raise HubspokeError(
                f"PostgreSQL: the view {view} stands on {relation}, which a release replaces. Make it a model of the "
                f"project, then: drop view {view}"
            )

    def _clear(self, spokes: set[str]) -> None:
        """Drop what was replaced, and what a publication that died has left.

        A session that has planned a statement before a swap still takes its locks on the old tables, one after the
        other, before it plans it anew. So each table is dropped by itself: whoever holds one lock and waits for none
        cannot end in a deadlock.
        """
        for spoke in sorted(spokes):
            for schema in (f"{spoke}__next", f"{spoke}__old"):
                tables = self._rows("select tablename::text from pg_tables where schemaname = %s", schema)
                for (table,) in tables:
                    name = f"{identifier(schema)}.{identifier(table)}"
                    swap(self.connection, [], [name], [f"drop table {name}"])
                self.connection.execute(f"drop schema if exists {identifier(schema)} cascade")

    def _make_schema(self, spoke: str) -> None:
        with self.connection.transaction():
            self.connection.execute(f"create schema {identifier(spoke + '__next')}")
            self.connection.execute(f"create schema {identifier(spoke + '__old')}")
            self.connection.execute(f"create schema if not exists {identifier(spoke)}")
            self.connection.execute("insert into hubspoke.spokes values (%s) on conflict do nothing", [spoke])
            for role in self._roles(spoke):
                self.connection.execute(f"grant usage on schema {identifier(spoke)} to {identifier(role)}")

    def _copy(
        self,
        release: Release,
        wanted: dict[tuple[str, str], tuple[Relation, Ordered]],
        changed: list[tuple[str, str]],
        outcome: Publication,
    ) -> dict[tuple[str, str], str]:
        """Build the changed relations in ``<spoke>__next``; return a hash of who may read each."""
        access: dict[tuple[str, str], str] = {}
        with duckdb.connect(config={"memory_limit": "512MB", "threads": 2}) as source:
            source.execute("set TimeZone = 'UTC'")
            self.store.location.let_in(source)
            for spoke, name in changed:
                relation, ordered = wanted[spoke, name]
                descriptions = self._descriptions(release, spoke, name)
                rules = access_statements(
                    f"{identifier(spoke + '__next')}.{identifier(name)}",
                    ordered,
                    self.orders[spoke],
                    self._roles(spoke),
                )
                try:
                    rows = build_table(
                        self.connection,
                        source,
                        self.store.rows_of(relation),
                        f"{identifier(spoke + '__next')}.{identifier(name)}",
                        ordered,
                        descriptions,
                        rules,
                    )
                except (psycopg.Error, duckdb.Error) as error:
                    raise HubspokeError(f"PostgreSQL: {name}: {_message(error)}") from None
                if rows != relation.rows:
                    raise HubspokeError(f"PostgreSQL: {name}: {rows:,} rows arrived, the release has {relation.rows:,}")
                outcome.rows += rows
                access[spoke, name] = access_print(rules)
        return access

    def _descriptions(self, release: Release, spoke: str, name: str) -> dict[str, str]:
        """Read what the release says of a relation (under the empty text) and of its columns."""
        with self.store.open_file(release, spoke) as file:
            table = file.execute("select comment from duckdb_views() where view_name = ?", [name]).fetchall()
            columns = file.execute(
                "select column_name, comment from duckdb_columns() where table_name = ? and comment is not null", [name]
            ).fetchall()
        return {"": (table or [("",)])[0][0] or ""} | dict(columns)

    def _swap_statements(
        self,
        release: Release,
        wanted: dict[tuple[str, str], tuple[Relation, Ordered]],
        changed: list[tuple[str, str]],
        gone: list[tuple[str, str]],
        noted: dict[tuple[str, str], tuple[str, int]],
        spokes: list[str],
        leaving: list[str],
        prints: dict[tuple[str, str], str],
        access: dict[tuple[str, str], str],
    ) -> list[str]:
        now = datetime.now(UTC)
        statements = [
            f"create schema if not exists {identifier(spoke + '__old')}" for spoke in sorted({key[0] for key in gone})
        ]
        for spoke, name in [*changed, *gone]:
            if noted.get((spoke, name), ("", 0))[1]:
                statements.append(
                    f"alter table {identifier(spoke)}.{identifier(name)} set schema {identifier(spoke + '__old')}"
                )
            statements.append(
                f"delete from hubspoke.relations where spoke = '{quoted(spoke)}' and relation = '{quoted(name)}'"
            )
        for spoke, name in changed:
            here = f"{identifier(spoke)}.{identifier(name)}"
            statements += [
                f"alter table {identifier(spoke + '__next')}.{identifier(name)} set schema {identifier(spoke)}",
                f"insert into hubspoke.relations values ('{quoted(spoke)}', '{quoted(name)}', "
                f"'{quoted(here)}'::regclass, '{prints[spoke, name]}', '{access[spoke, name]}', "
                f"{wanted[spoke, name][0].rows}, {release.number})",
            ]
        for spoke in spokes:
            view = f"{identifier(spoke)}.hubspoke_release"
            # constants: whoever has an old snapshot reads the number of the tables that he reads
            statements += [
                f"create or replace view {view} as select {release.number}::integer as release_number, "
                f"'{release.released_at.isoformat()}'::timestamptz as released_at, "
                f"'{now.isoformat()}'::timestamptz as published_at",
                f"comment on view {view} is 'The release that the tables of this schema show.'",
                *(f"grant select on {view} to {identifier(role)}" for role in self._roles(spoke)),
            ]
        for spoke in leaving:
            statements.append(f"drop view if exists {identifier(spoke)}.hubspoke_release")
            statements.append(f"delete from hubspoke.spokes where spoke = '{quoted(spoke)}'")
            statements.append(f"drop schema if exists {identifier(spoke)}")
        statements.append("delete from hubspoke.published")
        statements.append(
            f"insert into hubspoke.published values (true, {release.number}, '{release.released_at.isoformat()}', "
            f"'{now.isoformat()}')"
        )
        return statements

    def _has_view(self, spoke: str) -> bool:
        return self._rows("select to_regclass(%s)::text", f"{identifier(spoke)}.hubspoke_release") != [(None,)]

    def _roles(self, spoke: str) -> dict[str, str]:
        """Roles of a spoke that exist, and the tenant of each; empty for the spoke's own."""
        rows = self._rows(
            """
            select roles.role, roles.tenant from hubspoke.roles
            inner join pg_roles on pg_roles.rolname = roles.role where roles.spoke = %s
            """,
            spoke,
        )
        return {row[0]: row[1] for row in rows}

    def _rows(self, sql: str, *parameters: Any) -> list[tuple[Any, ...]]:
        return self.connection.execute(sql, parameters or None).fetchall()


def access_statements(table: str, ordered: Ordered, order: Order, roles: dict[str, str]) -> list[str]:
    """Return what lets a spoke's roles read a table.

    Args:
        table: Name as it stands in SQL, schema included.
        ordered: The relation.
        order: Its spoke's order.
        roles: The spoke's roles that exist, and the tenant of each; empty for the spoke's own, which sees every row.
    """
    column = identifier(ordered.tenant_column)
    statements = [f"alter table {table} enable row level security"] if ordered.tenant_column else []
    for role, tenant in roles.items():
        if tenant and (not ordered.tenant_column or tenant not in order.tenants):
            continue
        statements.append(f"grant select on {table} to {identifier(role)}")
        if ordered.tenant_column:
            condition = f"{column} = '{quoted(order.tenants[tenant])}'" if tenant else "true"
            statements.append(
                f"create policy {identifier(role)} on {table} for select to {identifier(role)} using ({condition})"
            )
    return statements


def access_print(statements: list[str]) -> str:
    """Hash what ``access_statements`` gave, whichever schema the table is in."""
    text = "\n".join(statements).replace("__next", "")
    return hashlib.sha256(text.encode()).hexdigest()


def swap(
    connection: Connection, new: list[str], old: list[str], statements: list[str], patience_s: float = PATIENCE_S
) -> tuple[float, int]:
    """Run statements in one transaction while nobody reads the old tables, and keep nobody waiting for long.

    The locks come first: a transaction that has read one of the tables sees all of them as they are until it ends.

    Args:
        connection: In autocommit mode.
        new: Tables that nobody reads yet.
        old: Tables that are replaced.
        statements: What to run.
        patience_s: Seconds of short waits; a few longer ones follow.

    Returns:
        Milliseconds that the successful attempt took, and the number of attempts.

    Raises:
        HubspokeError: Somebody was at an old table throughout.
    """
    started, attempts, rest_s, longer = time.monotonic(), 0, 0.02, list(LONG_WAITS_MS)
    while True:
        is_patient = time.monotonic() - started < patience_s
        wait_ms = SHORT_WAIT_MS if is_patient else longer.pop(0)
        attempts += 1
        parts = ["begin"]
        parts += [f"lock table {', '.join(new)} in access exclusive mode"] if new else []
        if old:
            # the statement as a whole, as lock_timeout starts anew with every table
            parts += [f"set local statement_timeout = {wait_ms}", f"set local lock_timeout = {wait_ms}"]
            parts += [f"lock table {', '.join(old)} in access exclusive mode", "set local statement_timeout = 0"]
        began = time.perf_counter()
        try:
            connection.execute("; ".join([*parts, *statements, "commit"]))
            return (time.perf_counter() - began) * 1000, attempts
        except BUSY:
            connection.execute("rollback")
            if not is_patient and not longer:
                raise HubspokeError(f"PostgreSQL: {_blockers(connection, old)}") from None
        except psycopg.Error:
            if not connection.closed:
                connection.execute("rollback")
            raise
        time.sleep(rest_s)
        rest_s = min(rest_s * 1.5, 1.0)


def _blockers(connection: Connection, tables: list[str]) -> str:
    """Say who reads what a release would replace."""
    rows = connection.execute(
        """
        select distinct activity.pid, activity.usename::text, activity.application_name, activity.xact_start
        from pg_locks
        inner join pg_stat_activity as activity on activity.pid = pg_locks.pid
        where pg_locks.relation = any(select to_regclass(name) from unnest(%s::text[]) as name) and granted
            and activity.pid != pg_backend_pid()
        order by activity.xact_start
        """,
        [tables],
    ).fetchall()
    readers = "; ".join(
        f"{row[1]} ({row[2] or 'unnamed'}, process {row[0]}), in a transaction since {row[3]:%H:%M:%S}" for row in rows
    )
    return f"its tables were being read all the time: {readers or 'by several readers in turn'}"


def _fingerprint(relation: Relation, ordered: Ordered) -> str:
    """Hash what decides how a table looks: its rows, its contract, its keys and indexes."""
    looks = asdict(ordered) | {"indexes": [index.model_dump() for index in ordered.indexes]}
    parts = [FORMAT, relation.rows, relation.checksum, relation.contract, looks]
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _message(error: Exception) -> str:
    """Return an error in one line, with the row and column that PostgreSQL names."""
    context = error.diag.context or "" if isinstance(error, psycopg.Error) else ""
    return ": ".join(part.splitlines()[0] for part in (str(error).strip(), context) if part)


def publish(project: Project, manifest: Manifest) -> Publication | None:
    """Publish the current release to the configured server; None if no server is, or if nobody orders it.

    Raises:
        HubspokeError: It could not be done; readers keep what they saw.
    """
    ordered = orders(manifest)
    connection = connect(project)
    if connection is None:
        return None
    with connection:
        return Publisher(connection, ReleaseStore(project.release), ordered).publish()


def outcome(project: Project, manifest: Manifest) -> str:
    """Publish the current release, and say in one line what came of it; whatever happens, the release stands."""
    try:
        done = publish(project, manifest)
    except HubspokeError as error:
        reason = str(error).removeprefix("PostgreSQL: ").rstrip(".")
        return f"PostgreSQL: readers keep {_seen(project)}: {reason}. Then run: hubspoke publish"
    return f"PostgreSQL: {done}" if done else "PostgreSQL: no server yet; to try one: hubspoke serve postgres"


def _seen(project: Project) -> str:
    """Name the release that PostgreSQL's readers see, as far as it can be asked."""
    try:
        connection = connect(project)
        if connection is not None:
            with connection:
                [(number,)] = connection.execute("select release_number from hubspoke.published").fetchall()
                return f"release {number}"
    except (HubspokeError, psycopg.Error, ValueError):
        pass
    return "the release that they see"
