"""Denoisers that are known exactly, and what sampling with them must give."""

from collections.abc import Callable, Sequence

import numpy as np
import torch
from torch import Tensor, nn

from unblot.denoiser import Denoised
from unblot.process.levels import NoiseLevel, broadcast, norm
from unblot.process.schedules import linear
from unblot.sampling.loop import Denoise, Solver, sample

F64 = torch.float64


def gaussian(mean: Tensor | float, std: Tensor | float) -> Denoise:
    """The exact denoiser of data N(mean, std²), independent in each value; mean, std: numbers or (C, H, W).

    `x0_hat = mean + alpha·std²/(alpha²·std² + sigma²)·(x_t − alpha·mean)`.
    """
    mean, std = (torch.as_tensor(value, dtype=F64) for value in (mean, std))

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = (number.view(-1, *[1] * (x.ndim - 1)) if number.ndim else number for number in level)
        gain = alpha * std**2 / (alpha**2 * std**2 + sigma**2)
        return Denoised((mean + gain * (x - alpha * mean)).to(x.dtype))

    return denoise


def gaussian_flow(x: Tensor, t: NoiseLevel, s: NoiseLevel, mean: Tensor | float, std: Tensor | float) -> Tensor:
    """Where the probability-flow ODE of data N(mean, std²) takes x at level t, at level s: an affine map."""
    n_t, n_s = (torch.sqrt(level.alpha**2 * std**2 + level.sigma**2) for level in (t, s))
    return s.alpha * mean + n_s / n_t * (x - t.alpha * mean)


def ideal(data: Tensor) -> Denoise:
    """The exact denoiser of a finite data set (M, C, H, W), every member equally likely: a softmax over distances."""
    flat = data.flatten(1).double()

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        rows = x.flatten(1).double()
        alpha, sigma = (broadcast(number.expand(len(x)), rows) for number in level)
        distances = (rows[:, None] - alpha[:, None] * flat).square().sum(-1)
        shares = torch.softmax(-distances / (2 * sigma**2), dim=1)
        return Denoised((shares @ flat).view_as(x).to(x.dtype))

    return denoise


class SmallNetwork(nn.Module):
    """A network of (x, t), t DDPM's index: the exact eps_hat of data N(0, ¼), bent by convolutions."""

    embeds = "ddpm_index"

    def __init__(self) -> None:
        super().__init__()
        with torch.random.fork_rng():
            torch.manual_seed(0)
            self.first, self.last = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 1, 3, padding=1)

    def forward(self, x: Tensor, t: Tensor, label: Tensor | None = None) -> Tensor:
        time = (t / 1000).view(-1, 1, 1, 1).expand(-1, 1, *x.shape[2:]).to(x.dtype)
        alpha, sigma = (number.to(x.dtype).view(-1, 1, 1, 1) for number in linear()((t.double() + 1) / 1000))
        bent = self.last(torch.tanh(self.first(torch.cat([x, time], dim=1))))
        return sigma * x / (alpha**2 / 4 + sigma**2) + 0.3 * sigma * bent


class Counted:
    """A `Denoise` that counts its calls and the pictures that went through it."""

    def __init__(self, denoise: Denoise):
        self.denoise, self.calls, self.pictures = denoise, 0, 0

    def __call__(self, x: Tensor, level: NoiseLevel) -> Denoised:
        self.calls += 1
        self.pictures += len(x)
        return self.denoise(x, level)


def seeded_noise(shape: Sequence[int], seed: int = 0, dtype: torch.dtype = F64) -> Callable[[], Tensor]:
    """A `Noise` of this shape that goes on from one generator."""
    g = torch.Generator().manual_seed(seed)
    return lambda: torch.randn(*shape, generator=g, dtype=dtype)


def no_noise() -> Tensor:
    """The `Noise` of a deterministic solver: asking for any is a failure."""
    raise AssertionError("a deterministic solver drew noise")


def level(alpha: float, sigma: float) -> NoiseLevel:
    """One level from two numbers."""
    return NoiseLevel(torch.tensor(alpha, dtype=F64), torch.tensor(sigma, dtype=F64))


def levels(*pairs: tuple[float, float]) -> NoiseLevel:
    """Levels (N,) from pairs (alpha, sigma)."""
    return NoiseLevel(*torch.tensor(pairs, dtype=F64).T)


def marginal_start(n: int, first: NoiseLevel, mean: float, std: float, seed: int = 0) -> Tensor:
    """n one-pixel pictures (n, 1, 1, 1) drawn from the exact marginal of data N(mean, std²) at a level."""
    z = torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(seed), dtype=F64)
    return first.alpha * mean + norm(first, std) * z


def correlated(mean: Tensor, covariance: Tensor) -> Denoise:
    """The exact denoiser of data N(mean, covariance) over all D values of a picture; mean (D,), covariance (D, D)."""

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = level
        gain = alpha * covariance @ torch.linalg.inv(alpha**2 * covariance + sigma**2 * torch.eye(len(mean), dtype=F64))
        return Denoised((mean + (x.flatten(1) - alpha * mean) @ gain.T).view_as(x))

    return denoise


STDS = torch.tensor([0.2, 0.3, 0.5, 0.7, 1.0, 1.5], dtype=F64).view(6, 1, 1)  # several, lest errors cancel in one


def order_of(solver: Solver, spacing: Callable[[int], NoiseLevel], steps: Sequence[int]) -> float:
    """A solver's order: minus the slope of log error against log N, on normal data of mean 0.3 and deviations STDS."""
    errors = []
    for n in steps:
        way = spacing(n)
        x = torch.linspace(-2, 2, 5, dtype=F64).view(5, 1, 1, 1) * STDS
        exact = gaussian_flow(x, way.at(0), way.at(-1), 0.3, STDS)
        errors.append(float((sample(gaussian(0.3, STDS), x, way, solver, no_noise) - exact).abs().max()))
    return -float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
