"""The sampling loop: from noise to pictures through falling noise levels, for every solver.

The loop owns the history of estimates, so that a multistep solver is a function without state.
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, transition
from unblot.process.randomness import normal

Denoise = Callable[[Tensor, NoiseLevel], Denoised]  # condition and guidance already bound in
Noise = Callable[[], Tensor]  # the next standard normal noise, (B, C, H, W)


class Estimate(NamedTuple):
    """One point of a trajectory: x_t (B, C, H, W), its level () and the denoiser's estimate x0_hat (B, C, H, W)."""

    x: Tensor
    level: NoiseLevel
    x0: Tensor
    variance_interpolation: Tensor | None


History = Sequence[Estimate]  # the present estimate first, then earlier ones
StepFn = Callable[[History, NoiseLevel, Denoise, Noise], Tensor]


class Solver(NamedTuple):
    """One step of a sampler, and what the loop does for it.

    step: `step(history, s, denoise, noise)` gives x_s at the next level s, sigma_s > 0. `history[0]` is the estimate at
        the present level t; earlier ones follow, at most `memory` in all.
    order: of convergence, as stated by its source.
    nfe: denoiser calls per step, the loop's own included; 0 where the number depends on the pictures.
    correct: the corrected x at `history[0]`, once its estimate is known (predictor-corrector methods).
    route: the visited levels, as a function of the requested ones.
    renoise: `renoise(x_s, s, t, noise)` gives x_t where the route rises from s to a noisier t; the history restarts.
    """

    step: StepFn
    order: int
    nfe: int = 1
    memory: int = 1
    correct: Callable[[History], Tensor] | None = None
    route: Callable[[NoiseLevel], NoiseLevel] | None = None
    renoise: Callable[[Tensor, NoiseLevel, NoiseLevel, Noise], Tensor] | None = None


class Progress(NamedTuple):
    """The argument of `on_step`, after each step: steps done, steps in all, the level s reached, x_s and x0_hat."""

    step: int
    steps: int
    level: NoiseLevel
    x: Tensor
    x0: Tensor


def pictures_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Noise:
    """Standard normal noise (B, *shape) whose row i comes from generator i alone, independent of the batch."""
    return lambda: normal(generators, shape).to(device, non_blocking=device.type == "cuda")


def no_noise(why: str = "a deterministic trajectory has no noise") -> Noise:
    """The noise of a deterministic trajectory: asking for it raises UnblotError, which says `why`."""

    def refuse() -> Tensor:
        raise UnblotError(why)

    return refuse


@torch.no_grad()
def sample(
    denoise: Denoise,
    x_T: Tensor,
    levels: NoiseLevel,
    solver: Solver,
    noise: Noise,
    on_step: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Pictures (B, C, H, W) in the network's range, from x_T (B, C, H, W) at the first of `levels` (N + 1,).

    The solver takes N steps. A step that ends at sigma = 0 returns x0_hat, without a further denoiser call. Rising
    levels integrate the ODE from picture to noise, which inverts deterministic sampling. Raises UnblotError unless the
    noise falls, or rises, at every step.
    """
    levels = visited(levels, solver)
    rising = (_noise_ratio(levels).diff() > 0).tolist()
    renoised = [solver.renoise is not None and up for up in rising]
    x, history, done = x_T, list[Estimate](), 0
    for i, up in enumerate(renoised):
        t, s = levels.at(i), levels.at(i + 1)
        if up and solver.renoise is not None:
            x, history = solver.renoise(x, t, s, noise), []
            continue
        x0, variance_interpolation = denoise(x, t)
        history = [Estimate(x, t, x0, variance_interpolation), *history][: solver.memory]
        if solver.correct is not None and len(history) > 1:
            history[0] = history[0]._replace(x=solver.correct(history))
        x = x0 if s.sigma == 0 else solver.step(history, s, denoise, noise)
        done += 1
        if on_step is not None:
            on_step(Progress(done, len(renoised) - sum(renoised), s, x, x0))
    return x


def visited(levels: NoiseLevel, solver: Solver) -> NoiseLevel:
    """The levels (M + 1,) that sampling visits: the solver's route through the requested ones (N + 1,).

    Raises UnblotError for fewer than two requested levels, and unless their noise falls, or rises, at every step.
    """
    change = _noise_ratio(levels).diff()
    one_way = bool((change < 0).all()) or bool((change > 0).all())
    if len(change) < 1 or not one_way or levels.sigma[0] == 0:
        sigmas = ", ".join(f"{sigma:.4g}" for sigma in levels.sigma[:12].tolist())
        raise UnblotError(
            f"sampling needs two levels or more, with noise that falls at every step, not sigma = {sigmas}"
        )
    return levels if solver.route is None else solver.route(levels)


def count_nfe(solver: Solver, levels: NoiseLevel) -> int:
    """The largest number of denoiser calls from the first to the last of `levels`; 0 where it depends on the pictures.

    A step that ends at sigma = 0 takes one call. So may a two-call step out of pure noise, which counts as two here.
    """
    if solver.nfe == 0:
        return 0
    levels = visited(levels, solver)
    steps = (_noise_ratio(levels).diff() < 0) if solver.renoise is not None else levels.sigma[1:] >= 0
    last = levels.sigma[1:] == 0
    return int((steps & ~last).sum()) * solver.nfe + int(last.sum())


def renoise(x_s: Tensor, s: NoiseLevel, t: NoiseLevel, noise: Noise, scale: float = 1.0) -> Tensor:
    """x_t at a noisier level t from the forward process, `r·x_s + scale·sqrt(beta)·eps` (see `transition`)."""
    r, beta = transition(t, s)
    return broadcast(r, x_s) * x_s + broadcast(scale * beta.sqrt(), x_s) * noise()


def _noise_ratio(levels: NoiseLevel) -> Tensor:
    return levels.sigma / levels.alpha
