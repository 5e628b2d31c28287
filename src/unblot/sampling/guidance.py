"""Guidance: closures round a denoiser that bind the label in, push towards it, or hold the values in their range."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unblot.denoiser import Denoised, Denoiser
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast
from unblot.sampling.loop import Denoise
from unblot.specs import build


@dataclass(frozen=True)
class Guidance:
    """What the estimates are pushed by, and held to; nothing unless it is given.

    scale: a number, or one per picture (B,); 1 is no push. rescale, low, high: as in `classifier_free`. weak: the model
    to push away from; without one it is the same model without the label. threshold: a spec into THRESHOLDS.
    """

    scale: Tensor | float = 1.0
    rescale: float = 0.0
    low: float = 0.0
    high: float = math.inf
    weak: Denoiser | None = None
    threshold: str = "none"

    def at(self, part: slice) -> "Guidance":
        """The guidance of a part of the pictures."""
        return replace(self, scale=self.scale[part]) if isinstance(self.scale, Tensor) else self


def guided(denoiser: Denoiser, label: Tensor | None, guidance: Guidance) -> Denoise:
    """The denoiser with label (B,) or None bound in, guided and thresholded as `guidance` says."""
    how = {"rescale": guidance.rescale, "low": guidance.low, "high": guidance.high}
    if guidance.weak is not None:
        weak = labelled(guidance.weak, label)
        denoise = autoguidance(labelled(denoiser, label), weak, guidance.scale, **how)
    elif label is not None:
        denoise = classifier_free(denoiser, label, guidance.scale, **how)
    else:
        denoise = labelled(denoiser, None)
    return build(THRESHOLDS, guidance.threshold, "threshold", denoise)


def labelled(denoiser: Denoiser, label: Tensor | None) -> Denoise:
    """The denoiser with label (B,) bound in; None for no label."""
    return lambda x, level: denoiser(x, level, label)


def classifier_free(
    denoiser: Denoiser,
    label: Tensor,
    scale: Tensor | float,
    *,
    rescale: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Denoise:
    """Classifier-free guidance (Ho & Salimans 2022): `x0 = x0_none + scale·(x0_label − x0_none)`.

    label: (B,) int64, `denoiser.num_classes` for no label; scale: a number or one per picture (B,). Both halves go
    through the network in one call. Scale 1 is no guidance and costs none, as do levels with sigma/alpha outside
    [low, high] (Kynkäänniemi et al. 2024). rescale: how far, 0 to 1, each picture's contrast is brought back to that
    of x0_label (Lin et al. 2024, eqs. 15 and 16).
    """
    alone, both = labelled(denoiser, label), torch.cat([label, torch.full_like(label, denoiser.num_classes)])

    def pair(x: Tensor, level: NoiseLevel) -> tuple[Denoised, Tensor]:
        twice = level if level.alpha.ndim == 0 else NoiseLevel(*(torch.cat([number, number]) for number in level))
        x0, variance_interpolation = denoiser(torch.cat([x, x]), twice, both)
        with_label, without = x0.chunk(2)
        return Denoised(
            with_label, None if variance_interpolation is None else variance_interpolation.chunk(2)[0]
        ), without

    return _guided(alone, pair, scale, rescale, low, high)


def autoguidance(
    denoise: Denoise,
    weak: Denoise,
    scale: Tensor | float,
    *,
    rescale: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Denoise:
    """Autoguidance (Karras et al. 2024): `x0 = x0_weak + scale·(x0 − x0_weak)`, away from a worse model's errors.

    weak: a smaller or less trained model of the same data, with the same labels bound in. The options are those of
    `classifier_free`; each guided evaluation calls both models.
    """
    return _guided(denoise, lambda x, level: (denoise(x, level), weak(x, level).x0), scale, rescale, low, high)


def static_threshold(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """x0_hat held within [−bound, bound], for data whose values are bounded (as Ho et al. 2020 sampled)."""

    def bounded(x: Tensor, level: NoiseLevel) -> Denoised:
        found = denoise(x, level)
        return found._replace(x0=found.x0.clamp(-bound, bound))

    return bounded


def dynamic_threshold(denoise: Denoise, bound: float = 1.0, *, quantile: float = 0.995) -> Denoise:
    """x0_hat of each picture held within this quantile of its |values|, which becomes `bound` where it is more.

    Keeps strong guidance from saturating (Saharia et al. 2022, section 2.3); for data whose values are bounded.
    """
    if not 0 < quantile <= 1:
        raise UnblotError(f"dynamic thresholding needs a quantile above 0 and up to 1, not {quantile}")

    def bounded(x: Tensor, level: NoiseLevel) -> Denoised:
        found = denoise(x, level)
        x0 = found.x0
        most = x0.flatten(1).abs().float().quantile(quantile, dim=1).clamp(min=bound)
        most = most.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return found._replace(x0=x0.clamp(-most, most) * (bound / most))

    return bounded


def no_threshold(denoise: Denoise) -> Denoise:
    """x0_hat as it is."""
    return denoise


THRESHOLDS: dict[str, Callable[..., Denoise]] = {
    "none": no_threshold,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
}


def _guided(
    alone: Denoise,
    pair: Callable[[Tensor, NoiseLevel], tuple[Denoised, Tensor]],
    scale: Tensor | float,
    rescale: float,
    low: float,
    high: float,
) -> Denoise:
    scale = torch.as_tensor(scale, dtype=torch.float64).cpu()
    if bool((scale == 1).all()):
        return alone

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        ratio = level.sigma / level.alpha
        here = torch.where((ratio >= low) & (ratio <= high), scale, 1.0)
        if bool((here == 1).all()):
            return alone(x, level)
        (good, variance_interpolation), bad = pair(x, level)
        x0 = good + broadcast(here - 1, good) * (good - bad)  # exact where the scale is 1
        if rescale > 0:
            x0 = torch.lerp(x0, x0 * (_contrast(good) / _contrast(x0)), rescale)
        return Denoised(x0, variance_interpolation)

    return denoise


def _contrast(x0: Tensor) -> Tensor:
    """Standard deviation over all values of each picture, (B, 1, 1, 1); never 0."""
    return x0.std(dim=tuple(range(1, x0.ndim)), keepdim=True, correction=0).clamp(min=1e-8)
