"""What the samples of a TIFF page mean, and the colours that they become; TIFF 6.0, tag 262."""

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from unblot.data.readers.metadata import ORIENTATION, srgb_converter
from unblot.errors import UnblotError, counted

SAMPLES_OF_PILLOW = {"MINISBLACK": (1, 2), "MINISWHITE": (1,), "RGB": (3, 4), "PALETTE": (1,), "SEPARATED": (4,)}
COLOURS = {"MINISBLACK": 1, "MINISWHITE": 1, "RGB": 3, "PALETTE": 1, "SEPARATED": 4, "YCBCR": 3}  # samples of a pixel
INK_SET, ICC_PROFILE = 332, 34675  # tags


class Meaning(NamedTuple):
    """What the samples (S, H, W) of a page become: `colours` gives (channels, H, W) of dtype.

    alpha: whether the last channel is opacity. converted: whether a colour profile is applied. kind: what people call
    such a picture, "16-bit CMYK TIFF".
    """

    channels: int
    dtype: str
    alpha: bool
    converted: bool
    kind: str
    colours: Callable[[np.ndarray], np.ndarray]


def for_pillow(page: Any) -> bool:
    """Whether Pillow reads the right values of a page: whole numbers of up to 8 bits without a sign, known samples."""
    usual = page.samplesperpixel in SAMPLES_OF_PILLOW.get(page.photometric.name, (3,))
    known = 0 not in page.extrasamples[: page.samplesperpixel - 1]  # of unknown meaning: data, not opacity
    unsigned = page.sampleformat == 1 and page.bitspersample in (1, 2, 4, 8)
    read = page.photometric.name in COLOURS and usual and known and unsigned
    turned = ORIENTATION not in page.tags or page.tags[ORIENTATION].value == orientation_of(page)
    return read and turned and page.imagedepth == 1


def orientation_of(page: Any) -> int:
    """The orientation 1…8 of a page, 1 where its tag is missing or nonsense."""
    value = page.tags[ORIENTATION].value if ORIENTATION in page.tags else 1
    return value if isinstance(value, int) and 1 <= value <= 8 else 1


def meaning_of(page: Any) -> Meaning:
    """What the samples of a page mean. Raises UnblotError, naming it, for what is not read here."""
    name = getattr(page.photometric, "name", str(page.photometric))
    dtype, bits, samples = np.dtype(page.dtype).newbyteorder("="), page.bitspersample, page.samplesperpixel
    if dtype.kind not in "biuf" or dtype.itemsize > 8:
        raise UnblotError(f"its values are of type {dtype}, which are no pictures")
    if name not in COLOURS or (name == "YCBCR" and page.compression.name not in ("JPEG", "OJPEG")):
        raise UnblotError(f"it is a TIFF of {bits} bits in {name} colours, which is not read; convert it to RGB")
    if name == "SEPARATED" and INK_SET in page.tags and page.tags[INK_SET].value != 1:
        raise UnblotError("it is a TIFF of other inks than CMYK, which is not read; convert it to RGB")
    if samples < COLOURS[name]:
        raise UnblotError(f"it is a TIFF in {name} colours of {counted(samples, 'sample')} a pixel")
    extra = page.extrasamples[-1] if page.extrasamples and samples > COLOURS[name] else 0
    convert = None
    steps = [_whole_bytes(bits)] if dtype.kind == "b" or (dtype.kind == "u" and bits < 8 and name != "PALETTE") else []
    stored = np.dtype(np.uint8) if steps else dtype
    channels, word = samples, "float " if dtype.kind == "f" else "signed " if dtype.kind == "i" else ""
    if name == "MINISWHITE" and stored.kind == "u":
        steps.append(_inverted(255 if steps else 2**bits - 1))
    if name in ("PALETTE", "SEPARATED"):
        if stored.name not in ("uint8", "uint16"):
            raise UnblotError(f"it is a TIFF of {name} colours in {stored}, which is not read; convert it to RGB")
        convert = srgb_converter(_profile(page), "cmyk") if name == "SEPARATED" else None
        inks = _profiled(convert, 4) if convert else _separated(stored)
        steps.append(_palette(page.colormap, stored) if name == "PALETTE" else inks)
        channels = samples + (2 if name == "PALETTE" else -1)
        word = "palette " if name == "PALETTE" else "CMYK "
    if extra == 1:
        steps.append(_unmultiplied)
    if name in ("RGB", "PALETTE") and stored.name in ("uint8", "uint16"):
        convert = srgb_converter(_profile(page))
        steps += [_profiled(convert, 3)] if convert else []

    def colours(array: np.ndarray) -> np.ndarray:
        for step in steps:
            array = step(array)
        return array.astype(stored, copy=False)

    return Meaning(channels, stored.name, extra in (1, 2), convert is not None, f"{bits}-bit {word}TIFF", colours)


def _profile(page: Any) -> bytes:
    """The colour profile of a page, empty where there is none."""
    value = page.tags[ICC_PROFILE].value if ICC_PROFILE in page.tags else b""
    return value if isinstance(value, bytes) else b""


def _whole_bytes(bits: int) -> Callable[[np.ndarray], np.ndarray]:
    """Values of 1 to 7 bits as 8 bits at full scale."""
    return lambda array: (array.astype(np.uint16) * 255 // (2**bits - 1)).astype(np.uint8)


def _inverted(white: int) -> Callable[[np.ndarray], np.ndarray]:
    """Values of which 0 is white."""
    return lambda array: (white - array).astype(array.dtype)


def _palette(colormap: np.ndarray, dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Indices (1, H, W) as the colours of a colour map (3, n) uint16, of which 8-bit pictures take the upper bits."""
    table = colormap if dtype == np.uint16 else (colormap >> 8).astype(np.uint8)
    return lambda array: np.concatenate([table[:, array[0]], array[1:]])


def _separated(dtype: np.dtype) -> Callable[[np.ndarray], np.ndarray]:
    """Inks (4 or 5, H, W), cyan, magenta, yellow, black, as RGB: what each leaves of white."""
    white = int(np.iinfo(dtype).max)

    def change(array: np.ndarray) -> np.ndarray:
        left = white - array[:4].astype(np.uint32)
        colours = (left[:3] * left[3:] + white // 2) // white
        return np.concatenate([colours.astype(dtype), array[4:]])

    return change


def _unmultiplied(array: np.ndarray) -> np.ndarray:
    """Colours that were multiplied by the opacity in the last channel, without that; nothing where it is 0."""
    white = np.iinfo(array.dtype).max if array.dtype.kind in "iu" else 1.0
    alpha = array[-1:].astype(np.float64)
    colours = np.divide(array[:-1] * float(white), alpha, out=np.zeros(array[:-1].shape), where=alpha > 0)
    colours = np.minimum(np.rint(colours), white) if array.dtype.kind in "iu" else colours
    return np.concatenate([colours.astype(array.dtype), array[-1:]])


def _profiled(convert: Callable[[np.ndarray], np.ndarray], colours: int) -> Callable[[np.ndarray], np.ndarray]:
    """The first channels, of colours, converted to sRGB."""
    return lambda array: np.concatenate(
        [convert(array[:colours].transpose(1, 2, 0)).transpose(2, 0, 1), array[colours:]]
    )
