"""One picture file: every format and mode gives its own values, the right way up; nothing broken gets through."""

import io
import shutil
import struct
import sys
import zlib
from pathlib import Path

import imagecodecs
import numpy as np
import pytest
import tifffile
from PIL import Image, ImageCms, ImageOps

from data_files import BROKEN, encoded, tiff_of
from unblot.data.dataset import open_data
from unblot.data.readers import formats, reading, tiff
from unblot.data.readers.metadata import ORIENTATION, PNG_START
from unblot.errors import UnblotError

RNG = np.random.default_rng(5)
GRAY = RNG.integers(0, 256, (7, 9), np.uint8)
RGB = RNG.integers(0, 256, (7, 9, 3), np.uint8)
RGBA = RNG.integers(0, 256, (7, 9, 4), np.uint8)
DEEP = RNG.integers(0, 65536, (7, 9), np.uint16)


def planes(array: np.ndarray) -> np.ndarray:
    return array[None] if array.ndim == 2 else array.transpose(2, 0, 1)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "BMP", "TIFF", "PPM"])
def test_lossless_formats_keep_gray_and_colour(kind):
    options = {"lossless": True} if kind == "WEBP" else {}
    for array in (GRAY, RGB):
        if kind == "WEBP" and array.ndim == 2:
            continue  # WebP has no gray
        picture = formats.open_picture(encoded(array, kind, **options))
        np.testing.assert_array_equal(picture.values(), planes(array))
        assert (picture.channels, picture.height, picture.width) == planes(array).shape
        assert (picture.dtype, picture.alpha) == ("uint8", False)


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF"])
def test_opacity_is_a_fourth_channel(kind):
    solid = RGBA.copy()
    solid[..., 3] = np.maximum(solid[..., 3], 1)  # WebP drops the colour of what cannot be seen at all
    options = {"lossless": True, "exact": True} if kind == "WEBP" else {}
    picture = formats.open_picture(encoded(solid, kind, **options))
    assert picture.alpha
    np.testing.assert_array_equal(picture.values(), planes(solid))


def test_jpeg_gray_colour_and_cmyk_are_near_the_original():
    smooth = np.linspace(40, 200, 32 * 32, dtype=np.uint8).reshape(32, 32)
    for picture in (Image.fromarray(smooth), Image.fromarray(smooth).convert("RGB")):
        found = formats.open_picture(encoded(picture, "JPEG", quality=95)).values()
        assert np.abs(found.astype(int) - smooth).max() <= 6
    found = formats.open_picture(encoded(Image.fromarray(smooth).convert("RGB").convert("CMYK"), "JPEG", quality=95))
    assert found.kind == "CMYK"
    assert np.abs(found.values().astype(int) - smooth).max() <= 8


def test_palettes_and_single_bits_become_colour_and_gray():
    palette = Image.fromarray(RGB).quantize(16)
    picture = formats.open_picture(encoded(palette, "PNG"))
    np.testing.assert_array_equal(picture.values(), planes(np.asarray(palette.convert("RGB"))))
    see_through = formats.open_picture(encoded(palette, "PNG", transparency=3))
    assert see_through.alpha
    opacity = np.where(np.asarray(palette) == 3, 0, 255)
    np.testing.assert_array_equal(see_through.values()[3], opacity)
    single = formats.open_picture(encoded(Image.fromarray(GRAY > 128), "PNG"))
    np.testing.assert_array_equal(single.values()[0], (GRAY > 128) * 255)


def test_a_moving_gif_is_its_first_frame():
    frames = [Image.fromarray(GRAY).quantize(64), Image.fromarray(255 - GRAY).quantize(64)]
    data = encoded(frames[0], "GIF", save_all=True, append_images=frames[1:])
    found = formats.open_picture(data).values()
    np.testing.assert_array_equal(found, planes(np.asarray(Image.open(io.BytesIO(data)).convert("RGB"))))


