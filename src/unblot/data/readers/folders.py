"""Folders of pictures at any depth, single picture files, and what is listed of both and of archives."""

import os
from collections import Counter
from contextlib import closing
from dataclasses import replace
from pathlib import Path

from unblot.data.readers import tiff
from unblot.data.readers.captions import (
    JSON,
    TEXTS,
    Gathered,
    beside_no_picture,
    captions_from_files,
    captions_from_json,
    captions_from_tables,
)
from unblot.data.readers.labels import Labelled, labels_from_folders, labels_from_shards, labels_from_table
from unblot.data.readers.listing import Captions, DataSource, Item, Listing, file_origin, named, wants_labels
from unblot.data.readers.reading import Reader
from unblot.data.readers.tables import is_table
from unblot.data.readers.walking import Found, glance, suffix_of, with_items
from unblot.errors import UnblotError, counted, printable

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".heic", ".heif"),
)
SIDECARS = (".cls", JSON)  # label files beside pictures, as in WebDataset
WANTED = frozenset((*PICTURES, *SIDECARS, *TEXTS))


def folder(path: str, *, pages: str = "pictures", labels: str = "") -> DataSource:
    """A folder of pictures; classes from its subfolders, or from a table such as labels.csv in it."""
    with_labels = wants_labels(labels)
    found, files = glance(path, is_wanted)
    place = os.path.abspath(path)

    def load(scratch: Path) -> Listing:
        return listing(path, path, with_items(found, files), pages, with_labels)

    return DataSource(Path(place).name, [place, found.digest], load)


def picture(path: str, *, pages: str = "pictures") -> DataSource:
    """One picture file, which is a data set of one picture."""
    origin = file_origin(path)
    root, base = os.path.split(path)
    found = Found([Item(base, "", -1, origin[1])])
    return DataSource(Path(path).stem, origin, lambda _: listing(root, path, found, pages, False))


def is_wanted(base: str) -> bool:
    """Whether a file is named as pictures, tables of labels, label files or files of captions are."""
    return suffix_of(base) in WANTED or is_table(base)


def listing(root: str, path: str, found: Found, pages: str, with_labels: bool) -> Listing:
    """The pictures among the files found; with labels from a table, from files beside them or from their folders.

    Pages of TIFF files are pictures of their own, unless `pages` is "channels". Raises UnblotError without pictures.
    """
    if pages not in ("pictures", "channels"):
        raise UnblotError(f"pages={printable(pages)} is unknown; give pages=pictures or pages=channels")
    pictures = [item for item in found.items if suffix_of(item.name) in PICTURES]
    if not pictures and not found.broken:
        texts = Counter(suffix_of(item.name) for item in found.items if suffix_of(item.name) in TEXTS)
        raise _no_pictures(path, found.others + texts)
    copies = 0
    with Reader(root) as reader:
        if pages == "pictures":
            pictures, copies = _pages_apart(reader, pictures)
        labelled = _labelled(reader, found, pictures) if with_labels else Labelled(pictures)
        captions, unused = _captioned(reader, found, labelled.items, pictures)
    notes = _notes(replace(found, others=found.others + unused), copies)
    return Listing(
        root,
        labelled.items,
        labels=labelled.labels,
        classes=labelled.classes,
        broken=(*found.broken, *labelled.broken),
        notes=(*notes, *labelled.notes),
        pages=pages,
        captions=captions,
    )


def _no_pictures(path: str, others: Counter[str]) -> UnblotError:
    """The error for a folder or an archive without a picture. others: how many files of each suffix it has."""
    suffixes = ", ".join(printable(suffix) or "no suffix" for suffix in sorted(others)[:5])
    known = f"{others.total()} other files ({suffixes})" if others else "nothing"
    return UnblotError(f"no pictures in {printable(path)!r}, only {known}; known are {' '.join(PICTURES)}")


def _labelled(reader: Reader, found: Found, pictures: list[Item]) -> Labelled:
    """Labels from a table, from files beside the pictures or from their folders."""
    tables = [item for item in found.items if is_table(item.name)]
    sidecars = [item for item in found.items if suffix_of(item.name) in SIDECARS]
    return labels_from_table(reader, tables, pictures) or _without_table(reader, sidecars, pictures)


def _captioned(
    reader: Reader, found: Found, chosen: list[Item], pictures: list[Item]
) -> tuple[Captions | None, Counter[str]]:
    """The captions of the chosen pictures, and how many text files, or .json, of each suffix are of no picture at all.

    Where there are captions, these files are named in the notes instead.
    """
    if all(suffix_of(item.name) in PICTURES for item in found.items):  # a million need no list each for their captions
        return None, Counter()
    gathered = Gathered(chosen)
    texts = [item for item in found.items if suffix_of(item.name) in TEXTS]
    objects = [item for item in found.items if suffix_of(item.name) == JSON]
    captions_from_tables(reader, [item for item in found.items if is_table(item.name)], pictures, gathered)
    captions_from_files(reader, texts, gathered)
    captions_from_json(reader, objects, gathered)
    unused = beside_no_picture([*texts, *objects], pictures, gathered)
    captions = gathered.result()
    if captions is None or not captions.texts:
        return captions, Counter(suffix_of(item.name) for item in unused)
    if unused:
        note = f"{counted(len(unused), 'text file')} beside no picture left out: {named([i.name for i in unused])}"
        captions = replace(captions, notes=(*captions.notes, note))
    return captions, Counter()


def _without_table(reader: Reader, sidecars: list[Item], pictures: list[Item]) -> Labelled:
    """Labels from files beside the pictures, or from folders where most pictures have none."""
    beside = labels_from_shards(reader, sidecars, pictures)
    if beside is not None and beside.labels is not None:
        return beside
    labelled = labels_from_folders(pictures)
    return labelled if beside is None else replace(labelled, broken=beside.broken, notes=beside.notes + labelled.notes)


def _notes(found: Found, copies: int) -> list[str]:
    """What was left out of the folder, and out of its TIFF files."""
    pages = f"{counted(copies, 'page')} of TIFF files left out: reduced copies or masks of other pages"
    return [*found.notes(), *([pages] if copies else [])]


def _pages_apart(reader: Reader, pictures: list[Item]) -> tuple[list[Item], int]:
    """The pictures with each TIFF of several pages replaced by its pages, and how many pages are no pictures."""
    apart, copies = [], 0
    for item in pictures:
        count = 1
        if suffix_of(item.name) in tiff.SUFFIXES:
            try:
                with closing(reader.stack(item)) as stack:
                    count, copies = stack.count, copies + stack.left_out
            except Exception:  # it is reported when it is decoded
                count = 1
        apart += [item] if count == 1 else [item._replace(page=page) for page in range(count)]
    return apart, copies
