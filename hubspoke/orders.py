"""What exposures order from PostgreSQL: which relations, with which keys and indexes, for which tenants.

``delivery: { how: [file, postgres] }`` in an exposure's meta orders all that the exposure rests on.
``delivery.postgres`` may narrow it (``only``), name tenants and set limits; docs/serving.md shows it whole.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from hubspoke.manifest import Manifest, Node, meta, spoke_of

RESERVED = {"public", "information_schema", "hubspoke"}
"""Schemas that are no spoke's."""

NAME = re.compile(r"[a-z][a-z0-9_]{0,40}")
"""A spoke's or tenant's name: what is made of it stays within PostgreSQL's 63 bytes."""

LONGEST_NAME = 63
"""Bytes; PostgreSQL cuts a longer name off without a word."""


class _Strict(BaseModel):
    model_config = ConfigDict(extra="forbid")


class Tenants(_Strict):
    """Readers who see the rows of one tenant alone.

    Attributes:
        column: Column that says whose a row is.
        roles: Value of that column by tenant; each gets a role ``spoke_<spoke>_<tenant>``.
    """

    column: str
    roles: Annotated[dict[str, str | int], Field(min_length=1)]


class _Options(_Strict):
    only: Annotated[list[str], Field(min_length=1)] | None = None
    tenants: Tenants | None = None
    statement_timeout_seconds: Annotated[int, Field(gt=0)] = 60
    connection_limit: Annotated[int, Field(gt=0)] = 20


class Index(_Strict):
    """An index that a model declares: its columns, in order, and whether they are a key."""

    columns: Annotated[list[str], Field(min_length=1)]
    unique: bool = False


@dataclass(frozen=True)
class Ordered:
    """A relation as PostgreSQL is to hold it.

    Attributes:
        name: The relation.
        indexes: What its model declares.
        primary_key: Columns of the primary key; empty for none.
        key: Columns that its tests say are unique, where nulls may stand in them or no test says otherwise.
        is_declared: Whether the model itself declares the primary key, so that data that breaks it is an error.
        tenant_column: Column that tenants are told apart by; empty if tenants do not see the relation.
    """

    name: str
    indexes: tuple[Index, ...] = ()
    primary_key: tuple[str, ...] = ()
    key: tuple[str, ...] = ()
    is_declared: bool = False
    tenant_column: str = ""


@dataclass
class Order:
    """What one spoke gets.

    Attributes:
        spoke: The consumer; its schema has its name.
        relations: By name.
        tenants: Value of the tenant column by tenant.
        statement_timeout_seconds: After so long a statement of the spoke's is cancelled.
        connection_limit: Connections that the spoke, and each tenant, may have at once.
    """

    spoke: str
    relations: dict[str, Ordered] = field(default_factory=dict)
    tenants: dict[str, str | int] = field(default_factory=dict)
    statement_timeout_seconds: int = 60
    connection_limit: int = 20

    @property
    def roles(self) -> dict[str, str]:
        """Role of the spoke (under the empty text) and of each tenant."""
        return {"": f"spoke_{self.spoke}"} | {tenant: f"spoke_{self.spoke}_{tenant}" for tenant in self.tenants}


def orders(manifest: Manifest) -> dict[str, Order]:
    """Read what the exposures order from PostgreSQL, by spoke; an order with a fault is left out."""
    faulty = {id(node) for node, _ in faults(manifest)}
    found: dict[str, Order] = {}
    for exposure in manifest.exposures.values():
        if "postgres" not in _ways(exposure) or id(exposure) in faulty:
            continue
        options = _Options.model_validate(_given(exposure))
        order = found.setdefault(meta(exposure)["spoke"], Order(meta(exposure)["spoke"], {}, {}, 0, 0))
        order.statement_timeout_seconds = max(order.statement_timeout_seconds, options.statement_timeout_seconds)
        order.connection_limit = max(order.connection_limit, options.connection_limit)
        order.tenants |= options.tenants.roles if options.tenants else {}
        for node in _ordered_nodes(manifest, exposure, options):
            if id(node) in faulty:
                continue
            tenant_column = options.tenants.column if options.tenants else ""
            before = order.relations.get(node["name"])
            if before is None or tenant_column in node["columns"]:
                order.relations[node["name"]] = _ordered(
                    manifest, node, tenant_column if tenant_column in node["columns"] else ""
                )
    return found


def accounts(manifest: Manifest) -> list[str]:
    """List who may have a password: every spoke that an exposure names, and its tenants as ``<spoke>_<tenant>``."""
    spokes = {str(meta(exposure)["spoke"]) for exposure in manifest.exposures.values() if meta(exposure).get("spoke")}
    tenants = {f"{order.spoke}_{tenant}" for order in orders(manifest).values() for tenant in order.tenants}
    return sorted(spokes | tenants)