@pytest.mark.parametrize("channels", [1, 2, 3, 4])
def test_png_of_16_bits_keeps_them_in_every_channel(channels):
    array = RNG.integers(0, 65536, (7, 9, channels), np.uint16)
    picture = formats.open_picture(imagecodecs.png_encode(array[..., 0] if channels == 1 else array))
    assert picture.dtype == "uint16"
    np.testing.assert_array_equal(picture.values(), array.transpose(2, 0, 1))


def test_pgm_of_16_bits_keeps_them():
    data = b"P5 9 7 65535\n" + DEEP.astype(">u2").tobytes()
    picture = formats.open_picture(data)
    assert picture.dtype == "uint16"
    np.testing.assert_array_equal(picture.values()[0], DEEP)


@pytest.mark.parametrize("dtype", ["uint16", "int16", "uint32", "float32", "float64", "float16"])
@pytest.mark.parametrize("compression", [None, "zlib"])
def test_tiff_keeps_every_type_and_many_channels(dtype, compression):
    array = (RNG.random((5, 7, 9)) * 3000).astype(dtype)
    data = tiff_of(array, photometric="minisblack", metadata={"axes": "CYX"}, compression=compression)
    picture = formats.open_picture(data)
    assert (picture.channels, picture.height, picture.width, picture.dtype) == (5, 7, 9, dtype)
    np.testing.assert_array_equal(picture.values(), array)


def test_pages_of_a_tiff_are_pictures_or_channels():
    array = RNG.integers(0, 65536, (4, 7, 9), np.uint16)
    for compression in (None, "zlib"):
        data = tiff_of(array, photometric="minisblack", compression=compression)
        stack = tiff.Stack(io.BytesIO(data))
        assert (stack.count, stack.left_out) == (4, 0)
        np.testing.assert_array_equal(np.stack([stack.picture(i) for i in range(4)])[:, 0], array)
        np.testing.assert_array_equal(formats.open_picture(data, pages="channels").values(), array)
    coloured = RNG.integers(0, 256, (4, 7, 9, 3), np.uint8)
    stack = tiff.Stack(io.BytesIO(tiff_of(coloured, photometric="rgb")))
    assert (stack.count, stack.header(0).shape) == (4, (3, 7, 9))
    np.testing.assert_array_equal(stack.picture(2), planes(coloured[2]))


def test_a_microscopes_stack_tells_channels_from_slices():
    array = RNG.integers(0, 65536, (5, 2, 7, 9), np.uint16)
    stack = tiff.Stack(io.BytesIO(tiff_of(array, imagej=True, metadata={"axes": "ZCYX"})))
    assert (stack.count, stack.header(0).shape) == (5, (2, 7, 9))
    np.testing.assert_array_equal(np.stack([stack.picture(i) for i in range(5)]), array)


def test_white_is_zero_is_turned_round():
    picture = formats.open_picture(tiff_of(DEEP, photometric="miniswhite"))
    np.testing.assert_array_equal(picture.values()[0], 65535 - DEEP)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[ORIENTATION] = orientation
    blocks = np.kron(np.array([[0, 80, 160], [240, 200, 40]], np.uint8), np.ones((8, 8), np.uint8))
    data = encoded(
        Image.fromarray(blocks).convert("RGB"), kind, exif=exif, **({"lossless": True} if kind == "WEBP" else {})
    )
    wanted = ImageOps.exif_transpose(Image.open(io.BytesIO(data))).convert("L")
    picture = formats.open_picture(data)
    assert (picture.height, picture.width) == wanted.size[::-1]
    found = picture.values()
    assert found.shape[1:] == wanted.size[::-1]
    assert np.abs(found[0].astype(int) - np.asarray(wanted)).max() <= 3


def test_a_large_jpeg_is_decoded_smaller_but_not_too_small():
    data = encoded(Image.fromarray(np.full((400, 640, 3), 90, np.uint8)), "JPEG")
    picture = formats.open_picture(data, at_least=64)
    assert (picture.height, picture.width) == (400, 640)
    assert 64 <= min(picture.values().shape[1:]) < 400


