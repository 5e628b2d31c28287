"""Batches: the network's range and the labels, from the map or from the device."""

import numpy as np
import pytest
import torch
from sklearn.datasets import load_digits

from unblot.data.dataset import open_data
from unblot.errors import UnblotError


@pytest.mark.parametrize("spec", ["digits", "gaussians:count=500,labels=true", "moons:count=300"])
def test_a_batch_is_the_encoded_pictures_and_their_labels(spec):
    data = open_data(spec)
    indices = data.train[[5, 3, 3, 60]]
    for chosen in (indices, torch.from_numpy(indices)):
        x, y = data.batch(chosen)
        assert (x.dtype, tuple(x.shape)) == (torch.float32, (4, *data.shape))
        np.testing.assert_allclose(x.numpy(), data.values.encode(data.pictures[indices]), atol=1e-6)
        if data.labels is None:
            assert y is None
        else:
            assert y.dtype == torch.int64
            np.testing.assert_array_equal(y.numpy(), data.labels[indices])


def test_data_are_the_same_wherever_and_whenever_they_are_opened():
    assert open_data("rings").fingerprint == open_data("rings").fingerprint
    assert len({open_data(s).fingerprint for s in ("rings", "moons", "digits", "rings:count=99")}) == 4


def test_the_digits_are_those_of_scikit_learn():
    data, theirs = open_data("digits"), load_digits()
    assert (len(data), data.shape, data.pictures.dtype) == (1797, (1, 8, 8), np.uint8)
    assert data.classes == tuple("0123456789")
    assert (data.pictures.min(), data.pictures.max()) == (0, 255)
    np.testing.assert_allclose(data.pictures[:, 0] / 255, theirs.images / 16, atol=0.5 / 255 + 1e-9)
    np.testing.assert_array_equal(data.labels, theirs.target)


def test_points_lie_where_they_should():
    moons, rings, grid = (open_data(f"{s}:noise=0").pictures[:, :, 0, 0] for s in ("moons", "rings", "gaussians"))
    radius = np.hypot(*rings.T)
    assert np.abs(radius[:, None] - [1, 0.5]).min(axis=1).max() < 1e-6
    assert {tuple(p) for p in np.rint(grid).astype(int)} == {(x, y) for x in range(-2, 3) for y in range(-2, 3)}
    upper = np.hypot(moons[:, 0] + 0.5, moons[:, 1] + 0.25)
    lower = np.hypot(moons[:, 0] - 0.5, moons[:, 1] - 0.25)
    assert np.minimum(np.abs(upper - 1), np.abs(lower - 1)).max() < 1e-6


def test_unknown_ways_are_refused():
    with pytest.raises(UnblotError, match="stop or skip"):
        open_data("digits", on_broken="ignore")
    with pytest.raises(UnblotError, match="no option 'pages'"):
        open_data("digits", pages="channels")
