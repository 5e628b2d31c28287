"""Randomness as an argument: every random number is a function of a seed and of its purpose.

Picture i of a sampling call has its own generator, from (seed, i): it is the same picture in any batch and any order. A
training batch is a fixed number of RNG chunks, each with a generator from (seed, step, chunk): a run uses the same
pictures, times and noise on one process or several, and after a resume.

Generators live on the CPU, whose stream is the same on every machine; their numbers are then moved to the device.
"""

from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from unblot.errors import UnblotError, arg

CPU = torch.device("cpu")

# Purposes: streams of different purposes are independent, whatever the other numbers are.
PICTURE, RNG_CHUNK, EPOCH, MEASURE, CLUSTER, LATENT, WINDOW, ADVERSARIAL, DROPOUT = 1, 2, 3, 4, 5, 7, 8, 9, 10

# First numbers of the pictures by which something is chosen, an average, levels or a sampler: far above those of any
# call, so that `evaluate` never judges a choice by the noise that it was made by.
OF_EMA, OF_SCREENING, OF_TUNING = 2**30, 2**31, 3 * 2**30


def generator(seed: int, *path: int) -> torch.Generator:
    """A CPU generator that is a function of (seed, path); path: the purpose, then what it is for, integers >= 0.

    Paths that differ in the last number alone have different streams: no two pictures of a call are equal by collision.
    Raises UnblotError for a negative seed.
    """
    if seed < 0:
        raise UnblotError(f"{arg('seed', seed)} is negative; give 0 or more")
    *purpose, last = path
    base = int(np.random.SeedSequence(seed, spawn_key=purpose).generate_state(1)[0])
    # PyTorch's CPU generator uses 32 bits of its seed, too few for a hash: among 100,000 hashed pictures one pair would
    # be equal. Multiplication by an odd number is one to one on 32 bits, so that the last number never collides.
    return torch.Generator().manual_seed((base + last * 0x9E3779B1) % 2**32)


@contextmanager
def seeded(seed: int, device: torch.device = CPU) -> Iterator[None]:
    """Within it the generators that PyTorch has for the CPU and for `device` begin at a seed; then they are as before.

    For what takes no generator: fresh weights and dropout. Other devices are not touched, all of which
    `torch.manual_seed` seeds.
    """
    kind = device.type
    others = [device] if kind in ("cuda", "mps") else []
    with torch.random.fork_rng(others, device_type=kind if others else "cuda"):
        torch.default_generator.manual_seed(seed)
        if kind == "cuda":
            with torch.cuda.device(device):
                torch.cuda.manual_seed(seed)
        elif kind == "mps":
            torch.mps.manual_seed(seed)
        yield


def picture_generators(seed: int, indices: Iterable[int]) -> list[torch.Generator]:
    """One generator for each picture of a sampling call, from (seed, index)."""
    return [generator(seed, PICTURE, i) for i in indices]


def chunk_generator(seed: int, step: int, chunk: int) -> torch.Generator:
    """The generator of one RNG chunk of one training batch."""
    return generator(seed, RNG_CHUNK, step, chunk)


def normal(generators: Sequence[torch.Generator], shape: Sequence[int]) -> Tensor:
    """Standard normal noise (B, *shape), float32, row i from generator i."""
    out = torch.empty(len(generators), *shape)
    for row, g in zip(out, generators, strict=True):
        row.normal_(generator=g)
    return out


def spread_labels(seed: int, indices: Iterable[int], shares: Sequence[float]) -> Tensor:
    """Labels (n,) int64 in 0 … len(shares) − 1, label k with frequency shares[k], each from (seed, index).

    Frequencies are closer to the shares than with independent labels: i·(golden ratio) modulo 1 is a low-discrepancy
    sequence, which fills [0, 1) evenly over any range of indices.
    """
    start = float(torch.rand((), dtype=torch.float64, generator=generator(seed, CLUSTER, 0)))
    places = (start + np.fromiter(indices, np.float64) * (5**0.5 - 1) / 2) % 1
    ends = np.cumsum(shares) / np.sum(shares)
    return torch.from_numpy(np.searchsorted(ends[:-1], places, side="right"))


def labels_for(seed: int, indices: Sequence[int], *, classes: int = 0, clusters: Sequence[float] = ()) -> Tensor | None:
    """Labels (n,) int64 of the pictures of a sampling call without a chosen label; None where the model has no labels.

    clusters: the share of each cluster, which is its frequency, from (seed, index). classes: their number; classes take
    turns.
    """
    if clusters:
        return spread_labels(seed, indices, clusters)
    return torch.tensor(indices) % classes if classes else None


def training_labels(labels: np.ndarray, seed: int, count: int) -> list[int]:
    """The labels of `count` training pictures in random order, begun again after all of them; labels: (N,)."""
    return labels[training_order(len(labels), seed, count).numpy()].tolist()


def training_order(pictures: int, seed: int, count: int) -> Tensor:
    """Positions (count,) among the training pictures, in random order, begun again after all of them."""
    return epoch_order(seed, 0, pictures).repeat(-(-count // pictures))[:count]


def stratified_uniform(n: int, total: int, first: int, g: torch.Generator) -> Tensor:
    """Times (n,) in (0, 1), float64: one uniform number in each of the strata `first … first + n − 1` of `total`.

    The RNG chunks of a batch take consecutive strata, so that the batch covers [0, 1] evenly, which lowers the variance
    of the loss (compare Kingma et al. 2021, appendix I).
    """
    u = torch.rand(n, dtype=torch.float64, generator=g)
    return ((torch.arange(first, first + n) + u) / total).clamp(1e-12, 1 - 1e-12)


def uniform_indices(n: int, count: int, g: torch.Generator) -> Tensor:
    """Independent uniform integers (n,) in 1 … count, DDPM's training times (Ho et al. 2020, algorithm 1)."""
    return torch.randint(1, count + 1, (n,), generator=g)


@lru_cache(maxsize=1)  # the order of the present pass, for each of its batches
def epoch_order(seed: int, epoch: int, count: int) -> Tensor:
    """The random order (count,) of the training pictures in epoch `epoch`; not to be changed."""
    return torch.randperm(count, generator=generator(seed, EPOCH, epoch))


def window_order(seed: int, epoch: int, window: int, count: int) -> Tensor:
    """The random order (count,) of the pictures in a window of shards in epoch `epoch`."""
    return torch.randperm(count, generator=generator(seed, WINDOW, epoch, window))
