"""Arrays as pictures: which array of several holds them, which axis is which, and which array holds their labels."""

import math
from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from unblot.data.readers.captions import captions_of_values
from unblot.data.readers.listing import NO_LABELS, ArrayPictures, Item, Listing, class_names, named, naming
from unblot.data.readers.tables import CAPTION_COLUMNS
from unblot.errors import UnblotError, counted, printable

Shapes = Mapping[str, tuple[tuple[int, ...], np.dtype]]
LABEL_WORDS = ("label", "target", "class", "y_")
LAYOUTS = ("NHW", "NHWC", "NCHW", "HWC", "CHW", "HW")
FEW = 4  # channels that pictures usually have at most


def choose(shapes: Shapes, images: str, labels: str, captions: str, path: str) -> tuple[str, str]:
    """The names of the pictures and of their labels ("" for none) among named arrays, by shape and name.

    Pictures are the longest array of three or four axes (or points, two), one with "train" in its name before
    others. Labels are numbers or strings, one for each picture; the name nearest to the pictures' wins. The
    array that is asked for as captions is none of labels.
    """
    for name in filter(None, (images, labels if labels != NO_LABELS else "")):
        if name not in shapes:
            raise UnblotError(f"no array {printable(name)!r} in {printable(path)!r}; it has {named(list(shapes))}")
    if not images:
        numbers = {n: shape for n, (shape, dtype) in shapes.items() if dtype.kind in "biufc"}
        fitting = [n for n, shape in numbers.items() if len(shape) in (3, 4)]
        fitting = fitting or [n for n, shape in numbers.items() if len(shape) == 2 and shapes[n][1].kind == "f"]
        if not fitting:
            there = described(shapes, shapes) or "nothing"
            raise UnblotError(f"no pictures in {printable(path)!r}: arrays of (N, H, W) or more; it has {there}")
        images = max(fitting, key=lambda n: ("train" in n.lower(), shapes[n][0][0]))
    if labels == NO_LABELS:
        return images, ""
    others = {name: shape for name, shape in shapes.items() if name != captions}
    return images, labels or labels_for(others, images, shapes[images][0][0], path)


def described(shapes: Shapes, names: Iterable[str]) -> str:
    """Arrays by name and shape, "a (6, 8, 8), b (6,)"."""
    return named([f"{name} {shapes[name][0]}" for name in names])


def unread(shapes: Shapes, *read: str) -> list[str]:
    """The note about arrays that are not read."""
    left = described(shapes, [name for name in shapes if name not in read])
    return [f"other arrays left out: {left}"] if left else []


def is_label_name(name: str) -> bool:
    """Whether an array is named as labels are."""
    name = name.lower()
    return name.rpartition("/")[2] == "y" or any(word in name for word in LABEL_WORDS)


def is_caption_name(name: str) -> bool:
    """Whether an array is named as captions are."""
    return name.lower().rpartition("/")[2] in CAPTION_COLUMNS


def captions_for(shapes: Shapes, captions: str, count: int, path: str) -> str:
    """The name of the captions of `count` pictures, text (N,) or (N, K), "" for none. captions: the one asked for.

    Raises UnblotError where that is not there or has another length.
    """
    fitting = [n for n, (s, kind) in shapes.items() if kind.kind in "USO" and len(s) in (1, 2) and s[0] == count]
    if captions and captions not in fitting:
        raise UnblotError(
            f"no array {printable(captions)!r} of {counted(count, 'caption')} in {printable(path)!r}; it has "
            f"{described(shapes, shapes)}"
        )
    return captions or next((n for n in fitting if is_caption_name(n)), "")


def captioned(listing: Listing, raw: np.ndarray | None, name: str) -> Listing:
    """The listing with captions from an array of text (N,) or (N, K), called so."""
    if raw is None:
        return listing
    pictures = [Item(f"picture {i}") for i in range(len(listing))]
    return replace(listing, captions=captions_of_values(pictures, raw.tolist(), printable(name)))


