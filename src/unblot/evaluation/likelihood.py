"""The likelihood of pictures under a model: the variational bound with its terms, and the probability-flow ODE.

Both per picture, in nats per dimension (divide by log 2 for bits). A low likelihood marks an unusual picture. For
stored whole numbers the bound is of their probability; for others it is of a density in the network's range.
"""

from collections.abc import Iterator, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.process.levels import NoiseLevel, corrupt, log_noise_ratio, posterior
from unblot.process.prior import Prior
from unblot.process.randomness import normal
from unblot.sampling.loop import Denoise
from unblot.system.device import to_float64
from unblot.vlb import Decoder, Variance, divergence


class Bound(NamedTuple):
    """The variational bound on -log p(x0) in nats per dimension, per picture (B,), float64, as the sum of its terms.

    `prior`: KL divergence of the noisiest level from the noise that sampling starts with; `steps`: of the reverse steps
    but the last; `decoder`: the last step, to the stored values.
    """

    prior: Tensor
    steps: Tensor
    decoder: Tensor

    @property
    def total(self) -> Tensor:
        """The bound itself, (B,)."""
        return self.prior + self.steps + self.decoder


# --- the variational bound


@torch.no_grad()
def variational_bound(
    denoise: Denoise,
    x0: Tensor,
    levels: NoiseLevel,
    variance: Variance,
    decoder: Decoder,
    generators: Sequence[torch.Generator],
    nfe: int | None = None,
    prior: Prior | None = None,
) -> Bound:
    """The bound for the reverse steps through `levels` (T + 1,), T >= 2, noisiest first, ending at sigma = 0.

    x0: (B, C, H, W); the noise of picture i is from generator i. `nfe`: number of the T - 1 steps before the last
    that are evaluated, chosen and weighted so that the result is unbiased; None for all. prior: what
    sampling starts from; None for that of data with standard deviation 1.

    Ho et al. 2020, eq. 5; with `learned_variance`, L_vlb of Nichol & Dhariwal 2021, eq. 4.
    """
    last, rows = len(levels.sigma) - 2, len(x0)
    steps = torch.zeros(rows, dtype=torch.float64)
    for chosen, weight in _chosen_steps(levels, last if nfe is None else nfe, generators):
        t, s = levels.at(chosen), levels.at(chosen + 1)
        estimate = denoise(corrupt(x0, t, _noise(generators, x0)), t)
        reverse = variance(t, s, posterior(t, s).var, estimate)
        steps += weight * _per_picture(divergence(x0, estimate.x0, t, s, reverse))
    t, s = levels.at(last).expand(rows), levels.at(last + 1).expand(rows)
    estimate = denoise(corrupt(x0, t, _noise(generators, x0)), t)
    reverse = variance(t, s, posterior(levels.at(last - 1), t).var, estimate)
    prior = prior or Prior(levels.at(0), 1.0)
    return Bound(prior.kl(x0).cpu(), steps, _per_picture(decoder(x0, estimate.x0, reverse)))


def _chosen_steps(
    levels: NoiseLevel, nfe: int, generators: Sequence[torch.Generator]
) -> Iterator[tuple[Tensor, Tensor]]:
    """For each evaluation the step of each picture, 0 … T - 2, and its weight, both (B,): the weighted sum is unbiased.

    Where the estimate is good, the term of a step is about half the fall of log SNR in it. Steps are therefore chosen
    in proportion to that fall, stratified; a tenth of the probability is spread evenly, for where it is not.
    """
    last, rows = len(levels.sigma) - 2, len(generators)
    if nfe >= last:
        yield from ((torch.full((rows,), i), torch.ones(rows, dtype=torch.float64)) for i in range(last))
        return
    fall = -log_noise_ratio(levels.at(slice(0, last + 1))).diff().clamp_max(0)
    chance = 0.9 * fall / fall.sum() + 0.1 / last
    for stratum in range(nfe):
        u = torch.tensor([(stratum + _uniform(g)) / nfe for g in generators], dtype=torch.float64)
        chosen = torch.searchsorted(chance.cumsum(0), u).clamp_max(last - 1)
        yield chosen, 1 / (nfe * chance[chosen])


