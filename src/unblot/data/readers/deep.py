"""Formats that Pillow reads with 8 bits where they hold more, or not at all: PNM, JPEG, JPEG 2000, AVIF, HEIC.

Values of 9 to 15 bits become 16 bits at full scale, which loses none of them.
"""

import io
import re
import struct
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

from unblot.data.readers.metadata import Metadata, is_avif, of_image
from unblot.errors import UnblotError

PNM = re.compile(rb"P([2356])" + 3 * rb"(?:\s|#[^\r\n]*[\r\n])+(\d{1,10})" + rb"\s")
JPEG2000_STARTS = (b"\0\0\0\x0cjP  \r\n\x87\n", b"\xff\x4f\xff\x51")
SIZE_MARKER = b"\xff\x4f\xff\x51"
JPEG_FRAMES = {*range(0xC0, 0xD0)} - {0xC4, 0xC8, 0xCC}  # markers of a header with size and depth
YCC = b"colr\1\0\0\0\0\0\x12"  # JPEG 2000's colour box that names sYCC
HEIF_BRANDS = (b"heic", b"heix", b"hevc", b"hevx", b"heim", b"heis", b"mif1", b"msf1")


class Deep(NamedTuple):
    """A picture's header: its channels, size, bits a value, numpy's type, and a way to its values (H, W[, C]) as they
    are in the file."""

    kind: str
    channels: int
    height: int
    width: int
    bits: int
    dtype: str
    metadata: Metadata
    values: Callable[[], np.ndarray]


def open_deep(data: bytes) -> Deep | None:
    """The header of a picture that Pillow would read with fewer bits; None for what Pillow reads whole.

    Raises UnblotError for what is not read here.
    """
    if data[:1] == b"P":
        return _pnm(data)
    if data.startswith(JPEG2000_STARTS):
        return _jpeg2000(data)
    if is_avif(data):
        return _avif(data)
    if data[4:8] == b"ftyp" and data[8:12] in HEIF_BRANDS and b"avif" not in data[8:64]:
        return _heic(data)
    return None


def full_scale(values: np.ndarray, bits: int) -> np.ndarray:
    """Values of `bits` bits in uint16 as values of 16 bits: the largest becomes 65535."""
    if bits in (8, 16) or values.dtype != np.uint16:
        return values
    largest = 2**bits - 1
    return scaled(np.minimum(values, largest), largest)


