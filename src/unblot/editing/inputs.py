"""Pictures and masks to edit, read from files, converted to a run's `ImageSpec` and checked."""

import os
import tempfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

import numpy as np

from unblot.data.image_spec import LUMA, ImageSpec, conform, resize
from unblot.data.opacity import continued
from unblot.data.readers.folders import PICTURES
from unblot.data.readers.listing import Item, Listing
from unblot.data.readers.reading import Reader, reason_of
from unblot.data.readers.sources import open_source
from unblot.data.values import ValueMap
from unblot.errors import UnblotError, arg, printable
from unblot.system.folders import user_path


class InputImage(NamedTuple):
    """A picture as it is in its file: (C, H, W) in its own dtype; alpha: whether its last channel is opacity."""

    name: str
    array: np.ndarray
    alpha: bool

    def __str__(self) -> str:
        return f"{printable(self.name)} is {shape_name(self.array.shape)} of {self.array.dtype}"

    def opaque(self) -> "InputImage":
        """The picture without its opacity, where it is fully opaque."""
        if not self.alpha or (self.array[-1] < full_value(self.array.dtype)).any():
            return self
        return InputImage(self.name, self.array[:-1], False)

    def one_gray(self) -> "InputImage":
        """The picture as gray, where its three channels are equal."""
        if self.alpha or len(self.array) != 3 or (self.array != self.array[:1]).any():
            return self
        return InputImage(self.name, self.array[:1], False)


def read_inputs(paths: Sequence[str | Path], shape: Sequence[int], pages: str = "") -> list[InputImage]:
    """The pictures of files, folders, archives and arrays, in order.

    shape: (C, H, W) of the run, which distinguishes an array of one picture from one of several. pages: "pictures" (of
    a TIFF the first page is read) or "channels". Raises UnblotError, naming the file, for what cannot be read.
    """
    return [given for path in paths for given in _read(str(user_path(path)), shape, pages)]


def to_spec(given: InputImage, values: ValueMap, shape: Sequence[int], fit: str = "") -> np.ndarray:
    """The picture as stored values (C, H, W) of a run with this value map and shape.

    fit: crop, pad or stretch converts the size, colours and bit depth; empty converts nothing. Raises UnblotError for a
    picture that needs a conversion that is not allowed or does not exist.
    """
    wanted = f"this run's pictures are {shape_name(shape)} of {values.dtype}"
    if (fitting := as_it_is(given, values, shape)) is not None:
        return fitting
    given = given if values.alpha else given.opaque()
    colours = {shape[0] - values.alpha, len(given.array) - given.alpha}
    if len(colours) > 1 and colours != {1, 3}:
        raise UnblotError(f"{given}; {wanted}, and there is no conversion: give a picture with these channels")
    if not fit:
        raise UnblotError(f"{given}; {wanted}: convert it with {arg('fit', 'crop')}, pad or stretch")
    try:
        return conform(given.array, given.alpha, _spec(shape, values, fit))
    except UnblotError as error:
        raise UnblotError(f"{given}; {wanted}, and it cannot be converted: {error}") from None


def as_it_is(given: InputImage, values: ValueMap, shape: Sequence[int]) -> np.ndarray | None:
    """The picture as stored values (C, H, W) of a run with this value map and shape; None where it must be converted.

    Full opacity, and three equal channels for a gray run, are no conversion.
    """
    for same in (given, given.opaque(), given.opaque().one_gray()):
        if same.array.shape == tuple(shape) and same.array.dtype == values.dtype:
            return np.ascontiguousarray(continued(same.array) if values.alpha else same.array)
    return None


def unknown_pixels(mask: InputImage, picture: InputImage, shape: Sequence[int], fit: str = "") -> np.ndarray:
    """The unknown pixels of a mask, white in it: bool (1, H, W), resized with the picture.

    White is more than half of the largest brightness. A pixel is unknown where any part of it is. Raises UnblotError
    for a mask of another size than the picture's, and for one without white, or whose white the fit cuts away.
    """
    if mask.array.shape[1:] != picture.array.shape[1:]:
        raise UnblotError(
            f"the mask {printable(mask.name)} is {size_name(mask.array.shape)}, the picture {printable(picture.name)} "
            f"{size_name(picture.array.shape)}: give a mask of the picture's size"
        )
    bright = mask.array.astype(np.float32)
    bright = (bright[:-1] * (bright[-1:] / full_value(mask.array.dtype)) if mask.alpha else bright).mean(axis=0)
    if not bright.max() > 0:
        raise UnblotError(f"the mask {printable(mask.name)} is black: paint white what to inpaint")
    return _sized(bright > bright.max() / 2, shape, fit, f"the mask {printable(mask.name)} has no white")


def transparent_pixels(picture: InputImage, shape: Sequence[int], fit: str = "") -> np.ndarray:
    """The pixels any part of which is not fully opaque: bool (1, H, W), resized with the picture.

    Raises UnblotError where there is none, or the fit cuts them away.
    """
    if picture.opaque() is not picture or not picture.alpha:
        raise UnblotError(
            f"{printable(picture.name)} has no transparent pixels: give {arg('mask')}, white where to inpaint"
        )
    clear = picture.array[-1] < full_value(picture.array.dtype)
    return _sized(clear, shape, fit, f"{printable(picture.name)} has no transparent pixels")


