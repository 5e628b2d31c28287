"""Solvers that go back up to noisier levels on their way: fresh noise washes out the errors made so far."""

from functools import partial

import torch

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.sampling.loop import Solver, renoise
from unblot.sampling.singlestep import heun


def edm_churn(*, churn: float = 40.0, low: float = 0.05, high: float = 50.0, noise: float = 1.003) -> Solver:
    """EDM's stochastic sampler (Karras et al. 2022, algorithm 2): a little noise is added before each of Heun's steps.

    churn: S_churn, shared out among the steps; low, high: S_tmin and S_tmax, in sigma/alpha; noise: S_noise. The
    paper's own settings differ by data set; these are its ImageNet-64 ones.
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
    """Restart sampling (Xu et al. 2023, algorithm 1): part of the way, sigma/alpha in [low, high], again and again.

    Heun's steps go down through it, fresh noise leads back up, `repeats` times. Nothing is repeated where fewer than
    two levels lie there.
    """
    if repeats < 0:
        raise UnblotError(f"solver 'restart' needs repeats >= 0, not {repeats}")

    def route(levels: NoiseLevel) -> NoiseLevel:
        ratio = levels.sigma / levels.alpha
        inside = ((ratio >= low) & (ratio <= high)).nonzero().flatten()
        if len(inside) < 2:
            return levels
        last, steps = int(inside[-1]), torch.arange(len(ratio))
        return levels.at(torch.cat([steps[: last + 1], *[inside] * repeats, steps[last + 1 :]]))

    return heun()._replace(route=route, renoise=renoise)
