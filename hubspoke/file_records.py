"""Files read row by row, so that whatever is wrong with a row is said of that row and the rows after it are read.

DuckDB reads a file faster where nothing is wrong with it; this is for those where something is, and for workbooks.
"""

import codecs
import csv
import io
import json
import re
import sys
from collections import deque
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import date, datetime, time, timedelta
from pathlib import Path
from typing import Any

from hubspoke.file_export import BadFile
from hubspoke.sources import Csv

LONGEST_RECORD = 10_000
"""Lines that a value in quotes may go on for; more, and its quote is one that nobody closed."""

csv.field_size_limit(sys.maxsize)
codecs.register_error(
    # a byte that is no text becomes a character that is none, so that its line is found and can be shown
    "hubspoke",
    lambda error: (
        "".join(chr(0xDC00 + byte) for byte in error.object[error.start : error.end]),  # type: ignore[attr-defined]
        error.end,  # type: ignore[attr-defined]
    ),
)
_NO_TEXT = re.compile("[\udc00-\udcff]")


@dataclass(frozen=True)
class Record:
    """A row of a file.

    Attributes:
        line: Its first line, or its row in a workbook.
        raw: What the file says.
        values: Its values as texts, by column; None if there is no reading it.
        reason: Why not.
    """

    line: int
    raw: str
    values: dict[str, str | None] | None
    reason: str = ""


def csv_names(path: Path, dialect: Csv) -> list[str]:
    """Return the names in a text file's header; none if it is empty.

    Raises:
        BadFile: Its header cannot be read.
    """
    with _open(path, dialect.encoding) as file:
        for _ in range(dialect.skip):
            file.readline()
        try:
            names: list[str] = next(_reader(file, dialect), [])
        except csv.Error as error:
            raise BadFile(f"its header cannot be read ({error})") from None
    return name_columns(names)


def name_columns(names: list[Any]) -> list[str]:
    """Give every column of a header a name.

    Raises:
        BadFile: Two have the same, or a name is no text.
    """
    found = [str(name).strip() if name not in (None, "") else f"column_{place}" for place, name in enumerate(names, 1)]
    if any(_NO_TEXT.search(name) or "\0" in name for name in found):
        raise BadFile("its header is no text; is this another kind of file than its ending says?")
    lower = [name.lower() for name in found]
    twice = sorted({name for name in lower if lower.count(name) > 1})
    if twice:
        raise BadFile(f"its header has {', '.join(twice)} twice")
    return found


def csv_records(path: Path, dialect: Csv, names: list[str]) -> Iterator[Record]:
    """Read a text file row by row."""
    with _open(path, dialect.encoding) as file:
        lines = _Lines(file)
        for _ in range(dialect.skip):
            next(lines, None)
        reader = _reader(lines, dialect)
        if dialect.header:
            next(reader, None)
        while True:
            line = lines.number + 1
            lines.record = []
            try:
                row = next(reader)
            except StopIteration:
                return
            except csv.Error as error:
                first, rest = lines.record[0], lines.record[1:]
                lines.put_back(rest)
                reader = _reader(lines, dialect)
                yield Record(line, _shown(first), None, f"its quotes do not match ({error})")
                continue
            raw = "".join(lines.record)
            if not raw.isascii() and _NO_TEXT.search(raw):
                yield Record(line, _shown(raw), None, f"it is not written in {dialect.encoding}")
            elif not row and len(names) > 1:
                continue
            elif len(row) != len(names) and (row or len(names) > 1):
                reason = f"{len(row)} values where there are {len(names)} columns"
                yield Record(line, _shown(raw), None, reason)
            else:
                values = [None if value in ("", dialect.missing) else value for value in row or [None]]
                yield Record(line, _shown(raw), dict(zip(names, values, strict=True)))


def json_names(path: Path, is_lines: bool) -> list[str]:
    """Return every name that an object in a file has."""
    names: dict[str, None] = {}
    for record in json_records(path, is_lines):
        names |= dict.fromkeys(record.values or {})
    return list(names)


def json_records(path: Path, is_lines: bool) -> Iterator[Record]:
    """Read the objects of a file: one a line, or a list of them, or one after the other."""
    if is_lines:
        with path.open("rb") as file:
            for line, content in enumerate(file, 1):
                if content.strip():
                    yield json_record(line, content)
        return
    text = path.read_bytes().decode("utf-8-sig", errors="hubspoke")
    decoder = json.JSONDecoder()
    place = _after_space(text, 0)
    is_list = text[place : place + 1] == "["
    place += is_list
    is_closed, is_cut_off, line, counted = not is_list, False, 1, 0
    while (place := _after_space(text, place)) < len(text):
        line, counted = line + text.count("\n", counted, place), place
        if is_list and text[place] in ",]":
            is_closed, place = text[place] == "]", place + 1
            continue
        try:
            _, end = decoder.raw_decode(text, place)
        except (ValueError, RecursionError):
            end = text.find("\n", place)
            end = len(text) if end < 0 else end
        record = _json_record(line, text[place:end].rstrip().removesuffix(","))
        yield record
        is_cut_off, place = record.values is None and end == len(text), end
    if not is_closed and not is_cut_off:
        yield Record(line, "", None, "the list is not closed: the file is cut off")


