"""Noise levels, and the Gaussian algebra between any two of them.

A picture x0 at noise level (alpha, sigma) is `x_t = alpha·x0 + sigma·eps` with `eps ~ N(0, I)`. The marginals of the
forward process, its transition between two levels and its posterior given x0 are functions of the two pairs (alpha,
sigma) alone; only a schedule knows a time.

Coefficients are float64 on the CPU and are cast to the picture's dtype only at the product.
"""

import math
from typing import NamedTuple

import torch
from torch import Tensor


class NoiseLevel(NamedTuple):
    """The pair (alpha, sigma) of `x_t = alpha·x0 + sigma·eps`: float64, shape () or, one level per picture, (B,).

    alpha in [0, 1], sigma >= 0.
    """

    alpha: Tensor
    sigma: Tensor

    def at(self, index: int | slice | Tensor) -> "NoiseLevel":
        """The level or levels at an index, a slice or a mask of several."""
        return NoiseLevel(self.alpha[index], self.sigma[index])

    def expand(self, n: int) -> "NoiseLevel":
        """The level () repeated for n pictures, (n,)."""
        return NoiseLevel(self.alpha.expand(n), self.sigma.expand(n))


def between(t: NoiseLevel, s: NoiseLevel, fraction: Tensor | float) -> NoiseLevel:
    """The level whose log SNR is `lerp(log SNR of t, log SNR of s, fraction)`; alpha, sigma > 0 in both; () or (B,)."""
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
    """A coefficient () or (B,) in a shape that multiplies x (B, …), on the device and in the dtype of x."""
    if coefficient.ndim == 0:
        return coefficient  # acts as a number: it takes the dtype of x and needs no copy to its device
    return per_picture(coefficient, x).view(-1, *[1] * (x.ndim - 1))


def per_picture(number: Tensor, x: Tensor) -> Tensor:
    """A number () or (B,) on the CPU repeated for the pictures of x: (B,), on the device and in the dtype of x."""
    if number.ndim == 0:
        return x.new_full((len(x),), number.item())  # an argument of the kernel: no copy for a GPU to wait for
    return number.to(device=x.device, dtype=x.dtype, non_blocking=x.is_cuda)


def mix(a: Tensor, x: Tensor, b: Tensor, y: Tensor) -> Tensor:
    """`a·x + b·y` for coefficients () or (B,) and pictures (B, C, H, W)."""
    return broadcast(a, x) * x + broadcast(b, y) * y


def corrupt(x0: Tensor, level: NoiseLevel, eps: Tensor) -> Tensor:
    """A sample of q(x_t | x0), `x_t = alpha·x0 + sigma·eps` (Ho et al. 2020, eq. 4).

    x0, eps: (B, C, H, W); level: () or (B,).
    """
    return mix(level.alpha, x0, level.sigma, eps)


def log_snr(level: NoiseLevel) -> Tensor:
    """Log signal-to-noise ratio, `2·log(alpha/sigma)`; +inf where sigma = 0, −inf where alpha = 0."""
    return 2 * (level.alpha.log() - level.sigma.log())


def norm(level: NoiseLevel, data_std: float) -> Tensor:
    """Standard deviation n of x_t for data of standard deviation sd, `n² = alpha²·sd² + sigma²`."""
    return torch.sqrt(level.alpha**2 * data_std**2 + level.sigma**2)


def transition(t: NoiseLevel, s: NoiseLevel) -> Transition:
    """Forward transition q(x_t | x_s): `r = alpha_t/alpha_s`, `beta = sigma_t² − r²·sigma_s²`; s is cleaner than t.

    For neighbouring DDPM indices beta is beta_t of Ho et al. 2020, eq. 2.
    """
    r = t.alpha / s.alpha
    # A difference of squares as a product: accurate for close levels too.
    kept = r * s.sigma
    return Transition(r, (t.sigma - kept) * (t.sigma + kept))


def posterior(t: NoiseLevel, s: NoiseLevel) -> Posterior:
    """Posterior q(x_s | x_t, x0) of a cleaner level s, from any t (Ho et al. 2020, eqs. 6 and 7, for any two levels).

    `mean = (r·sigma_s²·x_t + alpha_s·beta·x0)/sigma_t²`, `var = sigma_s²·beta/sigma_t²`, with r and beta of
    `transition`; by Bayes' rule.
    """
    r, beta = transition(t, s)
    var_t = t.sigma**2
    return Posterior(r * s.sigma**2 / var_t, s.alpha * beta / var_t, s.sigma**2 * beta / var_t)


def eps_from_x0(x_t: Tensor, x0: Tensor, level: NoiseLevel) -> Tensor:
    """eps of x_t and x0, `(x_t − alpha·x0)/sigma`, for sigma > 0; x_t, x0: (B, C, H, W)."""
    return mix(1 / level.sigma, x_t, -level.alpha / level.sigma, x0)


LOG_RATIO_MAX = 0.5 * math.log(1e9)


def log_noise_ratio(level: NoiseLevel) -> Tensor:
    """`log(sigma/alpha)`, the noise embedding's input, clipped so that it is finite: SNR in [1e-9, 1e9]."""
    return (-0.5 * log_snr(level)).clamp(-LOG_RATIO_MAX, LOG_RATIO_MAX)