@pytest.mark.parametrize("what", BROKEN)
def test_what_is_broken_is_refused_with_a_reason_and_without_decoding_bombs(what):
    with pytest.raises(Exception) as refusal:  # noqa: PT011  # the decoders' own exceptions count
        formats.open_picture(BROKEN[what]).values()
    assert not isinstance(refusal.value, (MemoryError, AssertionError, TypeError, AttributeError))
    if "bomb" in what:
        assert isinstance(refusal.value, UnblotError)
        assert "pixels" in str(refusal.value)


def icc_of(name: str) -> bytes:
    return imagecodecs.cms_profile(name)


def one_by_one(arrays, **options) -> bytes:
    """A TIFF whose pages were written one after another."""
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, **options) as writer:
        for array in arrays:
            writer.write(array, photometric="minisblack", contiguous=False)
    return stream.getvalue()


@pytest.mark.parametrize("ome", [False, True])
@pytest.mark.parametrize("sizes", [[(7, 9)] * 10, [(7, 9), (5, 4)] * 2])
def test_pages_written_one_by_one_are_pictures_of_their_own_sizes(ome, sizes):
    arrays = [RNG.integers(0, 65536, size, np.uint16) for size in sizes]
    stack = tiff.Stack(io.BytesIO(one_by_one(arrays, ome=ome)))
    assert stack.count == len(sizes)
    for i, array in enumerate(arrays):
        assert stack.header(i).shape == (1, *array.shape)
        np.testing.assert_array_equal(stack.picture(i)[0], array)


def test_pages_of_several_sizes_are_no_channels():
    arrays = [np.zeros((7, 9), np.uint16), np.zeros((5, 4), np.uint16)]
    with pytest.raises(UnblotError, match=r"4x5 of uint16, 9x7 of uint16.*read them as pictures"):
        formats.open_picture(one_by_one(arrays), pages="channels")
    same = [RNG.integers(0, 65536, (7, 9), np.uint16) for _ in range(3)]
    np.testing.assert_array_equal(formats.open_picture(one_by_one(same), pages="channels").values(), same)


def test_every_series_of_a_microscopes_file_is_read():
    arrays = [RNG.integers(0, 65536, (2, 7, 9 + i), np.uint16) for i in range(5)]
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream, ome=True) as writer:
        for array in arrays:
            writer.write(array, photometric="minisblack", metadata={"axes": "CYX"})
    stack = tiff.Stack(io.BytesIO(stream.getvalue()))
    assert stack.count == 5
    for i, array in enumerate(arrays):
        np.testing.assert_array_equal(stack.picture(i), array)


def ome_of(files: int, planes: int) -> str:
    """OME-XML of one series of pictures 7x9, so many planes of it in each file."""
    parts = "".join(
        f'<TiffData IFD="{i % planes}" FirstZ="{i}" PlaneCount="1"><UUID FileName="{i // planes}.tif">'
        f"urn:uuid:{i // planes}</UUID></TiffData>"
        for i in range(files * planes)
    )
    size = f'SizeX="9" SizeY="7" SizeZ="{files * planes}" SizeC="1" SizeT="1"'
    pixels = f'<Pixels ID="P:0" DimensionOrder="XYZCT" Type="uint16" {size}><Channel ID="C:0"/>{parts}</Pixels>'
    return f'<OME xmlns="http://www.openmicroscopy.org/Schemas/OME/2016-06"><Image ID="I:0">{pixels}</Image></OME>'


@pytest.mark.parametrize("place", ["folder", "zip"])
def test_a_file_of_a_series_in_several_files_gives_its_own_pages_alone(place, tmp_path):
    array = RNG.integers(0, 65536, (3, 2, 7, 9), np.uint16)
    folder = tmp_path / "set"
    folder.mkdir()
    for i, pages in enumerate(array):
        tifffile.imwrite(folder / f"{i}.tif", pages, photometric="minisblack", description=ome_of(3, 2), metadata=None)
    with tifffile.TiffFile(folder / "0.tif") as file:
        assert len(file.series[0].pages) == 6  # which names the others
    if place == "zip":
        folder = Path(shutil.make_archive(str(folder), "zip", folder))
    np.testing.assert_array_equal(open_data(str(folder)).pictures[:, 0], array.reshape(6, 7, 9))


