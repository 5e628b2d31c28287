"""Which captions each picture has: from tables, from text files beside it, from JSON, from columns and arrays of text.

Where several of these say something, a picture has all of it. Nothing that is odd is lost without a note.
"""

import posixpath
import re
import unicodedata
from collections.abc import Iterable, Sequence
from functools import cached_property
from typing import Any, NamedTuple

from unblot.data.readers.labels import JSON_LABELS, Names, by_place
from unblot.data.readers.listing import Captions, Item, named, path_of, readable
from unblot.data.readers.reading import Reader, reason_of
from unblot.data.readers.tables import (
    CAPTION_COLUMNS,
    NOT_UNICODE,
    column_of,
    decode,
    is_text,
    json_object,
    one_of,
    read_captions,
    several_columns,
)
from unblot.data.readers.walking import suffix_of
from unblot.errors import UnblotError, counted, printable

TEXTS = (".caption", ".txt")  # files of captions, one a line
JSON = ".json"
MOST_BYTES = 2**20  # of a file of captions: ten thousand words have less than a tenth
MOST_DAMAGE = 0.2  # share of characters that do not print, above which a file is no text
CONTROL = re.compile("[\x00-\x08\x0e-\x1b\x7f-\x84\x86-\x9f\ufeff]")  # what has no place in a text, but for white space
NUMBER = re.compile(r"[-+]?(\d+\.?\d*|\.\d+)([eE][-+]?\d+)?")
BOX = 5  # numbers on a line that stands for an object: its class and its box
LINES = re.compile("\r\n?|\n")
WAY_OUT = "captions of many pictures are read from captions.csv, with columns file_name and caption"


class Gathered:
    """The captions of pictures as they are found, and what is to be said of them: names by sentence."""

    def __init__(self, pictures: Sequence[Item]):
        self.pictures = pictures
        self.texts: list[list[str]] = [[] for _ in pictures]
        self._sources: dict[str, bool] = {}  # in order: whether a picture has a caption of it
        self._told: dict[tuple[str, str], list[str]] = {}

    def expect(self, source: str) -> None:
        """Notes that a source was read, which is told where it gives no picture a caption."""
        self._sources.setdefault(source, False)

    def add(self, rows: Iterable[int], texts: Sequence[str], name: str, source: str) -> None:
        """Gives the pictures of these indices the texts, cleaned and without empty ones.

        name: of the file that they are from or of the picture. source: what all that is of their kind is called.
        """
        rows, cleaned = list(rows), [text for text in map(clean, texts) if text]
        if any(CONTROL.search(text) for text in texts):
            self.tell("with control characters, read as spaces", name, "caption")
        self._sources[source] = bool(rows and cleaned) or self._sources.get(source, False)
        for row in rows:
            self.texts[row] += cleaned

    def add_value(self, rows: Iterable[int], value: Any, name: str, source: str, place: str = "") -> None:
        """Gives the pictures of these indices the captions in a cell. place: of it, in a note, such as "of x.csv "."""
        try:
            texts = texts_of(value)
        except ValueError as error:
            self.tell(f"{place}not read: {error}", name, "caption")
            return
        if _has_odd_bytes(value):
            self.tell(f"{place}{NOT_UNICODE}", name, "caption")
        self.add(rows, texts, name, source)

    def tell(self, what: str, name: str, kind: str = "caption file") -> None:
        """Notes that something, a file of captions, is `what`."""
        self._told.setdefault((kind, what), []).append(name)

    def result(self) -> Captions | None:
        """The captions of each picture and notes about them; None where there is nothing to say."""
        notes = [f"{counted(len(names), kind)} {what}: {named(names)}" for (kind, what), names in self._told.items()]
        notes += [f"no picture has a caption from {source}" for source, gave in self._sources.items() if not gave]
        count = sum(map(bool, self.texts))
        if not count:
            return Captions((), (*notes, "no picture has a caption: no words are learned")) if notes else None
        sources = " and ".join(source for source, gave in self._sources.items() if gave)
        said = [f"{counted(count, 'picture')} with captions from {sources}"]
        without = [item.name for item, texts in zip(self.pictures, self.texts) if not texts]
        if without:
            said.append(f"{counted(len(without), 'picture')} without a caption: {named(list(dict.fromkeys(without)))}")
        return Captions(tuple(map(tuple, self.texts)), (*said, *notes))


