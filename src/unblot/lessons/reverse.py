"""The step back: q(x_s | x_t) cannot be computed without the data, q(x_s | x_t, x0) can, and a network stands between.

On points in the plane, where all of the data is known, everything can be computed and compared.
"""

from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.lessons.noise import distance_to_normal, levels
from unblot.process.levels import corrupt, mix, posterior
from unblot.process.schedules import linear

POINTS, DRAWS = 40, 1500
FAR = 300, 60  # a large step back: from t, to s


class StepBack(NamedTuple):
    """One step back from x_t (2,): the data (N, 2) with the probability of each point to be x0 (N,), samples of
    q(x_s | x_t) and of q(x_s | x_t, x0) (DRAWS, 2), and the mean of each (2,).

    normal: the distance of q(x_s | x_t) to the normal distribution with its mean and variance, for a large step and for
    one of T. by_mean_x0: the largest difference between the mean of q(x_s | x_t) and the step with the mean of x0.
    """

    x_t: Tensor
    data: Tensor
    weights: Tensor
    unknown: Tensor
    known: Tensor
    normal: tuple[float, float]
    by_mean_x0: float


def points() -> Tensor:
    """Data (POINTS, 2): places on two circles."""
    angle = torch.arange(POINTS) * (2 * torch.pi / (POINTS // 2))
    radius = torch.where(torch.arange(POINTS) < POINTS // 2, 1.2, 0.5)
    return radius[:, None] * torch.stack([angle.cos(), angle.sin()], 1)


def step_back(seed: int = 0) -> StepBack:
    """The step from t to s of FAR, from a random x_t that came from the first point."""
    g, data = torch.Generator().manual_seed(seed), points().double()
    t = levels(linear()).at(FAR[0])
    x_t = corrupt(data[:1], t, torch.randn(1, 2, generator=g, dtype=torch.float64))[0]
    weights = (-(x_t - t.alpha * data).square().sum(1) / (2 * t.sigma**2)).softmax(0)
    (far, mean, by_mean), (near, *_) = (_back(x_t, data, weights, FAR[0], s, g) for s in (FAR[1], FAR[0] - 1))
    s = levels(linear()).at(FAR[1])
    on_x_t, on_x0, var = posterior(t, s)
    known = mix(on_x_t, x_t, on_x0, data[0]) + var.sqrt() * torch.randn(DRAWS, 2, generator=g, dtype=torch.float64)
    distances = (_normality(far), _normality(near))
    return StepBack(x_t, data, weights, far, known, distances, float((mean - by_mean).abs().max()))


def _back(
    x_t: Tensor, data: Tensor, weights: Tensor, t: int, s: int, g: torch.Generator
) -> tuple[Tensor, Tensor, Tensor]:
    """Samples of q(x_s | x_t) (DRAWS, 2), its mean (2,), and the mean of q(x_s | x_t, E[x0 | x_t]) (2,).

    q(x_s | x_t) is the mixture of q(x_s | x_t, x0) over all points of the data, each as probable as it is to be x0.
    """
    known = levels(linear())
    on_x_t, on_x0, var = posterior(known.at(t), known.at(s))
    means = mix(on_x_t, x_t.expand_as(data), on_x0, data)
    chosen = weights.multinomial(DRAWS, replacement=True, generator=g)
    noise = torch.randn(DRAWS, 2, generator=g, dtype=torch.float64)
    by_mean = mix(on_x_t, x_t, on_x0, weights @ data)
    return means[chosen] + var.sqrt() * noise, weights @ means, by_mean


def _normality(x: Tensor) -> float:
    """Kolmogorov–Smirnov distance of the larger principal component of x (N, 2), scaled, to N(0, 1)."""
    centred = (x - x.mean(0)).numpy()
    _, axes = np.linalg.eigh(centred.T @ centred)
    along = centred @ axes[:, -1]
    return distance_to_normal(along / along.std())