def test_a_tiff_of_a_folder_is_never_held_whole(tmp_path, monkeypatch):
    pages, single = RNG.integers(0, 65536, (3, 7, 9), np.uint16), RNG.integers(0, 65536, (7, 9), np.uint16)
    tifffile.imwrite(tmp_path / "a.tif", pages, photometric="minisblack")
    tifffile.imwrite(tmp_path / "b.TIFF", single, photometric="minisblack")
    monkeypatch.setattr(reading, "MAX_BYTES", 100)
    np.testing.assert_array_equal(open_data(str(tmp_path)).pictures[:, 0], [*pages, single])
    assert open_data(str(tmp_path / "b.TIFF")).shape == (1, 7, 9)


def test_axes_that_repeat_a_letter_count_pictures():
    array = RNG.integers(0, 65536, (2, 3, 7, 9), np.uint16)
    stack = tiff.Stack(io.BytesIO(tiff_of(array, photometric="minisblack", metadata={"axes": "TTYX"})))
    assert stack.count == 6
    np.testing.assert_array_equal([stack.picture(i)[0] for i in range(6)], array.reshape(6, 7, 9))


def test_reduced_copies_among_the_pages_are_no_pictures_and_named(tmp_path):
    stream = io.BytesIO()
    with tifffile.TiffWriter(stream) as writer:
        writer.write(DEEP, photometric="minisblack")
        writer.write(DEEP[:2, :5].copy(), photometric="minisblack", subfiletype=1)
    stack = tiff.Stack(io.BytesIO(stream.getvalue()))
    assert (stack.count, stack.left_out) == (1, 1)
    (tmp_path / "a.tif").write_bytes(stream.getvalue())
    notes = open_data(str(tmp_path)).cached.notes
    assert "1 page of TIFF files left out: reduced copies or masks of other pages" in notes
    np.testing.assert_array_equal(stack.picture(0)[0], DEEP)


def test_many_pages_are_read_without_looking_for_series(monkeypatch):
    monkeypatch.setattr(tiff, "MANY", 3)
    arrays = [RNG.integers(0, 256, (7, 9 + i % 2), np.uint8) for i in range(5)]
    for options in ({}, {"shaped": False}):
        stack = tiff.Stack(io.BytesIO(one_by_one(arrays, **options)))
        assert "series" not in vars(stack.tif)
        assert stack.count == 5
        for i, array in enumerate(arrays):
            np.testing.assert_array_equal(stack.picture(i)[0], array)
    together = RNG.integers(0, 65536, (5, 7, 9), np.uint16)
    stack = tiff.Stack(io.BytesIO(tiff_of(together, photometric="minisblack")))
    np.testing.assert_array_equal([stack.picture(i)[0] for i in range(5)], together)


def test_signed_8_bits_keep_their_sign():
    array = RNG.integers(-128, 128, (7, 9), np.int8)
    picture = formats.open_picture(tiff_of(array, photometric="minisblack"))
    assert picture.dtype == "int8"
    np.testing.assert_array_equal(picture.values()[0], array)


def test_cmyk_of_16_bits_is_what_the_inks_leave_of_white():
    inks = RNG.integers(0, 65536, (7, 9, 4), np.uint16)
    picture = formats.open_picture(tiff_of(inks, photometric="separated"))
    left = (65535 - inks.astype(float)) / 65535
    wanted = np.rint(left[..., :3] * left[..., 3:] * 65535)
    assert (picture.channels, picture.dtype) == (3, "uint16")
    np.testing.assert_allclose(picture.values(), planes(wanted), atol=1)


def cmyk_profile() -> bytes:
    """ICC profile (ICC.1:2001, 6.5.8): paper has L* 100, black ink 0, the others, however mixed, are a gray of 50."""
    ramp = bytes(range(256))
    corners = [255, 0] + 7 * [128, 0]  # L* of the corners of CMYK; black goes fastest
    colours = b"".join(bytes([lightness, 128, 128]) for lightness in corners)
    identity = struct.pack(">9i", *(65536 * (i in (0, 4, 8)) for i in range(9)))
    table = b"mft1\0\0\0\0\4\3\2\0" + identity + 4 * ramp + colours + 3 * ramp
    kinds = b"\2\x40\0\0prtrCMYKLab "
    d50 = 0xF6D6, 0x10000, 0xD32D
    head = struct.pack(">I4x16s12x4s28x3i48x", 144 + len(table), kinds, b"acsp", *d50)
    return head + struct.pack(">I4sII", 1, b"A2B0", 144, len(table)) + table


