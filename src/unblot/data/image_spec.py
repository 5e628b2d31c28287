"""The image spec that all pictures of a data set are brought to: size, channels and type."""

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np
from PIL import Image, ImageColor

from unblot.data.opacity import continued
from unblot.data.readers.formats import Picture
from unblot.errors import UnblotError, arg

FITS = ("crop", "pad", "stretch")
COLOURS = {"gray": 1, "rgb": 3, "rgba": 4}
LUMA = np.array([0.299, 0.587, 0.114], np.float32)[:, None, None]  # ITU-R BT.601, as Pillow's "L"
KEPT_PIXELS = 128 * 128  # up to this many, pictures of one size keep it unless another is asked for
STEPS = (8, 16, 24, 32, 48, 64)  # pixels on the shorter side otherwise: what one machine trains in reasonable time


def colour_of(channels: int) -> str:
    """The key of COLOURS with this number of channels, "" where there is none."""
    return next((name for name, count in COLOURS.items() if count == channels), "")


@dataclass(frozen=True)
class ImageOptions:
    """The user's choices: size (height, width) or None, fit, colour (a key of COLOURS, "" for that of the pictures),
    background (a colour behind transparent pictures, "" to keep opacity as a channel). Raises UnblotError for
    any other."""

    size: tuple[int, int] | None = None
    fit: str = "crop"
    colour: str = ""
    background: str = ""

    def __post_init__(self) -> None:
        if self.fit not in FITS:
            raise UnblotError(f"unknown fit {self.fit!r}; give {arg('fit')} one of {', '.join(FITS)}")
        if self.colour and self.colour not in COLOURS:
            raise UnblotError(f"unknown colour {self.colour!r}; give {arg('colour')} one of {', '.join(COLOURS)}")
        if self.background:
            rgb_of(self.background)


class ImageSpec(NamedTuple):
    """What every picture becomes: (channels, height, width) of dtype.

    alpha: whether the last channel is opacity. ground: the colour (R, G, B) in 0…1 behind transparent pictures and
    beside padded ones. fixed: whether the channels were chosen, so that a picture in colour does not change them.
    """

    channels: int
    height: int
    width: int
    dtype: str
    alpha: bool
    fit: str
    ground: tuple[float, float, float]
    fixed: bool


class Colourful(Exception):
    """A picture in colour was found where the spec has one gray channel."""


def parse_size(size: int | str | Sequence[int] | None) -> tuple[int, int] | None:
    """(height, width) for 64, "64", "48x64" (height x width) or a pair; None for None."""
    if size is None:
        return None
    try:
        parts = size.lower().replace("×", "x").split("x") if isinstance(size, str) else np.ravel(size).tolist()
        numbers = [int(p) for p in parts]
        if len(numbers) in (1, 2) and min(numbers) >= 1:
            return numbers[0], numbers[-1]
    except ValueError:
        pass
    raise UnblotError(f"{size!r} is no size; give one number or height x width, as in {arg('size', '48x64')}")


def rgb_of(colour: str) -> tuple[float, float, float]:
    """(R, G, B) in 0…1 for a colour's name or #rrggbb."""
    try:
        r, g, b = ImageColor.getrgb(colour)[:3]
    except ValueError:
        raise UnblotError(f"unknown colour {colour!r}; give a name such as white, or #rrggbb") from None
    return r / 255, g / 255, b / 255


def propose_size(sizes: Sequence[tuple[int, int]]) -> tuple[int, int]:
    """(height, width) to train on, from the pictures' own sizes.

    Pictures of one size of at most KEPT_PIXELS pixels keep it. Otherwise the shorter side is the largest of STEPS that
    80 % of the pictures reach; the shape is square unless 90 % of them have the same aspect ratio within 5 %.
    """
    if len(set(sizes)) == 1 and sizes[0][0] * sizes[0][1] <= KEPT_PIXELS:
        return sizes[0]
    height, width = np.array(sizes, float).T
    shorter = float(np.quantile(np.minimum(height, width), 0.2))
    side = max([s for s in STEPS if s <= shorter], default=max(1, int(shorter)))
    aspect = np.log(height / width)
    common = float(np.median(aspect))
    if np.mean(np.abs(aspect - common) < 0.05) < 0.9 or abs(common) < 0.05:
        return side, side
    longer = max(8, 8 * round(side * float(np.exp(abs(common))) / 8))
    return (longer, side) if common > 0 else (side, longer)


