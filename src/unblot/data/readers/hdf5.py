"""HDF5 files: one array of many pictures, or many data sets of one picture each."""

import math
import os
from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from unblot.data.readers.arrays import file_source
from unblot.data.readers.labels import labels_from_folders
from unblot.data.readers.layouts import (
    FEW,
    Shapes,
    as_pictures,
    captioned,
    captions_for,
    choose,
    described,
    is_label_name,
    labelled,
    labels_for,
    unread,
)
from unblot.data.readers.listing import (
    NO_LABELS,
    ArrayPictures,
    DataSource,
    Item,
    Listing,
    check_expansion,
    max_bytes,
    naming,
)
from unblot.errors import UnblotError, printable


def hdf5(path: str, *, images: str = "", labels: str = "", captions: str = "", layout: str = "") -> DataSource:
    """An HDF5 file: its longest data set of pictures, read in slices, never whole; the labels and captions beside it.

    Where each picture has a data set of its own, they are read in the order of their names.
    """

    def load() -> Listing:
        import h5py

        found: dict[str, Any] = {}
        with naming(path, "HDF5"):
            file = h5py.File(path, "r")
            file.visititems(lambda name, node: found.update({name: node}) if isinstance(node, h5py.Dataset) else None)
            shapes = {name: (node.shape or (), node.dtype) for name, node in found.items()}
            single = [] if images else _one_picture_each(shapes, path)
            if single:
                return _many(found, shapes, single, labels, captions, layout, path)
            chosen, beside = choose(shapes, images, labels, captions, path)
            pictures, notes = as_pictures(_checked(found[chosen], chosen, path), layout, path)
            raw = whole(found[beside], beside, path) if beside else None
            text = captions_for(shapes, captions, pictures.shape[0], path)
            said = whole(found[text], text, path) if text else None
        notes = [f"pictures from {printable(chosen)!r}", *notes, *unread(shapes, chosen, beside, text)]
        return captioned(labelled(pictures, raw, notes, beside), said, text)

    return file_source(path, load)


def _one_picture_each(shapes: Shapes, path: str) -> list[str]:
    """The names of the data sets if each holds one picture, else none. Raises UnblotError where shapes differ."""
    numbers = {n: s for n, (s, dtype) in shapes.items() if dtype.kind in "biuf" and len(s) > 1 and not is_label_name(n)}
    if len(numbers) < 2 or not all(_is_one_picture(s) for s in numbers.values()):
        return []
    if all(len(s) == 2 and shapes[n][1].kind == "f" and s[1] <= FEW for n, s in numbers.items()):
        return []  # points
    names = list(numbers)
    other = next((n for n in names if shapes[n] != shapes[names[0]]), None)
    if other is not None:
        raise UnblotError(
            f"the data sets of {printable(path)!r} are one picture each, but not alike: "
            f"{described(shapes, [names[0], other])}; make them one shape and type, or choose one with images=NAME"
        )
    return names


def _is_one_picture(shape: Sequence[int]) -> bool:
    """Whether a shape is (H, W), (H, W, C) or (C, H, W) rather than (N, H, W)."""
    if len(shape) == 2:
        return min(shape) > FEW
    return len(shape) == 3 and (shape[2] <= FEW < min(shape[:2]) or shape[0] <= FEW < min(shape[1:]))


def _many(
    found: dict[str, Any], shapes: Shapes, names: list[str], labels: str, captions: str, layout: str, path: str
) -> Listing:
    """The pictures of many data sets, labelled by an array beside them or by the groups that they are in; with the
    captions of an array beside them, in the order of their names."""
    shape = shapes[names[0]][0]
    axes = "HW" if len(shape) == 2 else "HWC" if shape[2] <= FEW else "CHW"
    others = {name: shape for name, shape in shapes.items() if name != captions}
    beside = "" if labels == NO_LABELS else labels or labels_for(others, names[0], len(names), path)
    raw = whole(found[beside], beside, path) if beside else None
    text = captions_for(shapes, captions, len(names), path)
    said = whole(found[text], text, path) if text else None
    notes = [f"pictures from {len(names)} data sets of one each", *unread(shapes, beside, text, *names)]
    items = [Item(name) for name in names]
    by_group = labels_from_folders(items) if not labels and raw is None else None
    if by_group is not None:
        kept = {item.name for item in by_group.items}
        said = None if said is None else said[[name in kept for name in names]]
        names = [name for name in names if name in kept]
        notes += by_group.notes
    parts = [as_pictures(_checked(found[name], name, path), layout or axes, path)[0] for name in names]

    def rows(start: int, stop: int) -> np.ndarray:
        return np.concatenate([part.rows(0, 1) for part in parts[start:stop]])

    pictures = ArrayPictures((len(parts), *parts[0].shape[1:]), parts[0].dtype, rows)
    listing = labelled(pictures, raw, notes, beside)
    if by_group is not None and by_group.labels is not None:
        listing = replace(listing, labels=by_group.labels, classes=by_group.classes)
    return captioned(listing, said, text)


def _checked(node: Any, name: str, path: str) -> Any:
    """The data set, unless its values are in other files or it can only be read in blocks too large to hold."""
    where = f"{printable(name)!r} in {printable(path)!r}"
    if node.is_virtual or node.external:
        raise UnblotError(f"{where} takes its values from other files, which are not read; copy them into this one")
    block = math.prod(node.chunks or ()) * node.dtype.itemsize
    if block > max_bytes():
        raise UnblotError(
            f"{where} is stored in blocks of {block:,} bytes, which must be held whole; store it in smaller chunks, "
            f"or set the environment variable UNBLOT_MAX_BYTES to a higher limit (it is {max_bytes():,})"
        )
    return node


def whole(node: Any, name: str, path: str) -> np.ndarray:
    """All values of a small data set."""
    check_expansion(math.prod(node.shape or ()) * node.dtype.itemsize, os.path.getsize(path), printable(name))
    return np.asarray(_checked(node, name, path)[()])
