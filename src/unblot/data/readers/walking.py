"""Which files are below a folder: every picture and label file by name, and what was left out.

A folder that unblot wrote, a run or results (samples, edits, a film), is no data, nor is anything below it, so that all
may be written beside the pictures of the training. Results are data where their folder is the one that was asked for,
without the sheet that shows many of them at once; a run never is.
"""

import hashlib
import json
import os
import stat
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from functools import partial

from unblot.data.readers.listing import Broken, Item, hidden, named
from unblot.errors import UnblotError, counted, printable
from unblot.system.folders import GENERATOR, GRID, MANIFEST  # by which a folder of samples is known

CONFIG, MODEL, CHECKPOINTS = "config.json", "model.safetensors", "checkpoints"  # by which a run is known
KEYS = {CONFIG: {"source", "data", "train", "version"}, MANIFEST: {"n", "shards", "model"}}  # older samples' manifests
RECORD_BYTES = 2**24  # a longer file is none of ours
EVERYBODY = 0o444  # mode of a file that everybody may read
Wanted = Callable[[str], bool]
File = tuple[str, int, int]  # base name, size, time; UNREADABLE for one that this process may not read
UNREADABLE = -1


@dataclass
class Found:
    """What a walk found: wanted files in order, what cannot be looked at, how many other files of each suffix, folders
    that unblot wrote, and a hash that changes when a wanted file does, or whether it may be read."""

    items: list[Item] = field(default_factory=list)
    broken: list[Broken] = field(default_factory=list)
    others: Counter[str] = field(default_factory=Counter)
    ours: list[str] = field(default_factory=list)
    digest: str = ""

    def notes(self) -> list[str]:
        """What was left out, a line each."""
        left = ", ".join(f"{printable(suffix) or 'no suffix'} ({n})" for suffix, n in sorted(self.others.items()))
        notes = [f"other files left out: {left}"] if left else []
        ours = f"{counted(len(self.ours), 'folder')} of runs or results left out: {named(self.ours)}"
        notes += [ours] if self.ours else []
        return notes


def walk(path: str, wanted: Wanted) -> Found:
    """The files below a folder whose base name is wanted, sorted by folder and name, without hidden ones.

    Links to folders are followed, each folder once, so that a loop of links ends. Raises UnblotError where the folder
    itself holds a run.
    """
    return with_items(*glance(path, wanted))


def with_items(found: Found, files: list[tuple[str, list[File]]]) -> Found:
    """What `walk` finds, from what `glance` did, whose list of files is emptied: two of a million take much memory."""
    files.reverse()
    while files:
        below, some = files.pop()
        found.items += [Item(below + base, "", -1, size) for base, size, _ in some]
    return found


def glance(path: str, wanted: Wanted) -> tuple[Found, list[tuple[str, list[File]]]]:
    """What `walk` finds but for the items, and the files of each folder, of which `with_items` makes them: where there
    is a dataset cache only the hash is needed, and a million items take seconds."""
    found = Found()
    everything: list[tuple[str, list[File]]] = []
    digest = hashlib.sha256()
    seen: set[tuple[int, int]] = set()
    waiting = [""]  # names of folders, "" or ending in a slash
    while waiting:
        below = waiting.pop()
        files: list[File] = []
        deeper: list[str] = []
        failed: list[Broken] = []
        try:
            status = os.stat(os.path.join(path, below))
            if (status.st_dev, status.st_ino) in seen:
                continue
            seen.add((status.st_dev, status.st_ino))
            if _is_ours(os.path.join(path, below), below):
                found.ours.append(below.rstrip("/"))
                continue
            results = not below and has_record(path, MANIFEST)
            chosen = partial(_no_sheet, wanted) if results else wanted
            _look_into(os.path.join(path, below), below, chosen, files, deeper, failed, found.others)
        except OSError as error:
            failed.append(Broken(below.rstrip("/") or path, error.strerror or str(error)))
        files.sort()
        if files:
            everything.append((below, files))
            digest.update(repr((below, files)).encode())
        found.broken += sorted(failed)
        waiting += [f"{below}{base}/" for base in sorted(deeper, reverse=True)]
    if found.ours == [""]:
        raise UnblotError(f"{printable(path)!r} is a run folder, which is never data; give a folder of pictures")
    found.ours.sort()
    digest.update(repr(found.broken).encode())
    found.digest = digest.hexdigest()
    return found, everything