def faults(manifest: Manifest) -> Iterator[tuple[Node, str]]:
    """Find what is wrong in orders from PostgreSQL and in the keys and indexes that spokes' models declare."""
    with_tenants: dict[str, str] = {}
    roles: dict[str, str] = {}
    for exposure in manifest.exposures.values():
        where = f"exposure {exposure['name']}: config.meta.delivery"
        delivery = meta(exposure).get("delivery")
        if delivery is None:
            continue
        if not isinstance(delivery, dict) or not isinstance(delivery.get("how"), str | list):
            yield exposure, f"{where} needs how, a text or a list of texts, for example {{ how: [file, postgres] }}"
            continue
        if "postgres" not in _ways(exposure):
            if "postgres" in delivery:
                yield (
                    exposure,
                    f"{where} has options for postgres that how lacks; write how: [file, postgres]",
                )
            continue
        spoke = str(meta(exposure).get("spoke", ""))
        if not NAME.fullmatch(spoke) or spoke in RESERVED or spoke.startswith("pg_"):
            yield (
                exposure,
                f"{where}: {spoke or 'no spoke'} cannot be a schema; write 41 lower-case letters at most",
            )
            continue
        try:
            options = _Options.model_validate(_given(exposure))
        except ValidationError as error:
            for problem in error.errors():
                yield exposure, f"{where}.{'.'.join(['postgres', *map(str, problem['loc'])])}: {problem['msg'].lower()}"
            continue
        known = [manifest.get(node_id)["name"] for node_id in exposure["depends_on"]["nodes"]]
        for name in options.only or []:
            if name not in known:
                yield exposure, f"{where}.postgres.only names {name}; the exposure rests on {', '.join(known)}"
        names = ["", *options.tenants.roles] if options.tenants else [""]
        for tenant in names:
            if tenant and not NAME.fullmatch(tenant):
                yield exposure, f"{where}.postgres.tenants: {tenant} cannot be a tenant; a name is lower case"
            role = f"spoke_{spoke}_{tenant}" if tenant else f"spoke_{spoke}"
            if roles.setdefault(role, f"{spoke}/{tenant}") != f"{spoke}/{tenant}":
                yield exposure, f"{where}: role {role} would be another spoke's, too; choose another name"
        if options.tenants:
            if with_tenants.setdefault(spoke, exposure["name"]) != exposure["name"]:
                yield exposure, f"{where}.postgres.tenants: {with_tenants[spoke]} names the tenants of {spoke} already"
            nodes = _ordered_nodes(manifest, exposure, options)
            if not any(options.tenants.column in node["columns"] for node in nodes):
                yield exposure, f"{where}.postgres.tenants: no relation has a column {options.tenants.column}"
    for node in manifest.spokes:
        yield from ((node, message) for message in _model_faults(node))


def _model_faults(node: Node) -> Iterator[str]:
    for name in [node["name"], *node["columns"]]:
        if len(name.encode()) > LONGEST_NAME:
            yield f"{name} is longer than the {LONGEST_NAME} bytes that PostgreSQL allows for a name"
    given = meta(node)
    for place, index in enumerate(_listed(given.get("indexes", []))):
        try:
            parsed = _index(index)
        except ValidationError:
            yield (
                f"config.meta.indexes, number {place + 1}: write a list of columns, [store_id, purchase_date], "
                "or { columns: [store_id], unique: true }"
            )
            continue
        for column in parsed.columns:
            if column not in node["columns"]:
                yield f"config.meta.indexes, number {place + 1}: there is no column {column}"
    key = given.get("primary_key", [])
    if not isinstance(key, list) or not all(column in node["columns"] for column in key):
        yield "config.meta.primary_key is not a list of the model's columns"


def _ways(exposure: Node) -> list[str]:
    """How an exposure is delivered."""
    delivery = meta(exposure).get("delivery")
    return [str(way) for way in _listed(delivery.get("how"))] if isinstance(delivery, dict) else []


def _given(exposure: Node) -> Any:
    return meta(exposure)["delivery"].get("postgres") or {}


def _listed(value: Any) -> list[Any]:
    return value if isinstance(value, list) else [value]


def _index(given: Any) -> Index:
    return Index.model_validate({"columns": given} if isinstance(given, list) else given)


def _ordered_nodes(manifest: Manifest, exposure: Node, options: _Options) -> list[Node]:
    nodes = [manifest.get(node_id) for node_id in exposure["depends_on"]["nodes"]]
    spoke = meta(exposure).get("spoke")
    return [
        node
        for node in nodes
        if node["resource_type"] == "model"
        and spoke_of(node) == spoke
        and (options.only is None or node["name"] in options.only)
    ]


def _ordered(manifest: Manifest, node: Node, tenant_column: str) -> Ordered:
    given = meta(node)
    indexes = tuple(_index(index) for index in given.get("indexes", []))
    declared = tuple(given.get("primary_key", ()))
    tested, has_no_null = manifest.tested_key(node)
    return Ordered(
        name=node["name"],
        indexes=indexes,
        primary_key=declared or (tested if has_no_null else ()),
        key=() if declared or has_no_null else tested,
        is_declared=bool(declared),
        tenant_column=tenant_column,
    )
