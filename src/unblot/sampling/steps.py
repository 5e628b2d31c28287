"""The formulas that solvers are made of: how x_t goes to x_s when something is held still, or is a polynomial.

With λ = log(alpha/sigma), the probability-flow ODE is `d(x/sigma) = e^λ·x0_hat dλ`, and also
`d(x/alpha) = eps_hat d(sigma/alpha)`. Holding x0_hat or eps_hat still over a step gives the same first-order step;
polynomials in λ through earlier estimates give the multistep methods.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, eps_from_x0, log_snr, mix
from unblot.sampling.loop import Estimate, History


def is_infinite_step(t: NoiseLevel, s: NoiseLevel) -> bool:
    """Whether a step between levels () is too long for sigma/alpha as its time: from over 10 it falls tenfold or more.

    From pure noise, where sigma/alpha is infinite, every step leaps.
    """
    return bool(t.sigma / t.alpha > 10 * (s.sigma / s.alpha).clamp(min=1))


def exponential_integrator_step(
    x: Tensor, x0: Tensor, t: NoiseLevel, s: NoiseLevel, kept: Tensor | float = 1.0
) -> Tensor:
    """x_s where x0_hat stays as it is: `shrink·x_t + (alpha_s − shrink·alpha_t)·x0`, `shrink = kept·sigma_s/sigma_t`.

    kept = 1 is the deterministic step; a smaller one leaves room for fresh noise of deviation
    `sigma_s·sqrt(1 − kept²)`. Levels () or (B,).
    """
    shrink = kept * s.sigma / t.sigma
    return mix(shrink, x, s.alpha - shrink * t.alpha, x0)


def eps_step(x: Tensor, eps: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """x_s where eps_hat stays as it is: `grow·x_t + (sigma_s − grow·sigma_t)·eps`, `grow = alpha_s/alpha_t`."""
    grow = s.alpha / t.alpha
    return mix(grow, x, s.sigma - grow * t.sigma, eps)


def noise_kept(t: NoiseLevel, s: NoiseLevel, eta: float) -> Tensor:
    """The share of the noise that stays in a stochastic step, `e^(−eta·(λ_s − λ_t))`; 1 at eta = 0."""
    return (t.alpha * s.sigma / (s.alpha * t.sigma)) ** eta


def polynomial_x0(points: History, t: NoiseLevel, s: NoiseLevel, eta: float = 0.0) -> Tensor:
    """The x0 that, held still from t to s, has the effect of the polynomial in λ through the points' estimates.

    points: at the levels t and others, any order; those of pure noise, at λ = −∞, are left out.
    """
    points = [p for p in points if p.level.alpha > 0] or points[:1]
    return weighted([p.x0 for p in points], _weights([p.level for p in points], t, s, 1 + eta))


def polynomial_eps(points: History, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The eps that, held still from t to s, has the effect of the polynomial in λ through the points' estimates."""
    points = [p for p in points if p.level.alpha > 0]
    return weighted([eps_of(p) for p in points], _weights([p.level for p in points], t, s, -1.0))


def eps_of(point: Estimate) -> Tensor:
    """eps_hat of an estimate."""
    return eps_from_x0(point.x, point.x0, point.level)


def _weights(levels: Sequence[NoiseLevel], t: NoiseLevel, s: NoiseLevel, rate: float) -> Tensor:
    """Weights (m,), of sum 1, with `Σ w_i·p(λ_i) = ∫ e^(rate·λ)·p(λ) dλ / ∫ e^(rate·λ) dλ` over [λ_t, λ_s].

    For every polynomial p of degree under m, λ_i being that of `levels[i]`.
    """
    if len(levels) == 1:
        return torch.ones(1, dtype=torch.float64)
    way = log_snr(s) - log_snr(t)
    nodes = torch.stack([(log_snr(level) - log_snr(t)) / way for level in levels])  # t is 0, s is 1
    h = rate * way / 2
    moments = [-torch.expm1(-h)]  # ∫ h·e^(h(u − 1))·u^k du over [0, 1], by parts
    for k in range(1, len(levels)):
        moments.append(1 - k * moments[-1] / h)
    powers = nodes ** torch.arange(len(levels))[:, None]
    weights = torch.linalg.solve(powers, torch.stack(moments))
    return weights / moments[0]


def weighted(values: Sequence[Tensor], weights: Sequence[float] | Tensor) -> Tensor:
    """The weighted sum of pictures."""
    total = weights[0] * values[0]
    for value, weight in zip(values[1:], weights[1:], strict=True):
        total = total + weight * value
    return total