def choose_spec(pictures: Sequence[Picture], options: ImageOptions) -> ImageSpec:
    """The image spec of a data set of which these pictures are a sample.

    The type that most pictures have; colour if any picture has it, or the number of channels of most pictures if that
    is neither 1 nor 3; opacity if half of them have it and no background is chosen.
    """
    size = options.size or propose_size([(p.height, p.width) for p in pictures])
    dtype = Counter(p.dtype for p in pictures).most_common(1)[0][0]
    ground = rgb_of(options.background) if options.background else (0.0, 0.0, 0.0)
    if options.colour:
        channels = COLOURS[options.colour]
        return ImageSpec(channels, *size, dtype, channels == 4, options.fit, ground, True)
    plain = [p.channels - p.alpha for p in pictures]
    usual = Counter(plain).most_common(1)[0][0]
    alpha = sum(p.alpha for p in pictures) * 2 >= len(pictures) and not options.background
    channels = (3 if 3 in plain else 1) if usual in (1, 3) else usual
    return ImageSpec(channels + alpha, *size, dtype, alpha, options.fit, ground, False)


def conform(array: np.ndarray, alpha: bool, spec: ImageSpec) -> np.ndarray:
    """A picture (C, H, W) brought to the spec: first its type, then its channels, then its size.

    8 and 16 bits become each other at full scale. Nothing is rounded before the end. Colours that nobody sees follow
    from the visible ones (`opacity.continued`). Raises UnblotError where values or channels cannot become the spec's;
    Colourful for colour where the spec is gray and not fixed.
    """
    same = array.shape == (spec.channels, spec.height, spec.width) and alpha == spec.alpha
    if not (same and array.dtype == spec.dtype):
        array = _as_channels(_as_type(array, spec.dtype), alpha, spec)
        array = resize(array, spec.height, spec.width, spec.fit, spec.alpha, _pad_values(spec))
        if np.dtype(spec.dtype).kind in "iu" and array.dtype.kind == "f":
            limits = np.iinfo(spec.dtype)
            array = np.clip(np.rint(array), limits.min, limits.max)
        array = array > 0.5 if spec.dtype == "bool" and array.dtype.kind == "f" else array
    array = np.ascontiguousarray(array, spec.dtype)
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnblotError("some of its values are not finite (NaN or infinity)")
    return continued(array) if spec.alpha else array


