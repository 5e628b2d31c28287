"""The steps that solvers are made of: exact integrals of the probability-flow ODE over a step from t to s.

With λ = log(alpha/sigma) the ODE is `d(x/sigma) = e^λ·x0_hat dλ`, equivalently `d(x/alpha) = eps_hat d(sigma/alpha)`.
A constant x0_hat and a constant eps_hat give the same first-order step; polynomials in λ through earlier estimates give
the multistep methods (Lu et al. 2023; Zhang & Chen 2023).
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, eps_from_x0, log_snr, mix
from unblot.sampling.loop import Estimate, History


def is_infinite_step(t: NoiseLevel, s: NoiseLevel) -> bool:
    """Whether sigma/alpha falls from above 10 by a factor of more than 10; levels ().

    Over such a step sigma/alpha is no usable time for an integration rule of second order. From pure noise, where it is
    infinite, every step is one.
    """
    return bool(t.sigma / t.alpha > 10 * (s.sigma / s.alpha).clamp(min=1))


def exponential_integrator_step(
    x: Tensor, x0: Tensor, t: NoiseLevel, s: NoiseLevel, kept: Tensor | float = 1.0
) -> Tensor:
    """x_s for a constant x0_hat: `c·x_t + (alpha_s − c·alpha_t)·x0` with `c = kept·sigma_s/sigma_t` (B, C, H, W).

    kept = 1 is the deterministic step. Less than 1 is the mean of a stochastic one, to which the caller adds noise of
    standard deviation `sigma_s·sqrt(1 − kept²)`. Levels: () or (B,).
    """
    c = kept * s.sigma / t.sigma
    return mix(c, x, s.alpha - c * t.alpha, x0)


def eps_step(x: Tensor, eps: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """x_s for a constant eps_hat: `c·x_t + (sigma_s − c·sigma_t)·eps` with `c = alpha_s/alpha_t` (B, C, H, W)."""
    c = s.alpha / t.alpha
    return mix(c, x, s.sigma - c * t.sigma, eps)


def noise_kept(t: NoiseLevel, s: NoiseLevel, eta: float) -> Tensor:
    """Factor `e^(−eta·(λ_s − λ_t))` by which a stochastic step keeps the noise of x_t; 1 at eta = 0."""
    return (t.alpha * s.sigma / (s.alpha * t.sigma)) ** eta


def polynomial_x0(points: History, t: NoiseLevel, s: NoiseLevel, eta: float = 0.0) -> Tensor:
    """The constant x0 whose step from t to s is that of the polynomial in λ through the points' estimates of x0.

    points: at t and at other levels, in any order; those at pure noise (λ = −∞) are left out. eta: stochasticity of the
    step, see `noise_kept`.
    """
    points = [p for p in points if p.level.alpha > 0] or points[:1]
    return weighted([p.x0 for p in points], _weights([p.level for p in points], t, s, 1 + eta))


def polynomial_eps(points: History, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The constant eps whose step from t to s is that of the polynomial in λ through the points' estimates of eps."""
    points = [p for p in points if p.level.alpha > 0]
    return weighted([eps_of(p) for p in points], _weights([p.level for p in points], t, s, -1.0))


def eps_of(point: Estimate) -> Tensor:
    """eps_hat of an estimate (B, C, H, W)."""
    return eps_from_x0(point.x, point.x0, point.level)


def _weights(levels: Sequence[NoiseLevel], t: NoiseLevel, s: NoiseLevel, rate: float) -> Tensor:
    """Quadrature weights (m,) with `Σ w_i·p(λ_i) = ∫ e^(rate·λ)·p(λ) dλ / ∫ e^(rate·λ) dλ` over [λ_t, λ_s].

    Exact for every polynomial p of degree below m; λ_i is that of `levels[i]`, and the weights sum to 1.
    """
    if len(levels) == 1:
        return torch.ones(1, dtype=torch.float64)
    length = log_snr(s) - log_snr(t)
    nodes = torch.stack([(log_snr(level) - log_snr(t)) / length for level in levels])  # t is 0, s is 1
    h = rate * length / 2
    moments = [-torch.expm1(-h)]  # ∫ h·e^(h(u − 1))·u^k du over [0, 1], by parts
    for k in range(1, len(levels)):
        moments.append(1 - k * moments[-1] / h)
    powers = nodes ** torch.arange(len(levels))[:, None]
    weights = torch.linalg.solve(powers, torch.stack(moments))
    return weights / moments[0]


def weighted(values: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
    """The weighted sum of tensors of one shape."""
    total = weights[0] * values[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + weight * value
    return total