@pytest.mark.parametrize("depth", ["uint8", "uint16"])
def test_cmyk_is_converted_by_its_profile(depth):
    full = np.iinfo(depth).max
    inks = np.zeros((7, 9, 4), depth)
    inks[3:, :, 0] = full  # cyan
    picture = formats.open_picture(tiff_of(inks, photometric="separated", iccprofile=cmyk_profile()))
    assert picture.kind.endswith("(converted to sRGB)")
    assert (picture.channels, picture.dtype) == (3, depth)
    wanted = np.ones((3, 7, 9))
    wanted[:, 3:] = 119 / 255  # of L* = 50 in sRGB
    np.testing.assert_allclose(picture.values() / full, wanted, atol=0.01)


@pytest.mark.parametrize("channels", [1, 3])
def test_jpeg_of_12_bits_keeps_them(channels):
    smooth = np.linspace(0, 4095, 32 * 40 * channels).reshape(32, 40, channels).astype(np.uint16)
    data = imagecodecs.jpeg_encode(smooth if channels == 3 else smooth[..., 0], bitspersample=12, level=100)
    picture = formats.open_picture(data)
    assert (picture.kind, picture.dtype) == (f"12-bit JPEG {'RGB' if channels == 3 else 'gray'}", "uint16")
    np.testing.assert_allclose(picture.values() / 65535, planes(smooth) / 4095, atol=4 / 4095)
    frame = data.index(b"\xff\xc1") + 4
    with pytest.raises(UnblotError, match="JPEG of 16 bits"):
        formats.open_picture(data[:frame] + b"\x10" + data[frame + 1 :])


def test_a_tiff_of_several_pages_under_another_suffix_is_named(tmp_path):
    for name in ("a.png", "b.png"):
        (tmp_path / name).write_bytes(tiff_of(RNG.integers(0, 256, (3, 7, 9), np.uint8), photometric="minisblack"))
    said = []
    assert len(open_data(str(tmp_path), report=said.append)) == 2
    assert any("only the first page is read of 2 files" in line and ".tif" in line for line in said)


def test_a_palette_of_16_bits_gives_its_colours():
    colormap = RNG.integers(0, 65536, (3, 65536), np.uint16)
    picture = formats.open_picture(tiff_of(DEEP, photometric="palette", colormap=colormap))
    assert (picture.channels, picture.dtype) == (3, "uint16")
    np.testing.assert_array_equal(picture.values(), colormap[:, DEEP])


@pytest.mark.parametrize("dtype", ["uint16", "float32"])
def test_premultiplied_opacity_is_divided_out(dtype):
    white = 65535 if dtype == "uint16" else 1.0
    array = np.full((2, 3, 4), white, dtype)
    array[0] = [white * 0.2, 0, white * 0.1, white * 0.4]
    array[1] = 0
    picture = formats.open_picture(tiff_of(array, photometric="rgb", extrasamples=["assocalpha"]))
    assert picture.alpha
    found = picture.values() / white
    np.testing.assert_allclose(found[:, 0], np.array([0.5, 0, 0.25, 0.4])[:, None].repeat(3, 1), atol=1e-4)
    assert not found[:, 1].any()


def test_8_bits_of_unknown_meaning_are_a_channel_and_no_opacity():
    picture = formats.open_picture(tiff_of(RGBA, photometric="rgb", extrasamples=["unspecified"]))
    assert (picture.channels, picture.alpha) == (4, False)
    np.testing.assert_array_equal(picture.values(), planes(RGBA))


