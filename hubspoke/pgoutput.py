"""PostgreSQL's logical replication messages (``pgoutput``, protocol version 1), decoded by the column.

A tuple is a chain of values, each with its length before it. Python steps along the columns, numpy along the rows:
a step takes the same column of all rows at once. The values themselves never become Python objects: an Arrow array
is laid over the bytes as they came.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from hubspoke.errors import HubspokeError

EPOCH_US = 946_684_800_000_000
"""PostgreSQL's clock begins in 2000; these are the microseconds from 1970 to then."""

BODY = 25
"""Bytes before a message: ``w``, where it is in the log, the log's end, the server's clock."""

AUDIT = ("_change", "_change_number", "_lsn", "_xid", "_committed_at", "_unchanged")
"""Columns that every change has beside the table's own."""

_FIRST = BODY + 6
"""Where a change's first tuple begins: after kind, table and which tuple it is."""

Numbers = np.ndarray[Any, np.dtype[np.int64]]
Bytes = np.ndarray[Any, np.dtype[np.uint8]]


@dataclass(frozen=True)
class Column:
    """A column as the log describes it.

    Attributes:
        name: Its name.
        type_oid: PostgreSQL's number of its type.
        modifier: The type's modifier, for example a numeric's precision; -1 for none.
        is_key: Whether it is part of the replica identity.
    """

    name: str
    type_oid: int
    modifier: int
    is_key: bool


@dataclass(frozen=True)
class Relation:
    """A table as it was when the changes that follow were made.

    Attributes:
        oid: PostgreSQL's number of it.
        schema: Its schema.
        table: Its name.
        identity: What old rows carry: ``d`` the primary key, ``i`` an index, ``f`` all columns, ``n`` nothing.
        columns: Its columns.
    """

    oid: int
    schema: str
    table: str
    identity: str
    columns: tuple[Column, ...]


@dataclass(frozen=True)
class Changes:
    """Changes to one table, all under one description of it, in their order.

    Attributes:
        relation: The table.
        rows: Its columns as text, then the columns of AUDIT.
    """

    relation: Relation
    rows: pa.Table


@dataclass
class Messages:
    """Replication messages, one behind the other.

    Attributes:
        content: The bytes of all of them.
        lengths: How many bytes each has.
    """

    content: bytearray = field(default_factory=bytearray)
    lengths: list[int] = field(default_factory=list)

    def is_full(self, byte_limit: int, count_limit: int) -> bool:
        """Whether there are so many bytes or messages."""
        return len(self.content) >= byte_limit or len(self.lengths) >= count_limit

    def take_transactions(self) -> "Messages":
        """Take out all messages up to the last end of a transaction; all there are if no transaction ends."""
        if not self.lengths:
            return Messages()
        starts = np.cumsum([0, *self.lengths[:-1]])
        commits = np.flatnonzero(np.frombuffer(self.content, np.uint8)[starts + BODY] == ord("C"))
        count = int(commits[-1]) + 1 if len(commits) else len(self.lengths)
        if count == len(self.lengths):
            taken = Messages(self.content, self.lengths)
            self.content, self.lengths = bytearray(), []
            return taken
        end = int(starts[count - 1]) + self.lengths[count - 1]
        taken = Messages(self.content[:end], self.lengths[:count])
        self.content, self.lengths = self.content[end:], self.lengths[count:]
        return taken


@dataclass
class _Tuples:
    """Where the values of some tuples are: for each column its kind, first byte and length, row by row."""

    kinds: list[Bytes]
    starts: list[Numbers]
    lengths: list[Numbers]
    end: Numbers

    def of(self, rows: Numbers) -> "_Tuples":
        """Return some of the tuples."""
        return _Tuples(
            [kind[rows] for kind in self.kinds],
            [start[rows] for start in self.starts],
            [length[rows] for length in self.lengths],
            self.end[rows],
        )


