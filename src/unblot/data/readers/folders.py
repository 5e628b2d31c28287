"""Folders of pictures at any depth, and archives of the same."""

import contextlib
import hashlib
import os
import stat
import tarfile
import zipfile
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unblot.data.readers import tiff
from unblot.data.readers.labels import TABLES, labels_from_folders, labels_from_shards, labels_from_table
from unblot.data.readers.listing import Broken, DataSource, Item, Listing, file_origin, printable
from unblot.data.readers.reading import Reader
from unblot.errors import UnblotError

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".heic", ".heif"),
)
PAGED = (".tif", ".tiff")
BESIDE = (".cls", ".json")  # WebDataset's labels
LISTED = {*PICTURES, *BESIDE}
NAMES = ("utf-8", "surrogateescape")  # how file names that are no UTF-8 become bytes again


def folder(path: str, *, pages: str = "pictures") -> DataSource:
    """A folder of pictures; classes from its subfolders, or from labels.csv or metadata.csv in it."""
    found, broken, told, others = _walk(path)

    def load(_: Path) -> Listing:
        return _listing(path, path, found, broken, others, pages)

    return DataSource(Path(os.path.abspath(path)).name, [os.path.abspath(path), told], load)


def zipped(path: str, *, pages: str = "pictures") -> DataSource:
    """A zip file of pictures, laid out as a folder would be."""

    def load(_: Path) -> Listing:
        try:
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
        except (zipfile.BadZipFile, OSError, ValueError) as error:
            raise UnblotError(f"cannot read {printable(path)!r} as zip: {error}") from None
        found = [Item(m.filename, path, -1, m.file_size) for m in members if _wanted(m.filename)]
        others = Counter(_suffix(m.filename) for m in members if not _wanted(m.filename))
        return _listing("", path, sorted(found), [], others, pages)

    return DataSource(Path(path).stem, file_origin(path), load)


def tar(path: str, *, pages: str = "pictures") -> DataSource:
    """A tar file of pictures, compressed or not, laid out as a folder would be or as a WebDataset shard."""
    return webdataset(path, pages=pages)


def webdataset(path: str, *, pages: str = "pictures") -> DataSource:
    """Tar shards: one, a range `shard-{000..012}.tar`, or a folder of them.

    A picture `0001.jpg` is labelled by `0001.cls` or `0001.json`.
    """
    shards = shard_paths(path)

    def load(scratch: Path) -> Listing:
        items: list[Item] = []
        others: Counter[str] = Counter()
        for shard in shards:
            items += _tar_items(_plain_tar(shard, scratch), others)
        return _listing("", path, items if len(shards) > 1 else sorted(items), [], others, pages)

    name = Path(os.path.abspath(path)).name.split(".")[0]
    return DataSource(name, [part for shard in shards for part in file_origin(shard)], load)


def shard_paths(path: str) -> list[str]:
    """The tar files that a path, a folder or a range `shard-{000..012}.tar` means, in order."""
    if os.path.isdir(path):
        return sorted(os.path.join(path, n) for n in os.listdir(path) if n.endswith(".tar") and n[0] != ".")
    head, brace, tail = path.partition("{")
    span, _, tail = tail.partition("}")
    first, dots, last = span.partition("..")
    if not brace or os.path.exists(path):
        return [path]
    if not (dots and first.isdigit() and last.isdigit() and int(first) <= int(last) <= int(first) + 100_000):
        raise UnblotError(f"{printable(path)!r} is no range of shards; write it as in shard-{{000..012}}.tar")
    return [f"{head}{i:0{len(first)}d}{tail}" for i in range(int(first), int(last) + 1)]


def _walk(path: str) -> tuple[list[Item], list[Broken], str, Counter[str]]:
    """Pictures, tables and labels below a folder, what cannot be looked at, a hash of all that, and what else there is.

    Links to folders are followed, each folder once, so that a loop of links ends. The order is that of the names.
    """
    found: list[Item] = []
    broken: list[Broken] = []
    others: Counter[str] = Counter()
    told = hashlib.sha256()
    seen: set[tuple[int, int]] = set()
    waiting = [""]  # names of folders, "" or ending in a slash
    while waiting:
        below = waiting.pop()
        files: list[tuple[str, int, int]] = []
        deeper: list[str] = []
        failed: list[Broken] = []
        try:
            status = os.stat(os.path.join(path, below))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            with os.scandir(os.path.join(path, below)) as entries:
                for entry in entries:  # one at a time: each keeps its status
                    try:
                        _look_at(entry, files, deeper, others)
                    except OSError as error:
                        failed.append(Broken(below + entry.name, error.strerror or str(error)))
        except OSError as error:
            failed.append(Broken(below.rstrip("/") or path, error.strerror or str(error)))
        files.sort()
        found += [Item(below + base, "", -1, size) for base, size, _ in files]
        told.update(repr((below, files)).encode())
        broken += sorted(failed)
        waiting += [f"{below}{base}/" for base in sorted(deeper, reverse=True)]
    told.update(repr(broken).encode())
    return found, broken, told.hexdigest(), others


