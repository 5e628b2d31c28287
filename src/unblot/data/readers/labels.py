"""Which class each picture of a folder or an archive belongs to."""

import posixpath
import unicodedata
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np

from unblot.data.readers.listing import Broken, Item, class_names, named, path_of, readable
from unblot.data.readers.reading import Reader, reason_of
from unblot.data.readers.tables import decode, json_object, label_text, priority, read_table
from unblot.errors import UnblotError, counted, printable

SPLITS = {  # folders that are no classes
    *("train", "training", "val", "valid", "validation", "test", "testing"),
    *("eval", "evaluation", "dev", "development"),
}
JSON_LABELS = ("cls", "label", "class")


@dataclass(frozen=True)
class Labelled:
    """The pictures to use, in order, and their labels (N,) int64 into `classes`, None when there are none."""

    items: list[Item]
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    broken: list[Broken] = field(default_factory=list)
    notes: list[str] = field(default_factory=list)


def labels_from_folders(pictures: list[Item]) -> Labelled:
    """Classes from the first level of folders in which pictures differ.

    A level of folders called train, test and so on is passed over. Pictures beside the class folders are left out; if
    they are at least half of all pictures, there are no classes instead.
    """
    above = (path_of(item).rpartition("/")[0] for item in pictures)
    known: dict[str, list[str]] = {"": []}  # one list for all pictures of a folder, of which there may be a million
    parts = [known.get(folder) or known.setdefault(folder, folder.split("/")) for folder in above]
    level = 0
    while True:
        folders = {p[level] for p in parts if len(p) > level}
        if not folders:
            return Labelled(pictures)
        if len(folders) > 1 and not {f.casefold() for f in folders} <= SPLITS:
            break
        level += 1
    raw = [p[level] if len(p) > level else "" for p in parts]
    return labelled_part(pictures, raw, "from the subfolders", "in no class folder")


def labelled_part(pictures: Sequence[Item], raw: Sequence[str], source: str, missing: str) -> Labelled:
    """The pictures with a label in `raw` ("" for none) and their classes; no classes where at least half have none.

    The notes say where labels come `source` and name pictures that are `missing` one.
    """
    without = [item.name for item, label in zip(pictures, raw) if not label]
    if 2 * len(without) >= len(pictures):
        note = f"no classes {source}: {len(without)} of {counted(len(pictures), 'picture')} are {missing}"
        return Labelled(list(pictures), notes=[note])
    labels, classes = class_names([label for label in raw if label])
    notes = [f"{counted(len(classes), 'class')} {source}"]
    if without:
        notes.append(f"{counted(len(without), 'picture')} {missing} left out: {named(without)}")
    return Labelled([item for item, label in zip(pictures, raw) if label], labels, classes, notes=notes)


def labels_from_table(reader: Reader, tables: Sequence[Item], pictures: list[Item]) -> Labelled | None:
    """Pictures and classes from the topmost table with columns `file` and `label`; None without such a table.

    Each shard has a table of its own, which names the pictures of that shard alone. Pictures that no table names, or to
    which it gives no label, are left out; files that it names and that are not there are broken. Raises UnblotError for
    a file with two labels, and for a labels.csv without the columns.
    """
    if not tables:  # a million pictures need no second list
        return None
    tables_in, pictures_in = by_place(sorted(tables, key=priority)), by_place(pictures)
    places = dict.fromkeys((*pictures_in, *tables_in))
    parts = [_topmost(reader, tables_in.get(place, []), pictures_in.get(place, [])) for place in places]
    return _by_tables(parts) if any(part.table for part in parts) else None


def by_place(items: Iterable[Item]) -> dict[str, list[Item]]:
    """Items by what they lie in: "" for a folder, else the path of their archive, such as one of several shards."""
    found: dict[str, list[Item]] = {}
    for item in items:
        found.setdefault(item.place, []).append(item)
    return found


class _Part(NamedTuple):
    """The pictures of a folder, an archive or a shard, and what its table says of them: a label, "" for none, by name.

    table: its name, "" where there is none. broken: what it names and what is not there.
    """

    pictures: list[Item]
    table: str
    label_of: dict[str, str]
    broken: list[Broken]


def _topmost(reader: Reader, tables: Sequence[Item], pictures: list[Item]) -> _Part:
    """What the first of these tables that has labels says of these pictures."""
    for table in tables:
        rows = read_table(reader, table)
        if rows is None:
            continue
        named_so = Names(pictures, posixpath.dirname(path_of(table)))
        label_of: dict[str, str] = {}
        broken: dict[str, Broken] = {}
        for file, label in rows:
            found = named_so.find(file)
            if found is None:
                broken[file] = Broken(file, f"{printable(table.name)} names it, but {named_so.reason(file)}")
            elif label_of.setdefault(found, label) != label:
                raise UnblotError(
                    f"{printable(table.name)!r} gives {printable(found)!r} two labels, {printable(label_of[found])!r} "
                    f"and {printable(label)!r}; a picture has one class"
                )
        return _Part(pictures, printable(table.name), label_of, list(broken.values()))
    return _Part(pictures, "", {}, [])