def labels_for(shapes: Shapes, images: str, count: int, path: str) -> str:
    """The name of the labels of `count` pictures, ""; Raises UnblotError for an array called labels of another length.

    An array of one axis is taken whatever its name, unless it holds fractions; others need a name that says so.
    """
    flat = {n: s for n, (s, kind) in shapes.items() if n != images and len(s) in (1, 2) and kind.kind in "iubUSOf"}
    flat = {n: s for n, s in flat.items() if not (is_caption_name(n) and shapes[n][1].kind in "USO")}
    called = [n for n in flat if is_label_name(n)]
    fitting = [
        n for n, s in flat.items() if s[0] == count and (n in called or (len(s) == 1 and shapes[n][1].kind != "f"))
    ]
    if fitting:
        return max(fitting, key=lambda n: (n in called, len(flat[n]) == 1, _likeness(n, images)))
    if called and not any("test" in n or "val" in n for n in called):
        raise UnblotError(
            f"{printable(called[0])!r} in {printable(path)!r} holds {flat[called[0]][0]} labels for "
            f"{counted(count, 'picture')} in {printable(images)!r}; they must be as many"
        )
    return ""


def _likeness(a: str, b: str) -> int:
    """How many words (split at _, -, /, .) two names share."""
    words = [set(n.lower().replace("-", "_").replace("/", "_").replace(".", "_").split("_")) for n in (a, b)]
    return len(words[0] & words[1])


def labelled(pictures: ArrayPictures, raw: np.ndarray | None, notes: Iterable[str], name: str) -> Listing:
    """The listing of these pictures with raw labels (N,), (N, 1), one-hot (N, K), numbers or strings.

    name: of the array of labels. Raises UnblotError for labels that do not give each picture one class.
    """
    count, channels, height, width = pictures.shape
    shape = f"{counted(count, 'picture')} of {counted(channels, 'channel')}, height {height}, width {width}"
    told = [*notes, f"{shape}, {pictures.dtype}"]
    if raw is None:
        return Listing(array=pictures, notes=tuple(told))
    if raw.ndim < 1 or len(raw) != count:
        number = counted(len(raw) if raw.ndim else 1, "label")
        raise UnblotError(f"{printable(name)!r} holds {number} for {counted(count, 'picture')}; they must be as many")
    labels, classes = class_names(_one_class_each(raw, printable(name)))
    told.append(f"labels of {counted(len(classes), 'class')} from {printable(name)!r}")
    return Listing(array=pictures, labels=labels, classes=classes, notes=tuple(told))


def _one_class_each(raw: np.ndarray, name: str) -> list[str]:
    """The class of each picture as text. Raises UnblotError where labels are empty or no single class."""
    leave_out = "add labels=none to read the pictures without labels"
    if raw.ndim == 2 and raw.shape[1] == 1:
        raw = raw[:, 0]
    if raw.ndim == 2 and _is_one_hot(raw):
        raw = raw.argmax(axis=1)
    if raw.ndim != 1 or raw.dtype.kind not in "biufUSO":
        raise UnblotError(
            f"{name!r} is an array {raw.shape} of {raw.dtype}, not one class for each picture (N,) nor one-hot (N, K); "
            f"{leave_out}"
        )
    if raw.dtype.kind == "f":
        if not (np.isfinite(raw).all() and (raw == np.rint(raw)).all() and (np.abs(raw) < 2**53).all()):
            raise UnblotError(f"{name!r} holds fractions, which are no class labels; {leave_out}")
        raw = raw.astype(np.int64)
    text = [v.decode("utf-8", "surrogateescape") if isinstance(v, bytes) else str(v) for v in raw.tolist()]
    if not all(text):
        raise UnblotError(f"{name!r} holds {counted(text.count(''), 'empty label')}; {leave_out}")
    return text


