"""The map of values and its exact inverse."""

import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from unblot.data import values
from unblot.data.values import ValueMap
from unblot.errors import UnblotError

WHOLE = ["bool", "uint8", "int8", "uint16", "int16", "uint32", "int32", "int64"]
FLOAT = ["float16", "float32", "float64"]


def pictures_of(dtype: str):
    kind = np.dtype(dtype)
    if kind.kind == "f":
        limit = 60000.0 if dtype == "float16" else 2.0**100
        elements = st.floats(-limit, limit, width=kind.itemsize * 8, allow_subnormal=False)
        elements = elements.filter(lambda v: v == 0 or abs(v) > 1e-200)  # smaller ones, divided, are subnormal
    elif dtype == "bool":
        elements = st.booleans()
    else:
        info = np.iinfo(kind)
        elements = st.integers(max(info.min, -(2**52)), min(info.max, 2**52))
    return arrays(kind, (5, 2, 3, 2), elements=elements)


@pytest.mark.parametrize("dtype", WHOLE)
@given(data=st.data())
@settings(max_examples=40, deadline=None)
def test_whole_numbers_come_back_as_they_were_and_lie_in_the_networks_range(dtype, data):
    stored = data.draw(pictures_of(dtype))
    fitted = values.fit(stored)
    x = fitted.encode(stored)
    assert np.abs(x).max() <= 1
    back = fitted.decode(x)
    assert back.dtype == stored.dtype
    np.testing.assert_array_equal(back, stored)


@pytest.mark.parametrize("dtype", FLOAT)
@given(data=st.data())
@settings(max_examples=60, deadline=None)
def test_floats_come_back_to_one_unit_in_the_last_place(dtype, data):
    stored = data.draw(pictures_of(dtype))
    fitted = values.fit(stored)
    back = fitted.decode(fitted.encode(stored))
    assert back.dtype == stored.dtype
    error = np.abs(back.astype(np.float64) - stored.astype(np.float64))
    assert (error <= np.abs(np.spacing(stored)).astype(np.float64)).all()


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_zeros_and_tiny_values_beside_large_ones_survive(dtype):
    stored = np.random.default_rng(0).uniform(-40, 312, (50, 3, 4, 4)).astype(dtype)
    stored[:, 0, 0] = 0
    stored[:, 1, 0] = 1e-12
    fitted = values.fit(stored)
    np.testing.assert_array_max_ulp(fitted.decode(fitted.encode(stored)), stored, maxulp=1)


def test_float_channels_have_mean_zero_and_a_deviation_of_about_a_half():
    rng = np.random.default_rng(1)
    scale, shift = np.array([1e-6, 1, 7e4])[:, None, None], np.array([3e-6, -5, 1e5])[:, None, None]
    x = (rng.standard_normal((400, 3, 5, 5)) * scale + shift).astype(np.float32)
    encoded = values.fit(x).encode(x)
    assert np.abs(encoded.mean(axis=(0, 2, 3))).max() < 1e-3
    deviation = encoded.std(axis=(0, 2, 3))
    assert (deviation > 0.42).all()
    assert (deviation < 0.59).all()


def test_eight_bits_map_their_full_range_and_sixteen_bits_the_datas():
    assert values.fit(np.full((1, 1, 2, 2), 7, np.uint8)) == ValueMap("uint8", (127.5,), (127.5,))
    twelve = np.array([100, 4095], np.uint16).reshape(2, 1, 1, 1)
    np.testing.assert_array_equal(values.fit(twelve).encode(twelve).ravel(), [-1, 1])


def test_only_bounded_types_are_clipped():
    eight = ValueMap("uint8", (127.5,), (127.5,))
    np.testing.assert_array_equal(eight.decode(np.array([[[-3.0]], [[3.0]]])[:, None]).ravel(), [0, 255])
    floats = ValueMap("float32", (10.0,), (2.0,))
    np.testing.assert_array_equal(floats.decode(np.array([[[-3.0]], [[30.0]]])[:, None]).ravel(), [4, 70])


