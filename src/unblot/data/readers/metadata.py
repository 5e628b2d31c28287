"""What a picture file says besides its pixels: orientation and colour profile. Damage in it never costs the picture.

PNG and JPEG files are taken apart here, so that their decoders see nothing but what the pixels need.
"""

import io
import re
import struct
import zlib
from collections.abc import Callable, Iterator
from functools import lru_cache
from typing import Any, NamedTuple

import numpy as np
from PIL import Image

ORIENTATION = 274  # the tag of EXIF and TIFF
XMP_ORIENTATION = re.compile(rb'tiff:Orientation\s*(?:=\s*["\']|>)\s*([1-8])\b')
PNG_START = b"\x89PNG\r\n\x1a\n"
PNG_PIXELS = (b"IHDR", b"PLTE", b"tRNS", b"IDAT", b"IEND")
TRANSPARENCY_BYTES = {0: 2, 2: 6}  # of tRNS, by PNG's colour type
JPEG_KEPT = {0xE0: (b"JFIF\0", 14), 0xEE: (b"Adobe", 12)}  # what tells the colour space, if it has this many bytes
JPEG_DROPPED = {*range(0xE0, 0xF0), 0xFE} - set(JPEG_KEPT)  # application data, comments
JPEG_SCAN = 0xDA
MAX_METADATA_BYTES = 2**24  # decompressed
CONVERTED = " (converted to sRGB)"  # ends the kind of a picture whose colour profile was applied
FIRST_PAGE = " (the first page)"  # ends the kind of a TIFF under another suffix, of which one page is read
SAME_COLOURS = 2  # of 255: what may separate one rounding of sRGB from another


class Metadata(NamedTuple):
    """EXIF (a TIFF), XMP (text) and an ICC profile, each empty where there is none."""

    exif: bytes = b""
    xmp: bytes = b""
    icc: bytes = b""

    @property
    def orientation(self) -> int:
        """EXIF's orientation 1…8, else XMP's, else 1; TIFF 6.0, tag 274."""
        exif = Image.Exif()
        try:
            exif.load(self.exif)
            value = exif.get(ORIENTATION)
        except Exception:  # garbage in it makes Pillow raise anything
            value = None
        if type(value) is int and 1 <= value <= 8:
            return value
        found = XMP_ORIENTATION.search(self.xmp)
        return int(found[1]) if found else 1


def is_avif(data: bytes) -> bool:
    """Whether a file's first box says AVIF."""
    return data[4:12] in (b"ftypavif", b"ftypavis")


def of_image(picture: Image.Image) -> Metadata:
    """The metadata that Pillow found when it opened a file."""
    parts = (picture.info.get(name) for name in ("exif", "xmp", "icc_profile"))
    return Metadata(*(part if isinstance(part, bytes) else b"" for part in parts))


def of_png(data: bytes) -> tuple[bytes, Metadata]:
    """A PNG file with nothing but the chunks of its pixels, and its metadata."""
    kept, found = [PNG_START], Metadata()
    for name, start, stop in _chunks(data):
        body = memoryview(data)[start + 8 : stop - 4]
        if name in PNG_PIXELS and not (name == b"tRNS" and len(body) != TRANSPARENCY_BYTES.get(data[25], len(body))):
            kept.append(data[start:stop])
        elif name == b"eXIf":
            found = found._replace(exif=bytes(body))
        elif name == b"iCCP":
            found = found._replace(icc=_inflated(bytes(body).partition(b"\0")[2][1:]))
        elif name in (b"tEXt", b"zTXt", b"iTXt"):
            found = found._replace(**_text(name, body))
    return b"".join(kept), found


