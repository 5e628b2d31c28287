"""Multistep solvers: higher order at one denoiser call per step, from earlier estimates.

They start at first order, with one estimate, and reach their own order as the history grows.
"""

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, log_snr, mix
from unblot.sampling.loop import Denoise, History, Noise, Solver
from unblot.sampling.steps import (
    eps_of,
    eps_step,
    exponential_integrator_step,
    is_infinite_step,
    noise_kept,
    polynomial_eps,
    polynomial_x0,
    weighted,
)


def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M), second order from the last two estimates of x0 (Lu et al. 2023, algorithm 2)."""

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t = history[0].x, history[0].level
        return exponential_integrator_step(x, middle_x0(history, s), t, s)

    return Solver(step, order=2, memory=2)


def dpmpp_3m() -> Solver:
    """DPM-Solver++(3M), third order from the last three estimates of x0 (compare Lu et al. 2023, appendix B).

    The quadratic through them is integrated exactly. Common implementations halve its second-order term, which makes
    them second order (measured in tests/sampling/test_diffusers.py).
    """

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t = history[0].x, history[0].level
        x0 = polynomial_x0(history, t, s) if len(history) > 2 else middle_x0(history, s)
        return exponential_integrator_step(x, x0, t, s)

    return Solver(step, order=3, memory=3)


def dpmpp_2m_sde(*, eta: float = 1.0) -> Solver:
    """SDE-DPM-Solver++(2M), the stochastic form of 2M; eta scales the noise (Lu et al. 2023, appendix B)."""
    _check_eta("dpmpp_2m_sde", eta)

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        return _noisy_step(history, middle_x0(history, s), s, eta, noise)

    return Solver(step, order=1, memory=2)


def dpmpp_3m_sde(*, eta: float = 1.0) -> Solver:
    """SDE-DPM-Solver++ with the quadratic through the last three estimates integrated exactly; eta scales the noise."""
    _check_eta("dpmpp_3m_sde", eta)

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        return _noisy_step(history, polynomial_x0(history, history[0].level, s, eta), s, eta, noise)

    return Solver(step, order=1, memory=3)


def unipc(*, order: int = 2) -> Solver:
    """UniPC with B(h) = e^h − 1 (Zhao et al. 2023): UniP predicts x_s, UniC corrects it with the estimate at s.

    order: of the predictor, 2 or 3; the corrector raises it by one at no further denoiser call. The free weight of the
    predictor of order 2 and of the corrector of order 1 is 1/2, as in the paper.
    """
    if order not in (2, 3):
        raise UnblotError(f"solver 'unipc' has orders 2 and 3, not {order}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t = history[0].x, history[0].level
        points = history[:order]
        x0 = middle_x0(points, s) if len(points) == 2 else polynomial_x0(points, t, s)
        return exponential_integrator_step(x, x0, t, s)

    def correct(history: History) -> Tensor:
        now, before = history[0], history[1]
        if len(history) == 2:
            x0 = (now.x0 + before.x0) / 2
        else:
            x0 = polynomial_x0(history, before.level, now.level)
        return exponential_integrator_step(before.x, x0, before.level, now.level)

    return Solver(step, order=order + 1, memory=order + 1, correct=correct)


def deis(*, order: int = 3) -> Solver:
    """DEIS, the polynomial in λ through the last `order` (1 to 4) estimates of eps (Zhang & Chen 2023, eq. 15)."""
    if order not in (1, 2, 3, 4):
        raise UnblotError(f"solver 'deis' has orders 1 to 4, not {order}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        if is_infinite_step(t, s):
            return exponential_integrator_step(x, x0, t, s)
        return eps_step(x, polynomial_eps(history, t, s), t, s)

    return Solver(step, order=order, memory=order)


ADAMS_BASHFORTH: tuple[tuple[float, ...], ...] = (
    (1,),
    (3 / 2, -1 / 2),
    (23 / 12, -16 / 12, 5 / 12),
    (55 / 24, -59 / 24, 37 / 24, -9 / 24),
)


def ipndm(*, order: int = 4) -> Solver:
    """iPNDM, Adams-Bashforth weights on the last `order` (1 to 4) estimates of eps (Liu et al. 2022, eq. 12).

    The weights are those of equal steps in sigma/alpha at any spacing, so that elsewhere the order of convergence is 2
    (theorem 3.1). Lower-order weights at the start: Zhang & Chen 2023.
    """
    if order not in (1, 2, 3, 4):
        raise UnblotError(f"solver 'ipndm' has orders 1 to 4, not {order}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        if is_infinite_step(t, s):
            return exponential_integrator_step(x, x0, t, s)
        weights = ADAMS_BASHFORTH[len(history) - 1]
        eps = weighted([eps_of(point) for point in history], weights)
        return eps_step(x, eps, t, s)

    return Solver(step, order=min(order, 2), memory=order)


def middle_x0(history: History, s: NoiseLevel) -> Tensor:
    """x0 midway in log SNR to s, on the line through the last two estimates; of a single estimate its x0."""
    x0 = history[0].x0
    if len(history) == 1:
        return x0
    t, before = history[0].level, history[1].level
    ahead = (log_snr(s) - log_snr(t)) / (2 * (log_snr(t) - log_snr(before)))  # 0 after pure noise, where log SNR = −∞
    return mix(1 + ahead, x0, -ahead, history[1].x0)


def _noisy_step(history: History, x0: Tensor, s: NoiseLevel, eta: float, noise: Noise) -> Tensor:
    """The exponential-integrator step with fresh noise of standard deviation `sigma_s·sqrt(1 − kept²)`."""
    x, t = history[0].x, history[0].level
    kept = noise_kept(t, s, eta)
    return exponential_integrator_step(x, x0, t, s, kept) + broadcast(s.sigma * torch.sqrt(1 - kept**2), x) * noise()


def _check_eta(solver: str, eta: float) -> None:
    if eta < 0:
        raise UnblotError(f"solver {solver!r} needs eta >= 0, not {eta}")