class Decoder:
    """Turns messages into changes; what it has been told about tables and the open transaction lasts.

    Attributes:
        position: Where the last whole transaction ended in the log; 0 before the first.
        is_open: Whether a transaction has begun of which not all has come.
        committed_at: When the last whole transaction was committed, in microseconds since 1970; 0 before the first.
    """

    def __init__(self) -> None:
        self.position = 0
        self.is_open = False
        self.committed_at = 0
        self._relations: dict[int, Relation] = {}
        self._transaction: tuple[int, int, int] = (0, 0, 0)
        self._number = 1

    def restart_numbers(self) -> None:
        """Count changes from 1 again: a new load begins."""
        self._number = 1

    def decode(self, messages: Messages, keys: Mapping[tuple[str, str], Sequence[str]]) -> Iterator[Changes]:
        """Decode some messages.

        Args:
            messages: What came, in its order; the decoder's from now on.
            keys: Key columns by schema and table; default: those of the replica identity. An update that changes one
                becomes the deletion of the old row and an update that brings the new one.

        Returns:
            The changes, table by table; those to one table in their order.

        Raises:
            HubspokeError: A message is not what the protocol says.
        """
        if not messages.lengths:
            return
        # a column's length is read whether or not there is one, so the last may reach over the end
        messages.content += bytes(8)
        buffer = np.frombuffer(messages.content, np.uint8)
        lengths = np.array(messages.lengths, np.int64)
        starts = np.concatenate(([0], np.cumsum(lengths)[:-1]))
        kinds = buffer[starts + BODY]
        transactions, numbers = self._transactions(buffer, starts, kinds)
        versions = self._describe(messages.content, starts, kinds)
        oids = _integer(buffer, starts + BODY + 1, 4)
        is_row = (kinds == ord("I")) | (kinds == ord("U")) | (kinds == ord("D"))
        truncated = self._truncations(messages.content, starts, kinds)
        touched = sorted({*np.unique(oids[is_row]).tolist(), *truncated})
        for oid in touched:
            places = np.flatnonzero(is_row & (oids == oid))
            known = versions.get(oid, [])
            if not known:
                raise HubspokeError(f"the change log has a change to table {oid}, which it did not describe")
            for place, (first, relation) in enumerate(known):
                last = known[place + 1][0] if place + 1 < len(known) else len(starts)
                mine = places[(places >= first) & (places < last)]
                gone = np.array([at for at in truncated.get(oid, []) if first <= at < last], np.int64)
                key = keys.get((relation.schema, relation.table))
                if len(mine) or len(gone):
                    yield Changes(
                        relation, _rows(buffer, starts, kinds, mine, gone, relation, key, transactions, numbers)
                    )

    def _transactions(
        self, buffer: Bytes, starts: Numbers, kinds: Bytes
    ) -> tuple[tuple[Numbers, Numbers, Numbers, Numbers], Numbers]:
        """Return the transaction of every message, and the number of the change that it would be."""
        begins = np.flatnonzero(kinds == ord("B"))
        commits = np.flatnonzero(kinds == ord("C"))
        at = starts[begins] + BODY + 1
        lsn, xid, committed_at = self._transaction
        lsns = np.concatenate(([lsn], _integer(buffer, at, 8)))
        times = np.concatenate(([committed_at], _integer(buffer, at + 8, 8) + EPOCH_US))
        xids = np.concatenate(([xid], _integer(buffer, at + 16, 4)))
        self._transaction = (int(lsns[-1]), int(xids[-1]), int(times[-1]))
        which = np.cumsum(kinds == ord("B"))
        # two numbers for each message: an update that moves a row is two changes
        numbers = self._number + 2 * np.arange(len(starts))
        self._number += 2 * len(starts)
        if len(commits):
            last = starts[commits[-1:]] + BODY
            self.position = int(_integer(buffer, last + 10, 8)[0])
            self.committed_at = int(_integer(buffer, last + 18, 8)[0]) + EPOCH_US
        last_begin, last_commit = (int(found[-1]) if len(found) else -1 for found in (begins, commits))
        if last_begin != last_commit:
            self.is_open = last_begin > last_commit
        return (lsns, xids, times, which), numbers

    def _describe(self, content: bytearray, starts: Numbers, kinds: Bytes) -> dict[int, list[tuple[int, Relation]]]:
        """Return how each table was described, and from which message on."""
        versions = {oid: [(0, relation)] for oid, relation in self._relations.items()}
        for place in np.flatnonzero(kinds == ord("R")).tolist():
            relation = _relation(memoryview(content)[int(starts[place]) + BODY + 1 :])
            known = versions.setdefault(relation.oid, [])
            if not known or known[-1][1] != relation:
                known.append((place, relation))
            self._relations[relation.oid] = relation
        return versions

    def _truncations(self, content: bytearray, starts: Numbers, kinds: Bytes) -> dict[int, list[int]]:
        """Return the messages that empty a table, by table."""
        found: dict[int, list[int]] = {}
        for place in np.flatnonzero(kinds == ord("T")).tolist():
            start = int(starts[place]) + BODY + 1
            count = int.from_bytes(content[start : start + 4], "big")
            for number in range(count):
                at = start + 5 + 4 * number
                found.setdefault(int.from_bytes(content[at : at + 4], "big"), []).append(place)
        return found


