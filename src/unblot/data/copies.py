"""Copies in a data set: exact, near (recompressed, rescaled) and mirrored."""

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

from unblot.data.subset import spread
from unblot.data.values import ValueMap, in_parts

SIDE = 8  # pixels of the thumbnails that are compared: compression and scaling leave no trace in so small ones
FARTHEST = 0.018  # cosine distance: nearly all copies shrunk to a half and enlarged again are nearer
NEAREST = 0.001  # nearly all copies recompressed at quality 60 are nearer
SHARE = 0.06  # of the usual distance to the eighth neighbour, between these two: digits are similar, photographs not
NEIGHBOUR = 8
COLOUR = 0.12  # greatest root mean square difference of colours, in the network's range
FLAT = 0.01  # standard deviation in the network's range below which a picture counts as constant
AT_MOST = 100_000  # pictures of which all pairs are compared
FAMILIES = 20_000  # pictures up to which near copies are kept on one side of the held-out split
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
    for part in in_parts(len(indices), pictures.shape[1:]):
        x = values.encode(np.asarray(pictures[indices[part]]), np.float32)
        colour[part] = _means(height) @ x @ _means(width).T
        spread = x - x.mean(axis=(2, 3), keepdims=True)
        deviation[part] = np.sqrt(np.square(spread).mean(axis=(1, 2, 3)))
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
    groups = Groups(len(found.shape))
    for axes in mirrors:
        _join_near(groups, found, axes, limit)
    return groups.found()


class Groups:
    """The connected components of a graph on 0…count−1, whose edges are told one after another.

    of: (count,) int64, the name of the group that each one is in.
    """

    def __init__(self, count: int):
        self.of = np.arange(count)
        self._members = {i: [i] for i in range(count)}

    def join(self, one: int, others: np.ndarray) -> None:
        """Tells of edges between one and others (n,)."""
        for other in np.unique(self.of[others]).tolist():
            mine = int(self.of[one])
            if other != mine:
                small, large = sorted((other, mine), key=lambda name: len(self._members[name]))
                moved = self._members.pop(small)
                self.of[moved] = large
                self._members[large] += moved

    def found(self) -> list[list[int]]:
        """The groups of more than one member, each ascending, by their first."""
        return sorted(sorted(group) for group in self._members.values() if len(group) > 1)


def _usual_distance(shape: np.ndarray, sample: int = 512) -> float:
    """The median distance to the eighth nearest other picture, which a few copies do not change."""
    if len(shape) < 2 + NEIGHBOUR:
        return 1.0
    similar = spread(shape, sample) @ shape.T
    return 1 - float(np.median(np.partition(similar, -1 - NEIGHBOUR, axis=1)[:, -1 - NEIGHBOUR]))


def _join_near(groups: Groups, found: Thumbnails, axes: tuple[int, ...], limit: float) -> None:
    """Joins rows of similar colours whose shapes, the second mirrored on `axes`, are nearer than `limit`.

    Pairs in one group already are not compared again: of a scene that hardly changes, all pairs are near.
    """
    n = len(found.shape)
    mirrored = np.flip(found.shape.reshape(n, SIDE, SIDE), axes).reshape(n, -1) if axes else found.shape
    colour = np.flip(found.colour, axes) if axes else found.colour
    for start in range(0, n, BLOCK):
        near = np.triu(found.shape[start : start + BLOCK] @ mirrored[start:].T > 1 - limit, 1)
        for row in np.flatnonzero(near.any(axis=1)).tolist():
            others = start + np.flatnonzero(near[row])
            others = others[groups.of[others] != groups.of[start + row]]
            for part in in_parts(len(others), colour.shape[1:]):
                some = others[part]
                distance = np.square(found.colour[start + row] - colour[some]).reshape(len(some), -1).mean(axis=1)
                groups.join(start + row, some[np.sqrt(distance) < COLOUR])
