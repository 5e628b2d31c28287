"""The one sampling loop: from noise to pictures through falling noise levels."""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import normal

Denoise = Callable[[Tensor, NoiseLevel], Denoised]  # label and guidance already bound in
Noise = Callable[[], Tensor]  # the next standard normal noise, (B, C, H, W)


class Estimate(NamedTuple):
    """One visited point of the way: x_t (B, C, H, W), its level () and what the denoiser made of it."""

    x: Tensor
    level: NoiseLevel
    x0: Tensor
    var_mix: Tensor | None


StepFn = Callable[[Sequence[Estimate], NoiseLevel, Denoise, Noise], Tensor]


class Solver(NamedTuple):
    """How to take one step.

    `step(history, s, denoise, noise)` gives x_s at a cleaner level s with sigma_s > 0; `history[0]` is the estimate at
    the present level, then come earlier ones, `order` of them at most. `evaluations` counts the calls of the
    denoiser per step, the loop's own included.
    """

    step: StepFn
    order: int
    evaluations: int = 1


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

    The solver takes N steps; one that ends at sigma = 0 is x0_hat itself, without a call of the denoiser there.
    Raises UnblotError unless the noise falls at every step.
    """
    steps = len(levels.sigma) - 1
    if steps < 1 or not bool(((levels.sigma / levels.alpha).diff() < 0).all()):
        raise UnblotError(f"sampling needs at least two levels with falling noise, not sigma = {levels.sigma.tolist()}")
    x = x_T
    history: list[Estimate] = []
    for i in range(steps):
        t, s = levels.at(i), levels.at(i + 1)
        x0, var_mix = denoise(x, t)
        history = [Estimate(x, t, x0, var_mix), *history][: solver.order]
        x = x0 if s.sigma == 0 else solver.step(history, s, denoise, noise)
        if on_step is not None:
            on_step(Progress(i + 1, steps, s, x, x0))
    return x
