"""Data that comes with the package: real digits, and points in the plane whose density is known."""

import numpy as np

SEED = 20240229


def digits() -> tuple[np.ndarray, np.ndarray]:
    """1,797 real handwritten digits (N, 1, 8, 8) uint8 and their labels; scikit-learn's copy of the UCI set."""
    from sklearn.datasets import load_digits

    images, labels = load_digits(return_X_y=True)
    pictures = np.rint(images * (255 / 16)).astype(np.uint8)
    return pictures.reshape(-1, 1, 8, 8), labels.astype(np.int64)


def moons(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2, 1, 1) float32 on two interleaved half circles of radius 1, and which half circle."""
    generator, which = _draw(count, 2)
    angle = generator.uniform(0, np.pi, count)
    x = np.where(which == 0, np.cos(angle), 1 - np.cos(angle)) - 0.5
    y = np.where(which == 0, np.sin(angle), 0.5 - np.sin(angle)) - 0.25
    return _points(x, y, generator, noise), which


def rings(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2, 1, 1) float32 on two circles of radius 1 and ½ round the origin, and which circle."""
    generator, which = _draw(count, 2)
    angle = generator.uniform(0, 2 * np.pi, count)
    radius = np.where(which == 0, 1.0, 0.5)
    return _points(radius * np.cos(angle), radius * np.sin(angle), generator, noise), which


def gaussians(count: int, noise: float) -> tuple[np.ndarray, np.ndarray]:
    """Points (count, 2, 1, 1) float32 from 25 equal Gaussians on the grid {−2, −1, 0, 1, 2}², and which one."""
    generator, which = _draw(count, 25)
    return _points(which % 5 - 2.0, which // 5 - 2.0, generator, noise), which


def _draw(count: int, groups: int) -> tuple[np.random.Generator, np.ndarray]:
    """A generator from the fixed seed and a group for each point."""
    generator = np.random.default_rng(SEED)
    return generator, generator.integers(groups, size=count, dtype=np.int64)


def _points(x: np.ndarray, y: np.ndarray, generator: np.random.Generator, noise: float) -> np.ndarray:
    """The points with Gaussian noise of that standard deviation added, as pictures of two channels and one pixel."""
    points = np.stack([x, y], axis=1)
    points = points + noise * generator.standard_normal(points.shape)
    return points.astype(np.float32).reshape(-1, 2, 1, 1)
