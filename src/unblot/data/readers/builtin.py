"""Built-in data: real handwritten digits, and points in the plane of known density."""

from collections.abc import Callable

import numpy as np

from unblot.data.readers.listing import ArrayPictures, DataSource, Listing
from unblot.errors import UnblotError
from unblot.system.files import packaged

SEED = 20240229


def digits(_: str) -> DataSource:
    """1,797 real handwritten digits (N, 1, 8, 8) uint8, labelled; scikit-learn's copy of the UCI set."""

    def load() -> Listing:
        path = packaged("sklearn", "datasets/data/digits.csv.gz")  # to import scikit-learn takes a second
        assert path is not None, "scikit-learn, which unblot requires, is without its digits"
        table = np.loadtxt(path, delimiter=",")  # 64 values from 0 to 16, and the label
        pictures = np.rint(table[:, :64] * (255 / 16)).astype(np.uint8)
        return _listing(pictures.reshape(-1, 1, 8, 8), table[:, 64].astype(np.int64), True)

    return DataSource("digits", ["digits", 1], lambda scratch: load())


def moons(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> DataSource:
    """Points (count, 2, 1, 1) float32 on two interleaved half circles of radius 1; labels: the half circle."""
    return _points("moons", _moons, 2, count, noise, labels)


def rings(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> DataSource:
    """Points (count, 2, 1, 1) float32 on two circles of radius 1 and ½ round the origin; labels: the circle."""
    return _points("rings", _rings, 2, count, noise, labels)


def gaussians(_: str, *, count: int = 10000, noise: float = 0.05, labels: bool = False) -> DataSource:
    """Points (count, 2, 1, 1) float32 from 25 equal Gaussians on the grid {−2, −1, 0, 1, 2}²; labels: the Gaussian."""
    return _points("gaussians", _gaussians, 25, count, noise, labels)


def _moons(which: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    angle = generator.uniform(0, np.pi, len(which))
    upper = np.stack([np.cos(angle) - 0.5, np.sin(angle) - 0.25], 1)
    return np.where(which[:, None] == 0, upper, -upper)


def _rings(which: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    angle = generator.uniform(0, 2 * np.pi, len(which))
    return np.stack([np.cos(angle), np.sin(angle)], 1) * np.where(which == 0, 1.0, 0.5)[:, None]


def _gaussians(which: np.ndarray, generator: np.random.Generator) -> np.ndarray:
    return np.stack([which % 5 - 2.0, which // 5 - 2.0], 1)


def _points(
    name: str, centres: Callable[..., np.ndarray], groups: int, count: int, noise: float, labelled: bool
) -> DataSource:
    """`count` points round centres (count, 2) with Gaussian noise of standard deviation `noise`, from a fixed seed."""
    if count < 1 or noise < 0:
        raise UnblotError(f"{name}:count={count},noise={noise}: count must be at least 1, noise at least 0")

    def load() -> Listing:
        generator = np.random.default_rng(SEED)
        which = generator.integers(groups, size=count, dtype=np.int64)
        points = centres(which, generator)
        points = points + noise * generator.standard_normal(points.shape)
        return _listing(points.astype(np.float32).reshape(-1, 2, 1, 1), which, labelled)

    return DataSource(name, [name, 1], lambda scratch: load())


def _listing(pictures: np.ndarray, labels: np.ndarray, labelled: bool) -> Listing:
    """The listing of an array (N, C, H, W) in memory, with its labels (N,) if asked."""
    n, c, h, w = pictures.shape
    array = ArrayPictures((n, c, h, w), pictures.dtype, lambda start, stop: pictures[start:stop])
    if not labelled:
        return Listing(array=array)
    return Listing(array=array, labels=labels, classes=tuple(str(i) for i in range(int(labels.max()) + 1)))
