"""Roles of PostgreSQL: one for each spoke and tenant, that reads its schema and can do nothing else.

A role's settings (read-only, timeouts) are its session's to change; what protects the data is what it was granted:
SELECT on its own tables, and no right to write, create or reach anything else.
"""

import psycopg
from psycopg import sql

from hubspoke.credentials import password
from hubspoke.errors import HubspokeError
from hubspoke.manifest import Manifest
from hubspoke.orders import Order, orders
from hubspoke.postgres import (
    access_print,
    access_statements,
    connect,
    publishing,
    swap,
)
from hubspoke.postgres_copy import Connection
from hubspoke.postgres_server import LocalServer
from hubspoke.project import Project
from hubspoke.sql import identifier, quoted

IDLE = "60s"
"""An open transaction that does nothing ends after that: it would hold the next release up."""

TEMPORARY = "1GB"
"""Disk space that the sorting of one session may take; only a superuser can raise it."""

FORBIDDEN = "^(lo_.*|lowrite|loread|pg_(try_)?advisory(_xact)?_lock(_shared)?)$"
"""Functions that anybody may call by default: with them a reader could fill the disk or hold a publisher off."""


def sync(project: Project, manifest: Manifest, server: LocalServer | None = None) -> list[str]:
    """Make the roles of the configured server, or of this one, what the exposures say.

    Returns:
        One line for each role: what was done.

    Raises:
        HubspokeError: No server is configured, or it refused.
    """
    connection = connect(project, server)
    if connection is None:
        raise HubspokeError(
            "no PostgreSQL server is configured: set HUBSPOKE_POSTGRES, or run: hubspoke serve postgres"
        )
    with connection, publishing(connection):
        try:
            return make_roles(project, connection, orders(manifest))
        except psycopg.Error as error:
            raise HubspokeError(f"PostgreSQL: {str(error).strip().splitlines()[0]}") from None


def make_roles(project: Project, connection: Connection, ordered: dict[str, Order]) -> list[str]:
    """Make the roles of a server what these orders say; ``sync`` says what it returns."""
    [(is_superuser,)] = connection.execute("select rolsuper from pg_roles where rolname = current_user").fetchall()
    if is_superuser:
        connection.execute("set log_statement = 'none'; set log_min_duration_statement = -1")
    _close_to_everybody(connection, is_superuser)
    known = {row[0] for row in connection.execute("select role from hubspoke.roles").fetchall()}
    told: list[str] = []
    wanted = {role: (order, tenant) for order in ordered.values() for tenant, role in order.roles.items()}
    for role in sorted(known - wanted.keys()):
        _remove(connection, role, is_superuser)
        told.append(f"{role}: removed")
    for role, (order, tenant) in wanted.items():
        account = f"{order.spoke}_{tenant}" if tenant else order.spoke
        try:
            secret = password(project, account)
        except HubspokeError as error:
            secret = ""
            told.append(f"{role}: may not log in: {error}")
        else:
            told.append(f"{role}: may log in")
        with connection.transaction():
            _make(connection, role, order, secret, is_superuser)
            connection.execute(
                "insert into hubspoke.roles values (%s, %s, %s) on conflict (role) do nothing",
                [role, order.spoke, tenant],
            )
    for order in ordered.values():
        _grant(connection, order)
    return told


def _close_to_everybody(connection: Connection, is_superuser: bool) -> None:
    """Take from PUBLIC what it has in this database, which is the publisher's own."""
    database = identifier(connection.info.dbname)
    connection.execute(f"revoke all on database {database} from public")
    connection.execute("revoke all on schema public from public")
    if connection.execute("select has_schema_privilege('public', 'public', 'create')").fetchone() != (False,):
        raise HubspokeError(
            "PostgreSQL: anybody may create tables in the schema public, and the publisher may not forbid it. "
            "Run as its owner: revoke all on schema public from public"
        )
    if not is_superuser:  # the functions are the superuser's
        return
    rows = connection.execute(
        """
        select oid::regprocedure::text from pg_proc
        where pronamespace = 'pg_catalog'::regnamespace and proname ~ %s
            and (proacl is null or exists (
                select from aclexplode(proacl) as entry where entry.grantee = 0 and entry.privilege_type = 'EXECUTE'
            ))
        """,
        [FORBIDDEN],
    ).fetchall()
    if rows:
        connection.execute(f"revoke execute on function {', '.join(row[0] for row in rows)} from public")


