"""Flight SQL's messages and the shapes of its answers, as Arrow's specification of the protocol gives them.

The messages are described here and made at run time, in a pool of their own: no generated file, no compiler, and no
quarrel with another library that knows the same names. Fields are numbered in the order in which they stand.
"""

from collections.abc import Iterable
from typing import Any

import duckdb
import pyarrow as pa
from google.protobuf import any_pb2, descriptor_pb2, descriptor_pool, message_factory

PACKAGE = "arrow.flight.protocol.sql"

_MESSAGES = {
    "CommandStatementQuery": "string query, bytes transaction_id",
    "CommandPreparedStatementQuery": "bytes prepared_statement_handle",
    "TicketStatementQuery": "bytes statement_handle",
    "CommandGetSqlInfo": "repeated uint32 info",
    "CommandGetXdbcTypeInfo": "int32 data_type",
    "CommandGetCatalogs": "",
    "CommandGetDbSchemas": "string catalog, string db_schema_filter_pattern",
    "CommandGetTables": (
        "string catalog, string db_schema_filter_pattern, string table_name_filter_pattern, "
        "repeated string table_types, bool include_schema"
    ),
    "CommandGetTableTypes": "",
    "CommandGetPrimaryKeys": "string catalog, string db_schema, string table",
    "CommandGetExportedKeys": "string catalog, string db_schema, string table",
    "CommandGetImportedKeys": "string catalog, string db_schema, string table",
    "CommandGetCrossReference": (
        "string pk_catalog, string pk_db_schema, string pk_table, "
        "string fk_catalog, string fk_db_schema, string fk_table"
    ),
    "DoPutPreparedStatementResult": "bytes prepared_statement_handle",
    "ActionCreatePreparedStatementRequest": "string query, bytes transaction_id",
    "ActionCreatePreparedStatementResult": (
        "bytes prepared_statement_handle, bytes dataset_schema, bytes parameter_schema"
    ),
    "ActionClosePreparedStatementRequest": "bytes prepared_statement_handle",
    "ActionBeginTransactionResult": "bytes transaction_id",
    "ActionCancelQueryRequest": "bytes info",
    "ActionCancelQueryResult": "int32 result",
    # of Flight itself; a message within a message is bytes on the wire
    "CancelFlightInfoRequest": "bytes info",
    "CancelFlightInfoResult": "int32 status",
    "CloseSessionResult": "int32 status",
}


def _build() -> dict[str, Any]:
    field = descriptor_pb2.FieldDescriptorProto
    # version 2 of the language, on the wire the same, tells a field that is empty from one that is not there
    file = descriptor_pb2.FileDescriptorProto(name="hubspoke/flight_sql.proto", package=PACKAGE, syntax="proto2")
    for name, fields in _MESSAGES.items():
        message = file.message_type.add(name=name)
        for number, text in enumerate(filter(None, fields.split(", ")), start=1):
            *repeated, kind, called = text.split()
            message.field.add(
                name=called,
                number=number,
                type=getattr(field, f"TYPE_{kind.upper()}"),
                label=field.LABEL_REPEATED if repeated else field.LABEL_OPTIONAL,
            )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    return {
        name: message_factory.GetMessageClass(pool.FindMessageTypeByName(f"{PACKAGE}.{name}")) for name in _MESSAGES
    }


_CLASSES = _build()


def message(name: str, **fields: Any) -> Any:
    """Make a message of the protocol by its name."""
    return _CLASSES[name](**fields)


def parse(name: str, content: bytes) -> Any:
    """Read a message that stands by itself.

    Raises:
        ValueError: It is none of that name.
    """
    try:
        return _CLASSES[name].FromString(content)
    except Exception:  # protobuf's own error class differs between its implementations
        raise ValueError(f"this is no {name}") from None


def pack(content: Any) -> bytes:
    """Write a message with its name around it, as commands, tickets and most actions travel."""
    wrapped = any_pb2.Any()
    wrapped.Pack(content)
    return bytes(wrapped.SerializeToString())


