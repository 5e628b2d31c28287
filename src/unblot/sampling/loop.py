"""The one sampling loop: from noise to pictures through falling noise levels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast, transition
from unblot.process.randomness import normal

Denoise = Callable[[Tensor, NoiseLevel], Denoised]  # label and guidance already bound in
Noise = Callable[[], Tensor]  # the next standard normal noise, (B, C, H, W)


class Estimate(NamedTuple):
    """One visited point of the way: x_t (B, C, H, W), its level () and what the denoiser made of it."""

    x: Tensor
    level: NoiseLevel
    x0: Tensor
    variance_interpolation: Tensor | None


History = Sequence[Estimate]  # the present estimate first, then earlier ones
StepFn = Callable[[History, NoiseLevel, Denoise, Noise], Tensor]


class Solver(NamedTuple):
    """How to take one step, and what the loop must keep and do for it.

    step: `step(history, s, denoise, noise)` gives x_s at the next level s, sigma_s > 0; `history[0]` is the estimate at
        the present level, then come earlier ones, `memory` of them at most.
    order: of convergence, as its source states it.
    evaluations: calls of the denoiser per step, the loop's own included; 0 where that depends on the pictures.
    correct: gives a better x at `history[0]`, now that the estimate there is known (predictor-corrector methods).
    route: the levels that are visited, made from those asked for.
    rise: `rise(x_s, s, t, noise)` gives x_t where the route goes up to a noisier level t; history begins anew there.
    """

    step: StepFn
    order: int
    nfe: int = 1
    memory: int = 1
    correct: Callable[[History], Tensor] | None = None
    route: Callable[[NoiseLevel], NoiseLevel] | None = None
    renoise: Callable[[Tensor, NoiseLevel, NoiseLevel, Noise], Tensor] | None = None


class Progress(NamedTuple):
    """What `on_step` is shown after each step: the number of steps done and of all, the level reached, x_t, x0_hat."""

    step: int
    steps: int
    level: NoiseLevel
    x: Tensor
    x0: Tensor


def pictures_noise(generators: Sequence[torch.Generator], shape: Sequence[int], device: torch.device) -> Noise:
    """Noise for a batch whose picture i draws from generator i alone: the same picture in any batch and any order."""
    return lambda: normal(generators, shape).to(device, non_blocking=device.type == "cuda")


@torch.no_grad()
def sample(
    denoise: Denoise,
    x_T: Tensor,
    levels: NoiseLevel,
    solver: Solver,
    noise: Noise,
    on_step: Callable[[Progress], None] | None = None,
) -> Tensor:
    """Pictures (B, C, H, W) from x_T (B, C, H, W) through `levels` (N + 1,), noisiest first.

    The solver takes N steps; one that ends at sigma = 0 is x0_hat itself, without a call of the denoiser there. Rising
    levels are gone through likewise, which inverts deterministic sampling. Raises UnblotError unless the noise falls,
    or rises, at every step.
    """
    levels = visited(levels, solver)
    ups = (
        (_noise_ratio(levels).diff() > 0).tolist() if solver.renoise is not None else [False] * (len(levels.sigma) - 1)
    )
    x, history, done = x_T, list[Estimate](), 0
    for i, up in enumerate(ups):
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
            on_step(Progress(done, len(ups) - sum(ups), s, x, x0))
    return x


def visited(levels: NoiseLevel, solver: Solver) -> NoiseLevel:
    """The levels that sampling goes through: those asked for, as the solver's route leads.

    Raises UnblotError unless there are two at least and their noise falls, or rises, all the way.
    """
    change = _noise_ratio(levels).diff()
    one_way = bool((change < 0).all()) or bool((change > 0).all())
    if len(change) < 1 or not one_way or levels.sigma[0] == 0:
        sigmas = ", ".join(f"{sigma:.4g}" for sigma in levels.sigma[:12].tolist())
        raise UnblotError(f"sampling needs two levels or more, with noise that falls all the way, not sigma = {sigmas}")
    return levels if solver.route is None else solver.route(levels)


def count_nfe(solver: Solver, levels: NoiseLevel) -> int:
    """The most calls of the denoiser on the way through `levels`; one for a step that ends at sigma = 0.

    A two-evaluation step out of pure noise takes one as well. 0 where the pictures decide.
    """
    levels = visited(levels, solver)
    steps = (_noise_ratio(levels).diff() < 0) if solver.renoise is not None else levels.sigma[1:] >= 0
    last = levels.sigma[1:] == 0
    return int((steps & ~last).sum()) * solver.nfe + int(last.sum())


def renoise(x_s: Tensor, s: NoiseLevel, t: NoiseLevel, noise: Noise, scale: float = 1.0) -> Tensor:
    """x_t at a noisier level t, drawn from the forward process q(x_t | x_s), the noise scaled."""
    r, beta = transition(t, s)
    return broadcast(r, x_s) * x_s + broadcast(scale * beta.sqrt(), x_s) * noise()


def _noise_ratio(levels: NoiseLevel) -> Tensor:
    return levels.sigma / levels.alpha
