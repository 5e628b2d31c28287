"""Samples that unblot wrote in arrays: many of them in shards, shard-000000.npy …, and points in the plane."""

import os
from pathlib import Path

import numpy as np

from unblot.data.readers.layouts import as_pictures, labelled
from unblot.data.readers.listing import ArrayPictures, DataSource, Listing, file_origin, naming, wants_labels
from unblot.data.readers.walking import has_record
from unblot.errors import UnblotError, printable
from unblot.system.folders import MANIFEST, recorded

SHARDS, LABELS, POINTS = "shard-", "labels-", "points.npy"


def has_arrays(path: str) -> bool:
    """Whether a folder holds samples that unblot wrote in arrays."""
    return has_record(path, MANIFEST) and bool(_arrays(path))


def results(path: str, *, labels: str = "") -> DataSource:
    """A folder of samples in arrays, in their order; with the numbers of the classes that they were asked to be of.

    Raises UnblotError where the sampling was not finished.
    """
    folder, names = Path(path), _arrays(path)
    wanted = {name for name in recorded(folder) if name.startswith(SHARDS)}
    if missing := sorted(wanted - set(names)):
        raise UnblotError(
            f"sampling into {printable(path)!r} was not finished: {missing[0]} is not there; run the same unblot "
            "sample again"
        )
    beside = [name.replace(SHARDS, LABELS) for name in names]
    with_labels = wants_labels(labels) and all((folder / name).is_file() for name in beside) and beside != names
    read = [*names, *(beside if with_labels else [])]

    def load(scratch: Path) -> Listing:
        parts = [as_pictures(array, "NCHW" if array.ndim == 4 else "", path)[0] for array in _loaded(folder, names)]
        raw = np.concatenate(_loaded(folder, beside)) if with_labels else None
        return labelled(_joined(parts, path), raw, [], "labels")

    origin = [value for name in read for value in file_origin(str(folder / name))]
    return DataSource(Path(os.path.abspath(path)).name, origin, load)


def _arrays(path: str) -> list[str]:
    """The names of the arrays in a folder of results: all shards, or the points."""
    names = sorted(file.name for file in Path(path).glob(f"{SHARDS}*.npy"))
    return names or [POINTS] * (Path(path) / POINTS).is_file()


def _loaded(folder: Path, names: list[str]) -> list[np.ndarray]:
    """The arrays of these names, through memory maps."""
    found = []
    for name in names:
        with naming(str(folder / name), ".npy"):
            found.append(np.load(folder / name, mmap_mode="r", allow_pickle=False))
    return found


def _joined(parts: list[ArrayPictures], path: str) -> ArrayPictures:
    """Several arrays of pictures as one. Raises UnblotError where they are of different sizes or types."""
    kinds = {(part.shape[1:], part.dtype) for part in parts}
    if len(kinds) > 1:
        raise UnblotError(f"the arrays in {printable(path)!r} are of different sizes or types: give one of them alone")
    ends = np.cumsum([part.shape[0] for part in parts]).tolist()

    def rows(start: int, stop: int) -> np.ndarray:
        found = []
        for part, end in zip(parts, ends, strict=True):
            first = end - part.shape[0]
            if start < end and stop > first:
                found.append(part.rows(max(start, first) - first, min(stop, end) - first))
        return np.concatenate(found)

    return ArrayPictures((ends[-1], *parts[0].shape[1:]), parts[0].dtype, rows)