def _is_one_hot(raw: np.ndarray) -> bool:
    """Whether each row of (N, K) holds a single 1 and otherwise 0."""
    return raw.dtype.kind in "biuf" and bool(((raw == 0) | (raw == 1)).all() and (raw.sum(axis=1) == 1).all())


def as_pictures(array: Any, layout: str, path: str) -> tuple[ArrayPictures, list[str]]:
    """An array (N, H, W), (N, H, W, C), (N, C, H, W) or (H, W, C), or points (N, D), as pictures (N, C, H, W); notes.

    `array` is anything with shape, dtype and slicing. Four axes are told apart by size: channels are few.
    `layout`, one of LAYOUTS, decides instead. Raises UnblotError for other shapes and types.
    """
    shape, dtype = tuple(array.shape), np.dtype(array.dtype)
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnblotError(f"{printable(path)!r} holds values of type {dtype}; give whole numbers or floats")
    if layout and (layout.upper() not in LAYOUTS or len(layout) != len(shape)):
        choices = " or ".join(known for known in LAYOUTS if len(known) == len(shape)) or "an array of 2 to 4 axes"
        raise UnblotError(f"layout {printable(layout)!r} does not fit an array {shape}; choose {choices}")
    points = len(shape) == 2 and not layout
    if len(shape) not in (2, 3, 4) or (points and (shape[1] > 16 or dtype.kind != "f")):
        raise UnblotError(f"{printable(path)!r} holds an array {shape}; give (N, H, W), (N, H, W, C) or (N, C, H, W)")
    if not math.prod(shape):
        raise UnblotError(f"{printable(path)!r} holds no pictures: its array is {shape}")
    dtype = dtype.newbyteorder("=")
    if points:
        return ArrayPictures((*shape, 1, 1), dtype, _rows(array, "NC", (*shape, 1, 1), dtype, path)), []
    axes = layout.upper() or _layout(shape)
    sizes = dict(zip(axes, shape))
    full = (sizes.get("N", 1), sizes.get("C", 1), sizes["H"], sizes["W"])
    notes = []
    if not layout and axes == "HWC":
        notes.append(f"the array {shape} is one picture of {shape[2]} channels; layout=NHW reads gray pictures")
    if not layout and axes == "NHW" and 1 < shape[0] <= FEW:
        notes.append(f"the array {shape} is {shape[0]} gray pictures; layout=CHW reads one picture of as many channels")
    return ArrayPictures(full, dtype, _rows(array, axes, full, dtype, path)), notes


def is_one_colour_picture(shape: tuple[int, ...]) -> bool:
    """Whether an array of three axes is (H, W, C) rather than (N, H, W): a picture is hardly 3 or 4 pixels wide."""
    return len(shape) == 3 and 3 <= shape[2] <= FEW < min(shape[:2])


def _layout(shape: tuple[int, ...]) -> str:
    """The axes of an array of three or four, from their sizes."""
    if len(shape) == 3:
        return "HWC" if is_one_colour_picture(shape) else "NHW"
    first, last = shape[1], shape[3]
    square_first, square_last = shape[2] == last != first, shape[2] == first != last  # the other two axes are equal
    if (first <= FEW) != (last <= FEW):
        channels_last = last <= FEW
    elif square_first or square_last:
        channels_last = square_last
    elif first <= FEW:
        channels_last = last >= 3 > first
    else:
        channels_last = last < first
    return "NHWC" if channels_last else "NCHW"


def _rows(array: Any, axes: str, full: tuple[int, ...], dtype: np.dtype, path: str) -> Callable[[int, int], np.ndarray]:
    """rows(start, stop) of the array in (n, C, H, W)."""
    order = [axes.index(axis) for axis in "NCHW" if axis in axes]

    def rows(start: int, stop: int) -> np.ndarray:
        with naming(path, "an array"):
            part = np.asarray(array[start:stop] if "N" in axes else array[...]).astype(dtype, copy=False)
            return part.transpose(order).reshape(-1, *full[1:])

    return rows
