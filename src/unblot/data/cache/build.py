"""The dataset cache: all pictures decoded and resized once, in one memory-mapped array, found again by fingerprint.

A dataset cache is a folder: `pictures.npy` (N, C, H, W), `digests.npy` and `manifest.json`. While it is built it is
called `….part`. A killed process leaves the part, and the next one continues it; only a finished part gets its name.
"""

import contextlib
import math
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from functools import partial
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from unblot.data import copies, values
from unblot.data.cache import place, pool
from unblot.data.cache.decoding import Decoded, decode_array, decode_items, opacity_settled
from unblot.data.cache.journal import Journal, OnDisk
from unblot.data.cache.manifest import CachedDataset, describe, name_of, write_manifest
from unblot.data.cache.place import cache_folder, cannot_write, early_workers
from unblot.data.cache.worker import write_rows
from unblot.data.image_spec import Colourful, ImageOptions, ImageSpec, choose_spec
from unblot.data.readers.formats import Picture
from unblot.data.readers.listing import Broken, DataSource, Item, Listing, cannot_be_used
from unblot.data.readers.reading import Reader, reason_of
from unblot.data.subset import spread
from unblot.errors import UnblotError, arg

__all__ = ["cache_folder", "cached_dataset", "early_workers"]
SAMPLE = 512  # headers read to choose the image spec
TASK_PICTURES, TASK_BYTES = 256, 4_000_000  # decoded together
IN_MEMORY = 2**26  # bytes: smaller arrays are not cached on disk
Report = Callable[[str], None]
Progress = Callable[[int, int], None]
DecodeAll = Callable[[dict[str, Any], Iterator[pool.Task], int], Iterator[Decoded]]


def cached_dataset(
    source: DataSource,
    stamp: str,
    options: ImageOptions,
    cache: Path,
    report: Report,
    progress: Progress,
    workers: int = 0,
    idle: list[pool.Worker] | None = None,
    stop: bool = False,
) -> CachedDataset:
    """The pictures of a source with these options: from its dataset cache, or decoded into one.

    stamp: from `open_source`. progress(done, count) is called as pictures are decoded. workers: decoding processes,
    0 for one a core. idle: workers that are started already. stop: whether pictures that may be read another time are
    an error, after which the next call tries them again; else the cache is made without them. Small arrays are decoded
    into memory. Raises UnblotError where nothing is usable and where the cache cannot be written or read.
    """
    final = place.folder_of(cache, source.origin, stamp, options)
    part = final.with_name(f"{final.name}.part")
    if (found := place.opened(final)) is not None:
        return found
    try:
        part.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        listing = _small(source, options, part)
        if listing is None:
            raise cannot_write(part, error) from None
        return _in_memory(listing, options, progress)
    with _alone(final.with_name(f"{final.name}.lock"), report):
        if (found := place.opened(final)) is not None:
            return found
        decode_all = partial(pool.decode_all, count=workers or pool.cores(), idle=[] if idle is None else idle)
        with _without_empty(part):
            built = _build(source, options, part, report, progress, decode_all, stop)
        if built is not None:
            shutil.rmtree(part, ignore_errors=True)
            return built
        try:
            os.rename(part, final)
        except OSError as error:  # a damaged cache lies there and cannot be removed
            raise cannot_write(final, error) from None
        place.remove_outdated(final)
    found = place.opened(final)
    assert found is not None
    return found


@contextlib.contextmanager
def _alone(path: Path, report: Report) -> Iterator[None]:
    """Within it this process alone has the lock file at a path; it waits for others, and reports that."""
    lock = filelock.FileLock(path)
    try:
        lock.acquire(timeout=0)
    except filelock.Timeout:
        report("another process is decoding the same pictures; waiting for it")
        lock.acquire()
    try:
        yield
    finally:
        lock.release()


@contextlib.contextmanager
def _without_empty(part: Path) -> Iterator[None]:
    """Within it an error removes the folder of a cache in which there is nothing that the next call can use."""
    try:
        yield
    except BaseException:
        for folder in (part / "work", part):
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


def _small(source: DataSource, options: ImageOptions, part: Path) -> Listing | None:
    """The listing of a small array, which needs no folder to be written; None for all else, or what needs one."""
    try:
        listing = opacity_settled(source.load(part / "work"), options)
    except (UnblotError, OSError):
        return None
    return listing if _fits_into_memory(listing) else None


def _fits_into_memory(listing: Listing) -> bool:
    """Whether the pictures are a small array, which is not cached on disk."""
    array = listing.array
    return array is not None and math.prod(array.shape) * array.dtype.itemsize <= IN_MEMORY