@pytest.mark.parametrize("dtype", ["uint8", "int16", "float32", "float64"])
def test_a_map_survives_json(dtype):
    stored = (np.random.default_rng(2).random((7, 2, 3, 3)) * 100).astype(dtype)
    fitted = values.fit(stored)
    plain = json.loads(json.dumps(fitted.to_dict()))
    assert ValueMap.from_dict(plain) == fitted
    del plain["alpha"]  # as the check of a stored header allows
    assert ValueMap.from_dict(plain) == fitted


@pytest.mark.filterwarnings("error")
def test_float16_of_any_size_is_fitted_and_encoded_as_its_own_values():
    limits = np.finfo(np.float16)
    for numbers in ([limits.max, -limits.max], [limits.max, limits.max], [limits.smallest_subnormal, 0], [6e4, 1e-4]):
        stored = np.array(numbers * 50, np.float16).reshape(-1, 1, 1, 2)
        fitted = values.fit(stored)
        assert np.isfinite([*fitted.offset, *fitted.scale]).all()
        for dtype in (np.float32, np.float64):
            x = fitted.encode(stored, dtype)
            assert x.dtype == dtype
            assert np.isfinite(x).all()
        wide = stored.astype(np.float64)
        np.testing.assert_allclose(fitted.encode(stored), (wide - fitted.offset[0]) / fitted.scale[0])
        np.testing.assert_array_equal(fitted.decode(fitted.encode(stored)), stored)


def test_what_cannot_be_mapped_is_refused():
    with pytest.raises(UnblotError, match="complex64"):
        values.fit(np.zeros((1, 1, 2, 2), np.complex64))
    with pytest.raises(UnblotError, match="not finite"):
        values.fit(np.full((1, 1, 2, 2), np.nan, np.float32))
    with pytest.raises(UnblotError, match="2\\*\\*53"):
        values.fit(np.full((1, 1, 2, 2), 2**60, np.int64))
    with pytest.raises(UnblotError, match="3 channels"):
        ValueMap("uint8", (127.5,) * 3, (127.5,) * 3).encode(np.zeros((4, 1, 2, 2), np.uint8))
    with pytest.raises(UnblotError, match="diverged"):
        ValueMap("uint8", (127.5,), (127.5,)).decode(np.full((1, 1, 1), np.nan))


@pytest.mark.parametrize(
    ("dtype", "low", "high"), [("uint32", 4_000_000_000, 4_000_000_047), ("int32", -(2**30), -(2**30) + 47)]
)
def test_whole_numbers_far_from_0_are_as_many_for_the_network(dtype, low, high):
    stored = np.linspace(low, high, 48).astype(dtype).reshape(12, 1, 2, 2)
    fitted = values.fit(stored)
    x = fitted.encode(stored, np.float32)
    assert x.dtype == np.float32
    np.testing.assert_array_equal(x, fitted.encode(stored).astype(np.float32))
    np.testing.assert_allclose(np.diff(x.ravel()), 2 / 47, rtol=1e-4)


def test_float64_in_a_narrow_range_far_from_0_has_mean_zero_and_a_deviation_of_about_a_half():
    stored = 1e8 + 0.01 * np.random.default_rng(3).standard_normal((300, 2, 3, 3))
    fitted = values.fit(stored)
    x = fitted.encode(stored, np.float32)
    assert x.dtype == np.float32
    assert np.abs(x.mean(axis=(0, 2, 3))).max() < 0.01
    assert 0.42 < x.std() < 0.59
    np.testing.assert_array_max_ulp(fitted.decode(fitted.encode(stored)), stored, maxulp=1)


@pytest.mark.parametrize("dtype", ["bool", "uint8", "int8", "uint16", "int16", "float16", "float32"])
def test_what_float32_can_hold_is_computed_in_float32(dtype):
    stored = np.random.default_rng(4).uniform(0, 100, (20, 2, 3, 3)).astype(dtype)
    fitted = values.fit(stored)
    offset, scale = (np.array(v, np.float32).reshape(-1, 1, 1) for v in (fitted.offset, fitted.scale))
    np.testing.assert_array_equal(fitted.encode(stored, np.float32), (stored.astype(np.float32) - offset) / scale)
