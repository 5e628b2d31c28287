"""Readers of arrays: .npy, .npz, HDF5, IDX and multi-page TIFF; pictures and labels found by shape and name."""

import gzip
import math
import os
import struct
import zipfile
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.readers.listing import (
    ArrayPictures,
    DataSource,
    Item,
    Listing,
    class_names,
    counted,
    file_origin,
    printable,
)
from unblot.data.readers.tiff import Stack
from unblot.errors import UnblotError

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
LABEL_WORDS = ("label", "target", "class", "y_")
IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def npy(path: str, *, layout: str = "") -> DataSource:
    """A .npy file of pictures, read through a memory map."""
    return _source(path, lambda: labelled(as_pictures(_load_npy(path), layout, path), None, "", ""))


def npz(path: str, *, images: str = "", labels: str = "", layout: str = "") -> DataSource:
    """A .npz file: the longest array of pictures in it (a training one, if names say so) and the labels beside it."""

    def load() -> Listing:
        try:
            with np.load(path, allow_pickle=False) as archive:
                shapes = {name: _npz_header(archive, name) for name in archive.files}
                chosen, beside = choose(shapes, images, labels, path)
                array = archive[chosen]
                raw = archive[beside] if beside else None
        except (ValueError, OSError, EOFError, KeyError, zipfile.BadZipFile) as error:
            raise UnblotError(f"cannot read {printable(path)!r} as .npz: {error}") from None
        return labelled(as_pictures(array, layout, path), raw, f"pictures from {chosen!r}", beside)

    return _source(path, load)


def hdf5(path: str, *, images: str = "", labels: str = "", layout: str = "") -> DataSource:
    """An HDF5 file: its longest data set of pictures and the labels beside it; read in slices, never whole."""

    def load() -> Listing:
        import h5py

        try:
            file = h5py.File(path, "r")
        except OSError as error:
            raise UnblotError(f"cannot read {printable(path)!r} as HDF5: {error}") from None
        found: dict[str, Any] = {}
        file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
        chosen, beside = choose({k: (v.shape, v.dtype) for k, v in found.items()}, images, labels, path)
        raw = found[beside][:] if beside else None
        return labelled(as_pictures(found[chosen], layout, path), raw, f"pictures from {chosen!r}", beside)

    return _source(path, load)


def idx(path: str, *, layout: str = "") -> DataSource:
    """An IDX file, MNIST's own format, gzipped or not; labels from `…-labels-idx1-…` beside `…-images-idx3-…`."""
    place = Path(path)
    beside = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
    others = [beside, beside.with_suffix("") if beside.suffix == ".gz" else Path(f"{beside}.gz")]
    labels = next((other for other in others if other != place and other.is_file()), None)

    def load() -> Listing:
        raw = _load_idx(labels) if labels else None
        return labelled(as_pictures(_load_idx(path), layout, path), raw, "", labels.name if labels else "")

    source = _source(path, load)
    return replace(source, origin=source.origin + (file_origin(str(labels)) if labels else []))


def tiff_stack(path: str, *, pages: str = "pictures") -> DataSource:
    """A TIFF file of several pages, which are pictures, or the channels of one picture."""

    def load() -> Listing:
        try:
            stack = Stack(path, pages)
        except UnblotError as error:
            raise UnblotError(f"{printable(path)!r}: {error}") from None
        stack.close()
        root, name = os.path.split(os.path.abspath(path))
        notes = [f"{counted(stack.count, 'picture')} in one TIFF file: its pages are {pages}"]
        if stack.left_out:
            notes.append(f"{counted(stack.left_out, 'page')} of it left out: reduced copies or masks of others")
        items = [Item(name, page=i) for i in range(stack.count)]
        return Listing(root, items, notes=tuple(notes), pages=pages)

    return _source(path, load)


def _source(path: str, load: Callable[[], Listing]) -> DataSource:
    """The source of a single file."""
    return DataSource(Path(path).name.split(".")[0], file_origin(path), lambda scratch: load())


def labelled(pictures: ArrayPictures, raw: np.ndarray | None, note: str, name: str) -> Listing:
    """The listing of these pictures with raw labels (N,), (N, 1), one-hot (N, K), numbers or strings."""
    shape = f"{pictures.shape[0]} pictures of {pictures.shape[1]} channels, height {pictures.shape[2]}, "
    notes = [note, shape + f"width {pictures.shape[3]}, {pictures.dtype}"]
    if raw is None:
        return Listing(array=pictures, notes=tuple(filter(None, notes)))
    if len(raw) != pictures.shape[0]:
        raise UnblotError(f"{name!r} holds {len(raw)} labels for {pictures.shape[0]} pictures; they must be as many")
    if raw.ndim == 2 and raw.shape[1] > 1:
        raw = raw.argmax(axis=1)
    raw = raw.reshape(len(raw))
    if raw.dtype.kind == "f":
        if not (np.isfinite(raw).all() and (raw == np.rint(raw)).all()):
            raise UnblotError(f"{name!r} holds fractions, which are no class labels; leave it out or round it")
        raw = raw.astype(np.int64)
    text = [v.decode(errors="replace") if isinstance(v, bytes) else str(v) for v in raw.tolist()]
    indices, classes = class_names(text)
    notes.append(f"labels of {len(classes)} classes from {printable(name)!r}")
    return Listing(array=pictures, labels=indices, classes=classes, notes=tuple(filter(None, notes)))