def _integer(buffer: Bytes, at: Numbers, width: int) -> Numbers:
    """Read a big-endian number at each of some places."""
    number = np.zeros(len(at), np.int64)
    for place in range(width):
        number = (number << 8) | buffer[at + place]
    return number


def _relation(body: memoryview) -> Relation:
    oid = int.from_bytes(body[:4], "big")
    schema, at = _text(body, 4)
    table, at = _text(body, at)
    identity = chr(body[at])
    count = int.from_bytes(body[at + 1 : at + 3], "big")
    at += 3
    columns = []
    for _ in range(count):
        is_key = bool(body[at] & 1)
        name, at = _text(body, at + 1)
        type_oid, modifier = int.from_bytes(body[at : at + 4], "big"), body[at + 4 : at + 8]
        columns.append(Column(name, type_oid, int.from_bytes(modifier, "big", signed=True), is_key))
        at += 8
    # what PostgreSQL leaves out means its own catalog
    return Relation(oid, schema or "pg_catalog", table, identity, tuple(columns))


def _text(body: memoryview, at: int) -> tuple[str, int]:
    end = at
    while body[end]:
        end += 1
    return str(body[at:end], "utf-8"), end + 1


def _tuples(buffer: Bytes, at: Numbers, columns: int) -> _Tuples:
    """Walk over some tuples, column by column, all rows at once."""
    counts = np.unique(_integer(buffer, at, 2))
    if len(counts) and counts.tolist() != [columns]:
        raise HubspokeError(f"the change log has rows of {counts.tolist()} columns where it described {columns}")
    found = _Tuples([], [], [], at + 2)
    for _ in range(columns):
        kind = buffer[found.end]
        is_value = kind == ord("t")
        length = np.where(is_value, _integer(buffer, found.end + 1, 4), 0)
        start = found.end + 1 + 4 * is_value
        found.kinds.append(kind)
        found.starts.append(start)
        found.lengths.append(length)
        found.end = start + length
    return found


def _values(buffer: Bytes, kinds: Bytes, starts: Numbers, lengths: Numbers) -> pa.Array:
    """Return a column's values as text, without a look at any of them.

    The array that is laid over the bytes has two elements a row: what lies between two values, and the value. Taking
    every second one copies the values and nothing else.
    """
    rows = len(starts)
    offsets = np.zeros(2 * rows + 1, np.int32)
    offsets[1::2] = starts
    offsets[2::2] = starts + lengths
    over = pa.Array.from_buffers(
        pa.string(), 2 * rows, [None, pa.py_buffer(offsets), pa.py_buffer(buffer)], null_count=0
    )
    places = pa.array(np.arange(1, 2 * rows, 2, dtype=np.int64), mask=kinds != ord("t"))
    return pc.take(over, places, boundscheck=False)


