"""Copies in a data set: exact, near (recompressed, rescaled) and mirrored."""

from collections.abc import Iterable, Sequence
from typing import NamedTuple

import numpy as np

from unblot.data.subset import spread
from unblot.data.values import ValueMap

SIDE = 8  # pixels of the thumbnails that are compared: compression and scaling leave no trace in so small ones
FARTHEST = 0.018  # cosine distance: nearly all copies shrunk to a half and enlarged again are nearer
NEAREST = 0.001  # nearly all copies recompressed at quality 60 are nearer
SHARE = 0.06  # of the usual distance to the eighth neighbour, between these two: digits are similar, photographs not
NEIGHBOUR = 8
COLOUR = 0.12  # greatest root mean square difference of colours, in the network's range
FLAT = 0.01  # standard deviation in the network's range below which a picture counts as constant
AT_MOST = 100_000  # pictures of which all pairs are compared
FAMILIES = 20_000  # pictures up to which near copies are kept on one side of the held-out split
VALUES = 4_000_000  # pixel values in memory at a time
BLOCK = 1024  # rows of the distance matrix in memory at a time


class Thumbnails(NamedTuple):
    """Descriptors by which near copies are found, a perceptual hash with real values.

    shape: (N, SIDE²) float32, gray thumbnails minus their mean, of length 1 (0 for constant pictures). colour:
    (N, C, SIDE, SIDE) float32 in the network's range. deviation: (N,) float32, standard deviation of the picture.
    """

    shape: np.ndarray
    colour: np.ndarray
    deviation: np.ndarray


def thumbnails(pictures: np.ndarray, values: ValueMap, indices: np.ndarray) -> Thumbnails:
    """Thumbnails of the pictures (N, C, H, W) at these indices."""
    _, channels, height, width = pictures.shape
    colour = np.empty((len(indices), channels, SIDE, SIDE), np.float32)
    deviation = np.empty(len(indices), np.float32)
    step = max(1, VALUES // (channels * height * width))
    for start in range(0, len(indices), step):
        x = values.encode(np.asarray(pictures[indices[start : start + step]]), np.float32)
        colour[start : start + step] = _means(height) @ x @ _means(width).T
        spread = x - x.mean(axis=(2, 3), keepdims=True)
        deviation[start : start + step] = np.sqrt(np.square(spread).mean(axis=(1, 2, 3)))
    gray = colour[:, : channels - values.alpha or 1].mean(axis=1).reshape(len(indices), -1)
    gray = gray - gray.mean(axis=1, keepdims=True)
    length = np.linalg.norm(gray, axis=1, keepdims=True)
    flat = (deviation < FLAT)[:, None] | (length < 1e-6)
    return Thumbnails(np.where(flat, 0, gray / np.maximum(length, 1e-6)), colour, deviation)


def _means(length: int) -> np.ndarray:
    """The matrix (SIDE, length) that averages SIDE equal parts of a row."""
    edges = np.linspace(0, length, SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0) * SIDE / length).astype(np.float32)


def families(pictures: np.ndarray, values: ValueMap, digests: np.ndarray) -> np.ndarray:
    """The family of each picture (N,) int64: the smallest digest among its exact copies and, in sets of at most
    FAMILIES pictures, its near copies."""
    firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)[1:]
    shared = digests[firsts].copy()
    if len(firsts) <= FAMILIES and pictures.shape[2:] != (1, 1):
        for group in near_copies(thumbnails(pictures, values, firsts)):
            shared[group] = shared[group].min()
    return shared[inverse.reshape(-1)]


def exact_copies(digests: np.ndarray) -> list[list[int]]:
    """Groups of indices of pictures with equal digests (N,), each ascending."""
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(digests[order]) != 0])
    return sorted(group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1)


def near_copies(found: Thumbnails, flipped: bool = False) -> list[list[int]]:
    """Groups of rows of thumbnails that are near copies of each other; if flipped, of each other's mirror images.

    Two pictures are near copies if the cosine distance of their shapes is a small share of the usual one in this set,
    and their colours agree. The relation is made transitive: a copy of a copy is in the group.
    """
    usual = _usual_distance(found.shape)
    limit = float(np.clip(SHARE * usual, NEAREST, FARTHEST))
    mirrors: Sequence[tuple[int, ...]] = ((-1,), (-2,)) if flipped else ((),)
    pairs = [pair for axes in mirrors for pair in _pairs(found, axes, limit)]
    return groups(len(found.shape), pairs)


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The connected components of more than one member of the graph on 0…count−1 with these edges."""
    parent = list(range(count))

    def root(i: int) -> int:
        while parent[i] != i:
            parent[i] = i = parent[parent[i]]
        return i

    for a, b in pairs:
        parent[max(root(a), root(b))] = min(root(a), root(b))
    members: dict[int, list[int]] = {}
    for i in range(count):
        members.setdefault(root(i), []).append(i)
    return [group for group in members.values() if len(group) > 1]


def _usual_distance(shape: np.ndarray, sample: int = 512) -> float:
    """The median distance to the eighth nearest other picture, which a few copies do not change."""
    if len(shape) < 2 + NEIGHBOUR:
        return 1.0
    similar = spread(shape, sample) @ shape.T
    return 1 - float(np.median(np.partition(similar, -1 - NEIGHBOUR, axis=1)[:, -1 - NEIGHBOUR]))


def _pairs(found: Thumbnails, axes: tuple[int, ...], limit: float) -> Iterable[tuple[int, int]]:
    """Pairs (i < j) of rows of similar colours whose shapes, the second mirrored on `axes`, are nearer than `limit`."""
    n = len(found.shape)
    mirrored = np.flip(found.shape.reshape(n, SIDE, SIDE), axes).reshape(n, -1) if axes else found.shape
    colour = np.flip(found.colour, axes) if axes else found.colour
    for start in range(0, n, BLOCK):
        near = found.shape[start : start + BLOCK] @ mirrored[start:].T > 1 - limit
        for a, b in np.argwhere(np.triu(near, 1)) + start:
            if np.sqrt(np.square(found.colour[a] - colour[b]).mean()) < COLOUR:
                yield int(a), int(b)
