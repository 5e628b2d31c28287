"""Where pictures come from: one small reader for each kind of source, in one table."""

import hashlib
import json
import os
import re
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from unblot import specs
from unblot.data import arrays, builtin, folders
from unblot.data.listing import Listing, Source, printable
from unblot.errors import UnblotError

BUILT_IN = ("digits", "moons", "rings", "gaussians")


def digits(_: str) -> Listing:
    """scikit-learn's handwritten digits, labelled."""
    pictures, labels = builtin.digits()
    return _in_memory(pictures, labels, True)


def moons(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> Listing:
    """Points on two interleaved half circles."""
    return _in_memory(*builtin.moons(count, noise), labels)


def rings(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> Listing:
    """Points on two circles."""
    return _in_memory(*builtin.rings(count, noise), labels)


def gaussians(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> Listing:
    """Points from 25 Gaussians."""
    return _in_memory(*builtin.gaussians(count, noise), labels)


SOURCES: dict[str, Callable[..., Listing]] = {
    "digits": digits,
    "moons": moons,
    "rings": rings,
    "gaussians": gaussians,
    "folder": folders.folder,
    "npy": arrays.npy,
    "npz": arrays.npz,
    "hdf5": arrays.hdf5,
    "idx": arrays.idx,
}
SUFFIXES = {".npy": "npy", ".npz": "npz", ".h5": "hdf5", ".hdf5": "hdf5", ".he5": "hdf5"}


def open_source(spec: str, options: dict[str, Any] | None = None) -> Source:
    """The source that `spec` names: a built-in one, a path, each with options: `stack.tif:pages=channels`.

    `options` are laid over those in the spec. Raises UnblotError where there is nothing, or nothing that can be read.
    """
    place, written = _place_and_options(spec)
    kind = kind_of(place)
    _, chosen = specs.parse(SOURCES, f"{kind}:{written}", "data source")
    for key, value in (options or {}).items():
        if key not in chosen:
            raise UnblotError(
                f"{kind} {printable(place)!r} has no option {key!r}; it has {', '.join(chosen) or 'none'}"
            )
        chosen[key] = value
    told = [kind, "" if kind in BUILT_IN else _origin(place), sorted(chosen.items())]
    stamp = hashlib.sha256(json.dumps(told).encode()).hexdigest()
    name = place if kind in BUILT_IN else Path(os.path.abspath(place)).name
    return Source(name, stamp, lambda: SOURCES[kind](place, **chosen))


def kind_of(place: str) -> str:
    """The name of the reader, a key of SOURCES, for a place."""
    if place in BUILT_IN:
        return place
    if os.path.isdir(place):
        return "folder"
    if not os.path.exists(place):
        raise UnblotError(f"no such file or folder: {printable(place)!r}; built-in data: {', '.join(BUILT_IN)}")
    suffix = Path(place).suffix.lower()
    if suffix in SUFFIXES:
        return SUFFIXES[suffix]
    if re.search(r"idx\d-|\.idx\d?(\.gz)?$", Path(place).name) or "-ubyte" in Path(place).name:
        return "idx"
    raise UnblotError(f"cannot tell what {printable(place)!r} is; known are folders, {', '.join(SUFFIXES)} and IDX")


def _place_and_options(spec: str) -> tuple[str, str]:
    """A spec's place and its written options; a file that is really called so comes first."""
    if os.path.lexists(spec):
        return spec, ""
    match = re.fullmatch(r"(.+?):(\w+=[^:]*)", spec, re.DOTALL)
    return (match[1], match[2]) if match else (spec, "")


def _origin(place: str) -> list[Any]:
    """What changes when the files at a place do: paths, sizes and times."""
    if os.path.isdir(place):
        return [os.path.abspath(place), folders.stamp(place)]
    try:
        status = os.stat(place)
    except OSError as error:
        raise UnblotError(f"cannot read {printable(place)!r}: {error.strerror}") from None
    return [os.path.abspath(place), status.st_size, status.st_mtime_ns]


def _in_memory(pictures: np.ndarray, labels: np.ndarray, labelled: bool) -> Listing:
    """The listing of a built-in array."""
    listing = Listing(array=arrays.as_pictures(pictures, "NCHW", "built-in data"))
    if not labelled:
        return listing
    classes = tuple(str(i) for i in range(int(labels.max()) + 1))
    return Listing(array=listing.array, labels=labels, classes=classes)
