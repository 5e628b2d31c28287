"""Bringing pictures to one size, one number of channels and one type."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from unblot.data.image_spec import (
    FITS,
    Colourful,
    ImageOptions,
    ImageSpec,
    choose_spec,
    conform,
    parse_size,
    propose_size,
    resize,
)
from unblot.data.readers.formats import Picture
from unblot.errors import UnblotError

RNG = np.random.default_rng(11)
NOTHING = np.zeros(4)


def of(channels, dtype="uint8", alpha=False, size=(20, 20)):
    return Picture(channels, *size, dtype, alpha, "", None)


def spec(channels, height=4, width=4, dtype="uint8", alpha=False, fit="crop", ground=(0.0, 0.0, 0.0), fixed=False):
    return ImageSpec(channels, height, width, dtype, alpha, fit, ground, fixed)


sides = st.integers(1, 40)


@given(h=sides, w=sides, height=sides, width=sides, fit=st.sampled_from(FITS), seed=st.integers(0, 99))
@settings(max_examples=120, deadline=None)
def test_resizing_gives_the_size_stays_in_range_and_does_not_care_for_left_or_right(h, w, height, width, fit, seed):
    picture = np.random.default_rng(seed).uniform(-40, 312, (2, h, w)).astype(np.float32)
    out = resize(picture, height, width, fit, False, np.full(2, 100.0))
    assert out.shape == (2, height, width)
    assert out.min() >= min(picture.min(), 100) - 1e-3
    assert out.max() <= max(picture.max(), 100) + 1e-3
    if fit != "pad":  # an odd margin is wider on one side
        mirrored = resize(picture[:, ::-1, ::-1], height, width, fit, False, np.full(2, 100.0))
        np.testing.assert_allclose(mirrored[:, ::-1, ::-1], out, atol=0.02)


def test_the_right_size_is_left_alone():
    picture = RNG.integers(0, 256, (3, 5, 7), np.uint8)
    assert resize(picture, 5, 7, "crop", False, NOTHING) is picture


def test_shrinking_averages_instead_of_picking():
    checks = np.indices((64, 64)).sum(axis=0) % 2 * 255
    out = resize(checks[None].astype(np.uint8), 8, 8, "stretch", False, NOTHING)
    assert np.abs(out - 127.5).max() < 1


def test_crop_keeps_the_middle_pad_keeps_all_stretch_bends():
    picture = np.zeros((1, 8, 24), np.float32)
    picture[:, :, 8:16] = 1
    np.testing.assert_allclose(resize(picture, 8, 8, "crop", False, NOTHING), 1)
    padded = resize(picture, 24, 24, "pad", False, np.array([5.0]))[0]
    np.testing.assert_array_equal(padded[:8], 5)
    np.testing.assert_array_equal(padded[8:16], picture[0])
    assert resize(picture, 8, 8, "stretch", False, NOTHING)[0, 4].argmax() in (3, 4)


def test_the_colour_of_what_cannot_be_seen_does_not_bleed():
    picture = np.zeros((4, 8, 8), np.uint8)
    picture[0, :, :4] = 255  # red, but wholly transparent
    picture[2, :, 4:] = 255  # blue and opaque
    picture[3, :, 4:] = 255
    out = resize(picture, 3, 3, "stretch", True, NOTHING)
    assert out[0].max() < 1e-3
    seen = out[3] > 1
    np.testing.assert_allclose(out[2][seen], 255, rtol=1e-4)


@pytest.mark.parametrize(
    ("size", "wanted"), [(64, (64, 64)), ("64", (64, 64)), ("48x64", (48, 64)), ("48×64", (48, 64)), ((1, 9), (1, 9))]
)
def test_sizes_are_height_by_width(size, wanted):
    assert parse_size(size) == wanted


@pytest.mark.parametrize("size", ["", "big", "0", "12x", "1x2x3", "-4", (3, 4, 5), 0])
def test_what_is_no_size_is_refused(size):
    with pytest.raises(UnblotError, match="height x width"):
        parse_size(size)


def test_proposed_sizes():
    assert propose_size([(28, 28)] * 9) == (28, 28)
    assert propose_size([(1, 77)] * 9) == (1, 77)
    assert propose_size([(1024, 1024)] * 9) == (64, 64)
    assert propose_size([(480, 640)] * 9) == (64, 88)
    assert propose_size([(640, 480)] * 9 + [(480, 640)] * 5) == (64, 64)
    assert propose_size([(33, 50), (40, 41), (50, 33), (34, 34)]) == (32, 32)
    assert propose_size([(5, 9), (9, 5)]) == (5, 5)


def test_the_form_follows_most_pictures_and_colour_wins_over_gray():
    options = ImageOptions(size=(4, 4))
    assert choose_spec([of(1)] * 9 + [of(3)], options).channels == 3
    assert choose_spec([of(1)] * 9, options).channels == 1
    assert choose_spec([of(4, alpha=True)] * 5 + [of(3)] * 5, options)[:5] == (4, 4, 4, "uint8", True)
    assert choose_spec([of(4, alpha=True)] * 4 + [of(3)] * 5, options).channels == 3
    assert choose_spec([of(4, alpha=True)], ImageOptions(size=(4, 4), background="white")).channels == 3
    assert choose_spec([of(5, "float32")] * 2 + [of(3)], options)[:4] == (5, 4, 4, "float32")
    assert choose_spec([of(3)], ImageOptions(size=(4, 4), colour="gray")).channels == 1
    assert choose_spec([of(1, "uint16")] * 2 + [of(1)], options).dtype == "uint16"
    assert choose_spec([of(2, alpha=True)], options)[:5] == (2, 4, 4, "uint8", True)


@pytest.mark.parametrize("options", [{"fit": "squash"}, {"colour": "sepia"}, {"background": "whitish"}])
def test_wishes_that_mean_nothing_are_refused(options):
    with pytest.raises(UnblotError, match="unknown"):
        ImageOptions(**options)


def test_whole_numbers_change_depth_at_full_scale_and_back():
    eight = np.arange(256, dtype=np.uint8).reshape(1, 16, 16)
    deep = conform(eight, False, spec(1, 16, 16, "uint16"))
    assert (deep.min(), deep.max()) == (0, 65535)
    np.testing.assert_array_equal(conform(deep, False, spec(1, 16, 16)), eight)


def test_gray_becomes_colour_but_colour_becomes_gray_only_when_asked():
    gray = RNG.integers(0, 256, (1, 4, 4), np.uint8)
    coloured = conform(gray, False, spec(3))
    np.testing.assert_array_equal(coloured, np.repeat(gray, 3, axis=0))
    np.testing.assert_array_equal(conform(coloured, False, spec(1)), gray)
    red = np.zeros((3, 4, 4), np.uint8)
    red[0] = 255
    with pytest.raises(Colourful):
        conform(red, False, spec(1))
    np.testing.assert_array_equal(conform(red, False, spec(1, fixed=True)), 76)


def test_opacity_is_kept_added_or_laid_over_the_ground():
    half = np.full((4, 4, 4), 128, np.uint8)
    half[:3] = 200
    np.testing.assert_array_equal(conform(half, True, spec(4, alpha=True)), half)
    white = conform(half, True, spec(3, ground=(1.0, 1.0, 1.0)))
    np.testing.assert_array_equal(white, round(200 * 128 / 255 + 255 * 127 / 255))
    opaque = conform(half[:3], False, spec(4, alpha=True))
    np.testing.assert_array_equal(opaque[3], 255)


def test_padding_is_transparent_where_there_is_opacity():
    solid = np.full((4, 2, 4), 255, np.uint8)
    out = conform(solid, True, spec(4, alpha=True, fit="pad"))
    np.testing.assert_array_equal(out[3, :, 0], [0, 255, 255, 0])


@pytest.mark.parametrize(
    ("picture", "why"),
    [
        (np.zeros((2, 4, 4), np.uint8), "2 channels"),
        (np.zeros((3, 4, 4), np.float32), "float32"),
        (np.zeros((3, 4, 4), np.int32), "int32"),
    ],
)
def test_what_cannot_become_the_form_says_why(picture, why):
    with pytest.raises(UnblotError, match=why):
        conform(picture, False, spec(3))


@pytest.mark.parametrize("size", [4, 9])
def test_values_that_are_not_finite_are_refused_at_any_size(size):
    picture = np.zeros((1, size, size), np.float32)
    picture[0, 0, 0] = np.inf
    with pytest.raises(UnblotError, match="finite"):
        conform(picture, False, spec(1, dtype="float32", fit="stretch"))