def _look_at(
    entry: os.DirEntry[str], files: list[tuple[str, int, int]], deeper: list[str], others: Counter[str]
) -> None:
    """Notes a wanted file (name, size, time), a folder's name, or the suffix of another file.

    Raises OSError for what is called as a picture is and cannot be used.
    """
    base = entry.name
    if base[0] == "." or base == "__MACOSX":
        return
    suffix = _suffix(base)
    if suffix in LISTED or base in TABLES:
        status = entry.stat()
        if stat.S_ISREG(status.st_mode):
            files.append((base, status.st_size, status.st_mtime_ns))
        elif stat.S_ISDIR(status.st_mode):
            deeper.append(base)
        else:
            raise OSError("it is no regular file")
    elif entry.is_dir():
        deeper.append(base)
    else:
        others[suffix] += 1


def _listing(
    root: str, path: str, found: list[Item], broken: list[Broken], others: Counter[str], pages: str
) -> Listing:
    """The pictures among what was found, pages of TIFF files apart, with labels from a table, shards or subfolders."""
    pictures = [item for item in found if _ends(item, PICTURES)]
    beside = [item for item in found if not _ends(item, PICTURES)] if len(pictures) < len(found) else []
    if not pictures and not broken:
        known = f"{others.total()} other files ({', '.join(sorted(others)[:5])})" if others else "nothing"
        raise UnblotError(f"no pictures in {printable(path)!r}, only {known}; known are {' '.join(PICTURES)}")
    left = ", ".join(f"{suffix or 'without a suffix'} ({n})" for suffix, n in sorted(others.items()))
    notes = [f"other files left out: {left}"] if left else []
    with Reader(root) as reader:
        if pages == "pictures":
            pictures = _pages_apart(reader, pictures)
        tables = [i for i in beside if os.path.basename(i.name) in TABLES]
        labelled = labels_from_table(reader, tables, pictures) or labels_from_shards(reader, beside, pictures)
    labelled = labelled or labels_from_folders(pictures)
    return Listing(
        root,
        labelled.items,
        labels=labelled.labels,
        classes=labelled.classes,
        broken=(*broken, *labelled.broken),
        notes=tuple(notes + labelled.notes),
        pages=pages,
    )


def _pages_apart(reader: Reader, pictures: list[Item]) -> list[Item]:
    """The pictures with each TIFF of several pages replaced by its pages."""
    apart = []
    for item in pictures:
        count = 1
        if _ends(item, PAGED):
            with contextlib.suppress(OSError, UnblotError):  # told when it is decoded
                count = tiff.count(reader.read(item))
        apart += [item] if count == 1 else [item._replace(page=page) for page in range(count)]
    return apart


def _tar_items(path: str, others: Counter[str]) -> list[Item]:
    """Where the wanted members of an uncompressed tar file lie."""
    items = []
    try:
        with tarfile.open(path, "r:") as archive:
            for member in archive:
                if member.isfile() and _wanted(member.name):
                    items.append(Item(member.name, path, member.offset_data, member.size))
                elif member.isfile():
                    others[_suffix(member.name)] += 1
    except (tarfile.TarError, OSError, EOFError) as error:
        raise UnblotError(f"cannot read {printable(path)!r} as tar: {error}") from None
    return items


def _plain_tar(path: str, scratch: Path) -> str:
    """The path of the tar file unpacked, if it was compressed, into the scratch folder."""
    try:
        with open(path, "rb") as file:
            head = file.read(6)
        opener = next((o for magic, o in _compressions() if head.startswith(magic)), None)
        if opener is None:
            return path
        plain = scratch / f"{hashlib.sha256(path.encode(*NAMES)).hexdigest()[:16]}.tar"
        if not plain.exists():
            scratch.mkdir(parents=True, exist_ok=True)
            part = plain.with_suffix(".part")
            with opener(path, "rb") as cached, open(part, "wb") as out:
                while block := cached.read(2**20):
                    out.write(block)
            os.replace(part, plain)
        return str(plain)
    except (OSError, EOFError, ValueError) as error:
        raise UnblotError(f"cannot read {printable(path)!r} as tar: {error}") from None


def _compressions() -> tuple[tuple[bytes, Callable[..., Any]], ...]:
    """Pairs of a compressed file's first bytes and the function that opens it."""
    import bz2
    import gzip
    import lzma

    return ((b"\x1f\x8b", gzip.open), (b"BZh", bz2.open), (b"\xfd7zXZ", lzma.open))


def _wanted(name: str) -> bool:
    """Whether a file is called as pictures, tables or labels are, and is not hidden."""
    base = name.rpartition("/")[2]
    return (_suffix(base) in LISTED or base in TABLES) and base[0] != "." and not name.startswith("__MACOSX")


def _ends(item: Item, suffixes: tuple[str, ...]) -> bool:
    """Whether an item's name has one of these suffixes."""
    return item.name.lower().endswith(suffixes)


def _suffix(name: str) -> str:
    """The part after the last dot, in small letters."""
    return name[name.rfind(".") :].lower() if "." in name else ""