def _no_sheet(wanted: Wanted, base: str) -> bool:
    """Whether a file of a folder of results is wanted: the sheet of many of them is not."""
    return base != GRID and wanted(base)


def _look_into(
    path: str,
    below: str,
    wanted: Wanted,
    files: list[File],
    deeper: list[str],
    failed: list[Broken],
    others: Counter[str],
) -> None:
    """Adds the wanted files (name, size, time) of one folder, its folders, what failed, and other files' suffixes."""
    with os.scandir(path) as entries:
        for entry in entries:  # one at a time: each keeps its status
            base = entry.name
            if hidden(base):
                continue
            try:
                if wanted(base):
                    status = entry.stat()
                    if stat.S_ISDIR(status.st_mode):
                        deeper.append(base)
                    elif stat.S_ISREG(status.st_mode):
                        time = status.st_mtime_ns if _may_read(entry.path, status.st_mode) else UNREADABLE
                        files.append((base, status.st_size, time))
                    else:
                        raise OSError("it is no regular file")
                elif entry.is_dir():
                    deeper.append(base)
                else:
                    others[suffix_of(base)] += 1
            except OSError as error:
                failed.append(Broken(below + base, error.strerror or str(error)))


def _may_read(path: str, mode: int) -> bool:
    """Whether this process may read a file: permissions change no time of it, and must change the hash of a walk."""
    if mode & EVERYBODY == EVERYBODY:  # without asking: there may be a million
        return True
    return os.access(path, os.R_OK, effective_ids=os.access in os.supports_effective_ids)


def _is_ours(path: str, below: str) -> bool:
    """Whether a folder holds a run, or below the root samples, edits or a film."""
    if os.path.isfile(os.path.join(path, MODEL)) and os.path.isdir(os.path.join(path, CHECKPOINTS)):
        return True
    return has_record(path, CONFIG) or (below != "" and has_record(path, MANIFEST))


def has_record(path: str, base: str) -> bool:
    """Whether a folder holds a record of ours of this name."""
    file = os.path.join(path, base)
    try:
        status = os.stat(file)
        if not stat.S_ISREG(status.st_mode) or status.st_size > RECORD_BYTES:
            return False
        with open(file, "rb") as opened:
            return is_record(base, opened.read())
    except OSError:
        return False


def is_record(base: str, data: bytes) -> bool:
    """Whether the bytes of a config.json or manifest.json are of a run or of results of ours."""
    try:
        record = json.loads(data)
    except (ValueError, RecursionError):
        return False
    if not isinstance(record, dict):
        return False
    written = base == MANIFEST and str(record.get(GENERATOR)).startswith("unblot ")
    return written or record.keys() >= KEYS[base]


def ours_among(names: Iterable[str], read: Callable[[str], bytes]) -> list[str]:
    """The folders, "" or ending in a slash, that unblot wrote among the file names of an archive.

    read: gives the bytes of the record of this name.
    """
    ours: set[str] = set()
    models, checkpoints = set(), set()
    for name in names:
        folder, slash, base = name.rpartition("/")
        folder += slash
        if base in KEYS and (folder or base == CONFIG) and is_record(base, read(name)):
            ours.add(folder)
        if base == MODEL:
            models.add(folder)
        head, found, _ = f"/{name}".partition(f"/{CHECKPOINTS}/")
        if found:
            checkpoints.add(f"{head[1:]}/" if head else "")
    return sorted(ours | (models & checkpoints))


def suffix_of(name: str) -> str:
    """The part of a file's base name after the last dot, with the dot, in small letters; "" without one."""
    base = name.rpartition("/")[2]
    return base[base.rfind(".") :].lower() if "." in base else ""
