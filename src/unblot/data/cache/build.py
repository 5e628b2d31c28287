"""The pack: all pictures decoded and resized once, in one memory-mapped array, kept and found again by fingerprint.

A pack is a folder of the cache: `pictures.npy` (N, C, H, W), `digests.npy` and `manifest.json`. While it is made it
is called `….part`. A process that is killed leaves the part, from which the next one goes on; only a finished part
gets its name. The time of the folder is when it was last opened: what lay at a place before, and was not opened for
KEPT_DAYS, goes when what lies there now has been packed.
"""

import contextlib
import hashlib
import itertools
import json
import math
import os
import shutil
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from unblot.data import copies, values
from unblot.data.cache import pool
from unblot.data.cache.decoding import Decoded, decode_array, decode_items
from unblot.data.cache.journal import Journal, OnDisk
from unblot.data.cache.manifest import CachedDataset, describe, load_cached, name_of
from unblot.data.cache.worker import write_rows
from unblot.data.image_spec import Colourful, ImageOptions, ImageSpec, choose_spec
from unblot.data.readers.formats import Picture
from unblot.data.readers.listing import Broken, DataSource, Item, Listing
from unblot.data.readers.reading import Reader, reason_of
from unblot.errors import UnblotError

VERSION = 2  # of what a pack holds: a pack of another version is made anew
SAMPLE = 512  # headers read to choose the form
TASK_PICTURES, TASK_BYTES = 256, 4_000_000  # that are decoded together
ALONE = 64  # so few files are decoded without starting workers
IN_MEMORY = 2**26  # bytes: smaller arrays are read, not packed
KEPT_DAYS = 30
Report = Callable[[str], None]
Progress = Callable[[int, int], None]
DecodeAll = Callable[[dict[str, Any], Iterator[pool.Task], int], Iterator[Decoded]]


def cache_folder() -> Path:
    """Where packs are kept unless told: $UNBLOT_CACHE, or `unblot` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNBLOT_CACHE") or Path(base) / "unblot")


def pack(
    source: DataSource,
    stamp: str,
    options: ImageOptions,
    cache: Path,
    report: Report,
    progress: Progress,
    workers: int = 0,
    idle: list[pool.Worker] | None = None,
) -> CachedDataset:
    """The pack of a source in the form wished for: found in the cache, gone on with, or made.

    stamp: what `open_source` gave. progress(done, count) is called as pictures are done. workers: processes that
    decode, 0 for one a core. idle: some that are started already. Small arrays are read, not packed. Raises
    UnblotError where nothing is usable and where the pack cannot be written.
    """
    key = f"{_asked(source.origin[:1], options)}-{hashlib.sha256(stamp.encode()).hexdigest()[:32]}"
    final, part = cache / "packs" / key, cache / "packs" / f"{key}.part"
    if (found := _opened(final)) is not None:
        return found
    try:
        part.mkdir(parents=True, exist_ok=True)
        lock = filelock.FileLock(cache / "packs" / f"{key}.lock")
    except OSError as error:
        raise _cannot_write(part, error) from None
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report("another process is packing the same pictures; waiting for it")
        lock.acquire()
    with lock:
        if (found := _opened(final)) is not None:
            return found
        decode_all = partial(pool.decode_all, count=workers or pool.cores(), idle=[] if idle is None else idle)
        made = _make(source, options, part, report, progress, decode_all)
        if made is not None:
            shutil.rmtree(part, ignore_errors=True)
            return made
        os.rename(part, final)
        _forget_others(final)
    cached = _opened(final)
    assert cached is not None
    return cached


def is_new(path: str, options: ImageOptions, cache: Path) -> bool:
    """Whether a path is a folder of more than ALONE files that was never packed so: one can get ready to decode."""
    if not os.path.isdir(path) or any((cache / "packs").glob(f"{_asked([os.path.abspath(path)], options)}-*")):
        return False
    return next(itertools.islice(_files(path), ALONE, None), None) is not None


def _opened(folder: Path) -> CachedDataset | None:
    """The pack in a folder, which now has been opened; None where there is none."""
    found = load_cached(folder)
    if found is not None:
        with contextlib.suppress(OSError):  # a cache that one may only read
            os.utime(folder)
    return found


def _forget_others(new: Path) -> None:
    """Removes the packs of the place and wish of this one, finished or not, that nobody has opened for KEPT_DAYS.

    One that a process still reads stays readable to it, or where the system does not have it so, stays.
    """
    begins = new.name.partition("-")[0]
    for old in new.parent.glob(f"*{begins}-*"):
        with contextlib.suppress(OSError):  # another process was faster, or reads it
            if old != new and old.is_dir() and time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                gone = old.with_name("gone-" + old.name.removeprefix("gone-"))
                os.rename(old, gone)  # first, so that nobody opens half of one
                shutil.rmtree(gone, ignore_errors=True)


def _files(path: str) -> Iterator[str]:
    """The paths of the files below a folder, each when it is asked for."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path


