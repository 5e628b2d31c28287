"""Terms of the variational bound: reverse variances, the KL divergence of a reverse step, decoders of the last step."""

import math
from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.data.values import ValueMap
from unblot.denoiser import Denoised
from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel, broadcast, posterior, transition
from unblot.process.schedules import Schedule
from unblot.system.device import to_float64

Variance = Callable[[NoiseLevel, NoiseLevel, Tensor, Denoised], Tensor]
Decoder = Callable[[Tensor, Tensor, Tensor], Tensor]  # x0, mean, variance -> -log p(x0) of each value, nats


# --- variances of the reverse step from t to s, both (B,): (B, 1, 1, 1) or (B, C, H, W). `clipped`, (B,), is the
# posterior variance, or at the last step, where that is 0, the one of the step before.


def posterior_variance(t: NoiseLevel, s: NoiseLevel, clipped: Tensor, denoised: Denoised) -> Tensor:
    """The variance of q(x_s | x_t, x0), the smaller choice of Ho et al. 2020; beta at the last step, where it is 0."""
    return broadcast(torch.where(s.sigma == 0, transition(t, s).beta, clipped), denoised.x0)


def beta_variance(t: NoiseLevel, s: NoiseLevel, clipped: Tensor, denoised: Denoised) -> Tensor:
    """The variance of q(x_t | x_s), the larger choice of Ho et al. 2020."""
    return broadcast(transition(t, s).beta, denoised.x0)


def learned_variance(t: NoiseLevel, s: NoiseLevel, clipped: Tensor, denoised: Denoised) -> Tensor:
    """Both interpolated in the logarithm, by `denoised.variance_interpolation` (Nichol & Dhariwal 2021, eq. 15).

    Raises UnblotError for a denoiser whose variance is not learned.
    """
    if denoised.variance_interpolation is None:
        raise UnblotError(
            f"this model has not learned a variance; use beta or posterior, or train with {arg('objective', 'hybrid')}"
        )
    low, high = broadcast(clipped.log(), denoised.x0), broadcast(transition(t, s).beta.log(), denoised.x0)
    return torch.exp(low + denoised.variance_interpolation * (high - low))


VARIANCES: dict[str, Variance] = {
    "posterior": posterior_variance,
    "beta": beta_variance,
    "learned": learned_variance,
}


def divergence(x0: Tensor, x0_hat: Tensor, t: NoiseLevel, s: NoiseLevel, reverse: Tensor) -> Tensor:
    """KL(q(x_s | x_t, x0) || N(mean at x0_hat, reverse)) of each value, nats, (B, C, H, W) (Ho et al. 2020, L_t−1).

    t, s: () or (B,) with sigma_s > 0; reverse: the variance of the reverse step.
    """
    _, on_x0, var = posterior(t, s)
    shift = broadcast(on_x0, x0) * (x0 - x0_hat)
    ratio = broadcast(var, x0) / reverse
    return 0.5 * (shift.square() / reverse + ratio - 1 - ratio.log())


# --- decoders


def density(x0: Tensor, mean: Tensor, var: Tensor) -> Tensor:
    """-log of the normal density of each value, nats, (B, C, H, W): for data that is not whole numbers."""
    return 0.5 * ((2 * math.pi * var).log() + (x0 - mean).square() / var)


def discretised(width: Tensor | float) -> Decoder:
    """-log of the normal probability of each value's bin, nats, (B, C, H, W), float64 (Ho et al. 2020, eq. 13).

    width: of a bin in the network's range [-1, 1], where stored values differ by 1, a number or (C, 1, 1). The bins at
    -1 and 1 extend to infinity.
    """

    def decoder(x0: Tensor, mean: Tensor, var: Tensor) -> Tensor:
        x0, mean, std = to_float64(x0), to_float64(mean), to_float64(var).sqrt()
        half = (torch.as_tensor(width, dtype=torch.float64) / 2).to(x0.device, non_blocking=x0.is_cuda)
        above = torch.where(x0 + half >= 1, torch.inf, (x0 + half - mean) / std)
        below = torch.where(x0 - half <= -1, -torch.inf, (x0 - half - mean) / std)
        # By symmetry computed in the lower tail, where nothing cancels: log(Phi(b) - Phi(a)) with b <= 0 if possible.
        swap = below + above > 0
        high, low = torch.where(swap, -below, above), torch.where(swap, -above, below)
        log_high, log_low = torch.special.log_ndtr(high), torch.special.log_ndtr(low)
        return -(log_high + torch.log1p(-torch.exp(log_low - log_high)))

    return decoder


# --- in training


class ReverseStep(NamedTuple):
    """The reverse step of each picture's term of the bound: the levels before, at and after it, each (B,).

    From `t` to `s`, which is clean at the last step; `before` is as far from t on the noisy side.
    """

    before: NoiseLevel
    t: NoiseLevel
    s: NoiseLevel

    def at(self, rows: slice) -> "ReverseStep":
        """The reverse steps of some pictures."""
        return ReverseStep(*(level.at(rows) for level in self))


def reverse_step(schedule: Schedule, t: Tensor, steps: int) -> ReverseStep:
    """The reverse step from each time t (B,), one of `steps` equal ones."""
    return ReverseStep(schedule((t + 1 / steps).clamp(max=1)), schedule(t), schedule((t - 1 / steps).clamp(min=0)))


def bound_terms(denoised: Denoised, x0: Tensor, reverse_step: ReverseStep, decoder: Decoder) -> Tensor:
    """The term of the bound at each picture's step, mean over its values, nats, (B,), with the learned variance.

    Multiplied by the number of steps and averaged over uniform times it is the bound per dimension, without the
    constant of the prior (Nichol & Dhariwal 2021, eq. 4).
    """
    before, t, s = reverse_step
    last = s.sigma == 0
    # The last step has no divergence; that of the step before is computed in its place, and dropped by torch.where:
    # a term that is not finite would make the gradient NaN even so.
    upper = NoiseLevel(*(torch.where(last, a, b) for a, b in zip(before, t, strict=True)))
    lower = NoiseLevel(*(torch.where(last, a, b) for a, b in zip(t, s, strict=True)))
    reverse = learned_variance(t, s, posterior(upper, lower).var, denoised)
    steps = divergence(x0, denoised.x0, upper, lower, reverse).flatten(1).mean(1)
    if not bool(last.any()):
        return steps
    ends = decoder(x0, denoised.x0, reverse).flatten(1).mean(1).to(steps.dtype).to(steps.device)
    return torch.where(last.to(steps.device), ends, steps)


def decoder_of(values: ValueMap) -> Decoder:
    """The decoder of these values: the probability of stored whole numbers, or a density of other values."""
    return discretised(bin_width(values)) if values.bounded else density


def bin_width(values: ValueMap) -> Tensor:
    """The difference of neighbouring stored whole numbers in the network's range, (C, 1, 1)."""
    return torch.tensor(values.scale, dtype=torch.float64).reciprocal().view(-1, 1, 1)
