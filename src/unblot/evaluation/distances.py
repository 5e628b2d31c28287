"""How far apart two sets of features (N, d) are: Fréchet and kernel distance. All in float64."""

import math
from collections.abc import Iterator
from functools import cached_property
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

RESAMPLES, RESAMPLES_WIDE, WIDE = 50, 8, 256
"""Bootstrap resamples for an interval: RESAMPLES give the standard deviation to about 10 %. A Fréchet distance of more
than WIDE dimensions has RESAMPLES_WIDE, since each takes seconds there."""

Z95 = 1.959964
"""Half-width of a normal 95 % interval, in standard deviations."""

PER_DIMENSION = 4
"""Members of a set for each dimension, at least, for a covariance that can be compared."""


def mean_and_half(values: Tensor) -> tuple[float, float]:
    """The mean of independent values (N,), N >= 2, and the half-width of its 95 % interval."""
    return float(values.mean()), Z95 * float(values.std()) / math.sqrt(len(values))


class Moments(NamedTuple):
    """Mean (d,) and covariance (d, d) of a set of features, float64."""

    mean: Tensor
    cov: Tensor


def moments(features: Tensor) -> Moments:
    """Mean and unbiased covariance of features (N, d), N >= 2."""
    x = features.double()
    mean = x.mean(0)
    centred = x - mean
    return Moments(mean, centred.T @ centred / (len(x) - 1))


def frechet(a: Moments, b: Moments) -> float:
    """Squared Fréchet distance of two Gaussians: `|m_a − m_b|² + tr(S_a + S_b − 2·(S_a·S_b)^½)` (Heusel et al. 2017).

    The trace of the root is the sum of the singular values of `S_a^½·S_b^½`, which is real, not negative, and defined
    for covariances of any rank. A root of the product itself is none of this in floating point.
    """
    return _frechet(a, b, _root(b.cov))


def _frechet(a: Moments, b: Moments, root_b: Tensor) -> float:
    """`frechet` where the root of the second covariance is known."""
    cross = torch.linalg.svdvals(_root(a.cov) @ root_b).sum()
    value = (a.mean - b.mean).square().sum() + a.cov.trace() + b.cov.trace() - 2 * cross
    return max(0.0, float(value))


def frechet_distance(samples: Tensor, reference: Tensor) -> float:
    """Squared Fréchet distance of the Gaussians fitted to two sets of features, (N, d) and (M, d): the F of FID."""
    return frechet(moments(samples), moments(reference))