def clean(text: str) -> str:
    """A caption on one line: control characters and any run of white space are one space, half characters U+FFFD."""
    try:
        text.encode()
    except UnicodeEncodeError:
        text = text.encode("utf-16", "surrogatepass").decode("utf-16", "replace")
    return " ".join(CONTROL.sub(" ", text).split())


def captions_of_values(pictures: Sequence[Item], values: Iterable[Any], source: str) -> Captions | None:
    """The captions of pictures from one value for each: a text, several, or None."""
    gathered = Gathered(pictures)
    for row, value in enumerate(values):
        gathered.add_value([row], value, pictures[row].name, source)
    return gathered.result()


def texts_of(value: Any) -> list[str]:
    """The captions in a cell or in JSON: a text, or a list of texts. Raises ValueError for anything else."""
    if isinstance(value, dict):
        raise ValueError("it is an object; give a text or a list of texts")
    if isinstance(value, list | tuple):
        return [text for part in value for text in texts_of(part)]
    if isinstance(value, bytes):
        return [decode(value)]
    return [] if value is None or value != value else [str(value)]  # NaN is none


def _has_odd_bytes(value: Any) -> bool:
    """Whether there are bytes in a cell that are no sound text."""
    if isinstance(value, list | tuple):
        return any(map(_has_odd_bytes, value))
    return isinstance(value, bytes) and not is_text(value)


def captions_from_tables(reader: Reader, tables: Sequence[Item], pictures: list[Item], gathered: Gathered) -> None:
    """Gives pictures the captions of every table with columns for a file and a caption; a file may have several rows.

    pictures: all that a table may name, also those that were left out for want of a label; one in a shard names those
    of that shard alone.
    """
    rows: dict[tuple[str, str], list[int]] = {}
    for row, item in enumerate(gathered.pictures):
        rows.setdefault((item.place, item.name), []).append(row)
    pictures_in = by_place(pictures)
    for table in sorted(tables, key=lambda item: (path_of(item), item)):
        try:
            cells = read_captions(reader, table, gathered.tell)
        except UnblotError as error:
            gathered.tell(f"not read: {error}", table.name)
            continue
        if cells is None:
            continue
        name = printable(table.name)
        gathered.expect(name)
        known = Names(pictures_in.get(table.place, []), posixpath.dirname(path_of(table)))
        for file, value in cells:
            found = known.find(file)
            if found is None:
                gathered.tell(f"of {name} for what is not there", file, "caption")
            else:
                gathered.add_value(rows.get((table.place, found), ()), value, file, name, f"of {name} ")


def captions_from_json(reader: Reader, files: Sequence[Item], gathered: Gathered) -> None:
    """Gives pictures the captions of `a.json` beside `a.png`, under one of CAPTION_COLUMNS.

    Files that are no JSON object, or hold neither captions nor labels, are noted.
    """
    beside = _Beside(gathered.pictures)
    for item in sorted(files, key=lambda item: (path_of(item), item)):
        if not (rows := beside.rows(item)):
            continue
        try:
            data = reader.read(item)
            values = json_object(decode(data))
            key = column_of(list(values or ()), CAPTION_COLUMNS)
            texts = [] if values is None or key is None else texts_of(list(values.values())[key])
        except Exception as error:  # archives raise whatever they like
            gathered.tell(f"not read: {printable(reason_of(error))}", item.name)
            continue
        if values is None:
            gathered.tell('not read: it holds no JSON object such as {"caption": "a red fox"}', item.name)
        elif key is not None:
            if several := several_columns(list(values)):
                gathered.tell(several, item.name, f"{JSON} file")
            if not is_text(data):
                gathered.tell(NOT_UNICODE, item.name)
            gathered.add(rows, texts, item.name, f"{JSON} files")
        elif column_of(list(values), JSON_LABELS) is None:
            gathered.tell(f"without {one_of(CAPTION_COLUMNS)}", item.name, f"{JSON} file")