def unpack(content: bytes) -> tuple[str, Any]:
    """Read a message with its name around it.

    Returns:
        Its name and the message; None in its place if this module does not know it.

    Raises:
        ValueError: It is no such message at all.
    """
    try:
        wrapped = any_pb2.Any.FromString(content)
    except Exception:  # see parse
        raise ValueError("this is no Flight SQL command") from None
    package, _, name = wrapped.TypeName().rpartition(".")
    if package != PACKAGE:
        raise ValueError("this is no Flight SQL command")
    return name, parse(name, wrapped.value) if name in _CLASSES else None


def _schema(text: str) -> pa.Schema:
    """Read a schema from ``name type, name type!``; the mark is on what is never null."""
    kinds = {
        "text": pa.utf8(),
        "int": pa.int32(),
        "byte": pa.uint8(),
        "bool": pa.bool_(),
        "bytes": pa.binary(),
        "texts": pa.list_(pa.field("item", pa.utf8(), nullable=False)),
    }
    fields = [field.split() for field in text.split(", ")]
    return pa.schema([pa.field(name, kinds[kind.rstrip("!")], not kind.endswith("!")) for name, kind in fields])


_FOREIGN_KEYS = _schema(
    "pk_catalog_name text, pk_db_schema_name text, pk_table_name text!, pk_column_name text!, fk_catalog_name text, "
    "fk_db_schema_name text, fk_table_name text!, fk_column_name text!, key_sequence int!, fk_key_name text, "
    "pk_key_name text, update_rule byte!, delete_rule byte!"
)
TABLES = _schema("catalog_name text, db_schema_name text, table_name text!, table_type text!")
TABLES_WITH_SCHEMA = TABLES.append(pa.field("table_schema", pa.binary(), nullable=False))
_VALUES = [
    pa.field("string_value", pa.utf8()),
    pa.field("bool_value", pa.bool_()),
    pa.field("bigint_value", pa.int64()),
    pa.field("int32_bitmask", pa.int32()),
    pa.field("string_list", pa.list_(pa.utf8())),
    pa.field("int32_to_int32_list_map", pa.map_(pa.int32(), pa.list_(pa.int32()))),
]
SCHEMAS = {
    "CommandGetCatalogs": _schema("catalog_name text!"),
    "CommandGetDbSchemas": _schema("catalog_name text, db_schema_name text!"),
    "CommandGetTableTypes": _schema("table_type text!"),
    "CommandGetPrimaryKeys": _schema(
        "catalog_name text, db_schema_name text, table_name text!, column_name text!, key_name text, key_sequence int!"
    ),
    "CommandGetExportedKeys": _FOREIGN_KEYS,
    "CommandGetImportedKeys": _FOREIGN_KEYS,
    "CommandGetCrossReference": _FOREIGN_KEYS,
    "CommandGetSqlInfo": pa.schema(
        [pa.field("info_name", pa.uint32(), False), pa.field("value", pa.dense_union(_VALUES), False)]
    ),
    "CommandGetXdbcTypeInfo": _schema(
        "type_name text!, data_type int!, column_size int, literal_prefix text, literal_suffix text, "
        "create_params texts, nullable int!, case_sensitive bool!, searchable int!, unsigned_attribute bool, "
        "fixed_prec_scale bool!, auto_increment bool, local_type_name text, minimum_scale int, maximum_scale int, "
        "sql_data_type int!, datetime_subcode int, num_prec_radix int, interval_precision int"
    ),
}
"""What each question about the catalog is answered with; ``CommandGetTables`` has two answers."""