# --- the likelihood along the probability-flow ODE


def ode_log_likelihood(
    denoise: Denoise,
    x0: Tensor,
    levels: NoiseLevel,
    generators: Sequence[torch.Generator] | None = None,
    prior: Prior | None = None,
) -> Tensor:
    """log p(x0) in nats per dimension, per picture (B,), float64, along the probability-flow ODE (Song et al. 2021).

    x0: (B, C, H, W). `levels`: (N + 1,), noisiest first; those with alpha and sigma above 0 are used, so that the
    density is that of the data with the cleanest level's noise. With `generators`, one a picture, the divergence is
    Hutchinson's unbiased estimate with one vector of random signs for the whole trajectory; without, the exact trace,
    at one backward pass a dimension. prior: of x at the noisiest of those levels; None for that of data with
    standard deviation 1.

    With `y = x/alpha` and `u = sigma/alpha` the ODE is `dy/du = eps_hat = (y - x0_hat)/u`, solved in u
    by Heun's method. log p changes by the divergence; its integrand `(1 - tr/D)·d(log u)` is bounded in log u, where
    the integral is taken.
    """
    used = levels.at((levels.sigma > 0) & (levels.alpha > 0))
    used = NoiseLevel(used.alpha.flip(0), used.sigma.flip(0))
    u = used.sigma / used.alpha
    signs = None if generators is None else _noise(generators, x0).sign()
    y = to_float64(x0)
    divergence = torch.zeros(len(x0), dtype=torch.float64)
    x0_hat, kept = _x0_and_trace(denoise, y, x0, used.at(0), signs)
    for i in range(1, len(u)):
        slope = (y - x0_hat) / u[i - 1]
        ahead = y + (u[i] - u[i - 1]) * slope
        guess, _ = _x0_and_trace(denoise, ahead, x0, used.at(i), None, trace=False)
        y = y + (u[i] - u[i - 1]) * (slope + (ahead - guess) / u[i]) / 2
        before = kept
        x0_hat, kept = _x0_and_trace(denoise, y, x0, used.at(i), signs)
        divergence += (u[i].log() - u[i - 1].log()) * (1 - (before + kept) / 2)
    prior, alpha = prior or Prior(used.at(-1), 1.0), used.alpha[-1]
    return prior.log_density(alpha * y).cpu() + alpha.log() + divergence


def _x0_and_trace(
    denoise: Denoise, y: Tensor, like: Tensor, level: NoiseLevel, signs: Tensor | None, trace: bool = True
) -> tuple[Tensor, Tensor]:
    """x0_hat at x = alpha·y in float64, and the trace of its derivative by y over the number of dimensions (B,).

    like: what x is like for the denoiser, in device and dtype.
    """
    with torch.set_grad_enabled(trace):
        given = (level.alpha * y).to(like).requires_grad_(trace)
        x0_hat = denoise(given, level).x0
        if not trace:
            return to_float64(x0_hat), torch.zeros(len(y))
        if signs is not None:
            (gradient,) = torch.autograd.grad((x0_hat * signs).sum(), given)
            mean = _per_picture(gradient * signs)
        else:
            flat = x0_hat.flatten(1)
            mean = torch.zeros(len(y), dtype=torch.float64)
            for i in range(flat.shape[1]):
                (gradient,) = torch.autograd.grad(flat[:, i].sum(), given, retain_graph=True)
                mean += gradient.flatten(1)[:, i].cpu().double() / flat.shape[1]
    return to_float64(x0_hat.detach()), level.alpha * mean


def _per_picture(values: Tensor) -> Tensor:
    """Means over each picture (B,), float64, on the CPU."""
    return to_float64(values).flatten(1).mean(1).cpu()


def _uniform(g: torch.Generator) -> float:
    return float(torch.rand((), dtype=torch.float64, generator=g))


def _noise(generators: Sequence[torch.Generator], x0: Tensor) -> Tensor:
    return normal(generators, x0.shape[1:]).to(x0)
