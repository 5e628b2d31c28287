"""Tables of labels and captions beside pictures: CSV of any common kind, JSON lines, or Parquet."""

import codecs
import csv
import importlib.util
import io
import json
import os
from collections.abc import Iterable, Iterator, Sequence
from typing import Any

from unblot.data.readers.listing import Item, naming, printable
from unblot.data.readers.reading import Reader
from unblot.errors import UnblotError

TABLES = (
    *("labels.csv", "labels.tsv", "labels.jsonl", "metadata.csv", "metadata.tsv", "metadata.jsonl"),
    *("captions.csv", "captions.tsv", "captions.jsonl", "metadata.parquet"),
)
FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class")
CAPTION_COLUMNS = ("caption", "captions", "text", "texts", "prompt")
DELIMITERS = (",", ";", "\t", "|")
MARKS = ((codecs.BOM_UTF8, "utf-8-sig"), (codecs.BOM_UTF16_LE, "utf-16"), (codecs.BOM_UTF16_BE, "utf-16"))
LONGEST = 2**31 - 1  # of a field: what a C long holds everywhere


def is_table(name: str) -> bool:
    """Whether a file is named as a table of labels is, in any case."""
    return os.path.basename(name).casefold() in TABLES


def priority(table: Item) -> tuple[int, int]:
    """The order in which tables are tried: the topmost first, then as in TABLES."""
    return table.name.count("/"), TABLES.index(os.path.basename(table.name).casefold())


def read_table(reader: Reader, table: Item) -> list[tuple[str, str]] | None:
    """Pairs of a file and its label ("" where it has none) in the order of the table.

    None for a table without such columns, and for Parquet that cannot be read here. Raises UnblotError for one called
    labels that has no captions either, and for what cannot be read.
    """
    name = printable(table.name)
    if name.lower().endswith(".parquet") and not can_read_parquet():
        return None
    with naming(table.name, "a table of labels"):
        header, rows = _pairs(reader, table, LABEL_COLUMNS)
        if rows is not None:
            return [(file, label_text(label)) for file, label in rows]
        captions = _pairs(reader, table, CAPTION_COLUMNS)[1]
    if captions is None and os.path.basename(name).lower().startswith("labels"):
        columns = ", ".join(printable(str(column)) for column in header)[:200]
        raise UnblotError(f"{name!r} has columns {columns or 'none'}; it needs `file` and `label`")
    return None


def read_captions(reader: Reader, table: Item) -> list[tuple[str, Any]] | None:
    """Pairs of a file and its caption, or its captions, in the order of the table; None for one without such columns.

    Raises UnblotError for what cannot be read.
    """
    if table.name.lower().endswith(".parquet") and not can_read_parquet():
        raise UnblotError("Parquet needs an extra package; pip install 'unblot[hub]'")
    with naming(table.name, "a table of captions"):
        return _pairs(reader, table, CAPTION_COLUMNS)[1]


def can_read_parquet() -> bool:
    """Whether the package is installed that reads Parquet."""
    return importlib.util.find_spec("pyarrow") is not None


def _pairs(reader: Reader, table: Item, columns: Sequence[str]) -> tuple[list[Any], list[tuple[str, Any]] | None]:
    """The header of a table, and pairs of a file and its cell in the first of these columns, None without it."""
    data, name = reader.read(table), table.name.lower()
    if name.endswith(".parquet"):
        rows = _parquet_rows(data)
    else:
        rows = _json_rows(decode(data)) if name.endswith(".jsonl") else _csv_rows(decode(data), columns)
    header = next(rows, [])
    file, column = _column(header, FILE_COLUMNS), _column(header, columns)
    if file is None or column is None:
        return header, None
    short = max(file, column) + 1
    cells = ([*row, *[""] * (short - len(row))] for row in rows)
    return header, [(str(row[file]), row[column]) for row in cells if row[file]]


def _parquet_rows(data: bytes) -> Iterator[list[Any]]:
    """The rows of a Parquet file, the header first; columns of bytes, pictures perhaps, stay out."""
    import pyarrow
    from pyarrow import parquet

    file = parquet.ParquetFile(pyarrow.BufferReader(data))
    names = [name for name in file.schema_arrow.names if name in (*FILE_COLUMNS, *LABEL_COLUMNS, *CAPTION_COLUMNS)]
    columns = file.read(columns=names).to_pydict()
    return iter([names, *map(list, zip(*(columns[name] for name in names)))])


def decode(data: bytes) -> str:
    """The text of a file in UTF-8 or UTF-16; lines that are no UTF-8 are read as Windows-1252, which has every letter
    of Latin-1."""
    if (encoding := _encoding(data)) != "utf-8":
        return data.decode(encoding, "replace")
    try:
        return data.decode()
    except UnicodeDecodeError:
        return "\n".join(_line(line) for line in data.split(b"\n"))


def is_text(data: bytes) -> bool:
    """Whether a file is sound UTF-8 or UTF-16."""
    try:
        data.decode(_encoding(data))
    except UnicodeDecodeError:
        return False
    return True


def _encoding(data: bytes) -> str:
    """UTF-16 or UTF-8, with or without a mark. UTF-16 without one is known by ASCII, of which every other byte is zero;
    a stray zero is a damaged character of UTF-8."""
    encoding = next((name for mark, name in MARKS if data.startswith(mark)), "")
    head = data[:200]
    if not encoding and 8 * head.count(0) > len(head):
        encoding = "utf-16-be" if head[:1] == b"\0" else "utf-16-le"
    return encoding or "utf-8"


def _line(data: bytes) -> str:
    try:
        return data.decode()
    except UnicodeDecodeError:
        return data.decode("cp1252", "replace")


def _column(header: Sequence[Any], names: Iterable[str]) -> int | None:
    """The place of the first of these columns; case, spaces and hyphens make no difference."""
    folded = [str(column).strip().casefold().replace(" ", "_").replace("-", "_") for column in header]
    return next((folded.index(name) for name in names if name in folded), None)


def _csv_rows(text: str, columns: Sequence[str]) -> Iterator[list[Any]]:
    """The rows of a CSV text, the header first; the delimiter is the one that gives the header both columns."""
    before = csv.field_size_limit(LONGEST)
    try:
        rows: list[list[str]] = []
        for delimiter in DELIMITERS:
            parsed = list(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter))
            parsed = [row for row in parsed if any(row)]
            header = parsed[0] if parsed else []
            rows = rows or parsed
            if _column(header, FILE_COLUMNS) is not None and _column(header, columns) is not None:
                return iter(parsed)
        return iter(rows)
    finally:
        csv.field_size_limit(before)


def _json_rows(text: str) -> Iterator[list[Any]]:
    """The rows of JSON lines, the header first: all keys that there are."""
    rows = []
    for number, line in enumerate(text.split("\n"), 1):
        if line.strip():
            rows.append(json_object(line))
            if rows[-1] is None:
                raise ValueError(f"line {number} is no JSON object")
    keys = list(dict.fromkeys(key for row in rows for key in row or ()))
    return iter([keys, *([(row or {}).get(key) for key in keys] for row in rows)])


def json_object(text: str) -> dict[str, Any] | None:
    """The JSON object of a text, None where it is no such thing."""
    try:
        value = json.loads(text)
    except (ValueError, RecursionError):
        return None
    return value if isinstance(value, dict) else None


def label_text(value: Any) -> str:
    """A label as text, "" for none. Raises ValueError for lists and objects: a picture has one label."""
    if isinstance(value, list | dict):
        raise ValueError(f"a label is {printable(repr(value)[:60])}; a picture needs one label")
    return "" if value is None else str(value).strip()