def _after_space(text: str, place: int) -> int:
    while place < len(text) and text[place].isspace():
        place += 1
    return place


def json_record(line: int, content: bytes) -> Record:
    """Read one object."""
    return _json_record(line, content.decode("utf-8-sig", errors="hubspoke").strip())


class _Number(float):
    """A number that knows how it was written, as a decimal may have more digits than a float."""

    def __new__(cls, text: str) -> "_Number":
        number = super().__new__(cls, text)
        number.text = text
        return number

    text: str


_DECODER = json.JSONDecoder(parse_float=_Number)
_ENCODER = json.JSONEncoder(ensure_ascii=False, separators=(",", ":"))


def _json_record(line: int, raw: str) -> Record:
    if _NO_TEXT.search(raw):
        return Record(line, _shown(raw), None, "it is not written in utf-8")
    try:
        content = _DECODER.decode(raw)
    except (ValueError, RecursionError) as error:
        return Record(line, raw, None, f"it is not JSON ({error})")
    if not isinstance(content, dict):
        return Record(line, raw, None, "it is JSON, but no object")
    values = {name: _json_text(value) for name, value in content.items()}
    if "\\u" in raw and any(_is_no_text(value) for value in [*values, *values.values()]):
        return Record(line, raw, None, "it has half of a character")
    return Record(line, raw, values)


def _is_no_text(value: str | None) -> bool:
    return value is not None and any("\ud800" <= character <= "\udfff" for character in value)


def _json_text(value: Any) -> str | None:
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, _Number):
        return value.text
    return _ENCODER.encode(value)


def sheet_names(path: Path, sheet: str | None) -> list[str]:
    """Return the names in the first row of a workbook's sheet."""
    return name_columns(next(_rows(path, sheet), []))


def sheet_records(path: Path, sheet: str | None, names: list[str]) -> Iterator[Record]:
    """Read a sheet of a workbook row by row; its first row holds the names."""
    rows = _rows(path, sheet)
    next(rows, None)
    for line, row in enumerate(rows, 2):
        values = [_cell_text(value) for value in row]
        if not any(value is not None for value in values):
            continue
        raw = json.dumps(values, ensure_ascii=False)
        padded = [*values, *[None] * (len(names) - len(values))]
        if any(value is not None for value in padded[len(names) :]):
            yield Record(line, raw, None, f"it has values beyond the {len(names)} columns")
        else:
            yield Record(line, raw, dict(zip(names, padded, strict=False)))


def _rows(path: Path, sheet: str | None) -> Iterator[list[Any]]:
    from python_calamine import CalamineError, CalamineWorkbook

    try:
        book = CalamineWorkbook.from_path(str(path))
        if sheet is not None and sheet not in book.sheet_names:
            raise BadFile(f"it has no sheet {sheet}; there are {', '.join(book.sheet_names)}")
        page = book.get_sheet_by_name(sheet) if sheet is not None else book.get_sheet_by_index(0)
        rows = page.to_python(skip_empty_area=False)
    except (CalamineError, OSError) as error:
        raise BadFile(f"it is no workbook ({str(error).splitlines()[0] if str(error) else error!r})") from None
    yield from rows


def _cell_text(value: Any) -> str | None:
    match value:
        case None | "":
            return None
        case bool():
            return str(value).lower()
        case float() if value.is_integer() and abs(value) < 2**53:
            return str(int(value))
        case datetime() | date() | time():
            return value.isoformat(sep=" ") if isinstance(value, datetime) else value.isoformat()
        case timedelta():
            return str(value)
        case _:
            return str(value)


class _Lines:
    """The lines of a text, which remembers those of the row that is being read."""

    def __init__(self, file: io.TextIOWrapper) -> None:
        self._file = file
        self._back: deque[str] = deque()
        self.record: list[str] = []
        self.number = 0

    def __iter__(self) -> "_Lines":
        return self

    def __next__(self) -> str:
        if len(self.record) >= LONGEST_RECORD:
            raise csv.Error("a quote is opened and not closed")
        line = self._back.popleft() if self._back else next(self._file)
        self.number += 1
        self.record.append(line)
        return line

    def put_back(self, lines: list[str]) -> None:
        """Have some lines read again."""
        self._back.extendleft(reversed(lines))
        self.number -= len(lines)


def _open(path: Path, encoding: str) -> io.TextIOWrapper:
    encoding = "utf-8-sig" if encoding.lower().replace("_", "-") in ("utf-8", "utf8") else encoding
    try:
        return path.open(encoding=encoding, errors="hubspoke", newline="")
    except LookupError:
        raise BadFile(f"there is no encoding {encoding}") from None


def _reader(lines: Any, dialect: Csv) -> Any:
    doubled = dialect.escape == dialect.quote
    return csv.reader(
        lines,
        delimiter=dialect.delimiter,
        quotechar=dialect.quote,
        doublequote=doubled,
        escapechar=None if doubled else dialect.escape,
        strict=True,
    )


def _shown(raw: str) -> str:
    """Return a line as a text: without its end, and a byte that is no text by its number."""
    return _NO_TEXT.sub(lambda found: f"\\x{ord(found[0]) & 0xFF:02x}", raw.rstrip("\r\n"))
