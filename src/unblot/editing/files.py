"""Edits of picture files: from paths to the arrays that `images.py` takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.image_spec import FITS
from unblot.data.output import as_display
from unblot.data.values import ValueMap
from unblot.editing import images
from unblot.editing.inputs import (
    InputImage,
    full_value,
    gray_of,
    read_inputs,
    size_name,
    to_spec,
    transparent_pixels,
    unknown_pixels,
)
from unblot.editing.result import EditResult
from unblot.errors import UnblotError, arg, printable
from unblot.runs.run import Run

PLAIN: dict[str, Callable[..., EditResult]] = {
    "outpaint": images.outpaint,
    "img2img": images.img2img,
    "variations": images.variations,
    "interpolate": images.interpolate,
    "reconstruct": images.reconstruct,
}


def edit_files(
    run: Run,
    kind: str,
    paths: Sequence[str | Path],
    *,
    mask: str | Path | None = None,
    factor: int | None = None,
    fit: str = "",
    **choices: Any,
) -> EditResult:
    """The edit `kind`, a function of `images.py`, of picture files; choices: its own.

    mask: of inpaint, one for all pictures or one for each; without it transparent pixels are inpainted. factor: of
    upscale, by which pictures of the run's size are first made smaller. fit: see `to_spec`. Raises UnblotError, naming
    the file, for what cannot be read or does not fit the run.
    """
    data, values = run.config.data, ValueMap.from_dict(run.config.data.values)
    if data.kind == "points":
        raise UnblotError("this run was trained on points in the plane; editing needs pictures")
    if fit and fit not in FITS:
        raise UnblotError(f"{arg('fit', fit)} is unknown; choose one of {', '.join(FITS)}")
    given = read_inputs(paths, data.shape, run.config.source.pages)
    choices["names"] = [picture.name for picture in given]

    def bring(picture: InputImage) -> np.ndarray:
        return to_spec(picture, values, data.shape, fit)

    if kind == "inpaint":
        shown = given if mask or values.alpha else [_without_alpha(picture) for picture in given]
        pictures = np.stack([bring(picture) for picture in shown])
        return images.inpaint(run, pictures, _masks(run, given, mask, fit), **choices)
    if kind == "upscale":
        if factor is None:
            small = [_small(run, picture, values, fit) for picture in given]
            return images.upscale(run, _of_one_size(small, given), **choices)
        whole = np.stack([bring(picture) for picture in given])
        edited = images.upscale(run, _shrunk(whole, factor), **choices)
        return replace(edited, before=[as_display(whole, values), *edited.before])
    if kind == "colorize":
        shape = (1, *data.shape[1:])
        gray = [InputImage(picture.name, gray_of(_as_float(picture, values)), False) for picture in given]
        plain = ValueMap("float32", (0.0,), (1.0,))
        return images.colorize(run, np.stack([to_spec(g, plain, shape, fit) for g in gray]), **choices)
    return PLAIN[kind](run, np.stack([bring(picture) for picture in given]), **choices)


def _masks(run: Run, given: Sequence[InputImage], mask: str | Path | None, fit: str) -> np.ndarray:
    """The unknown pixels of each picture, bool (P, 1, H, W)."""
    shape = run.config.data.shape
    if mask is None:
        return np.stack([transparent_pixels(picture, shape, fit) for picture in given])
    masks = read_inputs([mask], (1, *shape[1:]))
    if len(masks) not in (1, len(given)):
        raise UnblotError(f"{len(masks)} masks for {len(given)} pictures: give one for all, or one for each")
    masks = masks * len(given) if len(masks) == 1 else masks
    return np.stack([unknown_pixels(m, picture, shape, fit) for m, picture in zip(masks, given, strict=True)])


def _without_alpha(picture: InputImage) -> InputImage:
    return InputImage(picture.name, picture.array[:-1], False) if picture.alpha else picture


def _small(run: Run, picture: InputImage, values: ValueMap, fit: str) -> np.ndarray:
    """A picture of another size than the run's in its channels and dtype; fit: whether these are converted."""
    channels, height, width = run.config.data.shape
    if picture.array.shape[1:] == (height, width):
        raise UnblotError(
            f"{printable(picture.name)} is as large as this run's pictures, {size_name(picture.array.shape)}; give a "
            f"smaller one, or {arg('factor', 2)} to upscale a smaller version of it"
        )
    return to_spec(picture, values, (channels, *picture.array.shape[1:]), fit)


def _of_one_size(pictures: Sequence[np.ndarray], given: Sequence[InputImage]) -> np.ndarray:
    """The pictures of files as one array. Raises UnblotError, naming two, where their sizes differ."""
    for picture, file in zip(pictures, given, strict=True):
        if picture.shape != pictures[0].shape:
            raise UnblotError(
                f"{printable(file.name)} is {size_name(picture.shape)}, {printable(given[0].name)} "
                f"{size_name(pictures[0].shape)}: give pictures of one size to upscale together"
            )
    return np.stack(pictures)


def _shrunk(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Means over factor x factor pixels, in the pictures' dtype."""
    count, channels, height, width = pictures.shape
    if factor < 2 or height % factor or width % factor:
        raise UnblotError(f"{arg('factor', factor)} must be 2 or more and divide {height}x{width}")
    parts = pictures.reshape(count, channels, height // factor, factor, width // factor, factor)
    means = parts.astype(np.float64).mean(axis=(3, 5))
    return (np.rint(means) if pictures.dtype.kind in "iu" else means).astype(pictures.dtype)


def _as_float(given: InputImage, values: ValueMap) -> InputImage:
    """The picture as float32 in the run's units; integer types are converted by their full scale."""
    scale = full_value(values.dtype) / full_value(given.array.dtype) if given.array.dtype.kind in "iu" else 1.0
    return given._replace(array=given.array.astype(np.float32) * scale)