def frechet_infinity(samples: Tensor, reference: Tensor, points: int = 15, seed: int = 0) -> tuple[float, float]:
    """Fréchet distance extrapolated to infinitely many samples, and the standard error of the extrapolation.

    The bias of the distance is nearly proportional to 1/N. A line is fitted through the distances of `points` random
    subsets, from a tenth of the samples (at least 5·d) to all of them, and read at 1/N = 0; the reference is not
    varied (Chong & Forsyth 2020). The result can be slightly negative. samples: (N, d), N > 5·d.
    """
    count, dims = samples.shape
    target = moments(reference)
    sizes = np.linspace(max(5 * dims, count // 10), count, points).astype(int)
    rng = np.random.default_rng(seed)
    values = [frechet(moments(samples[rng.permutation(count)[:size]]), target) for size in sizes]
    line, covariance = np.polyfit(1 / sizes, values, 1, cov=True)
    return float(line[1]), float(np.sqrt(covariance[1, 1]))


def frechet_error(samples: Tensor, reference: Tensor, resamples: int | None = None, seed: int = 0) -> float:
    """Bootstrap standard deviation of `frechet_distance`, with both sets resampled with replacement.

    resamples: by default RESAMPLES, or RESAMPLES_WIDE. Moments of the resamples are computed in float32, whose rounding
    is about 1e-4 of their spread.
    """
    rng = np.random.default_rng(seed)
    centre = reference.double().mean(0)
    x, y = (samples - centre).float(), (reference - centre).float()
    values = []
    for _ in range(resamples or _resamples(samples.shape[1])):
        resampled = (part[resample(len(part), rng)] for part in (x, y))
        values.append(frechet(*(_quick_moments(part) for part in resampled)))
    return float(np.std(values, ddof=1))


def _resamples(dims: int) -> int:
    return RESAMPLES if dims <= WIDE else RESAMPLES_WIDE


def _quick_moments(x: Tensor) -> Moments:
    """Mean and covariance of nearly centred float32 features, without a copy."""
    mean = x.mean(0).double()
    return Moments(mean, (x.T @ x).double() / len(x) - mean[:, None] * mean)


def kernel_distance(
    samples: Tensor, reference: Tensor, resamples: int = RESAMPLES, seed: int = 0
) -> tuple[float, float]:
    """Kernel distance, unbiased, and its bootstrap standard deviation (0 for `resamples` = 0).

    Squared maximum mean discrepancy under `k(x, y) = (x·y/d + 1)³` without the terms of a picture with itself
    (Bińkowski et al. 2018), over all pairs and not over subsets of some size. Can be negative.
    """
    rng = np.random.default_rng(seed)
    w_x = _weights(len(samples), resamples, rng)
    w_y = _weights(len(reference), resamples, rng)
    values = (
        _mean_kernel(samples, samples, w_x, w_x, distinct=True)
        + _mean_kernel(reference, reference, w_y, w_y, distinct=True)
        - 2 * _mean_kernel(samples, reference, w_x, w_y, distinct=False)
    )
    return float(values[0]), float(values[1:].std()) if resamples > 1 else 0.0


class DistanceTo:
    """The distance of sets of samples to one reference, all as features: for a choice among sets of one size.

    It is the Fréchet distance; the kernel distance where the samples or the reference have fewer than PER_DIMENSION·d
    members. Of few the covariance lacks directions, and the Fréchet distance of those with too little variety is the
    lower one; the kernel distance is unbiased at any size. What depends on the reference alone is computed once.
    reference: (M, d).
    """

    def __init__(self, reference: Tensor) -> None:
        self.reference = reference

    def __call__(self, samples: Tensor) -> float:
        """The distance of samples (N, d)."""
        if not self.is_frechet(len(samples)):
            return float(self._kernel(samples, 0)[0])
        return _frechet(moments(samples), *self._gaussian)

    def is_frechet(self, count: int) -> bool:
        """Whether the distance of `count` samples is Fréchet's."""
        return min(count, len(self.reference)) >= PER_DIMENSION * self.reference.shape[1]

    def name(self, count: int) -> str:
        """What the distance of `count` samples is called."""
        return "Fréchet distance" if self.is_frechet(count) else "Kernel distance"

    def resampled(self, samples: Tensor) -> Tensor:
        """The distances (R,) of bootstrap resamples of samples (N, d), the same resamples for all sets of one size.

        The standard deviation of the difference between two sets' values leaves out the chance that they share, where
        the sets are paired by position (made from the same noise). The reference is not resampled.
        """
        if not self.is_frechet(len(samples)):
            return self._kernel(samples, RESAMPLES)[1:]
        target, root = self._gaussian
        x, centred = (samples - target.mean).float(), Moments(torch.zeros_like(target.mean), target.cov)
        rng = np.random.default_rng(0)
        chosen = (resample(len(x), rng) for _ in range(_resamples(x.shape[1])))
        values = [_frechet(_quick_moments(x[rows]), centred, root) for rows in chosen]
        return torch.tensor(values, dtype=torch.float64)

    def _kernel(self, samples: Tensor, resamples: int) -> Tensor:
        """Kernel distances (resamples + 1,): of the samples themselves, then of resamples of them."""
        w_x = _weights(len(samples), resamples, np.random.default_rng(0))
        w_y = torch.ones(1, len(self.reference), dtype=torch.float64).expand(len(w_x), -1)
        within = _mean_kernel(samples, samples, w_x, w_x, distinct=True)
        return within + self._within - 2 * _mean_kernel(samples, self.reference, w_x, w_y, distinct=False)

    @cached_property
    def _gaussian(self) -> tuple[Moments, Tensor]:
        """The reference's moments, and the root of its covariance."""
        target = moments(self.reference)
        return target, _root(target.cov)

    @cached_property
    def _within(self) -> Tensor:
        """The mean kernel over pairs of the reference, (1,)."""
        once = torch.ones(1, len(self.reference), dtype=torch.float64)
        return _mean_kernel(self.reference, self.reference, once, once, distinct=True)


def resample(count: int, rng: np.random.Generator) -> Tensor:
    """Random positions (count,) with replacement."""
    return torch.from_numpy(rng.integers(0, count, count))


def _weights(count: int, resamples: int, rng: np.random.Generator) -> Tensor:
    """How often each member is in each resample, (resamples + 1, count); row 0 is the set itself."""
    counts = [torch.bincount(resample(count, rng), minlength=count) for _ in range(resamples)]
    return torch.stack([torch.ones(count, dtype=torch.long), *counts]).double()


def _mean_kernel(x: Tensor, y: Tensor, w_x: Tensor, w_y: Tensor, distinct: bool) -> Tensor:
    """Weighted mean of the kernel over pairs, (rows of weights,); `distinct`: without the pairs (i, i)."""
    total = torch.zeros(len(w_x), dtype=torch.float64)
    for start, block in _blocks(x.double()):
        kernel = torch.addmm(torch.ones((), dtype=torch.float64), block, y.double().T, alpha=1 / x.shape[1])
        kernel = kernel * kernel * kernel
        rows = torch.arange(len(block))
        if distinct:
            kernel[rows, start + rows] = 0
        total += torch.einsum("rb,br->r", w_x[:, start : start + len(block)], kernel @ w_y.T)
    pairs = w_x.sum(1) * w_y.sum(1) - ((w_x * w_y).sum(1) if distinct else 0)
    return total / pairs


def _blocks(x: Tensor, rows: int = 512) -> Iterator[tuple[int, Tensor]]:
    return ((start, x[start : start + rows]) for start in range(0, len(x), rows))


def _root(cov: Tensor) -> Tensor:
    """The symmetric square root of a covariance; eigenvalues that rounding made negative count as 0."""
    values, vectors = torch.linalg.eigh((cov + cov.T) / 2)
    return vectors * values.clamp_min(0).sqrt() @ vectors.T
