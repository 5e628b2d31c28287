"""Which class each picture of a folder or an archive belongs to."""

import csv
import io
import json
import os
from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np

from unblot.data.readers.listing import Broken, Item, class_names, printable
from unblot.data.readers.reading import Reader
from unblot.errors import UnblotError

TABLES = ("labels.csv", "metadata.csv")
FILE_COLUMNS = ("file", "file_name", "filename", "path", "image")
LABEL_COLUMNS = ("label", "class")
SPLITS = {"train", "training", "val", "valid", "validation", "test", "testing"}  # folders that are no classes


@dataclass(frozen=True)
class Labelled:
    """The pictures to use, in order, and their labels (N,) int64 into `classes`, None when there are none."""

    items: list[Item]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    broken: list[Broken] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labels_from_folders(pictures: list[Item]) -> Labelled:
    """Classes from the first folder in which pictures differ, if every picture lies in one.

    A level of folders called train, test and so on is passed over.
    """
    folders = [item.name.rpartition("/")[0] for item in pictures]
    parts = {folder: folder.split("/") if folder else [] for folder in set(folders)}
    for level in range(min(map(len, parts.values()), default=0)):
        kinds = {p[level] for p in parts.values()}
        if len(kinds) > 1 and not {k.lower() for k in kinds} <= SPLITS:
            labels, classes = class_names([parts[folder][level] for folder in folders])
            return Labelled(pictures, labels, classes, notes=[f"{len(classes)} classes from the subfolders"])
    return Labelled(pictures)


def labels_from_table(reader: Reader, tables: Sequence[Item], pictures: list[Item]) -> Labelled | None:
    """Pictures and classes from the topmost labels.csv or metadata.csv with columns `file` and `label`; None without.

    Pictures that the table does not name are left out; files that it names and that are not there are broken.
    Raises UnblotError for a labels.csv without these columns.
    """
    for table in sorted(tables, key=lambda t: (t.name.count("/"), TABLES.index(os.path.basename(t.name)))):
        rows = _rows(reader, table)
        if rows is None:
            continue
        below = os.path.dirname(table.name)
        by_name: dict[str, list[Item]] = {}
        for item in pictures:
            by_name.setdefault(os.path.relpath(item.name, below or "."), []).append(item)
        items: list[Item] = []
        raw: list[str] = []
        broken = []
        for file, label in rows.items():
            found = by_name.get(os.path.normpath(file), [])
            items += found
            raw += [label] * len(found)
            if not found:
                broken.append(Broken(file, f"{table.name} names it, but it is not there"))
        labels, classes = class_names(raw)
        left = len(pictures) - len(items)
        notes = [f"{len(classes)} classes from {printable(table.name)!r}"]
        notes += [f"{left} pictures that {table.name} does not name: left out"] if left else []
        return Labelled(items, labels, classes, broken, notes)
    return None


def labels_from_shards(reader: Reader, found: Sequence[Item], pictures: list[Item]) -> Labelled | None:
    """Classes from WebDataset's `key.cls` or `key.json` beside `key.jpg`; None unless every picture has one.

    A .cls holds a number or a name, a .json one of "cls", "label" and "class".
    """
    beside = {_key(i): i for suffix in (".json", ".cls") for i in found if i.name.endswith(suffix)}
    if not beside or not all(_key(item) in beside for item in pictures):
        return None
    raw = []
    for item in pictures:
        text = reader.read(beside[_key(item)]).decode("utf-8", "replace").strip()
        if beside[_key(item)].name.endswith(".json"):
            told = _json(text)
            text = next((str(told[k]) for k in ("cls", "label", "class") if k in told), "")
        raw.append(text)
    if not all(raw):
        return None
    labels, classes = class_names(raw)
    return Labelled(pictures, labels, classes, notes=[f"{len(classes)} classes from .cls or .json members"])


def _rows(reader: Reader, table: Item) -> dict[str, str] | None:
    """Label by file from a table; None for a metadata.csv that holds something else."""
    text = reader.read(table).decode("utf-8-sig", "surrogateescape")
    rows = csv.DictReader(io.StringIO(text))
    columns = rows.fieldnames or []
    file = next((c for c in FILE_COLUMNS if c in columns), None)
    label = next((c for c in LABEL_COLUMNS if c in columns), None)
    if file is None or label is None:
        if os.path.basename(table.name) == "labels.csv":
            raise UnblotError(
                f"{printable(table.name)!r} has columns {', '.join(columns) or 'none'}; it needs `file` and `label`"
            )
        return None
    return {row[file]: row[label] or "" for row in rows if row[file]}


def _key(item: Item) -> tuple[str, str]:
    """WebDataset's key: the shard, and the name up to the first dot of its last part."""
    folder, base = os.path.split(item.name)
    return item.place, os.path.join(folder, base.split(".")[0])


def _json(text: str) -> dict:
    """A JSON object, or an empty one."""
    try:
        told = json.loads(text)
    except ValueError:
        return {}
    return told if isinstance(told, dict) else {}
