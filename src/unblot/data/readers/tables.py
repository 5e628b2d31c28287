"""Tables of labels and captions beside pictures: CSV of any common kind, JSON lines, or Parquet."""

import codecs
import csv
import importlib.util
import io
import json
import os
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, NamedTuple

from unblot.data.readers.listing import Item, naming
from unblot.data.readers.reading import Reader
from unblot.errors import UnblotError, printable

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
NOT_UNICODE = "neither UTF-8 nor UTF-16, read as Windows-1252"  # what is told of such a file
SHOWN = 40  # letters of a caption that stands for itself in a note
Tell = Callable[[str, str, str], None]  # what is odd, of what, and of which kind that is


class Table(NamedTuple):
    """The cells of a table: its columns, its rows, and what stands between the cells of CSV ("" for another kind)."""

    header: list[Any]
    rows: list[list[Any]]
    delimiter: str


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
        data = reader.read(table)
        found = _parse(data, table.name, LABEL_COLUMNS)
        rows = _pairs(found, LABEL_COLUMNS)
        if rows is not None:
            return [(file, label_text(label)) for file, label in rows if file]
        captions = _pairs(_parse(data, table.name, CAPTION_COLUMNS), CAPTION_COLUMNS)
    if captions is None and os.path.basename(name).lower().startswith("labels"):
        raise UnblotError(f"{name!r} has columns {_listed(found.header)}; it needs `file` and `label`")
    return None


def read_captions(reader: Reader, table: Item, tell: Tell) -> list[tuple[str, Any]] | None:
    """Pairs of a file and its caption, or its captions, in the order of the table; None for one without such columns.

    tell: is told what is odd, of what, and of which kind that is. Raises UnblotError for what cannot be read.
    """
    parquet, name = table.name.lower().endswith(".parquet"), printable(table.name)
    if parquet and not can_read_parquet():
        raise UnblotError("Parquet needs an extra package; pip install 'unblot[hub]'")
    with naming(table.name, "a table of captions"):
        data = reader.read(table)
        found = _parse(data, table.name, CAPTION_COLUMNS)
        pairs = _pairs(_joined(found, name, tell), CAPTION_COLUMNS)
    if pairs is None:
        if not _is_of_labels(table, found.header):
            tell(f"without captions: {_missing(found.header)}", table.name, "table")
        return None
    if several := several_columns(found.header):
        tell(several, table.name, "table")
    if not parquet and not is_text(data):
        tell(NOT_UNICODE, table.name, "caption file")
    if found.delimiter and not _quotes_pair(decode(data), found.delimiter):
        tell(
            'with quotes that do not pair, perhaps read wrongly; write "" for a quote within quotes',
            table.name,
            "table",
        )
    for file, caption in pairs:
        if not file and caption not in (None, "", []):
            tell(f"of {name} without the name of a file", str(caption)[:SHOWN], "caption")
    return [(file, caption) for file, caption in pairs if file]


def can_read_parquet() -> bool:
    """Whether the package is installed that reads Parquet."""
    return importlib.util.find_spec("pyarrow") is not None


def one_of(names: Sequence[str]) -> str:
    """Names to choose from, "caption, text or prompt"."""
    return " or ".join(filter(None, (", ".join(names[:-1]), names[-1])))


def several_columns(header: Sequence[Any]) -> str:
    """What is to be said of several columns of captions, of which one is read; "" where there are not."""
    first = column_of(header, CAPTION_COLUMNS)
    known = [printable(str(column)) for column in header if column_of([column], CAPTION_COLUMNS) is not None]
    if first is None or len(known) < 2:
        return ""
    return f"with {' and '.join(known)}, of which only {printable(str(header[first]))} is read"


def _parse(data: bytes, name: str, columns: Sequence[str]) -> Table:
    """The cells of a table of any kind; columns: of which one is looked for."""
    if name.lower().endswith(".parquet"):
        rows, delimiter = list(_parquet_rows(data)), ""
    elif name.lower().endswith(".jsonl"):
        rows, delimiter = list(_json_rows(decode(data))), ""
    else:
        rows, delimiter = _csv_rows(decode(data), columns)
    return Table(rows[0] if rows else [], rows[1:], delimiter)