def choose(shapes: Shapes, images: str, labels: str, path: str) -> tuple[str, str]:
    """The names of the pictures and of their labels ("" for none) among named arrays, by shape and name.

    Pictures are the longest array of three or four axes (or points, two), one with "train" in its name before
    others. Labels are numbers or strings, one for each picture; the name nearest to the pictures' wins.
    """
    for name in filter(None, (images, labels)):
        if name not in shapes:
            raise UnblotError(f"no array {name!r} in {printable(path)!r}; it has {', '.join(map(repr, shapes))}")
    if not images:
        fitting = [n for n, (shape, _) in shapes.items() if len(shape) in (3, 4)]
        fitting = fitting or [n for n, (shape, kind) in shapes.items() if len(shape) == 2 and kind.kind == "f"]
        if not fitting:
            told = ", ".join(f"{n} {shape}" for n, (shape, _) in shapes.items()) or "nothing"
            raise UnblotError(f"no pictures in {printable(path)!r}: arrays of (N, H, W) or more; it has {told}")
        images = max(fitting, key=lambda n: ("train" in n.lower(), shapes[n][0][0]))
    return images, labels or _labels_for(shapes, images, path)


def _labels_for(shapes: Shapes, images: str, path: str) -> str:
    """The name of the labels that belong to `images`, or ""; an array called labels of another length is an error."""
    count = shapes[images][0][0]
    flat = {n: s for n, (s, kind) in shapes.items() if n != images and len(s) in (1, 2) and kind.kind in "iubUSOf"}
    named = [n for n in flat if n.lower() == "y" or any(word in n.lower() for word in LABEL_WORDS)]
    fitting = [n for n, s in flat.items() if s[:1] == (count,) and (len(s) == 1 or n in named)]
    if fitting:
        return max(fitting, key=lambda n: (n in named, _likeness(n, images)))
    if named and not any("test" in n or "val" in n for n in named):
        raise UnblotError(
            f"{named[0]!r} in {printable(path)!r} holds {flat[named[0]][0]} labels for {count} pictures in "
            f"{images!r}; they must be as many"
        )
    return ""


def _likeness(a: str, b: str) -> int:
    """How many words (split at _, -, /, .) two names share."""
    words = [set(n.lower().replace("-", "_").replace("/", "_").replace(".", "_").split("_")) for n in (a, b)]
    return len(words[0] & words[1])


def as_pictures(array: Any, layout: str, path: str) -> ArrayPictures:
    """An array (N, H, W), (N, H, W, C) or (N, C, H, W), or points (N, D), seen as pictures (N, C, H, W).

    `array` is anything with shape, dtype and slicing. Four axes are told apart by size: channels are few.
    `layout` ("NHWC", "NCHW") says it outright. Raises UnblotError for other shapes and types.
    """
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnblotError(f"{printable(path)!r} holds values of type {dtype}; give whole numbers or floats")
    if len(shape) not in (2, 3, 4) or (len(shape) == 2 and (shape[1] > 16 or dtype.kind != "f")):
        raise UnblotError(f"{printable(path)!r} holds an array {shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if not math.prod(shape):
        raise UnblotError(f"{printable(path)!r} holds no pictures: its array is {shape}")
    order = _order(shape, layout)
    full = shape + (1,) * (4 - len(shape)) if len(shape) == 2 else shape
    full = (full[0], *(full[i] for i in order)) if len(full) == 4 else (full[0], 1, *full[1:])
    return ArrayPictures(full, dtype.newbyteorder("="), _reader(array, full, order, dtype.newbyteorder("=")))


def _order(shape: tuple[int, ...], layout: str) -> tuple[int, int, int]:
    """Which axes hold channels, height and width."""
    if layout and layout.upper() not in ("NHWC", "NCHW"):
        raise UnblotError(f"unknown layout {layout!r}; choose NHWC or NCHW")
    if len(shape) != 4 or layout.upper() == "NCHW":
        return 1, 2, 3
    first, last = shape[1], shape[3]
    square_first, square_last = shape[2] == last != first, shape[2] == first != last  # the other two axes are equal
    if (first <= 4) != (last <= 4):
        channels_last = last <= 4
    elif square_first or square_last:
        channels_last = square_last
    elif first <= 4:
        channels_last = last >= 3 > first
    else:
        channels_last = last < first
    return (3, 1, 2) if channels_last or layout.upper() == "NHWC" else (1, 2, 3)


def _reader(
    array: Any, full: tuple[int, ...], order: tuple[int, int, int], dtype: np.dtype
) -> Callable[[int, int], np.ndarray]:
    """rows(start, stop) of the array in (n, C, H, W)."""

    def rows(start: int, stop: int) -> np.ndarray:
        part = np.asarray(array[start:stop]).astype(dtype, copy=False)
        part = part.transpose(0, *order) if part.ndim == 4 else part
        return part.reshape(len(part), *full[1:])

    return rows


def _load_npy(path: str) -> np.ndarray:
    """The array of a .npy file, memory-mapped."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UnblotError(f"cannot read {printable(path)!r} as .npy: {error}") from None
    return array


def _npz_header(archive: Any, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of a .npz file, from its header alone."""
    with archive.zip.open(f"{name}.npy") as member:
        version = np.lib.format.read_magic(member)
        read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
        shape, _, dtype = read(member)
    return shape, dtype


def _load_idx(path: str | Path) -> np.ndarray:
    """The array of an IDX file: two zero bytes, a type, the number of axes, their lengths (big endian), the values."""
    with open(path, "rb") as plain:
        cached = plain.read(2) == b"\x1f\x8b"
    try:
        with gzip.open(path) if cached else open(path, "rb") as file:
            zero, kind, axes = struct.unpack(">HBB", file.read(4))
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            data = file.read()
        if zero or kind not in IDX_TYPES:
            raise ValueError("it does not start with IDX's magic number")
        return np.frombuffer(data, IDX_TYPES[kind]).reshape(shape)
    except (ValueError, OSError, EOFError, struct.error) as error:
        raise UnblotError(f"cannot read {printable(str(path))!r} as IDX: {error}") from None
