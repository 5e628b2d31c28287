"""Sheets of pictures to look at, and picture files: they have the type, range and channels of the data."""

import io
import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np
from PIL import Image, ImageDraw, PngImagePlugin

from unblot.data.values import ValueMap
from unblot.system import lettering
from unblot.system.files import write_whole

MIN_GRID_SIDE = 64  # pixels: smaller pictures are enlarged in grids
CAPTIONED_SIDE = 128  # ... in grids with a caption below each, which needs room
PROVENANCE = "unblot"  # the key of the text in a picture file that says what made it
PAPER, INK, BETWEEN = (255, 255, 255), (28, 62, 110), 205


def as_display(stored: np.ndarray, values: ValueMap) -> np.ndarray:
    """Pictures (N, H, W, 3) uint8 to look at, for stored pictures (N, C, H, W).

    8-bit values stay as they are. Others are stretched: the network's −1…1 (bounded types) or −1.5…1.5 (floats, three
    standard deviations) becomes black to white. Transparent pixels show a checkerboard. The first three channels are
    red, green and blue; of fewer than three the first is gray.
    """
    if values.dtype == "uint8":
        shown = stored
    else:
        span = 1.0 if values.bounded else 1.5
        shown = np.clip((values.encode(stored) / span + 1) * 127.5, 0, 255).round().astype(np.uint8)
    colours = shown[:, :3] if shown.shape[1] - values.alpha >= 3 else np.repeat(shown[:, :1], 3, axis=1)
    colours = np.ascontiguousarray(colours.transpose(0, 2, 3, 1))
    if not values.alpha:
        return colours
    alpha = shown[:, -1, :, :, None].astype(np.float32) / 255
    over = colours * alpha + _checkerboard(*shown.shape[2:]) * (1 - alpha)
    return over.round().astype(np.uint8)


