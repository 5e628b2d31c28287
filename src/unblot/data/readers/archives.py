"""Zip and tar archives of pictures, laid out as a folder would be, and WebDataset's shards."""

import bz2
import gzip
import hashlib
import lzma
import os
import posixpath
import shutil
import tarfile
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from unblot.data.readers.folders import is_wanted, listing
from unblot.data.readers.listing import (
    Broken,
    DataSource,
    Item,
    Listing,
    check_expansion,
    file_origin,
    hidden,
    naming,
    path_of,
    wants_labels,
)
from unblot.data.readers.reading import Reader
from unblot.data.readers.walking import RECORD_BYTES, Found, is_record, ours_among, suffix_of
from unblot.errors import UnblotError, printable
from unblot.system.files import write_whole
from unblot.system.folders import GRID, MANIFEST

COMPRESSIONS: tuple[tuple[bytes, Callable[..., Any]], ...] = (  # a file's first bytes, and what opens it
    (b"\x1f\x8b", gzip.open),
    (b"BZh", bz2.open),
    (b"\xfd7zXZ", lzma.open),
)
BLOCK = 512  # bytes of a tar header


def zipped(path: str, *, pages: str = "pictures", labels: str = "") -> DataSource:
    """A zip file of pictures, laid out as a folder would be."""
    with_labels = wants_labels(labels)

    def load(_: Path) -> Listing:
        with naming(path, "zip"):
            with zipfile.ZipFile(path) as archive:
                members = [m for m in archive.infolist() if not m.is_dir()]
            found = _sorted_out([Item(m.filename, path, -1, m.file_size) for m in members])
        found.items.sort()
        return listing("", path, found, pages, with_labels)

    return DataSource(Path(path).stem, file_origin(path), load)


def tar(path: str, *, pages: str = "pictures", labels: str = "") -> DataSource:
    """A tar file of pictures, compressed or not, laid out as a folder would be or as a WebDataset shard."""
    return webdataset(path, pages=pages, labels=labels)


def webdataset(path: str, *, pages: str = "pictures", labels: str = "") -> DataSource:
    """Tar shards: one, a range `shard-{000..012}.tar`, or a folder of them.

    A picture `0001.jpg` is labelled by `0001.cls` or `0001.json`.
    """
    shards, with_labels = shard_paths(path), wants_labels(labels)

    def load(scratch: Path) -> Listing:
        all_found = Found()
        try:
            for shard in shards:
                with naming(shard, "tar"):
                    items, broken = _tar_items(_unpacked(shard, scratch), shard)
                    found = _sorted_out(items)
                all_found.items += found.items
                all_found.broken += broken
                all_found.others += found.others
                all_found.ours += found.ours
            if len(shards) == 1:
                all_found.items.sort()
            return listing("", path, all_found, pages, with_labels)
        except UnblotError:
            shutil.rmtree(scratch, ignore_errors=True)
            raise

    name = Path(os.path.abspath(path)).name.split(".")[0]
    return DataSource(name, [part for shard in shards for part in file_origin(shard)], load)


def shard_paths(path: str) -> list[str]:
    """The tar files of a path, a folder or a range `shard-{000..012}.tar`, in order."""
    if os.path.isdir(path):
        return sorted(os.path.join(path, n) for n in os.listdir(path) if n.endswith(".tar") and not hidden(n))
    head, brace, tail = path.partition("{")
    span, _, tail = tail.partition("}")
    first, dots, last = span.partition("..")
    if not brace or os.path.exists(path):
        return [path]
    numbers = first.isdecimal() and last.isdecimal() and max(len(first), len(last)) < 10
    if not (dots and numbers and int(first) <= int(last) <= int(first) + 100_000):
        raise UnblotError(f"{printable(path)!r} is no range of shards; write it as in shard-{{000..012}}.tar")
    return [f"{head}{i:0{len(first)}d}{tail}" for i in range(int(first), int(last) + 1)]


def _sorted_out(members: list[Item]) -> Found:
    """What there is among the files of an archive; of several with one name the last, as unpacking would leave it."""
    last = {path_of(item): item for item in members if not hidden(item.name)}
    found = Found()
    with Reader("") as reader:

        def read(name: str) -> bytes:
            return reader.read(last[name]) if last[name].size <= RECORD_BYTES else b""

        ours = ours_among(last, read)
        if MANIFEST in last and is_record(MANIFEST, read(MANIFEST)) and GRID in last:
            found.others[suffix_of(last.pop(GRID).name)] += 1
    if "" in ours:
        raise ValueError("it holds a run, which is never data; give pictures")
    found.ours = [folder.rstrip("/") for folder in ours]
    for name, item in last.items():
        if name.startswith(tuple(ours)):
            continue
        if is_wanted(name.rpartition("/")[2]):
            found.items.append(item)
        else:
            found.others[suffix_of(name)] += 1
    return found


def _tar_items(path: str, name: str) -> tuple[list[Item], list[Broken]]:
    """Where the files of an uncompressed tar are, and what is broken. Links stand for the files that they lead to.

    name: what the tar is called in messages.
    """
    found: dict[str, Item] = {}
    links: list[tuple[Item, str]] = []
    broken = []
    with tarfile.open(path, "r:") as archive:
        for member in archive:
            if member.size < 0 or archive.offset <= member.offset:  # tarfile would read it for ever (CVE-2025-8194)
                raise ValueError("a member has a negative size")
            item = Item(member.name, path, member.offset_data, member.size)
            if member.issym():
                links.append((item, posixpath.join(posixpath.dirname(member.name), member.linkname)))
            elif member.islnk():
                links.append((item, member.linkname))
            elif member.isreg() and not member.issparse():
                found[path_of(item)] = item
            elif not member.isdir() and is_wanted(posixpath.basename(member.name)):
                broken.append(Broken(member.name, "it is no regular file"))
        end = archive.offset
    for item, target in links:
        there = found.get(path_of(item._replace(name=target)))
        if there is not None:
            found[path_of(item)] = there._replace(name=item.name)
        elif is_wanted(posixpath.basename(item.name)):
            broken.append(Broken(item.name, f"it links to {printable(target)}, which is not in the archive"))
    with open(path, "rb") as file:
        file.seek(end)
        if file.read(BLOCK).strip(b"\0"):
            broken.append(Broken(name, f"the archive is damaged after its first {len(found)} files"))
    return list(found.values()), broken


def _unpack(path: str, opener: Callable[..., Any], plain: Path) -> None:
    """Writes what a compressed file holds. Raises UnblotError where that is more than it may expand to."""
    count, size = 0, os.path.getsize(path)
    with opener(path, "rb") as packed, open(plain, "wb") as out:
        while block := packed.read(2**20):
            count += len(block)
            check_expansion(count, size, f"unpacking {printable(path)!r}")
            out.write(block)


def _unpacked(path: str, scratch: Path) -> str:
    """The path of the tar file, unpacked into the scratch folder where it was compressed."""
    with open(path, "rb") as file:
        head = file.read(6)
    opener = next((opener for start, opener in COMPRESSIONS if head.startswith(start)), None)
    if opener is None:
        return path
    plain = scratch / f"{hashlib.sha256(os.fsencode(path)).hexdigest()[:16]}.tar"
    if not plain.exists():
        write_whole(plain, lambda part: _unpack(path, opener, part))
    return str(plain)