def captions_from_files(reader: Reader, texts: Sequence[Item], gathered: Gathered) -> None:
    """Gives pictures the captions of text files that are called as they are.

    `a.txt` belongs to `a.png` in the same folder, and so does `a.png.txt`; in a tar also to `a.left.png`, WebDataset's
    way. Files without any text, of numbers (boxes of objects) and of something else than text give no captions, which
    is noted.
    """
    beside = _Beside(gathered.pictures)
    for item in sorted(texts, key=lambda item: (path_of(item), item)):
        rows = beside.rows(item)
        if rows and (lines := _lines(reader, item, gathered)):
            gathered.add(rows, lines, item.name, f"{suffix_of(item.name)} files")


def beside_no_picture(texts: Sequence[Item], pictures: Sequence[Item], gathered: Gathered) -> list[Item]:
    """The text files that are called as none of the pictures are; those that are called captions are told."""
    beside = _Beside(pictures)
    unused = [item for item in texts if not beside.rows(item)]
    called = {item for item in unused if "caption" in posixpath.basename(_stem(path_of(item))).casefold()}
    for item in sorted(called):
        gathered.tell(f"beside no picture, not read; {WAY_OUT}", item.name)
    return [item for item in unused if item not in called]


def _lines(reader: Reader, item: Item, gathered: Gathered) -> list[str]:
    """The captions in a text file, its lines; none, and a note, where it holds something else."""
    if item.size > MOST_BYTES:
        gathered.tell(f"longer than {MOST_BYTES:,} bytes, not read", item.name)
        return []
    try:
        data = reader.read(item)
    except Exception as error:  # archives raise whatever they like
        gathered.tell(f"not read: {printable(reason_of(error))}", item.name)
        return []
    text = decode(data)
    damage = len(CONTROL.findall(text.removeprefix("\ufeff"))) + text.count("\ufffd")
    lines = [line for line in LINES.split(text) if clean(line)]
    if damage > MOST_DAMAGE * len(text):
        gathered.tell("without text, not read", item.name)
    elif not lines:
        gathered.tell("without a word", item.name)
    elif all(map(_is_box, lines)):
        gathered.tell("of numbers (boxes of objects, perhaps), not read", item.name)
    else:
        if not is_text(data):
            gathered.tell(NOT_UNICODE, item.name)
        return lines
    return []


def _is_box(line: str) -> bool:
    """Whether a line holds nothing but the numbers of an object."""
    words = line.split()
    return len(words) >= BOX and all(map(NUMBER.fullmatch, words))


class _Place(NamedTuple):
    """Where a picture or a text file is: its archive, and its path below the root in one Unicode form."""

    archive: str
    path: str


class _Beside:
    """Finds the pictures that a text file stands beside."""

    def __init__(self, pictures: Sequence[Item]):
        self.pictures = pictures
        self.by_name: dict[_Place, list[int]] = {}
        for row, item in enumerate(pictures):
            place = _place(item)
            for path in (place.path, _stem(place.path)):
                self.by_name.setdefault(place._replace(path=path), []).append(row)

    @cached_property
    def by_key(self) -> dict[_Place, list[int]]:
        """The indices of the pictures of each of WebDataset's keys; made when one is asked for."""
        found: dict[_Place, list[int]] = {}
        for row, item in enumerate(self.pictures):
            place = _place(item)
            found.setdefault(place._replace(path=_key(place.path)), []).append(row)
        return found

    def rows(self, text: Item) -> list[int]:
        """The indices of the pictures that a text file belongs to: by its name, or by its key, which counts in a tar,
        and for JSON everywhere, as it does for the labels in it."""
        place = _place(text)
        place = place._replace(path=_stem(place.path))
        if place in self.by_name:
            return self.by_name[place]
        return self.by_key.get(place, []) if text.offset >= 0 or suffix_of(text.name) == JSON else []


def _place(item: Item) -> _Place:
    return _Place(item.place, unicodedata.normalize("NFC", readable(path_of(item))))


def _stem(path: str) -> str:
    """A path without the suffix of its last part."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + (base.rpartition(".")[0] or base)


def _key(path: str) -> str:
    """WebDataset's key: a path up to the first dot of its last part."""
    folder, slash, base = path.rpartition("/")
    return folder + slash + base.split(".")[0]