def grid(
    stored: np.ndarray,
    values: ValueMap,
    columns: int | None = None,
    scale: int | None = None,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """A sheet of pictures (N, C, H, W), row by row; small ones are enlarged by a whole factor."""
    return tile(as_display(stored, values), columns, scale, captions=captions)


def tile(
    shown: np.ndarray,
    columns: int | None = None,
    scale: int | None = None,
    gap: int = 2,
    captions: Sequence[str] | None = None,
) -> Image.Image:
    """A sheet of pictures to look at (N, H, W, 3) uint8, row by row. captions: a text below each picture."""
    count, height, width, _ = shown.shape
    columns = min(columns or _columns(count, height / width), count)
    scale = scale or max(1, round((MIN_GRID_SIDE if captions is None else CAPTIONED_SIDE) / max(height, width)))
    shown = shown.repeat(scale, axis=1).repeat(scale, axis=2)
    if captions is not None:
        shown = np.concatenate([shown, lettering.fields(captions, shown.shape[2])], axis=1)
    _, height, width, _ = shown.shape
    rows = math.ceil(count / columns)
    sheet = np.full((rows * (height + gap) + gap, columns * (width + gap) + gap, 3), BETWEEN, np.uint8)
    for i, picture in enumerate(shown):
        y, x = gap + i // columns * (height + gap), gap + i % columns * (width + gap)
        sheet[y : y + height, x : x + width] = picture
    return Image.fromarray(sheet)


def _columns(count: int, ratio: float) -> int:
    """Columns of a sheet of this many pictures whose height is `ratio` times their width: it is wide rather than high.

    From a square sheet to one half as wide again, those that leave the fewest places of the last row empty.
    """
    square = math.sqrt(count * ratio)
    wide = range(math.ceil(square), math.floor(1.5 * square) + 1)
    return min(wide, key=lambda columns: (-count % columns, columns), default=math.ceil(square))


def sheet(
    stored: np.ndarray, values: ValueMap, columns: int | None = None, captions: Sequence[str] | None = None
) -> Image.Image:
    """Stored values (N, C, H, W) as one picture to look at: a grid of pictures, or a plot of points in the plane."""
    return scatter(stored) if stored.shape[1:] == (2, 1, 1) else grid(stored, values, columns, captions=captions)


def save_sheet(path: Path, sheet: Image.Image, about: dict[str, Any]) -> None:
    """Writes a sheet as PNG with what there is to say of it, plain JSON values, under "unblot" as in its pictures."""
    sheet.save(path, pnginfo=_info(json.dumps(about)) if about else None)


def scatter(points: np.ndarray, size: int = 512, extent: float | None = None) -> Image.Image:
    """A plot of points (N, 2) or (N, 2, 1, 1) in a square of ±extent (the data's own if None), y upwards.

    Rendered at three times the size and reduced, so that the dots are round; many points are smaller and fainter.
    """
    flat = np.asarray(points, np.float64).reshape(-1, 2)
    flat = flat[np.isfinite(flat).all(axis=1)]
    extent = extent or 1.08 * float(np.abs(flat).max(initial=1e-9))
    fine = 3 * size
    radius = fine / 2 * min(0.02, 0.25 / math.sqrt(max(len(flat), 1)))
    pixels = (flat * [1, -1] / extent + 1) * (fine / 2)
    sheet = Image.new("RGB", (fine, fine), PAPER)
    draw = ImageDraw.Draw(sheet, "RGBA")
    _axes(draw, fine)
    alpha = int(max(60, min(220, 220 * (500 / max(len(flat), 500)) ** 0.35)))
    for x, y in pixels.tolist():
        draw.ellipse((x - radius, y - radius, x + radius, y + radius), fill=(*INK, alpha))
    return sheet.resize((size, size), Image.Resampling.LANCZOS)


def save_picture(
    stem: str | os.PathLike[str], stored: np.ndarray, values: ValueMap, provenance: dict[str, Any]
) -> Path:
    """The path of the file written for one stored picture (C, H, W): `stem` and the suffix of its type.

    PNG for 8-bit gray or RGB, with or without opacity, for 16-bit gray and for truth values; NPY for 64-bit whole
    numbers, which TIFF readers do not know; TIFF for everything else, with one plane a channel. Values are written
    as they are. `provenance` (plain JSON values) is in the file under "unblot": in a PNG's text chunk, a TIFF's
    description. The file appears whole or not at all.
    """
    name = os.fspath(stem) + picture_suffix(stored.shape[0], values)
    content = picture_bytes(stored, values, provenance)
    return write_whole(Path(name), lambda path: path.write_bytes(content))


def picture_bytes(stored: np.ndarray, values: ValueMap, provenance: dict[str, Any]) -> bytes:
    """The content of the file that `save_picture` writes."""
    suffix, text, file = picture_suffix(stored.shape[0], values), json.dumps(provenance), io.BytesIO()
    if suffix == ".png":
        _write_png(file, stored, text)
    elif suffix == ".npy":
        np.save(file, stored, allow_pickle=False)
    else:
        _write_tiff(file, stored, text)
    return file.getvalue()


def picture_suffix(channels: int, values: ValueMap) -> str:
    """The suffix of the file that `save_picture` writes for a picture with this number of channels."""
    dtype = np.dtype(values.dtype)
    if (dtype == np.uint8 and channels - values.alpha in (1, 3)) or (dtype in (np.uint16, bool) and channels == 1):
        return ".png"
    return ".npy" if dtype.kind in "iu" and dtype.itemsize == 8 else ".tif"


def _write_png(file: BinaryIO, stored: np.ndarray, text: str) -> None:
    """Gray, gray with alpha, RGB or RGBA of 8 bits, gray of 16, or black and white."""
    array = stored[0] if stored.shape[0] == 1 else stored.transpose(1, 2, 0)
    Image.fromarray(np.ascontiguousarray(array)).save(file, "PNG", pnginfo=_info(text))


def _info(text: str) -> PngImagePlugin.PngInfo:
    info = PngImagePlugin.PngInfo()
    info.add_itxt(PROVENANCE, text)
    return info


def _write_tiff(file: BinaryIO, stored: np.ndarray, text: str) -> None:
    """Any number of channels, one plane each; colours of 16 bits as such; truth values as 0 and 255."""
    import tifffile

    colour = stored.shape[0] == 3 and stored.dtype == np.uint16
    tifffile.imwrite(
        file,
        stored.astype(np.uint8) * 255 if stored.dtype == bool else stored.transpose(1, 2, 0) if colour else stored,
        photometric="rgb" if colour else "minisblack",
        planarconfig=None if colour or len(stored) == 1 else "separate",
        description=json.dumps({PROVENANCE: json.loads(text)}),
        metadata=None,
    )


def save_array(path: str | os.PathLike[str], array: np.ndarray) -> Path:
    """Writes an array as NPY; the file appears whole or not at all."""
    return write_whole(Path(path), lambda unfinished: _write_npy(unfinished, array))


def _write_npy(path: Path, stored: np.ndarray) -> None:
    """np.save to exactly this path."""
    with open(path, "wb") as file:
        np.save(file, stored, allow_pickle=False)


def _checkerboard(height: int, width: int) -> np.ndarray:
    """(H, W, 1) of two light grays in squares, as the background of transparent pictures."""
    square = max(1, max(height, width) // 8)
    y, x = np.mgrid[:height, :width] // square
    return np.where((y + x) % 2, 255.0, 208.0).astype(np.float32)[..., None]


def _axes(draw: ImageDraw.ImageDraw, fine: int) -> None:
    """Thin lines through the origin and a frame."""
    pale = (225, 228, 233)
    draw.line((fine / 2, 0, fine / 2, fine), fill=pale, width=3)
    draw.line((0, fine / 2, fine, fine / 2), fill=pale, width=3)
    draw.rectangle((0, 0, fine - 1, fine - 1), outline=(200, 204, 210), width=3)