@pytest.mark.parametrize("bits", [1, 2, 4])
@pytest.mark.parametrize("photometric", ["minisblack", "miniswhite"])
def test_few_bits_fill_8_on_every_page(bits, photometric):
    array = RNG.integers(0, 2**bits, (3, 8, 16), np.uint8)
    stored = array.astype(bool) if bits == 1 else array
    options = {"bitspersample": bits, "compression": None}
    try:
        data = tiff_of(stored, photometric=photometric, **options)
    except (ValueError, NotImplementedError):
        pytest.skip("tifffile does not write it")
    wanted = array * (255 // (2**bits - 1))
    stack = tiff.Stack(io.BytesIO(data))
    found = np.stack([stack.picture(i)[0] for i in range(3)])
    np.testing.assert_array_equal(found, wanted if photometric == "minisblack" else 255 - wanted)


@pytest.mark.parametrize("photometric", ["cielab", "icclab", "cfa", "logluv"])
def test_colours_that_are_not_read_are_refused_by_name(photometric):
    data = tiff_of(RNG.integers(0, 256, (7, 9, 3), np.uint8), photometric="rgb")
    kind = {"cielab": 8, "icclab": 9, "cfa": 32803, "logluv": 32845}[photometric]
    changed = data.replace(struct.pack("<HHIH", 262, 3, 1, 2), struct.pack("<HHIH", 262, 3, 1, kind))
    assert changed != data
    with pytest.raises(UnblotError, match=f"in {photometric.upper()} colours, which is not read; convert it to RGB"):
        formats.open_picture(changed).values()


@pytest.mark.parametrize("channels", [1, 3])
@pytest.mark.parametrize("largest", [65535, 1023])
def test_pnm_of_more_than_8_bits_keeps_them(channels, largest):
    array = RNG.integers(0, largest + 1, (7, 9, channels), np.uint16)
    header = f"\n# a comment\n9 7\n{largest}\n".encode()
    digits = " ".join(str(v) for v in array.ravel()).encode()
    binary, text = (b"P5", b"P2") if channels == 1 else (b"P6", b"P3")
    for data in (binary + header + array.astype(">u2").tobytes(), text + header + digits):
        picture = formats.open_picture(data)
        assert (picture.channels, picture.dtype) == (channels, "uint16")
        np.testing.assert_allclose(picture.values(), planes(array) * (65535 / largest), atol=0.51)


@pytest.mark.parametrize("channels", [1, 3, 4])
@pytest.mark.parametrize("bits", [12, 16])
def test_jpeg_2000_of_more_than_8_bits_keeps_them(channels, bits):
    array = RNG.integers(0, 2**bits, (17, 19, channels), np.uint16)
    stored = array[..., 0] if channels == 1 else array
    picture = formats.open_picture(imagecodecs.jpeg2k_encode(stored, level=0, reversible=True, bitspersample=bits))
    assert (picture.channels, picture.dtype, picture.alpha) == (channels, "uint16", channels == 4)
    np.testing.assert_allclose(picture.values(), array.transpose(2, 0, 1) * (65535 / (2**bits - 1)), atol=0.51)


@pytest.mark.parametrize("channels", [1, 3, 4])
def test_avif_of_10_bits_keeps_them(channels):
    array = RNG.integers(0, 1024, (16, 18, channels), np.uint16)
    stored = array[..., 0] if channels == 1 else array
    picture = formats.open_picture(imagecodecs.avif_encode(stored, bitspersample=10, level=100))
    assert (picture.channels, picture.dtype, picture.alpha) == (channels, "uint16", channels == 4)
    np.testing.assert_allclose(picture.values(), array.transpose(2, 0, 1) * (65535 / 1023), atol=0.51)


@pytest.mark.parametrize("bits", [8, 10])
def test_heic_is_read_with_its_depth(bits):
    heif = pytest.importorskip("pillow_heif")
    ramp = np.tile(np.linspace(0, 2**bits - 1, 64), (64, 1)).astype(np.uint16)
    array = np.stack([ramp, ramp.T, ramp], -1)
    stored = array.astype(np.uint8) if bits == 8 else array << 6
    stream = io.BytesIO()
    file = heif.from_bytes("RGB" if bits == 8 else "RGB;16", (64, 64), stored.tobytes())
    file.save(stream, quality=100, chroma=444)
    picture = formats.open_picture(stream.getvalue())
    assert (picture.channels, picture.dtype) == (3, "uint8" if bits == 8 else "uint16")
    white = 255 if bits == 8 else 65535
    np.testing.assert_allclose(picture.values() / white, planes(array) / (2**bits - 1), atol=0.02)


def test_heic_without_its_package_names_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "pillow_heif", None)
    with pytest.raises(UnblotError, match=r"unblot\[heic\]"):
        formats.open_picture(b"\0\0\0\x18ftypheic" + bytes(100))


