"""What a source of pictures gives: files to be decoded, or an array that only needs reading."""

import os
from collections.abc import Callable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unblot.errors import UnblotError, printable


class Broken(NamedTuple):
    """A picture that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


class Item(NamedTuple):
    """Where the bytes of one picture lie: a file below the root, or a member of an archive.

    place: the archive's path, "" for a file of its own. offset: where it lies in a tar (−1: not in one).
    size: in bytes. page: which page of a multi-page TIFF (−1: all there is).
    """

    name: str
    place: str = ""
    offset: int = -1
    size: int = -1
    page: int = -1


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures that are already numbers: rows(start, stop) reads some of them as (n, C, H, W)."""

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray]


@dataclass(frozen=True)
class Listing:
    """Everything there is in a source, in a fixed order: either `items` (with `root`) or `array`.

    labels: (N,) int64 indices into `classes`, None when unlabelled. broken: what already failed to be listed.
    notes: what a person should know about how the source was read.
    pages: what the pages of a TIFF are, "pictures" or "channels".
    read: gives the bytes of picture i, for sources whose bytes lie in no file of their own.
    """

    root: str = ""
    items: list[Item] = field(default_factory=list)
    array: ArrayPictures | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()
    pages: str = "pictures"
    read: Callable[[int], bytes] | None = None

    def __len__(self) -> int:
        return self.array.shape[0] if self.array else len(self.items)


@dataclass(frozen=True)
class DataSource:
    """Something that pictures come from.

    name: for people. origin: plain JSON values that change when the files do (paths, sizes, times). load: lists the
    pictures, with a folder that it may unpack into; a pack that is found by the origin makes it unnecessary.
    """

    name: str
    origin: list[Any]
    load: Callable[[Path], Listing]


def file_origin(path: str) -> list[Any]:
    """What changes when a file does: its path, size and time."""
    try:
        status = os.stat(path)
    except OSError as error:
        raise UnblotError(f"cannot read {printable(path)!r}: {error.strerror}") from None
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def counted(number: int, what: str) -> str:
    """A number of things: "1 file", "2 files"."""
    return f"{number} {what}{'' if number == 1 else 's'}"


def class_names(raw: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label indices (N,) int64 and class names, sorted (as numbers where all are), for one label a picture."""
    try:
        names = sorted(set(raw), key=float)
    except ValueError:
        names = sorted(set(raw))
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[name] for name in raw], np.int64), tuple(names)
