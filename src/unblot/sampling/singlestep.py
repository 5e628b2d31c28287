"""Single-step solvers: they use the present estimate and none before it."""

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, between, broadcast, eps_from_x0, log_snr, mix, posterior
from unblot.sampling.loop import Denoise, History, Noise, Solver
from unblot.sampling.steps import eps_step, exponential_integrator_step, is_infinite_step
from unblot.vlb import VARIANCES


def ddpm(*, variance: str = "posterior") -> Solver:
    """Ancestral sampling, `x_s ~ q(x_s | x_t, x0_hat)` (Ho et al. 2020, algorithm 2, for any two levels).

    variance: "posterior" (beta-tilde, the optimum for data at one point), "beta" (the optimum for x0 ~ N(0, I); both
    section 3.2), or "learned" (Nichol & Dhariwal 2021, eq. 15), of a model that was trained to predict it.
    """
    if variance not in VARIANCES:
        raise UnblotError(f"unknown variance {variance!r} for solver 'ddpm'; choose one of {', '.join(VARIANCES)}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, variance_interpolation = history[0]
        on_x, on_x0, var = posterior(t, s)
        std = VARIANCES[variance](t, s, var, Denoised(x0, variance_interpolation)).sqrt()
        return mix(on_x, x, on_x0, x0) + std * noise()

    return Solver(step, order=1)


def ddim(*, eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2021, eq. 12); eta = 0 is deterministic, eta = 1 is ancestral sampling."""
    if eta < 0:
        raise UnblotError(f"solver 'ddim' needs eta >= 0, not {eta}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        if eta == 0:
            return mix(s.alpha, x0, s.sigma, eps_from_x0(x, x0, t))
        var = (eta**2 * posterior(t, s).var).clamp(max=s.sigma**2)
        x_s = mix(s.alpha, x0, (s.sigma**2 - var).sqrt(), eps_from_x0(x, x0, t))
        return x_s + broadcast(var.sqrt(), x) * noise()

    return Solver(step, order=1)


def euler() -> Solver:
    """First-order deterministic step `alpha_s·x0_hat + sigma_s·eps_hat`: DDIM, EDM's Euler and flow's Euler."""
    return ddim(eta=0.0)


def heun() -> Solver:
    """Heun's second-order step in sigma/alpha (Karras et al. 2022, algorithm 1); 2 NFE.

    An infinite step (see `is_infinite_step`) is of first order, and takes one.
    """

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        eps = eps_from_x0(x, x0, t)
        x_s = mix(s.alpha, x0, s.sigma, eps)
        if is_infinite_step(t, s):
            return x_s
        eps_s = eps_from_x0(x_s, denoise(x_s, s).x0, s)
        return eps_step(x, (eps + eps_s) / 2, t, s)

    return Solver(step, order=2, nfe=2)


def dpmpp_2s() -> Solver:
    """DPM-Solver++(2S), its intermediate level midway in log SNR (Lu et al. 2023, algorithm 1, r = 1/2); 2 NFE."""

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        if t.alpha == 0:
            return exponential_integrator_step(x, x0, t, s)
        middle = between(t, s, 0.5)
        x0_middle = denoise(exponential_integrator_step(x, x0, t, middle), middle).x0
        return exponential_integrator_step(x, x0_middle, t, s)

    return Solver(step, order=2, nfe=2)


def adaptive(*, tolerance: float = 0.05, low: float = 0.002) -> Solver:
    """DPM-Solver++(2S) with an adaptive step size for each picture (compare Lu et al. 2022, appendix C).

    The error of a step is the difference to the first-order step, relative to x; tolerance: its largest value. Only the
    first and the last of the requested levels are used, falling or rising; before sigma = 0 the steps end at
    sigma/alpha = `low`.
    """
    if tolerance <= 0 or low <= 0:
        raise UnblotError(f"solver 'adaptive' needs tolerance > 0 and low > 0, not {tolerance} and {low}")

    def step(history: History, s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        longest = 4 / (log_snr(s) - log_snr(t)).abs()  # a longer step may see no error: it skips all structure
        if longest == 0:
            return exponential_integrator_step(x, x0, t, s)
        done, size = torch.zeros(len(x), dtype=torch.float64), (longest / 4).clamp(max=1).expand(len(x))
        while bool((done < 1).any()):
            ahead = (done + size).clamp(max=1)
            here, middle, there = (between(t, s, f) for f in (done, (done + ahead) / 2, ahead))
            x0 = denoise(x, here).x0
            x0_middle = denoise(exponential_integrator_step(x, x0, here, middle), middle).x0
            first, second = (
                exponential_integrator_step(x, x0, here, there),
                exponential_integrator_step(x, x0_middle, here, there),
            )
            allowed = tolerance * _rms(second).maximum(0.1 * there.alpha)
            error = (_rms(second - first) / allowed).nan_to_num(0.0)
            good = (error <= 1) | (size <= 1e-3)
            x, done = torch.where(broadcast(good, x) > 0, second, x), torch.where(good, ahead, done)
            size = (size * (0.9 / error.sqrt()).clamp(0.2, 5)).clamp(1e-3).minimum(longest)
        return x

    def route(levels: NoiseLevel) -> NoiseLevel:
        start, end = levels.at(0), levels.at(-1)
        stops = [start, end]
        if end.sigma == 0:
            near = torch.minimum(torch.tensor(low), start.sigma / start.alpha / 2)
            stops.insert(1, NoiseLevel(torch.ones_like(near), near))
        if start.alpha == 0:  # λ = −∞ there; the first-order step to this level is exact
            stops.insert(1, NoiseLevel(start.sigma / 100, start.sigma))
        return NoiseLevel(*(torch.stack(column) for column in zip(*stops, strict=True)))

    return Solver(step, order=2, nfe=0, route=route)


def _rms(x: Tensor) -> Tensor:
    """Root mean square of each picture, (B,), float64 on the CPU."""
    return x.flatten(1).square().mean(1).sqrt().cpu().double()
