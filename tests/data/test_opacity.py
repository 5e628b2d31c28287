"""Invisible colours: what a file holds behind full transparency reaches no network."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from unblot.data.dataset import open_data
from unblot.data.opacity import continued, filled


def picture(seed: int, height: int, width: int, dtype: str = "uint8") -> np.ndarray:
    """Random colours, of which about half are visible."""
    rng = np.random.default_rng(seed)
    made = rng.integers(0, np.iinfo(dtype).max, (4, height, width), endpoint=True)
    return np.where(np.arange(4)[:, None, None] < 3, made, made * (rng.random((height, width)) < 0.5)).astype(dtype)


def otherwise_hidden(x: np.ndarray) -> np.ndarray:
    """The same to look at, with other colours where nobody sees them."""
    return np.where((x[3] == 0) & (np.arange(4)[:, None, None] < 3), ~x, x)


@given(st.integers(0, 10**6), st.integers(1, 13), st.integers(1, 13), st.sampled_from(["uint8", "uint16"]))
def test_what_is_seen_stays_and_decides_the_rest(seed, height, width, dtype):
    x = picture(seed, height, width, dtype)
    filled, seen = continued(x), x[3] > 0
    assert filled.dtype == x.dtype
    np.testing.assert_array_equal(filled[:, seen], x[:, seen])
    np.testing.assert_array_equal(filled[3], x[3])
    np.testing.assert_array_equal(filled, continued(otherwise_hidden(x)))
    if seen.any():
        least, most = x[:3, seen].min(axis=1), x[:3, seen].max(axis=1)
        assert (filled[:3] >= least[:, None, None]).all()
        assert (filled[:3] <= most[:, None, None]).all()
    else:
        assert not filled.any()


@given(st.integers(0, 10**6), st.integers(1, 9), st.integers(1, 9), st.sampled_from([np.nan, np.inf, -1e30]))
def test_what_is_hidden_changes_nothing_whatever_it_is(seed, height, width, hidden):
    rng = np.random.default_rng(seed)
    x, known = rng.normal(size=(2, height, width)).astype(np.float32), rng.random((height, width)) < 0.3
    y = filled(np.where(known, x, np.float32(hidden)), known.astype(np.float32))
    np.testing.assert_array_equal(y, filled(x, known.astype(np.float32)))
    np.testing.assert_array_equal(y[:, known], x[:, known])
    assert known.any() or not y.any()


def test_one_colour_goes_on_everywhere():
    x = np.zeros((4, 9, 14), np.uint8)
    x[:, 2:4, 5:7] = np.array([200, 10, 90, 255])[:, None, None]
    np.testing.assert_array_equal(continued(x)[:3], np.broadcast_to(x[:3, 2:3, 5:6], (3, 9, 14)))


@pytest.mark.parametrize("kind", ["files", "array"])
def test_pictures_that_look_alike_are_learned_alike(kind, tmp_path):
    pictures = np.stack([picture(seed, 8, 8) for seed in range(6)])
    found = []
    for name, given_ in (("a", pictures), ("b", np.stack([otherwise_hidden(x) for x in pictures]))):
        place = tmp_path / name
        place.mkdir()
        if kind == "files":
            for i, x in enumerate(given_):
                Image.fromarray(x.transpose(1, 2, 0)).save(place / f"{i}.png")
        else:
            place = place / "all.npy"
            np.save(place, given_.transpose(0, 2, 3, 1))
        found.append(np.asarray(open_data(str(place), colour="rgba").pictures[:]))
    np.testing.assert_array_equal(*found)
    assert (found[0] != pictures).any()
