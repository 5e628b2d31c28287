"""The forward process in numbers: noise is added until nothing else is left, why it is normal, and what a step costs.

The process is that of Ho et al. 2020: betas that rise linearly from 1e-4 to 0.02 over T = 1000 steps.
"""

import math
import time
from collections.abc import Callable
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, corrupt, mix, transition
from unblot.process.schedules import Schedule, cosine, from_betas, linear

T = 1000
SHOWN = 0, 50, 150, 300, 500, 700, 1000  # steps of which a picture is shown
TESTED = 1000  # values that the test of normality sees
COUNTS = 1, 2, 4, 8, 16, 32, 64  # of noises that are added up
SUMS = 100_000  # sums of each
CHAINS = 20_000  # values that go through all T steps with noise of another kind
COPIES = 64  # of one picture, which go step by step and in one formula

Noise = Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]

KINDS: dict[str, Noise] = {
    "uniform": lambda rng, shape: rng.uniform(-math.sqrt(3), math.sqrt(3), shape),
    "Laplace": lambda rng, shape: rng.laplace(0, math.sqrt(0.5), shape),
    "coin flips": lambda rng, shape: 2.0 * rng.integers(2, size=shape) - 1,
}
"""Noises of mean 0 and variance 1 that are not normal."""


def levels(schedule: Schedule) -> NoiseLevel:
    """The levels of steps 0 … T, (T + 1,)."""
    return schedule(torch.arange(T + 1, dtype=torch.float64) / T)


def constant() -> Schedule:
    """A schedule whose betas are all the same, and which ends at the level of `linear`."""
    alpha_bar = float(levels(linear()).alpha[-1] ** 2)
    return from_betas(torch.full((T,), 1 - alpha_bar ** (1 / T), dtype=torch.float64))


SCHEDULES: dict[str, Callable[[], Schedule]] = {"linear": linear, "cosine": cosine, "constant": constant}


def distance_to_normal(values: np.ndarray) -> float:
    """Kolmogorov–Smirnov distance of values (N,) to N(0, 1): the largest gap between the two cumulative shares."""
    from scipy.stats import ks_1samp, norm

    return float(ks_1samp(values, norm.cdf).statistic)


class Moment(NamedTuple):
    """Pictures after some steps: x_t (N, C, H, W), its distance to N(0, 1), and its correlation with x0."""

    step: int
    x: Tensor
    distance: float
    correlation: float


def noising(x0: Tensor, seed: int = 0) -> list[Moment]:
    """Pictures (N, C, H, W) of range [-1, 1] at the steps SHOWN, each made from the one before."""
    g, known = torch.Generator().manual_seed(seed), levels(linear())
    x, moments = x0, []
    for before, step in zip((0, *SHOWN), SHOWN):
        r, beta = transition(known.at(step), known.at(before))
        x = mix(r, x, beta.sqrt(), torch.randn(x.shape, generator=g))
        both = np.corrcoef(x.flatten().numpy(), x0.flatten().numpy())[0, 1]
        moments.append(Moment(step, x, distance_to_normal(x.flatten().numpy()), float(both)))
    return moments


def first_normal(x0: Tensor, seed: int = 0) -> int:
    """The first of the steps 0, 20, 40, … from which on no test of TESTED values tells x_t from N(0, 1).

    The test is Kolmogorov's, which would be wrong about normal numbers once in a thousand times.
    """
    from scipy.stats import ks_1samp, norm

    g, known = torch.Generator().manual_seed(seed), levels(linear())
    values = x0.flatten()[torch.randint(x0.numel(), (TESTED,), generator=g)]
    eps = torch.randn(TESTED, generator=g)
    for step in range(T, -1, -20):
        if ks_1samp(corrupt(values, known.at(step), eps).numpy(), norm.cdf).pvalue < 1e-3:
            return step + 20
    return 0


