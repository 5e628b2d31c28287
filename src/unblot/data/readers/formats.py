"""One picture file to an array of its own values: any format, mode and depth, the right way up, colours in sRGB."""

import io
import struct
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from unblot.data.readers import tiff
from unblot.data.readers.damage import check_size, damage_in_one_line
from unblot.data.readers.deep import Deep, full_scale, open_deep, open_deep_jpeg
from unblot.data.readers.metadata import (
    CONVERTED,
    FIRST_PAGE,
    PNG_START,
    Metadata,
    is_avif,
    of_image,
    of_jpeg,
    of_png,
    srgb_converter,
    without_bad_exif,
)
from unblot.errors import UnblotError

PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour types without a palette
JPEG_START = b"\xff\xd8\xff"

# Pillow's modes: the mode to convert to, the values' type, what people call it
MODES = {
    "1": ("L", "uint8", "1-bit"),
    "L": ("L", "uint8", "8-bit gray"),
    "LA": ("LA", "uint8", "8-bit gray with alpha"),
    "La": ("LA", "uint8", "8-bit gray with alpha"),
    "P": ("RGB", "uint8", "palette"),
    "PA": ("RGBA", "uint8", "palette with alpha"),
    "RGB": ("RGB", "uint8", "8-bit RGB"),
    "RGBX": ("RGB", "uint8", "8-bit RGB"),
    "RGBA": ("RGBA", "uint8", "8-bit RGBA"),
    "RGBa": ("RGBA", "uint8", "8-bit RGBA"),
    "CMYK": ("RGB", "uint8", "CMYK"),
    "YCbCr": ("RGB", "uint8", "YCbCr"),
    "HSV": ("RGB", "uint8", "HSV"),
    "I;16": ("I;16", "uint16", "16-bit gray"),
    "I;16L": ("I;16", "uint16", "16-bit gray"),
    "I;16B": ("I;16", "uint16", "16-bit gray"),
    "I": ("I", "int32", "32-bit gray"),
    "F": ("F", "float32", "float gray"),
}
WITH_ALPHA = {"L": "LA", "RGB": "RGBA"}
COLOUR_NAMES = {1: "gray", 2: "gray with alpha", 3: "RGB", 4: "RGBA"}


class Picture(NamedTuple):
    """A picture's shape and type, from its header, and a function that decodes its values.

    alpha: whether the last channel is opacity. kind: what people call such a picture ("8-bit RGB").
    """

    channels: int
    height: int
    width: int
    dtype: str
    alpha: bool
    kind: str
    values: Any  # () -> (channels, height, width) of dtype


def open_picture(data: bytes, pages: str = "pictures", at_least: int = 0) -> Picture:
    """The picture in a file's bytes, its header read and checked, its values not yet decoded.

    pages: "channels" takes a TIFF's pages as channels; otherwise the first is taken. at_least: JPEG may be decoded
    smaller, as long as both sides keep this many pixels; 0: as it is.
    Raises UnblotError with the reason where this is no picture or one too large; `values()` where it is broken.
    """
    if not data:
        raise UnblotError("the file is empty")
    with damage_in_one_line(), _unbounded_pixels():
        try:
            return _guarded(_opened(data, pages, at_least))
        except UnidentifiedImageError:
            raise UnblotError(_what_else(data)) from None


