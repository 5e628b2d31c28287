"""One picture file: every format and mode gives its own values, the right way up; nothing broken gets through."""

import io

import imagecodecs
import numpy as np
import pytest
from PIL import Image, ImageOps

from data_files import BROKEN, encoded, tiff_of
from unblot.data.readers import formats, tiff
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
        assert tiff.count(data) == 4
        stack = tiff.Stack(io.BytesIO(data))
        np.testing.assert_array_equal(np.stack([stack.picture(i) for i in range(4)])[:, 0], array)
        np.testing.assert_array_equal(formats.open_picture(data, pages="channels").values(), array)
    coloured = RNG.integers(0, 256, (4, 7, 9, 3), np.uint8)
    stack = tiff.Stack(io.BytesIO(tiff_of(coloured, photometric="rgb")))
    assert (stack.count, stack.shape) == (4, (3, 7, 9))
    np.testing.assert_array_equal(stack.picture(2), planes(coloured[2]))


def test_a_microscopes_stack_tells_channels_from_slices():
    array = RNG.integers(0, 65536, (5, 2, 7, 9), np.uint16)
    stack = tiff.Stack(io.BytesIO(tiff_of(array, imagej=True, metadata={"axes": "ZCYX"})))
    assert (stack.count, stack.shape) == (5, (2, 7, 9))
    np.testing.assert_array_equal(np.stack([stack.picture(i) for i in range(5)]), array)


def test_white_is_zero_is_turned_round():
    picture = formats.open_picture(tiff_of(DEEP, photometric="miniswhite"))
    np.testing.assert_array_equal(picture.values()[0], 65535 - DEEP)


@pytest.mark.parametrize("kind", ["JPEG", "PNG", "WEBP", "TIFF"])
@pytest.mark.parametrize("orientation", range(1, 9))
def test_exif_orientation_is_applied(kind, orientation):
    exif = Image.Exif()
    exif[formats.ORIENTATION] = orientation
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