def chunk(name: bytes, body: bytes) -> bytes:
    return struct.pack(">I", len(body)) + name + body + struct.pack(">I", zlib.crc32(name + body))


XMP = b'<x:xmpmeta><rdf:Description tiff:Orientation="6"/></x:xmpmeta>'
PALETTE = Image.fromarray(RGB).quantize(16)
TEXT_BOMB = zlib.compress(bytes(70_000_000))
BAD_CHUNKS = {
    "text bomb": chunk(b"zTXt", b"Comment\0\0" + TEXT_BOMB),
    "xmp bomb": chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + TEXT_BOMB),
    "long text": chunk(b"tEXt", b"Comment\0" + b"x" * 1_500_000),
    "exif": chunk(b"eXIf", RNG.bytes(99)),
    "profile": chunk(b"iCCP", b"x\0\0" + RNG.bytes(99)),
    "size": chunk(b"pHYs", b"\0"),
    "checksum": chunk(b"tEXt", b"Comment\0words")[:-1] + b"?",
    "name": chunk(b"\xf0\x80a/", b""),
    "no transparency": chunk(b"tEXt", b"Comment\0tRNS"),
}
SEGMENTS = {
    "exif": (0xE1, b"Exif\0\0" + RNG.bytes(300)),
    "empty exif": (0xE1, b"Exif\0\0"),
    "text orientation": (0xE1, b"Exif\0\0MM\0*\0\0\0\x08\0\1\1\x12\0\2\0\0\0\0026\0\0\0\0\0\0\0"),
    "profile": (0xE2, b"ICC_PROFILE\0"),
    "random profile": (0xE2, b"ICC_PROFILE\0\1\1" + RNG.bytes(300)),
    "more pictures": (0xE2, b"MPF\0" + RNG.bytes(100)),
    "photoshop": (0xED, b"Photoshop 3.0\x008BIM\x03\xed"),
    "adobe": (0xEE, b"Adobe"),
    "jfif": (0xE0, b"JFIF\0"),
    "comment": (0xFE, RNG.bytes(60000)),
}


@pytest.mark.parametrize("what", BAD_CHUNKS)
@pytest.mark.parametrize("picture", [RGB, DEEP, PALETTE], ids=["8-bit", "16-bit", "palette"])
def test_metadata_never_costs_a_png(what, picture, capfd):
    sound = encoded(picture, "PNG")
    found = formats.open_picture(sound[:33] + BAD_CHUNKS[what] + sound[33:])
    wanted = formats.open_picture(sound)
    assert found[:6] == wanted[:6]
    np.testing.assert_array_equal(found.values(), wanted.values())
    assert capfd.readouterr() == ("", "")


@pytest.mark.parametrize("what", SEGMENTS)
@pytest.mark.filterwarnings("error")
def test_metadata_never_costs_a_jpeg(what):
    sound = encoded(RGB, "JPEG")
    kind, body = SEGMENTS[what]
    found = formats.open_picture(sound[:2] + struct.pack(">BBH", 255, kind, len(body) + 2) + body + sound[2:])
    np.testing.assert_array_equal(found.values(), formats.open_picture(sound).values())


@pytest.mark.parametrize("kind", ["WEBP", "AVIF", "TIFF"])
@pytest.mark.parametrize("exif", [RNG.bytes(200), b"", SEGMENTS["text orientation"][1]])
def test_metadata_never_costs_a_picture_of_other_formats(kind, exif):
    if kind == "TIFF":
        data = tiff_of(RGB, photometric="rgb", extratags=[(ORIENTATION, 2, 1, exif[:20].hex(), True)])
    else:
        sound = Image.Exif()
        sound[270] = "x" * 200
        data = encoded(RGB, kind, exif=sound)
        place = data.index(b"x" * 200) - 26  # where the TIFF header of EXIF lies
        data = data[:place] + exif[6 * exif.startswith(b"Exif") :].ljust(200, b"?") + data[place + 200 :]
    assert formats.open_picture(data).values().shape == (3, 7, 9)