def scaled(values: np.ndarray, largest: int) -> np.ndarray:
    """Values 0…largest, rounded, as uint16 0…65535."""
    return ((values.astype(np.uint32) * 65535 + largest // 2) // largest).astype(np.uint16)


def _pnm(data: bytes) -> Deep | None:
    """PGM and PPM of more than 8 bits, binary or in decimal digits."""
    header = PNM.match(data, 0, 65536)
    if not header or not 255 < int(header[4]) < 65536:
        return None
    form, width, height, largest = (int(group) for group in header.groups())
    channels = 3 if form in (3, 6) else 1
    count = channels * width * height

    def values() -> np.ndarray:
        if form > 3:
            found = np.frombuffer(data, ">u2", min(count, (len(data) - header.end()) // 2), header.end())
        else:
            digits = re.sub(rb"#[^\r\n]*", b"", data[header.end() :]).split(None, count)[:count]
            found = np.array(digits, np.uint16)
        if len(found) < count:
            raise UnblotError(f"it is damaged or cut off ({len(found)} of {count} values)")
        return scaled(np.minimum(found, largest), largest).reshape(height, width, channels)

    return Deep("16-bit", channels, height, width, 16, "uint16", Metadata(), values)


def open_deep_jpeg(data: bytes, metadata: Metadata) -> Deep | None:
    """The header of a JPEG of 12 bits; None for one of 8, or a damaged one; ITU-T T.81, B.2.2.

    Raises UnblotError for another depth or other colours.
    """
    place = 2
    while place + 10 <= len(data) and data[place] == 0xFF and data[place + 1] not in JPEG_FRAMES:
        place += 1 if data[place + 1] == 0xFF else 2 + struct.unpack_from(">H", data, place + 2)[0]
    if place + 10 > len(data) or data[place] != 0xFF:
        return None
    bits, height, width, channels = struct.unpack_from(">BHHB", data, place + 4)
    if bits == 8:
        return None
    if bits != 12 or channels not in (1, 3):
        raise UnblotError(f"it is a JPEG of {bits} bits and {channels} channels, which is not read; save it as PNG")

    def values() -> np.ndarray:
        import imagecodecs

        return imagecodecs.jpeg_decode(data)

    return Deep("12-bit JPEG", channels, height, width, bits, "uint16", metadata, values)


def _jpeg2000(data: bytes) -> Deep | None:
    """JPEG 2000 of more than 8 bits or more than four channels; ITU-T T.800, annex A.5.1."""
    start = data.find(SIZE_MARKER)
    if start < 0:
        return None
    right, low, left, top = struct.unpack_from(">4I", data, start + 8)
    (channels,) = struct.unpack_from(">H", data, start + 40)
    depths = [byte for byte, _, _ in struct.iter_unpack("3B", data[start + 42 : start + 42 + 3 * channels])]
    bits, signed = max((byte & 127) + 1 for byte in depths), any(byte & 128 for byte in depths)
    if bits <= 8 and channels <= 4 and not signed:
        return None
    if bits > 16 or len(set(depths)) > 1:
        raise UnblotError(f"it is a JPEG 2000 of {bits} bits a value, perhaps of several depths; 16 are read")
    if YCC in data[:start]:
        raise UnblotError("it is a deep JPEG 2000 in sYCC colours, which is not read; convert it to RGB")

    def values() -> np.ndarray:
        import imagecodecs

        return imagecodecs.jpeg2k_decode(data)

    dtype = f"{'' if signed else 'u'}int{8 if bits <= 8 else 16}"
    return Deep(f"{bits}-bit JPEG 2000", channels, low - top, right - left, bits, dtype, Metadata(), values)


def _avif(data: bytes) -> Deep | None:
    """AVIF of 10 or 12 bits; AV1 codec ISO media file format binding, section 2.3."""
    flags = data[data.find(b"av1C") + 6 : data.find(b"av1C") + 7]
    if not flags or not flags[0] & 0x40:
        return None
    bits = 12 if flags[0] & 0x20 else 10
    picture = Image.open(io.BytesIO(data))
    width, height = picture.size

    def values() -> np.ndarray:
        import imagecodecs

        return imagecodecs.avif_decode(data, index=0)

    channels = len(picture.getbands())
    return Deep(f"{bits}-bit AVIF", channels, height, width, bits, "uint16", of_image(picture), values)


def _heic(data: bytes) -> Deep:
    """HEIC of any depth, by pillow-heif, which turns it the right way up."""
    try:
        import pillow_heif
    except ImportError:
        raise UnblotError("HEIC needs pillow-heif: pip install 'unblot[heic]', or save it as JPEG or PNG") from None
    file: Any = pillow_heif.open_heif(io.BytesIO(data), convert_hdr_to_8bit=False)
    width, height = file.size
    bits = max(8, int(file.info.get("bit_depth") or 8)) if "16" in file.mode else 8
    channels = {"L": 1, "I": 1, "LA": 2, "RGB": 3, "RGBA": 4}[file.mode.partition(";")[0]]

    def values() -> np.ndarray:
        found = np.asarray(file)
        return found >> (16 - bits) if found.dtype == np.uint16 else found  # it fills 16 bits from above

    dtype = "uint16" if bits > 8 else "uint8"
    icc = file.info.get("icc_profile") or b""
    return Deep(f"{bits}-bit HEIC", channels, height, width, bits, dtype, Metadata(icc=icc), values)
