"""Solvers that return to noisier levels: fresh noise contracts the errors made so far."""

from functools import partial

import torch

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.sampling.loop import Solver, renoise
from unblot.sampling.singlestep import heun

MAX_REPEATS = 1000  # each one is as much work as its interval was: a mistyped number fails at once


def edm_churn(*, churn: float = 40.0, low: float = 0.05, high: float = 50.0, noise: float = 1.003) -> Solver:
    """EDM's stochastic sampler: noise is added before each Heun step (Karras et al. 2022, algorithm 2).

    churn: S_churn, divided by the number of steps. low, high: S_tmin, S_tmax, in sigma/alpha. noise: S_noise. The
    defaults are the paper's for ImageNet-64 (table 5).
    """
    if churn < 0 or noise <= 0:
        raise UnblotError(f"solver 'edm_churn' needs churn >= 0 and noise > 0, not {churn} and {noise}")

    def route(levels: NoiseLevel) -> NoiseLevel:
        gamma = min(churn / (len(levels.sigma) - 1), 2**0.5 - 1)
        ratio = levels.sigma / levels.alpha
        churned = (ratio >= low) & (ratio <= high) & (gamma > 0)
        churned[-1] = False
        raised = NoiseLevel(levels.alpha, torch.where(churned, (1 + gamma) * levels.sigma, levels.sigma))
        both = NoiseLevel(*(torch.stack(pair, 1).flatten() for pair in zip(levels, raised, strict=True)))
        return both.at(torch.stack([torch.ones_like(churned), churned], 1).flatten())

    return heun()._replace(route=route, renoise=partial(renoise, scale=noise))


def restart(*, low: float = 0.06, high: float = 0.3, repeats: int = 2) -> Solver:
    """Restart sampling (Xu et al. 2023, algorithm 1): the levels with sigma/alpha in [low, high] are sampled again.

    Fresh noise leads from `low` back to `high`, Heun steps down again, `repeats` times. Where fewer than two levels are
    in the interval, nothing is repeated.
    """
    if not 0 <= repeats <= MAX_REPEATS:
        raise UnblotError(f"solver 'restart' needs repeats from 0 to {MAX_REPEATS}, not {repeats}")

    def route(levels: NoiseLevel) -> NoiseLevel:
        ratio = levels.sigma / levels.alpha
        inside = ((ratio >= low) & (ratio <= high)).nonzero().flatten()
        if len(inside) < 2:
            return levels
        last, steps = int(inside[-1]), torch.arange(len(ratio))
        return levels.at(torch.cat([steps[: last + 1], *[inside] * repeats, steps[last + 1 :]]))

    return heun()._replace(route=route, renoise=renoise)