def _build(
    source: DataSource,
    options: ImageOptions,
    part: Path,
    report: Report,
    progress: Progress,
    decode_all: DecodeAll,
    stop: bool,
) -> CachedDataset | None:
    """Builds the cache in the folder `part`; a small array is decoded into memory instead and returned."""
    if (part / "pictures.npy").exists():  # moved there last: only the part's name is missing
        return None
    work = part / "work"
    listing = opacity_settled(source.load(work), options)
    if not len(listing):
        raise nothing_usable(listing.broken)
    if _fits_into_memory(listing):
        return _in_memory(listing, options, progress)
    try:
        journal = Journal.resume(work, len(listing)) or Journal.start(work, len(listing), spec_of(listing, options))
        try:
            _fill(listing, journal, progress, decode_all)
        except Colourful:
            report("some pictures are in colour after all: starting again in colour")
            spec = journal.spec._replace(channels=3 + journal.spec.alpha)
            journal = Journal.start(work, len(listing), spec)
            _fill(listing, journal, progress, decode_all)
        if stop and journal.passing:
            way_out = f"try again, repair them, or leave them out with {arg('on_broken', 'skip')}"
            raise UnblotError(cannot_be_used((*listing.broken, *_broken(listing, journal)), way_out))
        _finish(listing, journal, part)
    except OSError as error:
        raise cannot_write(part, error) from None
    return None


def _fill(listing: Listing, journal: Journal, progress: Progress, decode_all: DecodeAll) -> None:
    """Decodes all pictures that the journal misses. Raises Colourful where its spec has no room for colour."""
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
    """The results of decoding the missing pictures, in parts, their rows written: by this process or by workers."""
    if listing.array:
        array = listing.array
        step = max(1, TASK_BYTES // max(1, math.prod(array.shape[1:]) * array.dtype.itemsize))
        for start, stop in _runs(missing, lambda i: 1 / step):
            yield _written(journal, *decode_array(start, array.rows(start, stop), array.alpha, journal.spec))
        return
    items, offset = listing.items, OnDisk(journal.rows).offset
    tasks = ((a, items[a:b]) for a, b in _runs(missing, lambda i: cost_of(items[i])))
    if len(missing) > place.ALONE and not listing.read:
        job = {"root": listing.root, "pages": listing.pages, "spec": journal.spec}
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


def cost_of(item: Item) -> float:
    """An item's share of a task; the pages of a file are read together."""
    return 1 / TASK_PICTURES + (item.size / TASK_BYTES if item.page < 1 else 0)


def spec_of(listing: Listing, options: ImageOptions) -> ImageSpec:
    """The image spec for the pictures of a listing, from its array or from a sample of its files."""
    if listing.array:
        _, channels, height, width = listing.array.shape
        name, alpha = listing.array.dtype.name, bool(listing.array.alpha)
        return choose_spec([Picture(channels, height, width, name, alpha, "", None)], options)
    sample, broken = [], [*listing.broken]
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for i in spread(np.arange(len(listing)), SAMPLE):
            try:
                sample.append(reader.open(listing.items[i]))
            except Exception as error:  # reported when it is decoded
                broken.append(Broken(listing.items[i].name, reason_of(error)))
    if not sample:
        raise nothing_usable(broken)
    return choose_spec(sample, options)


def _in_memory(listing: Listing, options: ImageOptions, progress: Progress) -> CachedDataset:
    """The pictures of a small array, without a file."""
    assert listing.array
    count = len(listing)
    spec = spec_of(listing, options)
    rows, result = decode_array(0, listing.array.rows(0, count), listing.array.alpha, spec)
    progress(count, count)
    kept = np.flatnonzero(result.digests)
    if not len(kept):
        raise nothing_usable([Broken(f"picture {i}", why) for i, why in result.broken])
    pictures = np.array(rows, order="C") if len(kept) == count else rows[kept]  # no view of a file
    digests = np.array(result.digests, np.int64)
    about = describe(listing, spec, digests, dict(result.broken), Counter(result.kinds))
    fitted = values.fit(pictures, spec.alpha)
    families = copies.families(pictures, fitted, digests[kept])
    return CachedDataset(pictures, digests[kept], families, values=fitted, **about)


def _broken(listing: Listing, journal: Journal) -> list[Broken]:
    """What could not be decoded, for whatever reason."""
    return [Broken(name_of(listing, i), why) for i, why in sorted((journal.broken | journal.passing).items())]


def _finish(listing: Listing, journal: Journal, part: Path) -> None:
    """Writes what belongs to the cache; the pictures are moved to their place last."""
    kept = journal.kept()
    if not len(kept):
        raise nothing_usable(_broken(listing, journal))
    about = describe(listing, journal.spec, journal.digests, journal.broken | journal.passing, journal.kinds)
    ready = journal.ready()
    fitted = values.fit(OnDisk(ready), journal.spec.alpha)
    digests = journal.digests[kept]
    families = copies.families(np.load(ready, mmap_mode="r"), fitted, digests)
    np.save(part / "digests.npy", np.stack([digests, families]))
    write_manifest(part, about, fitted, OnDisk(ready))
    os.replace(ready, part / "pictures.npy")


def nothing_usable(broken: Sequence[Broken]) -> UnblotError:
    """The error for a source of which not one picture can be used, with the reasons."""
    reasons = "".join(f"\n  {b}" for b in broken)
    return UnblotError(f"not one picture can be used{':' if broken else ''}{reasons}")