def _make(connection: Connection, role: str, order: Order, secret: str, is_superuser: bool) -> None:
    name = identifier(role)
    if not connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchall():
        connection.execute(f"create role {name} noinherit")
    for (group,) in connection.execute(
        "select roleid::regrole::text from pg_auth_members where member = %s::regrole", [name]
    ).fetchall():
        connection.execute(f"revoke {group} from {name}")
    more = "nosuperuser noreplication nobypassrls" if is_superuser else ""
    connection.execute(
        f"alter role {name} nocreatedb nocreaterole noinherit {more} connection limit {order.connection_limit} "
        f"{'login' if secret else 'nologin'}"
    )
    if secret:
        # computed here: the server is sent, and could log, no more than a verifier
        verifier = connection.pgconn.encrypt_password(secret.encode(), role.encode(), b"scram-sha-256")
        connection.execute(
            sql.SQL("alter role {} password {}").format(sql.Identifier(role), sql.Literal(verifier.decode()))
        )
    settings = {
        "default_transaction_read_only": "on",
        "statement_timeout": f"{order.statement_timeout_seconds}s",
        "idle_in_transaction_session_timeout": IDLE,
        "search_path": order.spoke,
    }
    if connection.info.server_version >= 140_000:
        settings["idle_session_timeout"] = "1h"
    if is_superuser:
        settings["temp_file_limit"] = TEMPORARY
    for setting, value in settings.items():
        connection.execute(f"alter role {name} set {setting} = '{quoted(value)}'")
    connection.execute(f"grant connect on database {identifier(connection.info.dbname)} to {name}")


def _remove(connection: Connection, role: str, is_superuser: bool) -> None:
    """Remove a role, whoever is connected as it."""
    name = identifier(role)
    if connection.execute("select 1 from pg_roles where rolname = %s", [role]).fetchall():
        connection.execute(f"alter role {name} nologin")
        connection.execute("select pg_terminate_backend(pid) from pg_stat_activity where usename = %s", [role])
        if not is_superuser:
            connection.execute(f"grant {name} to current_user")
        # a policy goes with its role, and takes its table's lock
        tables = connection.execute(
            "select distinct polrelid::regclass::text from pg_policy where %s::regrole = any(polroles)", [name]
        ).fetchall()
        swap(connection, [], [row[0] for row in tables], [f"drop owned by {name}", f"drop role {name}"])
    connection.execute("delete from hubspoke.roles where role = %s", [role])


def _grant(connection: Connection, order: Order) -> None:
    """Let a spoke's roles read what is published already."""
    roles: dict[str, str] = dict(
        connection.execute("select role, tenant from hubspoke.roles where spoke = %s", [order.spoke]).fetchall()
    )
    if not connection.execute("select 1 from hubspoke.spokes where spoke = %s", [order.spoke]).fetchall():
        return
    schema = identifier(order.spoke)
    names = ", ".join(identifier(role) for role in roles)
    connection.execute(f"grant usage on schema {schema} to {names}")
    if connection.execute("select to_regclass(%s)", [f"{schema}.hubspoke_release"]).fetchone() != (None,):
        connection.execute(f"grant select on {schema}.hubspoke_release to {names}")
    tables = connection.execute(
        "select relation, access from hubspoke.relations where spoke = %s", [order.spoke]
    ).fetchall()
    for relation, access in tables:
        table = f"{schema}.{identifier(relation)}"
        ordered = order.relations.get(relation)
        if ordered is None:  # the next publication removes it
            continue
        rules = access_statements(table, ordered, order, roles)
        if access_print(rules) == access:
            continue
        policies = connection.execute(
            "select polname::text from pg_policy where polrelid = %s::regclass", [table]
        ).fetchall()
        before = [f"drop policy {identifier(policy)} on {table}" for (policy,) in policies]
        before += [f"alter table {table} disable row level security"] if not ordered.tenant_column else []
        granted = connection.execute(
            """
            select entry.grantee::regrole::text from pg_class, aclexplode(relacl) as entry
            where pg_class.oid = %s::regclass and entry.grantee != relowner and entry.grantee != 0
            """,
            [table],
        ).fetchall()
        before += [f"revoke all on {table} from {grantee}" for (grantee,) in granted]
        after = [
            f"update hubspoke.relations set access = '{access_print(rules)}' "
            f"where spoke = '{quoted(order.spoke)}' and relation = '{quoted(relation)}'"
        ]
        swap(connection, [], [table], [*before, *rules, *after])