def tiff_picture(stack: tiff.Stack, page: int = 0) -> Picture:
    """Picture `page` of a TIFF whose values Pillow does not keep: deep, of many channels, of several pages."""
    header = stack.header(page)
    channels, height, width = header.shape

    def values() -> np.ndarray:
        return orient(stack.picture(page), header.orientation)

    height, width = (width, height) if header.orientation >= 5 else (height, width)
    return Picture(channels, height, width, header.dtype.name, header.alpha, header.kind, values)


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """A picture (C, H, W) turned and mirrored as EXIF's orientation 1…8 asks; TIFF 6.0, tag 274."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(0, 2, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array


def _opened(data: bytes, pages: str, at_least: int) -> Picture:
    """The picture by the reader of its format. Raises whatever decoders raise."""
    if data.startswith(PNG_START):
        clean, metadata = of_png(data)
        if len(data) > 26 and data[24] in (8, 16) and data[25] in PNG_CHANNELS:
            return _png(clean, metadata)
        return _pillow(clean, at_least, metadata)
    if data.startswith(JPEG_START):
        clean, metadata = of_jpeg(data)
        deep_jpeg = open_deep_jpeg(clean, metadata)
        return _pillow(clean, at_least, metadata) if deep_jpeg is None else _of_deep(deep_jpeg)
    if data[:4] in tiff.STARTS and (found := _tiff(data, pages)):
        return found
    data = without_bad_exif(data) if is_avif(data) else data
    deep = open_deep(data)
    return _pillow(data, at_least) if deep is None else _of_deep(deep)


def _of_deep(deep: Deep) -> Picture:
    """A picture of more than 8 bits."""

    def values() -> np.ndarray:
        array = full_scale(deep.values(), deep.bits)
        if array.dtype != deep.dtype or array.size != deep.channels * deep.height * deep.width:
            raise UnblotError(f"its values {array.shape} of {array.dtype} are not what its header says")
        return array.reshape(deep.height, deep.width, deep.channels).transpose(2, 0, 1)

    kind = f"{deep.kind} {COLOUR_NAMES.get(deep.channels, f'of {deep.channels} channels')}"
    plain = Picture(deep.channels, deep.height, deep.width, deep.dtype, deep.channels in (2, 4), kind, values)
    return _finished(plain, deep.metadata)


def _tiff(data: bytes, pages: str) -> Picture | None:
    """A TIFF by tifffile; None where Pillow reads it better, or gives a better reason."""
    try:
        stack = tiff.Stack(io.BytesIO(data), pages)
        if pages != "channels" and stack.for_pillow:
            return None
    except Exception:
        return None
    found = tiff_picture(stack)
    return found if stack.count == 1 else found._replace(kind=found.kind + FIRST_PAGE)


def _png(data: bytes, metadata: Metadata) -> Picture:
    """PNG of 8 or 16 bits without a palette, by libpng, which keeps colours of 16 bits where Pillow does not."""
    import imagecodecs

    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS[colour]
    if channels in (1, 3) and b"tRNS" in data[: data.find(b"IDAT")]:
        channels += 1

    def values() -> np.ndarray:
        array = imagecodecs.png_decode(data)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    kind = f"{depth}-bit {COLOUR_NAMES[channels]}"
    return _finished(Picture(channels, height, width, f"uint{depth}", channels in (2, 4), kind, values), metadata)


def _pillow(data: bytes, at_least: int, metadata: Metadata | None = None) -> Picture:
    """Everything else, by Pillow."""
    picture: Image.Image = Image.open(io.BytesIO(data))
    if picture.mode not in MODES:
        raise UnblotError(f"its mode {picture.mode} is not known")
    metadata = of_image(picture) if metadata is None else metadata
    metadata = metadata._replace(exif=b"", xmp=b"") if picture.format == "TIFF" else metadata  # Pillow turns it itself
    mode, dtype, kind = MODES[picture.mode]
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):
        dtype, kind = "uint16", "16-bit gray"
    if mode in WITH_ALPHA and picture.has_transparency_data:
        mode, kind = WITH_ALPHA[mode], f"{kind} with transparency"
    inks = srgb_converter(metadata.icc, "cmyk") if picture.mode == "CMYK" else None
    width, height = picture.size

    def values() -> np.ndarray:
        if at_least and picture.format == "JPEG":
            picture.draft(None, (at_least, at_least))
        array = np.asarray(picture if inks or picture.mode == mode else picture.convert(mode))
        array = inks(array) if inks else array.astype(dtype, copy=False)
        return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)

    channels = len(mode) if dtype == "uint8" else 1
    kind += CONVERTED if inks else ""
    return _finished(Picture(channels, height, width, dtype, mode in ("LA", "RGBA"), kind, values), metadata)


def _finished(picture: Picture, metadata: Metadata) -> Picture:
    """The picture, its size checked, turned and converted to sRGB as its metadata asks."""
    check_size(picture.channels, picture.height, picture.width, picture.dtype)
    turn, colours = metadata.orientation, picture.channels - picture.alpha
    convert = srgb_converter(metadata.icc) if colours == 3 and picture.dtype in ("uint8", "uint16") else None

    def values() -> np.ndarray:
        array = picture.values()
        if convert:
            array = np.concatenate([convert(array[:3].transpose(1, 2, 0)).transpose(2, 0, 1), array[3:]])
        return orient(array, turn)

    height, width = (picture.width, picture.height) if turn >= 5 else (picture.height, picture.width)
    kind = picture.kind + (CONVERTED if convert else "")
    return picture._replace(height=height, width=width, kind=kind, values=values)


def _guarded(picture: Picture) -> Picture:
    """The picture with values that raise nothing but UnblotError."""
    decode: Callable[[], np.ndarray] = picture.values

    def values() -> np.ndarray:
        with damage_in_one_line():
            return decode()

    return picture._replace(values=values)


@contextmanager
def _unbounded_pixels() -> Iterator[None]:
    """Within it Pillow opens pictures of any size: they are checked by the bytes that they take."""
    before, Image.MAX_IMAGE_PIXELS = Image.MAX_IMAGE_PIXELS, None
    try:
        yield
    finally:
        Image.MAX_IMAGE_PIXELS = before


def _what_else(data: bytes) -> str:
    """Why these bytes are no picture, in the words that help most."""
    if not any(data[:4096]):
        return "it holds nothing but zeros"
    head = data[:512]
    if head.isascii() and head.decode("ascii").strip() and b"\0" not in head:
        return f"it is text, not a picture: it starts with {head[:24].decode()!r}"
    return "it is no picture of a known format"