def _rows(
    buffer: Bytes,
    starts: Numbers,
    kinds: Bytes,
    places: Numbers,
    truncations: Numbers,
    relation: Relation,
    key: Sequence[str] | None,
    transactions: tuple[Numbers, Numbers, Numbers, Numbers],
    numbers: Numbers,
) -> pa.Table:
    """Lay out the changes to one table as rows."""
    names = [column.name for column in relation.columns]
    in_key = [column.name in key if key else column.is_key for column in relation.columns]
    changes, first = kinds[places], starts[places] + _FIRST
    # an update may bring the old row, or its key, before the new one
    with_old = np.flatnonzero((changes == ord("U")) & (buffer[first - 1] != ord("N")))
    old = _tuples(buffer, first[with_old], len(names))
    main = first.copy()
    main[with_old] = old.end + 1
    rows = _tuples(buffer, main, len(names))
    is_moved = np.zeros(len(with_old), bool)
    for column, is_key in enumerate(in_key):
        kind, start, length = rows.kinds[column], rows.starts[column], rows.lengths[column]
        # what the update left as it was is in the old row, if that was sent
        left = (kind[with_old] == ord("u")) & (old.kinds[column] == ord("t"))
        for new, before in ((kind, old.kinds), (start, old.starts), (length, old.lengths)):
            new[with_old[left]] = before[column][left]
        if is_key:
            before = _values(buffer, old.kinds[column], old.starts[column], old.lengths[column])
            after = _values(buffer, kind[with_old], start[with_old], length[with_old])
            differs = pc.coalesce(pc.not_equal(before, after), pc.xor(before.is_null(), after.is_null()))
            is_moved |= differs.to_numpy(zero_copy_only=False)
    words = {ord("I"): "insert", ord("U"): "update", ord("D"): "delete"}
    change = pa.DictionaryArray.from_arrays(
        pa.array(np.searchsorted(sorted(words), changes).astype(np.int8)), pa.array([words[k] for k in sorted(words)])
    ).cast(pa.string())
    parts = [_table(buffer, rows, names, change, places, numbers[places] + 1, transactions)]
    if is_moved.any():
        chosen = np.flatnonzero(is_moved)
        gone = old.of(chosen)
        at = places[with_old[chosen]]
        parts.append(_table(buffer, gone, names, pa.repeat("delete", len(at)), at, numbers[at], transactions))
    if len(truncations):
        count = len(truncations)
        nothing, nowhere = np.full(count, ord("n"), np.uint8), np.zeros(count, np.int64)
        empty = _Tuples([nothing] * len(names), [nowhere] * len(names), [nowhere] * len(names), nowhere)
        change = pa.repeat("truncate", count)
        parts.append(_table(buffer, empty, names, change, truncations, numbers[truncations], transactions))
    return pa.concat_tables(parts).sort_by("_change_number") if len(parts) > 1 else parts[0]


def _table(
    buffer: Bytes,
    rows: _Tuples,
    names: list[str],
    change: pa.Array,
    places: Numbers,
    numbers: Numbers,
    transactions: tuple[Numbers, Numbers, Numbers, Numbers],
) -> pa.Table:
    lsns, xids, times, which = transactions
    mine = which[places]
    columns = [
        _values(buffer, kind, start, length)
        for kind, start, length in zip(rows.kinds, rows.starts, rows.lengths, strict=True)
    ]
    audit = [
        change,
        pa.array(numbers),
        pa.array(lsns[mine]),
        pa.array(xids[mine]),
        pa.array(times[mine], pa.timestamp("us")),
        _unchanged(rows.kinds, names, len(places)),
    ]
    return pa.table([*columns, *audit], names=[*names, *AUDIT])


def _unchanged(kinds: list[Bytes], names: list[str], count: int) -> pa.Array:
    """Return for each row the columns that the update left as they were and the server did not send."""
    lists = pa.list_(pa.string())
    marked = [(name, kind == ord("u")) for name, kind in zip(names, kinds, strict=True)]
    marked = [(name, mark) for name, mark in marked if mark.any()]
    if not marked:
        return pa.nulls(count, lists)
    patterns, which = np.unique(np.stack([mark for _, mark in marked], axis=1), axis=0, return_inverse=True)
    words = [[name for (name, _), is_marked in zip(marked, row, strict=True) if is_marked] or None for row in patterns]
    return pa.array(words, lists).take(pa.array(which.reshape(-1)))
