"""Files of arrays: .npy, .npz, IDX and multi-page TIFF."""

import gzip
import math
import os
import struct
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from unblot.data.readers.layouts import as_pictures, captioned, captions_for, choose, labelled, unread
from unblot.data.readers.listing import DataSource, Item, Listing, check_expansion, file_origin, naming, wants_labels
from unblot.data.readers.tiff import Stack
from unblot.errors import UnblotError, counted, printable

IDX_TYPES = {8: "u1", 9: "i1", 11: ">i2", 12: ">i4", 13: ">f4", 14: ">f8"}


def npy(path: str, *, layout: str = "") -> DataSource:
    """A .npy file of pictures, read through a memory map."""

    def load() -> Listing:
        with naming(path, ".npy"):
            with open(path, "rb") as file:
                _npy_header(file)
            array = np.load(path, mmap_mode="r", allow_pickle=False)
        pictures, notes = as_pictures(array, layout, path)
        return labelled(pictures, None, notes, "")

    return file_source(path, load)


def npz(path: str, *, images: str = "", labels: str = "", captions: str = "", layout: str = "") -> DataSource:
    """A .npz file: the longest array of pictures in it (a training one, if names say so), and the labels and captions
    beside it."""

    def load() -> Listing:
        with naming(path, ".npz"), np.load(path, allow_pickle=False) as archive:
            shapes = {name: _npz_header(archive, name) for name in archive.files}
            chosen, beside = choose(shapes, images, labels, captions, path)
            array = _npz_array(archive, chosen, shapes[chosen], path)
            raw = _npz_array(archive, beside, shapes[beside], path) if beside else None
            pictures, notes = as_pictures(array, layout, path)
            text = captions_for(shapes, captions, pictures.shape[0], path)
            said = _npz_array(archive, text, shapes[text], path) if text else None
        notes = [f"pictures from {printable(chosen)!r}", *notes, *unread(shapes, chosen, beside, text)]
        return captioned(labelled(pictures, raw, notes, beside), said, text)

    return file_source(path, load)


def idx(path: str, *, labels: str = "", layout: str = "") -> DataSource:
    """An IDX file, MNIST's own format, gzipped or not; labels from `…-labels-idx1-…` beside `…-images-idx3-…`."""
    place = Path(path)
    beside = place.with_name(place.name.replace("images", "labels").replace("idx3", "idx1"))
    others = [beside, beside.with_suffix("") if beside.suffix == ".gz" else Path(f"{beside}.gz")]
    there = (other for other in others if other != place and other.is_file())
    named = next(there, None) if wants_labels(labels) else None

    def load() -> Listing:
        raw = _load_idx(str(named)) if named else None
        pictures, notes = as_pictures(_load_idx(path), layout, path)
        return labelled(pictures, raw, notes, named.name if named else "")

    source = file_source(path, load)
    return replace(source, origin=source.origin + (file_origin(str(named)) if named else []))


def tiff_stack(path: str, *, pages: str = "pictures") -> DataSource:
    """A TIFF file of several pages, which are pictures, or the channels of one picture."""

    def load() -> Listing:
        try:
            with naming(path, "TIFF"):
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

    return file_source(path, load)


def file_source(path: str, load: Callable[[], Listing]) -> DataSource:
    """The source of a single file."""
    return DataSource(Path(path).name.split(".")[0], file_origin(path), lambda scratch: load())


def _npy_header(file: BinaryIO | Any) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of the array in an open .npy file. Raises UnblotError for an array of Python objects."""
    version = np.lib.format.read_magic(file)
    read = np.lib.format.read_array_header_1_0 if version == (1, 0) else np.lib.format.read_array_header_2_0
    shape, _, dtype = read(file)
    if dtype.hasobject:
        raise ValueError("it holds Python objects, which are never loaded; save numbers or strings of fixed length")
    return shape, dtype


def _npz_header(archive: Any, name: str) -> tuple[tuple[int, ...], np.dtype]:
    """Shape and type of an array of a .npz file, from its header alone; an array of objects only has a type."""
    with archive.zip.open(f"{name}.npy") as member:
        try:
            return _npy_header(member)
        except ValueError as error:
            if "objects" not in str(error):
                raise
            return (), np.dtype(object)


def _npz_array(archive: Any, name: str, header: tuple[tuple[int, ...], np.dtype], path: str) -> np.ndarray:
    """An array of a .npz file, unless it is one of objects or expands to more than is sound."""
    shape, dtype = header
    if dtype.hasobject:
        raise UnblotError(f"{printable(name)!r} in {printable(path)!r} holds Python objects, which are never loaded")
    check_expansion(math.prod(shape) * dtype.itemsize, os.path.getsize(path), f"{printable(name)!r} in {path!r}")
    return archive[name]


def _load_idx(path: str) -> np.ndarray:
    """The array of an IDX file: two zero bytes, a type, the number of axes, their lengths (big endian), the values."""
    with naming(path, "IDX"):
        with open(path, "rb") as plain:
            packed = plain.read(2) == b"\x1f\x8b"
        with gzip.open(path) if packed else open(path, "rb") as file:
            zero, kind, axes = struct.unpack(">HBB", file.read(4))
            if zero or kind not in IDX_TYPES:
                raise ValueError("it does not start with IDX's magic number")
            shape = struct.unpack(f">{axes}I", file.read(4 * axes))
            dtype = np.dtype(IDX_TYPES[kind])
            count = math.prod(shape) * dtype.itemsize
            check_expansion(count, os.path.getsize(path), f"the array {shape} in {printable(path)!r}")
            data = file.read(count + 1)
        if len(data) != count:
            raise ValueError(f"it does not hold the {count} bytes of an array {shape}")
        return np.frombuffer(data, dtype).reshape(shape)