def _asked(origin: list[Any], options: ImageOptions) -> str:
    """How the names of all packs begin that are of one place and one wish, whatever lay there."""
    return hashlib.sha256(json.dumps([VERSION, origin, asdict(options)]).encode()).hexdigest()[:16]


def _make(
    source: DataSource, options: ImageOptions, part: Path, report: Report, progress: Progress, decode_all: DecodeAll
) -> CachedDataset | None:
    """Makes the pack in the folder `part`; a small array instead becomes a pack in memory, which is given back."""
    if (part / "pictures.npy").exists():  # moved there last: all that was missing is the part's name
        return None
    work = part / "work"
    listing = source.load(work)
    if not len(listing):
        raise _nothing_usable(listing.broken)
    if listing.array and math.prod(listing.array.shape) * listing.array.dtype.itemsize <= IN_MEMORY:
        return _in_memory(listing, options, progress)
    try:
        journal = Journal.resume(work, len(listing)) or Journal.start(work, len(listing), _spec(listing, options))
        try:
            _fill(listing, journal, progress, decode_all)
        except Colourful:
            report("some pictures are in colour after all: starting again in colour")
            spec = journal.spec._replace(channels=3 + journal.spec.alpha)
            journal = Journal.start(work, len(listing), spec)
            _fill(listing, journal, progress, decode_all)
        _finish(listing, journal, options, part)
    except OSError as error:
        raise _cannot_write(part, error) from None
    return None


def _fill(listing: Listing, journal: Journal, progress: Progress, decode_all: DecodeAll) -> None:
    """Decodes all pictures that the journal misses. Raises Colourful where its form has no room for colour."""
    count, missing = len(listing), journal.missing()
    done = count - len(missing)
    progress(done, count)
    for result in _results(listing, journal, missing, decode_all):
        if result.colourful:
            raise Colourful
        journal.add(result)
        done += len(result.digests)
        progress(done, count)


