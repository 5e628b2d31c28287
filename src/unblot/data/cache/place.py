"""Where dataset caches lie, what they are called, and which of them are removed.

The folder's time is when its cache was last opened. A cache of what lay at a place before, which nobody opened for
KEPT_DAYS, is removed when what lies there now has been cached.
"""

import contextlib
import hashlib
import importlib.util
import itertools
import json
import os
import shutil
import time
from collections.abc import Iterator
from dataclasses import asdict
from pathlib import Path
from typing import Any

from unblot.data.cache.manifest import CachedDataset, load_cached
from unblot.data.image_spec import ImageOptions
from unblot.data.readers import tables
from unblot.data.readers.listing import max_bytes
from unblot.errors import UnblotError

VERSION = 8  # of what a dataset cache holds: one of another version is built anew
ALONE = 64  # up to this many files are decoded without worker processes
EACH = 64  # further files for which one worker more starts early
KEPT_DAYS = 30
DECODERS = ("pillow_heif", "gdcm", "libjpeg", "openjpeg", "jpeg_ls")  # of HEIC, and of pydicom for compressed DICOM


def cache_folder() -> Path:
    """Where dataset caches are kept by default: $UNBLOT_CACHE, or `unblot` in the user's cache folder."""
    base = os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache"
    return Path(os.environ.get("UNBLOT_CACHE") or Path(base) / "unblot")


def folder_of(cache: Path, origin: list[Any], stamp: str, options: ImageOptions) -> Path:
    """The folder of one dataset cache: origin names its place, stamp changes when what lies there does."""
    return _folders(cache) / f"{_begin(origin[:1], options)}-{hashlib.sha256(stamp.encode()).hexdigest()[:32]}"


def early_workers(path: str, options: ImageOptions, cache: Path, most: int) -> int:
    """How many workers may start before the files of a path are listed, at most `most`: one for each EACH files beyond
    ALONE of a folder that has no cache for these options. More may start when it is known what there is to do."""
    if not os.path.isdir(path) or any(_folders(cache).glob(f"{_begin([os.path.abspath(path)], options)}-*")):
        return 0
    beyond = sum(1 for _ in itertools.islice(_files(path), ALONE, ALONE + most * EACH))
    return -(-beyond // EACH)


def opened(folder: Path) -> CachedDataset | None:
    """The dataset cache in a folder, whose time becomes now; None where there is none."""
    found = load_cached(folder)
    if found is not None:
        with contextlib.suppress(OSError):  # a cache that one may only read
            os.utime(folder)
    return found


def remove_outdated(new: Path) -> None:
    """Removes the caches, finished or not, of this one's place and options that nobody opened for KEPT_DAYS.

    A process that still reads one keeps its memory map; where the system does not allow that, the cache stays.
    """
    begin = new.name.partition("-")[0]
    for old in new.parent.glob(f"*{begin}-*"):
        with contextlib.suppress(OSError):  # another process was faster, or reads it
            if old != new and old.is_dir() and time.time() - old.stat().st_mtime > KEPT_DAYS * 86400:
                gone = old.with_name("gone-" + old.name.removeprefix("gone-"))
                os.rename(old, gone)  # first, so that nobody opens half of one
                shutil.rmtree(gone, ignore_errors=True)


def cannot_write(path: Path, error: OSError) -> UnblotError:
    """The error for a dataset cache that cannot be written."""
    reason = f"cannot write the dataset cache in {str(path.parent)!r}: {error.strerror or error}"
    return UnblotError(f"{reason}; set UNBLOT_CACHE to another folder")


def _folders(cache: Path) -> Path:
    return cache / "datasets"


def _begin(origin: list[Any], options: ImageOptions) -> str:
    """How the names of all caches of one place and these options begin, whatever lay there.

    What decides whether a file can be read (the limit, the packages) counts too: a broken file may be whole with it.
    """
    packages = [importlib.util.find_spec(name) is not None for name in DECODERS]
    able = [VERSION, max_bytes(), *packages, tables.can_read_parquet()]
    return hashlib.sha256(json.dumps([able, origin, asdict(options)]).encode()).hexdigest()[:16]


def _files(path: str) -> Iterator[str]:
    """The paths of the files below a folder, one after another."""
    with contextlib.suppress(OSError), os.scandir(path) as entries:
        for entry in entries:
            if entry.is_dir(follow_symlinks=False):
                yield from _files(entry.path)
            else:
                yield entry.path