def _by_tables(parts: Sequence[_Part]) -> Labelled:
    """The pictures that have a label, in the order of the tables, with notes about the others."""
    tables = list(dict.fromkeys(part.table for part in parts if part.table))
    chosen: list[tuple[Item, str]] = []
    unnamed: list[Item] = []
    empty: list[Item] = []
    for part in parts:
        by_name: dict[str, list[Item]] = {}  # a file of several pages is several pictures
        for item in part.pictures:
            by_name.setdefault(item.name, []).append(item)
        chosen += [(item, label) for name, label in part.label_of.items() if label for item in by_name[name]]
        unnamed += [item for item in part.pictures if item.name not in part.label_of]
        empty += [item for name, label in part.label_of.items() if not label for item in by_name[name]]
    broken = [one for part in parts for one in part.broken]
    if not chosen and not broken:
        pictures = [item for part in parts for item in part.pictures]
        return Labelled(pictures, notes=[f"no classes: {' or '.join(map(repr, tables))} gives no picture a label"])
    labels, classes = class_names([label for _, label in chosen])
    notes = [f"{counted(len(classes), 'class')} from {' and '.join(map(repr, tables))}"]
    told = " or ".join(tables)
    for items, why in ((unnamed, f"that {told} does not name"), (empty, f"to which {told} gives no label")):
        names = list(dict.fromkeys(item.name for item in items))
        notes += [f"{counted(len(items), 'picture')} {why} left out: {named(names)}"] if names else []
    return Labelled([item for item, _ in chosen], labels, classes, broken, notes)


class Names:
    """Finds pictures as a table in a folder names them: by their path from there; written with backslashes, without
    the suffix or in another Unicode form where nothing is named exactly so."""

    def __init__(self, pictures: list[Item], below: str):
        self.exact = {_seen_from(below, path_of(item)): item.name for item in pictures}
        self.bases: dict[str, str] = {}
        self.alike: dict[str, set[str]] = {}
        for path, name in self.exact.items():
            self.bases.setdefault(posixpath.basename(path), path)
            for form in {_folded(path), _folded(posixpath.splitext(path)[0])}:
                self.alike.setdefault(form, set()).add(name)

    def find(self, file: str) -> str | None:
        """The name of the picture that a table means, None where there is none, or no single one."""
        for path in (file, file.replace("\\", "/"), file.strip()):
            if (path := posixpath.normpath(path)) in self.exact:
                return self.exact[path]
        found = self.alike.get(_folded(posixpath.normpath(file.strip().replace("\\", "/"))), set())
        return next(iter(found)) if len(found) == 1 else None

    def reason(self, file: str) -> str:
        """Why no picture was found, and what may help."""
        path = posixpath.normpath(file.strip().replace("\\", "/"))
        if len(found := self.alike.get(_folded(path), set())) > 1:
            return f"several files fit: {named(sorted(found))}; add the suffix"
        there = self.bases.get(posixpath.basename(path))
        if there:
            return f"it is not there; {printable(there)!r} is: name files by their path from the folder of the table"
        return "it is not there, not with / for \\ or with a suffix either"


def _seen_from(folder: str, path: str) -> str:
    """A path below the root as a path from a folder below the root."""
    here, there = folder.split("/") if folder else [], path.split("/")
    shared = next((i for i, (a, b) in enumerate(zip(here, there)) if a != b), min(len(here), len(there)))
    return "/".join([".."] * (len(here) - shared) + there[shared:])


def _folded(path: str) -> str:
    """A path in one Unicode form, so that it is found however the system writes its letters."""
    return unicodedata.normalize("NFC", readable(path))


def labels_from_shards(reader: Reader, found: Sequence[Item], pictures: list[Item]) -> Labelled | None:
    """Classes from WebDataset's `key.cls` or `key.json` beside `key.jpg`; None where no picture has one.

    A .cls holds a number or a name, a .json one of JSON_LABELS. `labels` is None where most pictures have no label.
    """
    ordered = (i for suffix in (".json", ".cls") for i in found if i.name.lower().endswith(suffix))
    beside = {_key(item): item for item in ordered}
    if not any(_key(item) in beside for item in pictures):
        return None
    raw, broken = [], []
    for item in pictures:
        label, sidecar = "", beside.get(_key(item))
        if sidecar is not None:
            try:
                label = _label(reader.read(sidecar), sidecar.name)
            except Exception as error:  # archives raise whatever they like
                broken.append(Broken(sidecar.name, reason_of(error)))
        raw.append(label)
    if not any(raw):
        return None if not broken else Labelled(pictures, broken=broken)
    labelled = labelled_part(pictures, raw, "from .cls or .json files", "without a label in a .cls or .json file")
    return Labelled(labelled.items, labelled.labels, labelled.classes, broken, labelled.notes)


def _label(data: bytes, name: str) -> str:
    """The label that a .cls or .json file holds, "" for none."""
    text = decode(data).strip()
    if not name.lower().endswith(".json"):
        return text
    values = json_object(text) or {}
    return label_text(next((values[key] for key in JSON_LABELS if key in values), None))


def _key(item: Item) -> tuple[str, str]:
    """WebDataset's key: the shard, and the name up to the first dot of its last part."""
    folder, base = posixpath.split(path_of(item))
    return item.place, posixpath.join(folder, base.split(".")[0])
