"""Pictures that are in a set more than once: exactly, nearly (recompressed, rescaled), or mirrored."""

from collections.abc import Callable, Iterable, Sequence
from typing import NamedTuple

import numpy as np

from unblot.data.values import ValueMap

SIDE = 8  # of the thumbnails that are compared: small enough for compression and scaling to leave no trace
FARTHEST = 0.018  # cosine distance: copies shrunk to a half and enlarged again are nearly all nearer
NEAREST = 0.001  # copies recompressed at quality 60 are nearly all nearer
SHARE = 0.06  # of the usual distance to the eighth neighbour, between these two: digits are all alike, photos are not
NEIGHBOUR = 8
COLOUR = 0.12  # greatest root mean square difference of colours, in the network's range
FLAT = 0.01  # standard deviation in the network's range below which a picture is called constant
AT_MOST = 100_000  # pictures compared each with each
TURNS: dict[str, Callable[[np.ndarray], np.ndarray]] = {  # of thumbnails (N, SIDE, SIDE)
    "flip": lambda t: t[:, :, ::-1],
    "flip_vertical": lambda t: t[:, ::-1],
    "quarter": lambda t: np.rot90(t, 1, (1, 2)),
}
FAMILIES = 20_000  # pictures up to which near copies are kept on one side of the held-out split
VALUES = 4_000_000  # of pictures that are looked at together
BLOCK = 1024  # rows of the table of distances in memory at a time


class Thumbnails(NamedTuple):
    """What near copies are told by: a perceptual hash that keeps its values.

    shape: (N, SIDE²) float32, the gray thumbnails without their mean and of length 1 (0 for flat pictures). colour:
    (N, C, SIDE, SIDE) float32 in the network's range. deviation: (N,) of the whole picture's values.
    """

    shape: np.ndarray
    colour: np.ndarray
    deviation: np.ndarray


def thumbnails(pictures: np.ndarray, values: ValueMap, indices: np.ndarray) -> Thumbnails:
    """Thumbnails of the chosen pictures of (N, C, H, W)."""
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
    """The matrix (SIDE, length) that takes the means of SIDE equal parts of a row."""
    edges = np.linspace(0, length, SIDE + 1)
    pixels = np.arange(length)
    overlap = np.minimum(edges[1:, None], pixels + 1) - np.maximum(edges[:-1, None], pixels)
    return (np.maximum(overlap, 0) * SIDE / length).astype(np.float32)


def families(pictures: np.ndarray, values: ValueMap, digests: np.ndarray) -> np.ndarray:
    """For each picture (N,) int64 a number that it shares with its exact copies and, in sets of at most FAMILIES
    pictures, with its near copies: the smallest digest among them."""
    firsts, inverse = np.unique(digests, return_index=True, return_inverse=True)[1:]
    shared = digests[firsts].copy()
    if len(firsts) <= FAMILIES and pictures.shape[2:] != (1, 1):
        for group in near_copies(thumbnails(pictures, values, firsts)):
            shared[group] = shared[group].min()
    return shared[inverse.reshape(-1)]


def exact_copies(digests: np.ndarray) -> list[list[int]]:
    """Groups of indices of pictures with the same values, each ascending."""
    order = np.argsort(digests, kind="stable")
    starts = np.flatnonzero(np.r_[True, np.diff(digests[order]) != 0])
    return sorted(group.tolist() for group in np.split(order, starts[1:]) if len(group) > 1)


def near_copies(found: Thumbnails, flipped: bool = False) -> list[list[int]]:
    """Groups of rows of thumbnails that are near copies of one picture; or, if flipped, of its mirror images.

    Two are, when the cosine distance of their shapes is a small part of what is usual in this set, and their colours
    agree. Transitive: the copy of a copy belongs to the group.
    """
    usual = _usual_distance(found.shape)
    limit = float(np.clip(SHARE * usual, NEAREST, FARTHEST))
    mirrors: Sequence[tuple[int, ...]] = ((-1,), (-2,)) if flipped else ((),)
    pairs = [pair for axes in mirrors for pair in _pairs(found, axes, limit)]
    return groups(len(found.shape), pairs)


def groups(count: int, pairs: Iterable[tuple[int, int]]) -> list[list[int]]:
    """The connected components of more than one member, among 0…count−1, that the pairs make."""
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


def mirrored_distance(found: Thumbnails, turn: str, sample: int = 512) -> float:
    """How much farther from the other pictures a picture is when it is turned: a ratio, 1 where turning does no harm.

    The medians, over a sample, of the distance to the nearest other picture. turn: a key of TURNS.
    """
    rows = _sample(len(found.shape), sample)
    plain = found.shape[rows]
    other = TURNS[turn](plain.reshape(-1, SIDE, SIDE)).reshape(plain.shape)
    distances = []
    for some in (plain, other):
        distance = 1 - some @ found.shape.T
        distance[np.arange(len(rows)), rows] = np.inf
        distances.append(float(np.median(distance.min(axis=1))))
    return distances[1] / max(distances[0], 1e-6)


def _usual_distance(shape: np.ndarray, sample: int = 512) -> float:
    """The median distance to the eighth nearest other picture: more than a few copies do not change it."""
    if len(shape) < 2 + NEIGHBOUR:
        return 1.0
    similar = shape[_sample(len(shape), sample)] @ shape.T
    return 1 - float(np.median(np.partition(similar, -1 - NEIGHBOUR, axis=1)[:, -1 - NEIGHBOUR]))


def _pairs(found: Thumbnails, axes: tuple[int, ...], limit: float) -> Iterable[tuple[int, int]]:
    """Pairs (i < j) of rows whose shapes, the second mirrored along `axes`, are nearer than `limit`, colours alike."""
    n = len(found.shape)
    mirrored = np.flip(found.shape.reshape(n, SIDE, SIDE), axes).reshape(n, -1) if axes else found.shape
    colour = np.flip(found.colour, axes) if axes else found.colour
    for start in range(0, n, BLOCK):
        near = found.shape[start : start + BLOCK] @ mirrored[start:].T > 1 - limit
        for a, b in np.argwhere(np.triu(near, 1)) + start:
            if np.sqrt(np.square(found.colour[a] - colour[b]).mean()) < COLOUR:
                yield int(a), int(b)


def _sample(count: int, size: int) -> np.ndarray:
    """Indices spread evenly over 0…count−1, at most `size`."""
    return np.unique(np.linspace(0, count - 1, min(count, size)).astype(np.int64))
