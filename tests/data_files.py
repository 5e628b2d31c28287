"""Picture files for tests, sound and broken."""

import io
import zlib

import numpy as np
import tifffile
from PIL import Image

from unblot.data.formats import PNG_START

RNG = np.random.default_rng(5)


def encoded(picture, kind, **options) -> bytes:
    stream = io.BytesIO()
    picture = Image.fromarray(picture) if isinstance(picture, np.ndarray) else picture
    picture.save(stream, kind, **options)
    return stream.getvalue()


def tiff_of(array, **options) -> bytes:
    stream = io.BytesIO()
    tifffile.imwrite(stream, array, **options)
    return stream.getvalue()


def bomb() -> bytes:
    """A PNG of a few hundred kilobytes that claims 20,000 x 20,000 pixels and holds them."""
    header = b"IHDR" + (20000).to_bytes(4, "big") * 2 + bytes([8, 0, 0, 0, 0])
    body = b"IDAT" + zlib.compress(b"\0" * 20001 * 200, 9)
    chunks = [(c[:4], c[4:]) for c in (header, body, b"IEND")]
    return PNG_START + b"".join(
        len(d).to_bytes(4, "big") + n + d + zlib.crc32(n + d).to_bytes(4, "big") for n, d in chunks
    )


RGB = RNG.integers(0, 256, (7, 9, 3), np.uint8)
BROKEN = {
    "empty": b"",
    "zeros": bytes(100),
    "text": b"dear diary, this is no picture",
    "html": "<html>größer</html>".encode(),
    "noise": RNG.bytes(300),
    "bomb": bomb(),
    "bomb.ppm": b"P5 20000 20000 255\n" + bytes(100),
    "cut jpeg": encoded(np.tile(RGB, (20, 20, 1)), "JPEG")[:-900],
    "cut png": encoded(np.tile(RGB, (20, 20, 1)), "PNG")[:-900],
    "cut early": encoded(RGB, "PNG")[:30],
    "cut tiff": tiff_of(RGB[..., 0].astype(np.uint16))[:-60],
    "cut float": tiff_of(RNG.random((70, 70), np.float32), compression="zlib")[:-900],
    "no pixels": b"P5 0 4 255\n",
    "words": tiff_of(np.ones((7, 9), np.complex64)),
}