def of_jpeg(data: bytes) -> tuple[bytes, Metadata]:
    """A JPEG file without comments and application data but for those that tell its colour space, and its metadata."""
    kept, place = [data[:2]], 2
    found, profile = Metadata(), b""
    while place + 4 <= len(data) and data[place] == 0xFF and data[place + 1] != JPEG_SCAN:
        marker = data[place + 1]
        stop = place + 2 + struct.unpack_from(">H", data, place + 2)[0]
        body = data[place + 4 : stop]
        if marker == 0xFF:  # a fill byte
            place += 1
            continue
        start, least = JPEG_KEPT.get(marker, (b"", 0))
        if marker not in JPEG_DROPPED and body.startswith(start) and len(body) >= least:
            kept.append(data[place:stop])
        elif marker == 0xE1 and body.startswith(b"Exif\0\0") and not found.exif:
            found = found._replace(exif=body)
        elif marker == 0xE1 and body.startswith(b"http://ns.adobe.com/xap/1.0/\0"):
            found = found._replace(xmp=body)
        elif marker == 0xE2 and body.startswith(b"ICC_PROFILE\0"):
            profile += body[14:]
        place = max(stop, place + 2)
    return b"".join((*kept, data[place:])), found._replace(icc=profile)


def without_bad_exif(data: bytes) -> bytes:
    """An AVIF file, its EXIF renamed to something that nobody reads if the decoder refuses the file with it."""
    try:
        Image.open(io.BytesIO(data))
    except Exception:
        return data.replace(b"Exif", b"skip")
    return data


@lru_cache(maxsize=16)
def srgb_converter(profile: bytes, space: str = "rgb") -> Callable[[np.ndarray], np.ndarray] | None:
    """A function from colours (H, W, 3 or 4) uint8 or uint16 to sRGB (H, W, 3); None where the profile changes nothing.

    space: of the colours, "rgb" or "cmyk". None too for a damaged profile or one of another colour space.
    """
    if profile[16:20].strip().lower() != space.encode():
        return None
    import imagecodecs

    def convert(colours: np.ndarray) -> np.ndarray:
        srgb = imagecodecs.cms_profile("srgb")
        block = np.ascontiguousarray(colours)
        return imagecodecs.cms_transform(block, profile, srgb, colorspace=space, outcolorspace="rgb")

    levels = np.linspace(0, 255, 5).astype(np.uint8)
    probe = np.stack(np.meshgrid(*[levels] * (3 if space == "rgb" else 4), indexing="ij"), -1)
    probe = probe.reshape(-1, 5, probe.shape[-1])
    try:
        changed = convert(probe)
    except Exception:  # a profile that LittleCMS refuses
        return None
    same = space == "rgb" and np.abs(changed.astype(int) - probe).max() <= SAME_COLOURS
    return None if same else convert


def _chunks(data: bytes) -> Iterator[tuple[bytes, int, int]]:
    """Name, start and stop of a PNG's chunks; the last one may be cut off."""
    start = len(PNG_START)
    while start + 8 <= len(data):
        size, name = struct.unpack_from(">I4s", data, start)
        yield name, start, min(start + size + 12, len(data))
        start += size + 12


def _text(kind: bytes, body: memoryview) -> dict[str, Any]:
    """EXIF or XMP in a PNG's text chunk, as fields of Metadata; others are not even decompressed."""
    key, _, value = bytes(body).partition(b"\0")
    if key not in (b"XML:com.adobe.xmp", b"Raw profile type exif"):
        return {}
    if kind == b"iTXt":
        compressed = value[:1] == b"\1"
        value = value[2:].partition(b"\0")[2].partition(b"\0")[2]
    else:
        compressed = kind == b"zTXt"
        value = value[1:] if compressed else value
    value = _inflated(value) if compressed else value
    if key == b"XML:com.adobe.xmp":
        return {"xmp": value}
    try:
        return {"exif": bytes.fromhex("".join(value.decode("latin-1").split("\n")[3:]))}
    except ValueError:
        return {}


def _inflated(data: bytes) -> bytes:
    """Decompressed bytes, no more than MAX_METADATA_BYTES of them; empty where they are damaged."""
    try:
        return zlib.decompressobj().decompress(data, MAX_METADATA_BYTES)
    except zlib.error:
        return b""