_INFO: dict[int, str | bool | int] = {
    0: "Hubspoke",
    2: pa.__version__,
    3: True,  # read only
    4: True,  # SQL
    5: False,  # Substrait plans
    8: 1,  # transactions, without savepoints
    9: True,  # queries can be cancelled
    100: 0,  # no time after which a prepared statement is forgotten
    101: 0,  # nor a transaction
    500: False,  # no creating and dropping of catalogs
    501: False,  # nor of schemas
    502: False,  # nor of tables
    503: 1,  # names in any case
    504: '"',
    505: 1,  # quoted names in any case, too
    506: True,  # every table listed can be read
    507: 3,  # nulls sort last, whichever way
    513: "\\",
    514: "",
    515: True,  # column aliases
    516: True,  # null || text is null
    518: True,  # table aliases
    519: False,
    520: True,  # expressions in order by
    521: True,  # order by what is not selected
    523: True,  # like … escape
    524: True,
    529: "schema",
    530: "function",
    531: "catalog",
    532: True,  # catalog.schema.table
    562: 2,  # read committed: each statement reads the release that is current when it begins
    563: True,
}


def sql_info(wanted: Iterable[int], version: str) -> pa.Table:
    """Answer what the server can do; everything if nothing is named.

    Args:
        wanted: Numbers of the specification's list; one that has no answer is left out.
        version: The server's own version.
    """
    known = {**_INFO, 1: f"{version} (DuckDB {duckdb.__version__})"}
    chosen = [number for number in (dict.fromkeys(wanted) or sorted(known)) if number in known]
    members: list[list[Any]] = [[] for _ in _VALUES]
    places: list[int] = []
    kinds: list[int] = []
    for number in chosen:
        value = known[number]
        kind = 0 if isinstance(value, str) else 1 if isinstance(value, bool) else 3
        kinds.append(kind)
        places.append(len(members[kind]))
        members[kind].append(value)
    union = pa.UnionArray.from_dense(
        pa.array(kinds, pa.int8()),
        pa.array(places, pa.int32()),
        [pa.array(values, field.type) for values, field in zip(members, _VALUES, strict=True)],
        [field.name for field in _VALUES],
    )
    return pa.table([pa.array(chosen, pa.uint32()), union], schema=SCHEMAS["CommandGetSqlInfo"])


_TYPES = [
    # name, XDBC type, size, quotes, decimal places, radix
    ("bigint", -5, 64, None, 0, 2),
    ("blob", -4, None, "'", None, None),
    ("boolean", -7, 1, None, None, None),
    ("date", 91, 10, "'", None, None),
    ("decimal", 3, 38, None, 38, 10),
    ("double", 8, 53, None, None, 2),
    ("float", 7, 24, None, None, 2),
    ("integer", 4, 32, None, 0, 2),
    ("smallint", 5, 16, None, 0, 2),
    ("time", 92, 15, "'", 6, None),
    ("timestamp", 93, 26, "'", 6, None),
    ("tinyint", -6, 8, None, 0, 2),
    ("varchar", 12, None, "'", None, None),
]


def type_info(wanted: int | None) -> pa.Table:
    """Answer which types there are; ``wanted`` is the number of one of XDBC's types."""
    rows = [
        {
            "type_name": name,
            "data_type": number,
            "column_size": size,
            "literal_prefix": quote,
            "literal_suffix": quote,
            "create_params": ["precision", "scale"] if name == "decimal" else None,
            "nullable": 1,
            "case_sensitive": name == "varchar",
            "searchable": 3,
            "unsigned_attribute": False if radix else None,
            "fixed_prec_scale": False,
            "auto_increment": False,
            "local_type_name": name,
            "minimum_scale": 0 if scale is not None else None,
            "maximum_scale": scale,
            "sql_data_type": 9 if number in (91, 92, 93) else number,
            "datetime_subcode": number - 90 if number in (91, 92, 93) else None,
            "num_prec_radix": radix,
            "interval_precision": None,
        }
        for name, number, size, quote, scale, radix in sorted(_TYPES, key=lambda row: (row[1], row[0]))
        if wanted in (None, number)
    ]
    return pa.Table.from_pylist(rows, schema=SCHEMAS["CommandGetXdbcTypeInfo"])