def _results(listing: Listing, journal: Journal, missing: np.ndarray, decode_all: DecodeAll) -> Iterator[Decoded]:
    """What becomes of the missing pictures, in parts, their rows written: by this process or by workers."""
    if listing.array:
        array = listing.array
        step = max(1, TASK_BYTES // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
        for start, stop in _runs(missing, lambda i: 1 / step):
            yield _written(journal, *decode_array(start, array.rows(start, stop), journal.spec))
        return
    items, offset = listing.items, OnDisk(journal.rows).offset
    tasks = ((a, items[a:b]) for a, b in _runs(missing, lambda i: _cost(items[i])))
    if len(missing) > ALONE and not listing.read:
        job = {"root": listing.root, "pages": listing.pages, "form": journal.spec}
        yield from decode_all(job | {"path": str(journal.rows), "offset": offset}, tasks, len(missing))
        return
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for start, some in tasks:
            yield _written(journal, *decode_items(reader, start, some, journal.spec))


def _written(journal: Journal, rows: np.ndarray, result: Decoded) -> Decoded:
    """The result, after its rows were written."""
    write_rows(str(journal.rows), OnDisk(journal.rows).offset, result.start, rows)
    return result


def _runs(indices: np.ndarray, cost: Callable[[int], float]) -> Iterator[tuple[int, int]]:
    """Ascending indices as ranges (start, stop), none of which costs much more than 1."""
    start: int | None = None
    previous = -1
    total = 0.0
    for index in indices.tolist():
        added = cost(index)
        total += added
        if start is None or index != previous + 1 or total > 1:
            if start is not None:
                yield start, previous + 1
            start, total = index, added
        previous = index
    if start is not None:
        yield start, previous + 1


def _cost(item: Item) -> float:
    """An item's share of a task; the pages of a file are read together."""
    return 1 / TASK_PICTURES + (item.size / TASK_BYTES if item.page < 1 else 0)


def _spec(listing: Listing, options: ImageOptions) -> ImageSpec:
    """The form for the pictures of a listing, from its array or from a sample of its files."""
    if listing.array:
        _, channels, height, width = listing.array.shape
        name = listing.array.dtype.name
        alpha = channels == 4 and name == "uint8"
        return choose_spec([Picture(channels, height, width, name, alpha, "", None)], options)
    sample, broken = [], [*listing.broken]
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for i in np.linspace(0, len(listing) - 1, min(len(listing), SAMPLE)).astype(int):
            try:
                sample.append(reader.open(listing.items[i]))
            except Exception as error:  # told again when it is decoded
                broken.append(Broken(listing.items[i].name, reason_of(error)))
    if not sample:
        raise _nothing_usable(broken)
    return choose_spec(sample, options)


def _in_memory(listing: Listing, options: ImageOptions, progress: Progress) -> CachedDataset:
    """The pack of a small array, without a file."""
    assert listing.array
    count = len(listing)
    spec = _spec(listing, options)
    rows, result = decode_array(0, listing.array.rows(0, count), spec)
    progress(count, count)
    kept = np.flatnonzero(result.digests)
    if not len(kept):
        raise _nothing_usable([Broken(f"picture {i}", why) for i, why in result.broken])
    pictures = rows if len(kept) == count else rows[kept]
    digests = np.array(result.digests, np.int64)
    told = describe(listing, spec, options, digests, dict(result.broken), Counter(result.kinds))
    fitted = values.fit(pictures, spec.alpha)
    families = copies.families(pictures, fitted, digests[kept])
    return CachedDataset(pictures, digests[kept], families, values=fitted, **told)


def _finish(listing: Listing, journal: Journal, options: ImageOptions, part: Path) -> None:
    """Writes what belongs to the pack; the pictures are moved to their place last."""
    kept = journal.kept()
    if not len(kept):
        raise _nothing_usable([Broken(name_of(listing, i), why) for i, why in sorted(journal.broken.items())])
    told = describe(listing, journal.spec, options, journal.digests, journal.broken, journal.kinds)
    ready = journal.ready()
    fitted = values.fit(OnDisk(ready), journal.spec.alpha)
    told["values"] = fitted.to_dict()
    told["labels"] = None if told["labels"] is None else told["labels"].tolist()
    digests = journal.digests[kept]
    families = copies.families(np.load(ready, mmap_mode="r"), fitted, digests)
    np.save(part / "digests.npy", np.stack([digests, families]))
    (part / "manifest.json").write_text(json.dumps(told))
    os.replace(ready, part / "pictures.npy")


def _nothing_usable(broken: Sequence[Broken]) -> UnblotError:
    """The error that tells why not one picture can be used."""
    told = "".join(f"\n  {b}" for b in broken)
    return UnblotError(f"not one picture can be used{':' if broken else ''}{told}")


def _cannot_write(path: Path, error: OSError) -> UnblotError:
    """The error that tells why a pack cannot be written."""
    told = f"cannot write the pack in {str(path.parent)!r}: {error.strerror or error}"
    return UnblotError(f"{told}; set UNBLOT_CACHE to another folder")
