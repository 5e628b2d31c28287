"""Randomness as an argument: every random number is a function of a seed and of what it is for.

Picture i of a sampling call has its own generator, from (seed, i), so that it is the same picture in any batch and any
order. A training batch is a fixed number of grains, each with a generator from (seed, step, grain), so that a run
draws the same pictures, times and noise on one process or several, and after a resume.

Generators live on the CPU, whose stream is the same on every machine; what they draw is moved to the device.
"""

from collections.abc import Iterable, Sequence

import numpy as np
import torch
from torch import Tensor

from unblot.errors import UnblotError

PICTURE, RNG_CHUNK, EPOCH, MEASURE, CLUSTER = (
    1,
    2,
    3,
    4,
    5,
)  # purposes: streams of the same numbers but another are independent


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator for the purpose that `path` names, from (seed, path); integers >= 0.

    Paths that differ in their last number only never share a stream: two pictures of a call are never doubles. Raises
    UnblotError for a negative seed.
    """
    if seed < 0:
        raise UnblotError(f"a seed must be 0 or more, not {seed}")
    *purpose, last = path
    base = int(np.random.SeedSequence(seed, spawn_key=purpose).generate_state(1)[0])
    # PyTorch's CPU generator heeds 32 bits of its seed, too few to hash into: among 100,000 hashed pictures one pair
    # would be the same. So the last number is spread over the 32 bits one to one, by an odd factor.
    return torch.Generator().manual_seed((base + last * 0x9E3779B1) % 2**32)


def picture_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One generator for each picture of a sampling call, from (seed, index)."""
    return [generator(seed, PICTURE, i) for i in indices]


def chunk_generator(seed: int, step: int, chunk: int) -> torch.Generator:
    """The generator of one grain of one training batch."""
    return generator(seed, RNG_CHUNK, step, chunk)


def normal(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), float32, row i from generator i."""
    out = torch.empty(len(generators), *shape)
    for row, g in zip(out, generators, strict=True):
        row.normal_(generator=g)
    return out


def spread_labels(seed: int, indices: Iterable[int], shares: Sequence[float]) -> Tensor:
    """A label (n,) int64 in 0 … len(shares) − 1 for each picture of a sampling call, from (seed, index).

    Label k comes with frequency shares[k], more evenly than by independent draws: the numbers i·(golden ratio) modulo 1
    fill [0, 1) evenly whatever stretch of indices is looked at.
    """
    start = float(torch.rand((), dtype=torch.float64, generator=generator(seed, CLUSTER, 0)))
    places = (start + np.fromiter(indices, np.float64) * (5**0.5 - 1) / 2) % 1
    ends = np.cumsum(shares) / np.sum(shares)
    return torch.from_numpy(np.searchsorted(ends[:-1], places, side="right"))


def labels_for(seed: int, indices: Sequence[int], *, classes: int = 0, clusters: Sequence[float] = ()) -> Tensor | None:
    """The label (n,) int64 of each picture of a sampling call for which nobody chose one; None where there are none.

    Each of `clusters`, shares, comes as often as it says, from (seed, index); so many `classes` take turns.
    """
    if clusters:
        return spread_labels(seed, indices, clusters)
    return torch.tensor(indices) % classes if classes else None


def stratified_uniform(n: int, total: int, first: int, g: torch.Generator) -> Tensor:
    """Times (n,) in (0, 1), float64: one uniform draw in each of the strata `first … first + n − 1` of `total`.

    The grains of a batch take consecutive strata, so that the whole batch covers [0, 1] evenly, which lowers the
    variance of the loss (as in Kingma et al. 2021, appendix I).
    """
    u = torch.rand(n, dtype=torch.float64, generator=g)
    return ((torch.arange(first, first + n) + u) / total).clamp(1e-12, 1 - 1e-12)


def uniform_indices(n: int, count: int, g: torch.Generator) -> Tensor:
    """n independent integers in 1 … count, as DDPM draws its times."""
    return torch.randint(1, count + 1, (n,), generator=g)


def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The order (count,) in which pass `epoch` goes through the training pictures."""
    return torch.randperm(count, generator=generator(seed, EPOCH, epoch))
