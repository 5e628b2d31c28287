"""Picture files for tests, sound and broken."""

import io
import os
import zlib
from pathlib import Path

import numpy as np
import tifffile
from PIL import Image

from unblot.data.readers.metadata import PNG_START

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
    "cut png": encoded(RNG.integers(0, 256, (50, 50, 3), np.uint8), "PNG")[:4000],
    "cut early": encoded(RGB, "PNG")[:30],
    "cut tiff": tiff_of(RGB[..., 0].astype(np.uint16))[:-60],
    "cut float": tiff_of(RNG.random((70, 70), np.float32), compression="zlib")[:-900],
    "no pixels": b"P5 0 4 255\n",
    "words": tiff_of(np.ones((7, 9), np.complex64)),
}


def hostile(folder: Path) -> tuple[set[str], set[str]]:
    """Fills a folder; names of the files that can be used and of those that cannot."""
    good, bad = set(), set()

    def put(name: str, data: bytes, usable: bool = False) -> None:
        (folder / name).write_bytes(data)
        (good if usable else bad).add(name)

    photo = RNG.integers(0, 256, (40, 60, 3), np.uint8)
    for i in range(8):
        put(f"plain{i}.jpg", encoded(np.roll(photo, 7 * i, axis=1), "JPEG"), True)
    turned = Image.Exif()
    turned[274] = 6
    put("turned.jpg", encoded(photo, "JPEG", exif=turned), True)
    put("cmyk.jpg", encoded(Image.fromarray(photo).convert("CMYK"), "JPEG"), True)
    put("palette.png", encoded(Image.fromarray(photo).quantize(8), "PNG", transparency=0), True)
    frames = [Image.fromarray(photo[:, i:]).quantize(16) for i in (0, 1)]
    put("moving.gif", encoded(frames[0], "GIF", save_all=True, append_images=frames[1:]), True)
    put("deep.png", encoded(RNG.integers(0, 65536, (30, 30), np.uint16), "PNG"), True)
    put("猫の写真.png", encoded(photo, "PNG"), True)
    put("two\nlines.png", encoded(photo, "PNG"), True)
    put("tiny.bmp", encoded(photo[:1, :1], "BMP"), True)
    put("long.webp", encoded(np.tile(photo, (1, 20, 1)), "WEBP"), True)
    tifffile.imwrite(folder / "nan.tif", np.full((20, 20), np.nan, np.float32))
    bad.add("nan.tif")
    for i, (what, data) in enumerate(BROKEN.items()):
        put(f"{what}\n{i}.png" if i == 1 else f"{what}{i}.png", data)
    os.symlink("b.png", folder / "a.png")
    os.symlink("a.png", folder / "b.png")
    os.symlink("gone.png", folder / "dangling.png")
    os.symlink(folder, folder / "again")
    (folder / "deeper").mkdir()
    os.symlink("..", folder / "deeper" / "up")
    os.mkfifo(folder / "pipe.png")
    (folder / "folder.png").mkdir()
    (folder / "notes.txt").write_text("no picture, and not called so")
    return good, bad | {"a.png", "b.png", "dangling.png", "pipe.png"}


def scenes(count: int, side: int = 32) -> np.ndarray:
    """Pictures (count, side, side, 3) that are smooth as photographs are: noise that falls off with frequency."""
    frequency = np.hypot(np.fft.fftfreq(side)[:, None], np.fft.fftfreq(side)[None]) * side
    spectrum = np.fft.fft2(RNG.standard_normal((count, 3, side, side))) / np.maximum(frequency, 0.7) ** 1.5
    gray = np.fft.ifft2(spectrum).real
    gray = 0.7 * gray.mean(axis=1, keepdims=True) + 0.3 * gray
    gray = gray / gray.std(axis=(1, 2, 3), keepdims=True)
    return np.clip(127 + 50 * gray, 0, 255).astype(np.uint8).transpose(0, 2, 3, 1)
