"""A set of pictures as metrics read it: in chunks, in the network's range, so that sets of any size fit in memory."""

import hashlib
import math
from collections.abc import Callable, Iterable, Iterator
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import avg_pool2d, pad

from unblot.data.dataset import Dataset
from unblot.denoiser import Condition, Denoiser
from unblot.process.randomness import picture_generators
from unblot.runs.conditions import pictures_and_condition

CHUNK = 256
"""Pictures in a batch of a network, at most: see `at_once`."""

MOST_PICTURES = 10_000
"""Pictures of a set that are seen, at most, where each takes long and more change little."""

BYTES = 64 * 2**20
"""Memory of one block of pictures or of distances."""


def at_once(shape: tuple[int, ...]) -> int:
    """The pictures (C, H, W) of a batch: as many as BYTES hold in float32, from 1 to CHUNK.

    It follows from their shape, so that no metric depends on a batch size.
    """
    return max(1, min(CHUNK, BYTES // (4 * math.prod(shape))))


class ImageSet:
    """A set of pictures (N, C, H, W): stored as they are, read as float32 in the network's range (about [-1, 1]).

    `stored` is an array or tensor that is indexed lazily, such as a memory map. `encode` maps a part of it to the
    network's range; without one it is in that range already. `indices` chooses and orders the members.
    """

    def __init__(
        self, stored: Any, encode: Callable[[np.ndarray], np.ndarray] | None = None, indices: Any | None = None
    ) -> None:
        self.stored = stored
        self.encode = encode
        self.indices = np.arange(len(stored)) if indices is None else np.asarray(indices, dtype=np.int64)

    def __len__(self) -> int:
        return len(self.indices)

    @property
    def shape(self) -> tuple[int, int, int]:
        """Channels, height and width."""
        channels, height, width = self.stored.shape[1:]
        return int(channels), int(height), int(width)

    def raw(self, index: Any) -> np.ndarray:
        """The members `index` (a slice or an array of positions) as stored values, (B, C, H, W)."""
        return np.asarray(self.stored[self.indices[index]])

    def __getitem__(self, index: Any) -> Tensor:
        """The members `index` (a slice or an array of positions), float32 (B, C, H, W), network range."""
        part = self.raw(index)
        encoded = part if self.encode is None else self.encode(part)
        return torch.from_numpy(np.ascontiguousarray(encoded, dtype=np.float32))

    def chunks(self, size: int | None = None) -> Iterator[Tensor]:
        """All members in order, `size` at a time, by default as many as `at_once` gives."""
        size = size or at_once(self.shape)
        for start in range(0, len(self), size):
            yield self[start : start + size]

    def take(self, positions: Any) -> "ImageSet":
        """The members at these positions, as a set over the same storage."""
        return ImageSet(self.stored, self.encode, self.indices[positions])

    def sample(self, count: int, seed: int = 0) -> "ImageSet":
        """`count` members without replacement, or all where there are fewer; follows from the seed alone."""
        if count >= len(self):
            return self
        return self.take(np.sort(np.random.default_rng(seed).permutation(len(self))[:count]))

    def fingerprints(self) -> list[bytes]:
        """A hash of each member's stored values: equal for equal pictures."""
        found = []
        rows = at_once(self.shape)
        for start in range(0, len(self), rows):
            part = np.ascontiguousarray(self.raw(slice(start, start + rows)))
            found += [hashlib.blake2b(one.tobytes(), digest_size=16).digest() for one in part]
        return found

    def hash(self, labels: Iterable[float] = ()) -> str:
        """Eight hexadecimal digits of the members' values (and labels) in order: it names a reference in reports."""
        return hashlib.blake2b(b"".join(self.fingerprints()) + repr(list(labels)).encode(), digest_size=4).hexdigest()

    def distinct(self) -> np.ndarray:
        """Positions of the distinct members: of exact copies the first."""
        first: dict[bytes, int] = {}
        for position, fingerprint in enumerate(self.fingerprints()):
            first.setdefault(fingerprint, position)
        return np.array(sorted(first.values()), dtype=np.int64)


def shrink(pictures: Tensor, side: int) -> Tensor:
    """The pictures averaged down by a whole factor until no side is longer than `side`; smaller ones unchanged."""
    factor = -(-max(pictures.shape[-2:]) // side)
    if factor == 1:
        return pictures
    bottom, right = (-pictures.shape[-2] % factor, -pictures.shape[-1] % factor)
    return avg_pool2d(pad(pictures, (0, right, 0, bottom), mode="replicate"), factor)


def seen_by(
    denoiser: Denoiser, dataset: Dataset, indices: np.ndarray, size: int, seed: int
) -> Iterator[tuple[Tensor, Condition, list[torch.Generator]]]:
    """Batches of the x0 of pictures (B, C, H, W), what they show as far as the denoiser knows, and their generators.

    On the denoiser's device. Generator i follows from the seed and the position i among the indices.
    """
    device = next(denoiser.parameters()).device
    for start in range(0, len(indices), size):
        x0, condition = pictures_and_condition(denoiser, dataset, indices[start : start + size])
        yield denoiser.latents(x0.to(device)), condition, picture_generators(seed, range(start, start + len(x0)))
