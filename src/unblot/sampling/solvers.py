"""Solvers: one step from x_t to x_s, on any schedule and parameterization.

Each entry of SOLVERS makes a `Solver` from its options. With sigma/alpha as the time, all deterministic ones solve
`d(x/alpha)/d(sigma/alpha) = eps_hat`, the probability-flow ODE; the stochastic ones add fresh noise at every step.
"""

from collections.abc import Callable, Sequence

from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, eps_from_x0, log_snr, mix, posterior, transition
from unblot.sampling.loop import Denoise, Estimate, Noise, Solver


def ddpm(*, variance: str = "posterior") -> Solver:
    """Ancestral sampling: x_s drawn from q(x_s | x_t, x0_hat) (Ho et al. 2020, algorithm 2, for any pair of levels).

    variance: "posterior" (their beta-tilde, right for data at one point) or "beta" (right for normal data).
    """
    if variance not in ("posterior", "beta"):
        raise UnblotError(f"unknown variance {variance!r} for solver 'ddpm'; choose posterior or beta")

    def step(history: Sequence[Estimate], s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        on_x, on_x0, var = posterior(t, s)
        std = var.sqrt() if variance == "posterior" else transition(t, s).beta.sqrt()
        return mix(on_x, x, on_x0, x0) + broadcast(std, x) * noise()

    return Solver(step, order=1)


def ddim(*, eta: float = 0.0) -> Solver:
    """DDIM (Song et al. 2021, eq. 12): eta = 0 is deterministic, eta = 1 is ancestral sampling."""
    if eta < 0:
        raise UnblotError(f"solver 'ddim' needs eta >= 0, not {eta}")

    def step(history: Sequence[Estimate], s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        var = (eta**2 * posterior(t, s).var).clamp(max=s.sigma**2)
        x_s = mix(s.alpha, x0, (s.sigma**2 - var).sqrt(), eps_from_x0(x, x0, t))
        return x_s if eta == 0 else x_s + broadcast(var.sqrt(), x) * noise()

    return Solver(step, order=1)


def euler() -> Solver:
    """The first-order deterministic step `alpha_s·x0_hat + sigma_s·eps_hat`: DDIM, EDM's Euler and flow's in one."""
    return ddim(eta=0.0)


def heun() -> Solver:
    """Heun's second-order step in sigma/alpha (Karras et al. 2022, algorithm 1); two evaluations.

    Above sigma/alpha = 100, where x0_hat is the data's mean and that time runs off, it takes the first-order step.
    """

    def step(history: Sequence[Estimate], s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        eps = eps_from_x0(x, x0, t)
        x_s = mix(s.alpha, x0, s.sigma, eps)
        if t.sigma > 100 * t.alpha:
            return x_s
        eps_s = eps_from_x0(x_s, denoise(x_s, s).x0, s)
        way = s.alpha * (s.sigma / s.alpha - t.sigma / t.alpha)
        return mix(s.alpha / t.alpha, x, way, (eps + eps_s) / 2)

    return Solver(step, order=1, evaluations=2)


def dpmpp_2m() -> Solver:
    """DPM-Solver++(2M): second order from the last two estimates of x0 (Lu et al. 2023, algorithm 2)."""

    def step(history: Sequence[Estimate], s: NoiseLevel, denoise: Denoise, noise: Noise) -> Tensor:
        x, t, x0, _ = history[0]
        if len(history) > 1:
            before = history[1]
            h, h_before = log_snr(s) - log_snr(t), log_snr(t) - log_snr(before.level)
            ahead = h / (2 * h_before)  # 0 after a step from pure noise, whose log SNR is infinite
            x0 = mix(1 + ahead, x0, -ahead, before.x0)
        return _exponential_step(x, x0, t, s)

    return Solver(step, order=2)


def _exponential_step(x: Tensor, x0: Tensor, t: NoiseLevel, s: NoiseLevel) -> Tensor:
    """The step that is exact where x0_hat does not change: `(sigma_s/sigma_t)·x_t + (alpha_s − …·alpha_t)·x0`."""
    shrink = s.sigma / t.sigma
    return mix(shrink, x, s.alpha - shrink * t.alpha, x0)


SOLVERS: dict[str, Callable[..., Solver]] = {
    "ddpm": ddpm,
    "ddim": ddim,
    "euler": euler,
    "heun": heun,
    "dpmpp_2m": dpmpp_2m,
}


def evaluations(solver: Solver, steps: int) -> int:
    """The number of calls of the denoiser for `steps` steps, the last of which ends at sigma = 0."""
    return solver.evaluations * (steps - 1) + 1