class Sums(NamedTuple):
    """Distances to N(0, 1), for each kind of noise: of the scaled sums of COUNTS noises, and of x_T.

    floor: that of as many normal numbers, as a sample is never exactly normal.
    """

    sums: dict[str, list[float]]
    after_all_steps: dict[str, float]
    floor: float


def many_small_noises(seed: int = 0) -> Sums:
    """What becomes of noises that are not normal when many are added: the central limit theorem, measured."""
    rng, sums, ends = np.random.default_rng(seed), {}, {}
    known = levels(linear())
    r, beta = (part.numpy() for part in transition(known.at(slice(1, None)), known.at(slice(0, -1))))
    for kind, noise in KINDS.items():
        rows = [noise(rng, (SUMS,))]
        for count in COUNTS[1:]:
            rows.append(rows[-1] + sum(noise(rng, (SUMS,)) for _ in range(count - count // 2)))
        sums[kind] = [distance_to_normal(row / math.sqrt(n)) for row, n in zip(rows, COUNTS)]
        x = np.zeros(CHAINS)
        for step in range(T):
            x = r[step] * x + math.sqrt(beta[step]) * noise(rng, (CHAINS,))
        ends[kind] = distance_to_normal(x / float(known.sigma[-1]))
    return Sums(sums, ends, distance_to_normal(rng.standard_normal(SUMS)))


class Steps(NamedTuple):
    """The steps of a schedule: standard deviation of the noise of each (T,), share of x0 left after each (T + 1,).

    seen: the change of x_t by each step, over the standard deviation of the noise that was there before, (T − 1,).
    half: the step after which half of the picture's power is gone.
    """

    added: np.ndarray
    left: np.ndarray
    seen: np.ndarray
    half: int


def steps_of(name: str) -> Steps:
    """How much each step of a schedule of SCHEDULES adds, and what it leaves."""
    known = levels(SCHEDULES[name]())
    _, beta = transition(known.at(slice(1, None)), known.at(slice(0, -1)))
    added, left = beta.sqrt().numpy(), known.alpha.numpy()
    half = int(np.searchsorted(-(left**2), -0.5))
    return Steps(added, left, added[1:] / known.sigma[1:-1].numpy(), half)


class Ways(NamedTuple):
    """x_t in t steps and in one formula: seconds, bytes of all pictures made on the way, and the p-value that both
    are the same distribution."""

    step: int
    chain_seconds: float
    formula_seconds: float
    chain_bytes: int
    formula_bytes: int
    p: float


def two_ways(x0: Tensor, steps: tuple[int, ...] = (10, 100, 1000), seed: int = 0) -> list[Ways]:
    """COPIES of the picture x0 (C, H, W), step by step and by `x_t = sqrt(alpha_bar_t)·x0 + sqrt(1 − alpha_bar_t)·eps`.

    The test is Kolmogorov's for two samples, on TESTED values of the noise that each way has put in.
    """
    from scipy.stats import ks_2samp

    g, known = torch.Generator().manual_seed(seed), levels(linear())
    betas, start = torch.linspace(1e-4, 0.02, T).tolist(), x0.expand(COPIES, *x0.shape)
    rows = []
    for step in steps:
        begin = time.perf_counter()
        x = start
        for beta in betas[:step]:
            x = math.sqrt(1 - beta) * x + math.sqrt(beta) * torch.randn(x.shape, generator=g)
        between = time.perf_counter()
        level = known.at(step)
        direct = corrupt(start, level, torch.randn(start.shape, generator=g))
        end = time.perf_counter()
        noise = [((way - level.alpha * start) / level.sigma).flatten() for way in (x, direct)]
        chosen = torch.randint(start.numel(), (TESTED,), generator=g)
        size = start.numel() * start.element_size()
        p = float(ks_2samp(noise[0][chosen].numpy(), noise[1][chosen].numpy()).pvalue)
        rows.append(Ways(step, between - begin, end - between, step * size, size, p))
    return rows