def _pairs(table: Table, columns: Sequence[str]) -> list[tuple[str, Any]] | None:
    """Pairs of a file, "" for none, and its cell in the first of these columns; None without such columns."""
    file, column = column_of(table.header, FILE_COLUMNS), column_of(table.header, columns)
    if file is None or column is None:
        return None
    short = max(file, column) + 1
    cells = ([*row, *[""] * (short - len(row))] for row in table.rows)
    return [("" if row[file] is None else str(row[file]), row[column]) for row in cells]


def _joined(table: Table, name: str, tell: Tell) -> Table:
    """A table of captions whose last column is whole again where delimiters in it stood without quotes."""
    file, column = column_of(table.header, FILE_COLUMNS), column_of(table.header, CAPTION_COLUMNS)
    if file is None or column is None:
        return table
    width, rows = len(table.header), []
    for row in table.rows:
        if any(row[width:]) and column == width - 1:
            tell(f"of {name} with {table.delimiter!r} and no quotes, read to the end of the line", row[file], "caption")
            row = [*row[:column], table.delimiter.join(row[column:])]
        elif any(row[width:]):
            why = f"of {name} with more cells than columns; put what has {table.delimiter!r} in it into quotes"
            tell(why, row[file], "row")
        rows.append(row)
    return table._replace(rows=rows)


def _is_of_labels(table: Item, header: Sequence[Any]) -> bool:
    """Whether a table without captions is sound: it holds labels, and is not called after captions."""
    labels = column_of(header, FILE_COLUMNS) is not None and column_of(header, LABEL_COLUMNS) is not None
    return labels and not os.path.basename(table.name).casefold().startswith("captions")


def _missing(header: Sequence[Any]) -> str:
    """Which columns a table lacks to be one of captions, and which it has."""
    lacks = [one_of(names) for names in (FILE_COLUMNS, CAPTION_COLUMNS) if column_of(header, names) is None]
    return f"no column {', and none called '.join(lacks)} among {_listed(header)}"


def _listed(header: Sequence[Any]) -> str:
    """The columns of a table, cut where they are many."""
    return ", ".join(printable(str(column)) for column in header)[:200] or "none"


def _parquet_rows(data: bytes) -> Iterator[list[Any]]:
    """The rows of a Parquet file, the header first, which also names the columns that are not read."""
    import pyarrow
    from pyarrow import parquet

    file = parquet.ParquetFile(pyarrow.BufferReader(data))
    known = (*FILE_COLUMNS, *LABEL_COLUMNS, *CAPTION_COLUMNS)
    names = sorted(file.schema_arrow.names, key=lambda name: column_of([name], known) is None)  # known ones first
    read = [name for name in names if column_of([name], known) is not None]
    columns = file.read(columns=read).to_pydict()
    return iter([names, *map(list, zip(*(columns[name] for name in read)))])


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


def column_of(header: Sequence[Any], names: Iterable[str]) -> int | None:
    """The place of the first of these columns; case, spaces and hyphens make no difference."""
    folded = [str(column).strip().casefold().replace(" ", "_").replace("-", "_") for column in header]
    return next((folded.index(name) for name in names if name in folded), None)


def _csv_rows(text: str, columns: Sequence[str]) -> tuple[list[list[Any]], str]:
    """The rows of a CSV text, the header first, and its delimiter: the one that gives the header both columns, or the
    most. Columns without a name at its end are none."""
    before = csv.field_size_limit(LONGEST)
    try:
        widest: tuple[list[list[Any]], str] = [], DELIMITERS[0]
        for delimiter in DELIMITERS:
            parsed = csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)
            rows: list[list[Any]] = [row for row in parsed if any(row)]
            header = rows[0] if rows else []
            while header and not header[-1].strip():
                header.pop()
            if column_of(header, FILE_COLUMNS) is not None and column_of(header, columns) is not None:
                return rows, delimiter
            if rows and (not widest[0] or len(header) > len(widest[0][0])):
                widest = rows, delimiter
        return widest
    finally:
        csv.field_size_limit(before)


def _quotes_pair(text: str, delimiter: str) -> bool:
    """Whether each quoted cell of a CSV text ends where its quotes do; else rows may have become part of others."""
    before = csv.field_size_limit(LONGEST)
    try:
        return all(
            row is not None for row in csv.reader(io.StringIO(text, newline=""), delimiter=delimiter, strict=True)
        )
    except csv.Error:
        return False
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
