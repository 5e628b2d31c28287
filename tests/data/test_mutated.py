"""Mutated picture files of every format: each is a picture or has one line with the reason, and stops no other."""

import io
import random
import re

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image

from data_files import encoded, tiff_of
from unblot.data.dataset import open_data

RNG = np.random.default_rng(17)
RGB = RNG.integers(0, 256, (24, 20, 3), np.uint8)
GRAY = RGB[..., 0]
DEEP = RNG.integers(0, 65536, (24, 20, 3), np.uint16)
EACH = 14  # mutations of a file


def pages(**options) -> bytes:
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **options) as writer:
        for i in range(3):
            writer.write(DEEP[i:, :, 0], photometric="minisblack", contiguous=False)
    return stream.getvalue()


def exif() -> Image.Exif:
    found = Image.Exif()
    found[274] = 6
    return found


FILES = {
    "8.png": encoded(RGB, "PNG", exif=exif()),
    "16.png": imagecodecs.png_encode(DEEP),
    "palette.png": encoded(Image.fromarray(RGB).quantize(16), "PNG", transparency=3),
    "rgb.jpg": encoded(RGB, "JPEG", exif=exif(), icc_profile=imagecodecs.cms_profile("adobergb")),
    "cmyk.jpg": encoded(Image.fromarray(RGB).convert("CMYK"), "JPEG"),
    "progressive.jpg": encoded(RGB, "JPEG", progressive=True),
    "lossy.webp": encoded(RGB, "WEBP", exif=exif()),
    "lossless.webp": encoded(RGB, "WEBP", lossless=True),
    "8.avif": encoded(RGB, "AVIF"),
    "10.avif": imagecodecs.avif_encode(DEEP >> 6, bitspersample=10),
    "8.jp2": encoded(RGB, "JPEG2000"),
    "16.jp2": imagecodecs.jpeg2k_encode(DEEP, level=0),
    "x.gif": encoded(Image.fromarray(RGB).quantize(32), "GIF"),
    "x.bmp": encoded(RGB, "BMP"),
    "x.tga": encoded(RGB, "TGA", compression="tga_rle"),
    "8.ppm": encoded(RGB, "PPM"),
    "16.ppm": b"P6 20 24 65535\n" + DEEP.tobytes(),
    "text.ppm": b"P3 20 24 1023\n" + " ".join(map(str, (DEEP >> 6).ravel())).encode(),
    "8.tif": encoded(RGB, "TIFF"),
    "lzw.tif": tiff_of(DEEP, photometric="rgb", compression="lzw", predictor=True),
    "tiles.tif": tiff_of(DEEP, photometric="rgb", compression="zlib", tile=(16, 16)),
    "jpeg.tif": tiff_of(RGB, photometric="rgb", compression="jpeg"),
    "zstd.tif": tiff_of(GRAY, photometric="minisblack", compression="zstd"),
    "pages.tif": pages(),
    "ome.tif": pages(ome=True),
    "imagej.tif": tiff_of(DEEP[None, ..., 0].repeat(3, 0), imagej=True, metadata={"axes": "ZYX"}),
}


def mutated(data: bytes, chance: random.Random) -> bytes:
    """The file with some bytes changed, removed, repeated or cut off; early ones more often, where headers are."""
    if chance.random() < 0.15:
        return data[: chance.randrange(len(data))]
    changed = bytearray(data)
    for _ in range(chance.choice([1, 1, 2, 5, 30])):
        place = min(int(len(changed) * chance.random() ** 3), len(changed) - 1)
        how = chance.random()
        if how < 0.7:
            changed[place] = chance.choice([0, 1, 127, 128, 255, chance.randrange(256)])
        elif how < 0.85:
            del changed[place : place + chance.choice([1, 2, 4, 40])]
        else:
            changed[place:place] = changed[place : place + chance.choice([1, 4, 400])]
        if not changed:
            break
    return bytes(changed)


@pytest.mark.filterwarnings("error", "ignore::ResourceWarning")  # the pipes of ended workers
def test_a_mutated_file_is_a_picture_or_one_line_with_its_name(tmp_path, capfd):
    chance = random.Random(3)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for name, data in FILES.items():
        (folder / f"sound {name}").write_bytes(data)
        for i in range(EACH):
            (folder / f"{i} {name}").write_bytes(mutated(data, chance))
    data = open_data(str(folder), size=8, on_broken="skip", workers=1)
    names = [re.sub(r", page \d+$", "", name) for name in data.cached.names]
    broken = {b.name: b.reason for b in data.cached.broken}
    assert {f"sound {name}" for name in FILES} <= set(names)
    files = {path.name for path in folder.iterdir()}
    assert {re.sub(r", page \d+$", "", name) for name in broken} | set(names) == files
    assert len(broken) > EACH  # the mutations are not harmless
    for reason in broken.values():
        assert reason
        assert "\n" not in reason
        assert "crashed or hung" not in reason
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("error", [MemoryError, RecursionError, NotImplementedError, OverflowError, ValueError])
def test_whatever_a_decoder_raises_is_a_broken_file(error, tmp_path, monkeypatch):
    def fail(*args, **kwargs):
        raise error

    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(imagecodecs.png_encode(DEEP))
    (tmp_path / "c.jpg").write_bytes(FILES["rgb.jpg"])
    monkeypatch.setattr(imagecodecs, "png_decode", fail)
    data = open_data(str(tmp_path), on_broken="skip")
    assert data.cached.names == ["c.jpg"]
    assert [b.name for b in data.cached.broken] == ["a.png", "b.png"]