def resize(array: np.ndarray, height: int, width: int, fit: str, alpha: bool, pad: np.ndarray) -> np.ndarray:
    """A picture (C, H, W) at another size, in float32 and antialiased; unchanged if it has that size already.

    fit: "crop" fills the size and keeps the middle; "pad" keeps the whole picture, with `pad` (C,) beside it; "stretch"
    changes the aspect ratio. The kernels have no negative lobes, so that no value leaves the picture's range. Colours
    are weighted by opacity, so that invisible ones do not bleed.
    """
    _, h, w = array.shape
    if (h, w) == (height, width):
        return array
    if array.dtype.kind == "f" and not np.isfinite(array).all():
        raise UnblotError("some of its values are not finite (NaN or infinity)")
    opacity = array[-1].astype(np.float32) if alpha else None
    box, inner = (0.0, 0.0, float(w), float(h)), (width, height)
    if fit == "crop":
        scale = max(height / h, width / w)
        cut_w, cut_h = min(width / scale, w), min(height / scale, h)
        box = ((w - cut_w) / 2, (h - cut_h) / 2, (w + cut_w) / 2, (h + cut_h) / 2)
    elif fit == "pad":
        scale = min(height / h, width / w)
        inner = (min(width, max(1, round(w * scale))), min(height, max(1, round(h * scale))))
    down = inner[0] <= box[2] - box[0] and inner[1] <= box[3] - box[1]
    kernel = Image.Resampling.HAMMING if down else Image.Resampling.BILINEAR
    planes = (plane.astype(np.float32) for plane in array)  # one after another: whole, they may fill the memory
    weighted = (p if opacity is None or i == len(array) - 1 else p * opacity for i, p in enumerate(planes))
    out = np.stack([np.asarray(Image.fromarray(plane).resize(inner, kernel, box)) for plane in weighted])
    if alpha:
        out[:-1] /= np.maximum(out[-1], 1e-6)
    if fit != "pad":
        return out
    full = np.broadcast_to(pad.astype(np.float32)[:, None, None], (len(out), height, width)).copy()
    y, x = (height - inner[1]) // 2, (width - inner[0]) // 2
    full[:, y : y + inner[1], x : x + inner[0]] = out
    return full


def _as_type(array: np.ndarray, dtype: str) -> np.ndarray:
    """The values in another type: 8 and 16 bits at full scale; whole numbers never become floats, nor floats them."""
    if array.dtype == dtype:
        return array
    if (array.dtype.name, dtype) == ("uint8", "uint16"):
        return array.astype(np.uint16) * 257
    if (array.dtype.name, dtype) == ("uint16", "uint8"):
        return ((array.astype(np.uint32) + 128) // 257).astype(np.uint8)
    if array.dtype.kind == "f" and np.dtype(dtype).kind == "f":
        return array.astype(dtype)
    raise UnblotError(f"its values are {array.dtype}, those of most pictures {dtype}; convert it")


def _as_channels(array: np.ndarray, alpha: bool, spec: ImageSpec) -> np.ndarray:
    """The picture with the spec's channels: gray to colour and back, opacity added or composited on the ground."""
    colour, opacity = (array[:-1], array[-1:]) if alpha else (array, None)
    wanted = spec.channels - spec.alpha
    if len(colour) == 3 and wanted == 1:
        if not spec.fixed and (colour[0] != colour[1]).any() | (colour[0] != colour[2]).any():
            raise Colourful
        colour = (colour * LUMA).sum(axis=0, keepdims=True)
    elif len(colour) == 1 and wanted == 3:
        colour = np.repeat(colour, 3, axis=0)
    elif len(colour) != wanted:
        raise UnblotError(f"it has {len(array)} channels, most pictures have {spec.channels}; convert it")
    if spec.alpha:
        full = np.full((1, *colour.shape[1:]), _white(spec.dtype), spec.dtype) if opacity is None else opacity
        return np.concatenate([colour, full.astype(colour.dtype)])
    if opacity is not None:
        part = opacity.astype(np.float32) / _white(spec.dtype)
        colour = colour * part + _ground(spec, len(colour))[:, None, None] * (1 - part)
    return colour


def _pad_values(spec: ImageSpec) -> np.ndarray:
    """The values (C,) beside a padded picture: the ground, or full transparency if there is opacity."""
    ground = _ground(spec, spec.channels - spec.alpha)
    return np.append(ground, 0.0) if spec.alpha else ground


def _ground(spec: ImageSpec, channels: int) -> np.ndarray:
    """The ground's colour (channels,) in stored units."""
    rgb = np.array(spec.ground)
    values = rgb if channels == 3 else np.full(channels, float(rgb @ LUMA.ravel()))
    return values * _white(spec.dtype)


def _white(dtype: str) -> float:
    """The value that stands for white or opaque."""
    return float(np.iinfo(dtype).max) if np.dtype(dtype).kind in "iu" else 1.0
