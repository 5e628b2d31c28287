"""Noise levels, and the Gaussian algebra between any two of them.

A picture x0 at noise level (alpha, sigma) is `x_t = alpha·x0 + sigma·eps` with `eps ~ N(0, I)`. Everything that the
forward process defines (going there, the way between two levels, the way back when x0 is known) follows from
the two pairs of numbers alone; a time is known only to a schedule.

Coefficients are float64 on the CPU and are cast to the picture's dtype only at the product.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class NoiseLevel(NamedTuple):
    """How much picture and how much noise there is in x_t: `x_t = alpha·x0 + sigma·eps`.

    Both are float64 tensors of shape () for one level or (B,) for one level per picture; alpha in [0, 1],
    sigma >= 0.
    """

    alpha: Tensor
    sigma: Tensor

    def at(self, index: int | slice | Tensor) -> "NoiseLevel":
        """The level or levels that an index, a slice or a mask picks out of several."""
        return NoiseLevel(self.alpha[index], self.sigma[index])

    def expand(self, n: int) -> "NoiseLevel":
        """The level once per picture, shape (n,)."""
        return NoiseLevel(self.alpha.expand(n), self.sigma.expand(n))


def between(t: NoiseLevel, s: NoiseLevel, fraction: Tensor | float) -> NoiseLevel:
    """The level that lies `fraction` of the way from t to s, in log SNR; both with alpha, sigma > 0; () or (B,)."""
    return NoiseLevel(*(a ** (1 - fraction) * b**fraction for a, b in zip(t, s, strict=True)))


class Transition(NamedTuple):
    """q(x_t | x_s) = N(r·x_s, beta·I) from a cleaner level s to a noisier level t."""

    r: Tensor
    beta: Tensor


class Posterior(NamedTuple):
    """q(x_s | x_t, x0) = N(on_x_t·x_t + on_x0·x0, var·I)."""

    on_x_t: Tensor
    on_x0: Tensor
    var: Tensor


def broadcast(coefficient: Tensor, x: Tensor) -> Tensor:
    """A coefficient of shape () or (B,), shaped to multiply x of shape (B, ...) on its device and in its dtype."""
    if coefficient.ndim == 0:
        return coefficient  # acts as a number: it takes x's dtype and needs no copy to x's device
    return per_picture(coefficient, x).view(-1, *[1] * (x.ndim - 1))


def per_picture(number: Tensor, x: Tensor) -> Tensor:
    """A number of shape () or (B,) on the CPU as one for each picture of x, (B,), on its device and in its dtype."""
    if number.ndim == 0:
        return x.new_full((len(x),), number.item())  # a kernel's argument: a GPU does not wait for a copy
    return number.to(device=x.device, dtype=x.dtype, non_blocking=x.is_cuda)


def mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """`a·x + b·y` for coefficients of shape () or (B,) and pictures (B, C, H, W)."""
    return broadcast(a, x) * x + broadcast(b, y) * y


def corrupt(x0: Tensor, level: NoiseLevel, eps: Tensor) -> Tensor:
    """x_t, reached from x0 directly: `alpha·x0 + sigma·eps` (Ho et al. 2020, eq. 4).

    x0, eps: (B, C, H, W); level: () or (B,). O(1) in the time, so that training keeps no intermediate steps.
    """
    return mix(level.alpha, x0, level.sigma, eps)


def log_snr(level: NoiseLevel) -> Tensor:
    """The log signal-to-noise ratio `2·log(alpha/sigma)`; +inf where sigma is 0, -inf where alpha is 0."""
    return 2 * (level.alpha.log() - level.sigma.log())


def norm(level: NoiseLevel, data_std: float) -> Tensor:
    """The standard deviation n of x_t for data of standard deviation `data_std`: `n² = alpha²·sd² + sigma²`."""
    return torch.sqrt(level.alpha**2 * data_std**2 + level.sigma**2)


def transition(t: NoiseLevel, s: NoiseLevel) -> Transition:
    """The forward step from a cleaner level s to a noisier level t.

    `r = alpha_t/alpha_s`, `beta = sigma_t² − r²·sigma_s²`; for neighbouring DDPM indices beta is Ho et al.'s beta_t.
    """
    r = t.alpha / s.alpha
    # As a product, so that two close levels do not lose their difference.
    kept = r * s.sigma
    return Transition(r, (t.sigma - kept) * (t.sigma + kept))


def posterior(t: NoiseLevel, s: NoiseLevel) -> Posterior:
    """The reverse step from t to a cleaner level s when x0 is known, by Bayes (Ho et al. 2020, eqs. 6 and 7).

    `mean = (r·sigma_s²·x_t + alpha_s·beta·x0)/sigma_t²`, `var = sigma_s²·beta/sigma_t²`, for any pair of levels.
    """
    r, beta = transition(t, s)
    var_t = t.sigma**2
    return Posterior(r * s.sigma**2 / var_t, s.alpha * beta / var_t, s.sigma**2 * beta / var_t)


def prior_kl(x0_mean_square: Tensor | float, level: NoiseLevel, prior_std: Tensor | float = 1.0) -> Tensor:
    """KL(q(x_T | x0) || N(0, prior_std²·I)) in nats per dimension, at the noisiest level (Ho et al. 2020, eq. 5, L_T).

    `x0_mean_square`: mean of x0² over the dimensions of a picture, shape () or (B,). What sampling starts from is not
    exactly what the forward process ends in; this is the price of that in bits (divide by log 2).
    """
    var = torch.as_tensor(prior_std, dtype=torch.float64) ** 2
    excess = level.sigma**2 / var - 1
    shift = level.alpha**2 * torch.as_tensor(x0_mean_square, dtype=torch.float64) / var
    return 0.5 * (shift + excess - excess.log1p())


def eps_from_x0(x_t: Tensor, x0: Tensor, level: NoiseLevel) -> Tensor:
    """The noise that stands beside x0 in x_t: `(x_t − alpha·x0)/sigma`; level with sigma > 0."""
    return mix(1 / level.sigma, x_t, -level.alpha / level.sigma, x0)


LOG_RATIO_MAX = 0.5 * math.log(1e9)


def log_noise_ratio(level: NoiseLevel) -> Tensor:
    """`log(sigma/alpha)`, what networks are told of the level, held finite at both ends (SNR within 1e-9 … 1e9)."""
    return (-0.5 * log_snr(level)).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)
