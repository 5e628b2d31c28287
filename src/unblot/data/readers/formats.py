"""One picture file to an array of its own values: any format, mode and depth, turned the right way up."""

import io
import struct
from typing import Any, NamedTuple

import numpy as np
from PIL import Image, UnidentifiedImageError

from unblot.data.readers import tiff
from unblot.errors import UnblotError

MAX_PIXELS = 178_956_970  # Pillow's own bound: beyond it a small file may ask for all memory there is
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_CHANNELS = {0: 1, 2: 3, 4: 2, 6: 4}  # colour types without a palette
ORIENTATION = 274  # the tag of EXIF and TIFF
ORIENTATION_IN = ("exif", "xmp", "XML:com.adobe.xmp", "Raw profile type exif")  # Pillow's names of what may hold it

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


class Picture(NamedTuple):
    """A picture's shape and type as told by its header, and a way to its values.

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
    try:
        if data.startswith(PNG_START) and len(data) > 26 and data[24] in (8, 16) and data[25] in PNG_CHANNELS:
            return _png(data)
        if data[:4] in tiff.STARTS and (pages == "channels" or tiff.is_deep(data)):
            return tiff_picture(tiff.Stack(io.BytesIO(data), pages))
        return _pillow(data, at_least)
    except UnidentifiedImageError:
        raise UnblotError(_what_else(data)) from None
    except Image.DecompressionBombError:
        raise UnblotError(f"it has more than {MAX_PIXELS} pixels") from None


def tiff_picture(stack: tiff.Stack, page: int = 0) -> Picture:
    """A picture of a TIFF that Pillow cannot keep the values of: deep, of many channels, of several pages."""
    channels, height, width = stack.shape
    check_size(channels, height, width)
    height, width = (width, height) if stack.orientation >= 5 else (height, width)
    kind = f"{stack.dtype.itemsize * 8}-bit {'float ' if stack.dtype.kind == 'f' else ''}TIFF of {channels} channels"

    def values() -> np.ndarray:
        return orient(stack.picture(page), stack.orientation)

    return Picture(channels, height, width, stack.dtype.name, stack.alpha, kind, values)


def check_size(channels: int, height: int, width: int) -> None:
    """Raises UnblotError for a picture of no pixels or of so many that decoding it may fill the memory."""
    if height * width * max(1, channels / 4) > MAX_PIXELS:
        raise UnblotError(f"it claims {width}x{height} pixels, more than the {MAX_PIXELS} that are decoded")
    if min(channels, height, width) < 1:
        raise UnblotError(f"it has no pixels: {width}x{height}")


def orient(array: np.ndarray, orientation: int) -> np.ndarray:
    """A picture (C, H, W) turned and mirrored as EXIF's orientation 1…8 asks; TIFF 6.0, tag 274."""
    if orientation in (5, 6, 7, 8):
        array = array.transpose(0, 2, 1)
    if orientation in (2, 3, 6, 7):
        array = array[:, :, ::-1]
    if orientation in (3, 4, 7, 8):
        array = array[:, ::-1]
    return array


def _png(data: bytes) -> Picture:
    """PNG of 8 or 16 bits without a palette, by libpng, which keeps colours of 16 bits where Pillow does not."""
    import imagecodecs

    width, height, depth, colour = struct.unpack(">IIBB", data[16:26])
    channels = PNG_CHANNELS[colour]
    if channels in (1, 3) and b"tRNS" in data[: data.find(b"IDAT")]:
        channels += 1
    check_size(channels, height, width)
    orientation = 1
    if b"eXIf" in data or b"Raw profile type exif" in data:
        orientation = Image.open(io.BytesIO(data)).getexif().get(ORIENTATION, 1)

    def values() -> np.ndarray:
        array = imagecodecs.png_decode(data)
        array = array[None] if array.ndim == 2 else array.transpose(2, 0, 1)
        return orient(array, orientation)

    kind = f"{depth}-bit {('gray', 'gray with alpha', 'RGB', 'RGBA')[channels - 1]}"
    height, width = (width, height) if orientation >= 5 else (height, width)
    return Picture(channels, height, width, f"uint{depth}", channels in (2, 4), kind, values)


def _pillow(data: bytes, at_least: int) -> Picture:
    """Everything else, by Pillow."""
    picture: Image.Image = Image.open(io.BytesIO(data))
    if picture.mode not in MODES:
        raise UnblotError(f"its mode {picture.mode} is not known")
    mode, dtype, kind = MODES[picture.mode]
    if picture.mode == "I" and picture.format in ("PNG", "PPM"):
        dtype, kind = "uint16", "16-bit gray"
    if mode in WITH_ALPHA and picture.has_transparency_data:
        mode, kind = WITH_ALPHA[mode], f"{kind} with transparency"
    width, height = picture.size
    orientation = 1
    if picture.format != "TIFF" and any(name in picture.info for name in ORIENTATION_IN):  # Pillow turns TIFF itself
        orientation = picture.getexif().get(ORIENTATION, 1)
    channels = len(mode) if dtype == "uint8" else 1
    check_size(channels, height, width)

    def values() -> np.ndarray:
        if at_least and picture.format == "JPEG":
            picture.draft(None, (at_least, at_least))
        array = np.asarray(picture if picture.mode == mode else picture.convert(mode)).astype(dtype, copy=False)
        return orient(array[None] if array.ndim == 2 else array.transpose(2, 0, 1), orientation)

    height, width = (width, height) if orientation >= 5 else (height, width)
    return Picture(channels, height, width, dtype, mode in ("LA", "RGBA"), kind, values)


def _what_else(data: bytes) -> str:
    """Why these bytes are no picture, in the words that help most."""
    if data[4:12] in (b"ftypheic", b"ftypheix", b"ftypmif1", b"ftyphevc"):
        return "HEIC is not read here; save it as JPEG or PNG"
    if not any(data[:4096]):
        return "it holds nothing but zeros"
    head = data[:512]
    if head.isascii() and head.decode("ascii").strip() and b"\0" not in head:
        return f"it is text, not a picture: it starts with {head[:24].decode()!r}"
    return "it is no picture of a known format"
