"""Working on picture files: from paths to the arrays that `edit.py` takes."""

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np

from unblot.data.image_spec import FITS
from unblot.data.output import as_display
from unblot.data.readers.listing import printable
from unblot.data.values import ValueMap
from unblot.editing import images as edit
from unblot.editing.inputs import (
    InputImage,
    gray_of,
    read_inputs,
    size_name,
    to_spec,
    transparent_pixels,
    unknown_pixels,
)
from unblot.editing.result import EditResult
from unblot.errors import UnblotError
from unblot.runs.run import Run

PLAIN: dict[str, Callable[..., EditResult]] = {
    "outpaint": edit.outpaint,
    "img2img": edit.img2img,
    "variations": edit.variations,
    "interpolate": edit.interpolate,
    "reconstruct": edit.reconstruct,
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
    """What `edit.KIND` makes of picture files; `choices` go on to it.

    mask: of fill, one for all or one for each; without it the pictures' transparent pixels are made anew. factor: of
    enlarge, by which pictures of the run's size are first made smaller. Raises UnblotError, naming the file, for what
    cannot be read or is not of the run's form.
    """
    data, values = run.config.data, ValueMap.from_dict(run.config.data.values)
    if data.kind == "points":
        raise UnblotError("this run draws points in the plane; editing works on pictures")
    if fit and fit not in FITS:
        raise UnblotError(f"unknown fit {fit!r}; choose one of {', '.join(FITS)}")
    given = read_inputs(paths, data.shape, run.config.source.pages)
    choices["names"] = [picture.name for picture in given]

    def bring(picture: InputImage) -> np.ndarray:
        return to_spec(picture, values, data.shape, fit)

    if kind == "inpaint":
        shown = given if mask else [_without_alpha(picture) for picture in given]
        pictures = np.stack([bring(picture) for picture in shown])
        return edit.inpaint(run, pictures, _masks(run, given, mask, fit), **choices)
    if kind == "upscale":
        if factor is None:
            return edit.upscale(run, np.stack([_small(run, picture, values) for picture in given]), **choices)
        whole = np.stack([bring(picture) for picture in given])
        edited = edit.upscale(run, _shrunk(whole, factor), **choices)
        return replace(edited, before=[as_display(whole, values), *edited.before])
    if kind == "colorize":
        shape = (1, *data.shape[1:])
        gray = [InputImage(picture.name, gray_of(picture), False) for picture in given]
        plain = ValueMap("float32", (0.0,), (1.0,))
        return edit.colorize(run, np.stack([to_spec(_as_float(g, values), plain, shape, fit) for g in gray]), **choices)
    return PLAIN[kind](run, np.stack([bring(picture) for picture in given]), **choices)


def _masks(run: Run, given: Sequence[InputImage], mask: str | Path | None, fit: str) -> np.ndarray:
    """The pixels to be made anew, (P, 1, H, W)."""
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


def _small(run: Run, picture: InputImage, values: ValueMap) -> np.ndarray:
    """A picture of another size in the run's channels and type."""
    channels, height, width = run.config.data.shape
    if picture.array.shape[1:] == (height, width):
        raise UnblotError(
            f"{printable(picture.name)} is as large as this run's pictures, {size_name(picture.array.shape)}; give a "
            "smaller one, or --factor 2 to see what comes back of a smaller version of it"
        )
    return to_spec(picture, values, (channels, *picture.array.shape[1:]))


def _shrunk(pictures: np.ndarray, factor: int) -> np.ndarray:
    """Means of factor x factor pixels, in the pictures' type."""
    count, channels, height, width = pictures.shape
    if factor < 2 or height % factor or width % factor:
        raise UnblotError(f"--factor {factor} does not divide {height}x{width}, or is less than 2")
    parts = pictures.reshape(count, channels, height // factor, factor, width // factor, factor)
    means = parts.astype(np.float64).mean(axis=(3, 5))
    return (np.rint(means) if pictures.dtype.kind in "iu" else means).astype(pictures.dtype)


def _as_float(gray: InputImage, values: ValueMap) -> InputImage:
    """Gray values as float32 in the run's units: 8 and 16 bits become each other by their full scale."""
    full = [float(np.iinfo(d).max) if np.dtype(d).kind in "iu" else 1.0 for d in (values.dtype, gray.array.dtype)]
    scale = full[0] / full[1] if gray.array.dtype.kind in "iu" else 1.0
    return InputImage(gray.name, gray.array.astype(np.float32) * scale, False)