def test_orientation_in_xmp_is_applied_to_png_jpeg_and_webp():
    png = encoded(RGB, "PNG")
    files = [
        png[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\0\0\0\0" + XMP) + png[33:],
        png[:33] + chunk(b"iTXt", b"XML:com.adobe.xmp\0\1\0\0\0" + zlib.compress(XMP)) + png[33:],
        encoded(RGB, "JPEG", xmp=XMP),
        encoded(RGB, "WEBP", xmp=XMP, lossless=True),
    ]
    for data in files:
        picture = formats.open_picture(data)
        assert (picture.height, picture.width) == (9, 7)
        assert picture.values().shape == (3, 9, 7)
    np.testing.assert_array_equal(formats.open_picture(files[0]).values(), planes(np.rot90(RGB, -1)))


@pytest.mark.parametrize("kind", ["PNG", "WEBP", "TIFF", "deep PNG", "deep TIFF"])
def test_colours_are_converted_to_srgb_by_their_profile(kind):
    profile = icc_of("adobergb")
    array = (RGB.astype(np.uint16) * 257) if "deep" in kind else RGB
    if kind == "deep PNG":
        plain = imagecodecs.png_encode(array)
        data = plain[:33] + chunk(b"iCCP", b"x\0\0" + zlib.compress(profile)) + plain[33:]
    elif kind == "deep TIFF":
        data = tiff_of(array, photometric="rgb", iccprofile=profile)
    else:
        data = encoded(RGB, kind, icc_profile=profile, **({"lossless": True} if kind == "WEBP" else {}))
    picture = formats.open_picture(data)
    wanted = ImageCms.profileToProfile(
        Image.fromarray(RGB), ImageCms.ImageCmsProfile(io.BytesIO(profile)), ImageCms.createProfile("sRGB")
    )
    assert picture.kind.endswith("(converted to sRGB)")
    found = picture.values() / (257 if "deep" in kind else 1)
    error = np.abs(found - planes(np.asarray(wanted)))
    assert (error.mean(), error.max()) < (0.3, 10)  # of 8 bits; near black one unit before is many after


def test_an_srgb_profile_changes_nothing():
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    picture = formats.open_picture(encoded(RGB, "PNG", icc_profile=profile))
    assert picture.kind == "8-bit RGB"
    np.testing.assert_array_equal(picture.values(), planes(RGB))


@pytest.mark.parametrize("kind", ["png", "tiff", "ppm"])
def test_the_limit_counts_bytes_and_the_environment_raises_it(kind, monkeypatch):
    array = np.zeros((100, 100, 3), np.uint16)
    ppm = b"P6 100 100 65535\n" + array.tobytes()
    data = {"png": imagecodecs.png_encode(array), "tiff": tiff_of(array, photometric="rgb"), "ppm": ppm}[kind]
    monkeypatch.setenv("UNBLOT_MAX_BYTES", "99999")  # 60,000 of values and 40,000 of a channel in float32
    with pytest.raises(UnblotError, match="UNBLOT_MAX_BYTES=100000 to raise it"):
        formats.open_picture(data)
    monkeypatch.setenv("UNBLOT_MAX_BYTES", "100000")
    assert formats.open_picture(data).values().shape == (3, 100, 100)


def test_16_bits_that_unpack_to_gigabytes_are_refused_by_their_header():
    header = struct.pack(">IIBBBBB", 40000, 30000, 16, 6, 0, 0, 0)
    data = PNG_START + chunk(b"IHDR", header) + chunk(b"IDAT", zlib.compress(bytes(1_000_000))) + chunk(b"IEND", b"")
    with pytest.raises(UnblotError, match="40000x30000 pixels take 14400 MB"):
        formats.open_picture(data)