def check_finite(pictures: np.ndarray) -> None:
    """Raises UnblotError for pictures with NaN or infinity, which would spread to every result."""
    if wrong := pictures.size - int(np.isfinite(pictures).sum()):
        raise UnblotError(f"{wrong} of {pictures.size} values to edit are NaN or infinite; fill them first")


def checked_mask(pictures: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """The mask of each picture, bool (P, 1, H, W). Raises UnblotError where it does not fit the pictures."""
    wanted = (len(pictures), 1, *pictures.shape[2:])
    if unknown.shape not in (wanted, (1, *wanted[1:])):
        raise UnblotError(
            f"a mask of shape {unknown.shape} does not fit pictures of shape {pictures.shape}; give {wanted}"
        )
    return np.broadcast_to(unknown.astype(bool), wanted).copy()


def gray_of(given: InputImage) -> np.ndarray:
    """The gray version without opacity: (1, H, W), float32 for a picture in colour."""
    colours = given.array[: len(given.array) - given.alpha]
    if len(colours) == 1:
        return colours
    return np.tensordot(gray_weights(len(colours)), colours.astype(np.float32), 1)[None]


def gray_weights(channels: int) -> np.ndarray:
    """Weights (C,), float32, of the channels in the gray version: luma for three, equal for another number."""
    return LUMA.ravel() if channels == 3 else np.full(channels, 1 / channels, np.float32)


def size_name(shape: Sequence[int]) -> str:
    """Height x width, as text."""
    return f"{shape[-2]}x{shape[-1]}"


def shape_name(shape: Sequence[int]) -> str:
    """Height x width and the number of channels, as text."""
    return f"{size_name(shape)} with {shape[0]} channel{'' if shape[0] == 1 else 's'}"


def _read(path: str, shape: Sequence[int], pages: str) -> Iterator[InputImage]:
    suffix = os.path.splitext(path)[1].lower()
    if os.path.isdir(path) or suffix not in (*PICTURES, ".npy"):
        with tempfile.TemporaryDirectory() as scratch:
            yield from listed(path, open_source(path, labels=False)[0].load(Path(scratch)))
    elif suffix == ".npy":
        yield from _arrays(path, shape)
    else:
        with Reader("", pages or "pictures") as reader:
            yield _decoded(reader, Item(path))


def _arrays(path: str, shape: Sequence[int]) -> Iterator[InputImage]:
    """One picture (H, W), (C, H, W) or (H, W, C) of the run's shape, or several pictures."""
    try:
        array = np.load(path, mmap_mode="r", allow_pickle=False)
    except (ValueError, OSError, EOFError) as error:
        raise UnblotError(f"cannot read {printable(path)!r} as .npy: {error}") from None
    channels, height, width = shape
    if array.ndim == 2 or array.shape == (channels, height, width):
        yield InputImage(path, np.array(array).reshape(-1, *array.shape[-2:]), False)
    elif array.shape == (height, width, channels):
        yield InputImage(path, np.array(array).transpose(2, 0, 1), False)
    else:
        yield from listed(path, open_source(path, labels=False)[0].load(Path()))


def listed(path: str, listing: Listing) -> Iterator[InputImage]:
    """The pictures of a folder, an archive or an array. Raises UnblotError for one that cannot be read."""
    if listing.broken:
        raise UnblotError(f"cannot read {listing.broken[0]}")
    if listing.array:
        for i in range(len(listing)):
            yield InputImage(f"{path}-{i}", listing.array.rows(i, i + 1)[0], False)
        return
    with Reader(listing.root, listing.pages, listing.read) as reader:
        for item in listing.items:
            yield _decoded(reader, item)


def _decoded(reader: Reader, item: Item) -> InputImage:
    try:
        picture = reader.open(item)
        return InputImage(item.name, picture.values(), picture.alpha)
    except Exception as error:  # decoders raise whatever they like
        raise UnblotError(f"cannot read {printable(item.name)!r}: {reason_of(error)}") from None


def _spec(shape: Sequence[int], values: ValueMap, fit: str) -> ImageSpec:
    channels, height, width = shape
    return ImageSpec(channels, height, width, values.dtype, values.alpha, fit, (0.0, 0.0, 0.0), True)


def _sized(mask: np.ndarray, shape: Sequence[int], fit: str, nothing: str) -> np.ndarray:
    """A mask (H, W) resized to the run's size, (1, H, W), true where any part of a pixel is.

    Raises UnblotError, which begins with `nothing`, where nothing is left of it.
    """
    sized = resize(mask[None], shape[-2], shape[-1], fit, False, np.zeros(1)) > 0
    if not sized.any():
        raise UnblotError(
            f"{nothing} left, for {arg('fit', fit)} cuts it away: give {arg('fit', 'pad')} or stretch, or "
            f"{arg('mask')} with white in what stays"
        )
    return sized


def full_value(dtype: np.dtype | str) -> float:
    """The value of a type that stands for white and for full opacity."""
    dtype = np.dtype(dtype)
    return float(np.iinfo(dtype).max) if dtype.kind in "iu" else 1.0
