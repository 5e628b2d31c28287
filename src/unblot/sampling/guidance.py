"""Guidance and thresholding: functions that take a denoiser and give a denoiser with a changed x0_hat.

A solver sees only the resulting `Denoise`, so that every kind of guidance works with every solver.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch
from torch import Tensor

from unblot.denoiser import Condition, Denoised, Denoiser
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel, broadcast
from unblot.sampling.loop import Denoise
from unblot.specs import build


@dataclass(frozen=True)
class Guidance:
    """How x0_hat is guided and thresholded; the defaults leave it unchanged.

    scale: a number, or one per picture (B,); 1 is no guidance. rescale, low, high: see `classifier_free`. weak: the
    weaker model of autoguidance; None for classifier-free guidance. negative: the text that classifier-free guidance
    leads away from; "" for no text. threshold: a spec into THRESHOLDS.
    """

    scale: Tensor | float = 1.0
    rescale: float = 0.0
    low: float = 0.0
    high: float = math.inf
    weak: Denoiser | None = None
    negative: str = ""
    threshold: str = "none"

    def at(self, part: slice) -> "Guidance":
        """The guidance of a slice of the pictures."""
        return replace(self, scale=self.scale[part]) if isinstance(self.scale, Tensor) else self


def guided(denoiser: Denoiser, condition: Condition | None, guidance: Guidance) -> Denoise:
    """The denoiser with its condition bound in, then guided and thresholded."""
    options = {"rescale": guidance.rescale, "low": guidance.low, "high": guidance.high}
    if guidance.weak is not None:
        weak = bind(guidance.weak, condition)
        denoise = autoguidance(bind(denoiser, condition), weak, guidance.scale, **options)
    elif condition is not None and not condition.is_empty:
        denoise = classifier_free(denoiser, condition, guidance.scale, negative=guidance.negative, **options)
    else:
        denoise = bind(denoiser, condition)
    return build(THRESHOLDS, guidance.threshold, "threshold", denoise)


@torch.no_grad()
def bind(denoiser: Denoiser, condition: Condition | None) -> Denoise:
    """The denoiser with a condition bound in, whose text is encoded here, once; None is no label and no text."""
    encoded = denoiser.encoded(condition)
    return lambda x, level: denoiser(x, level, encoded)


def classifier_free(
    denoiser: Denoiser,
    condition: Condition,
    scale: Tensor | float,
    *,
    negative: str = "",
    rescale: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Denoise:
    """Classifier-free guidance, `x0 = x0_none + scale·(x0_given − x0_none)` (Ho & Salimans 2022, eq. 6, w = scale − 1).

    x0_none has neither label nor text; with a negative prompt it has that text. scale: a number, or one per picture
    (B,); 1 is no guidance. low, high: guidance acts where sigma/alpha is in [low, high] (Kynkäänniemi et al. 2024).
    rescale: in [0, 1], the share by which the standard deviation of each picture returns to that of x0_given (Lin et
    al. 2024, eqs. 15, 16).

    Both estimates come from one call of the network on a batch of 2B. Where no picture is guided the batch stays B.
    """
    conditional, none = bind(denoiser, condition), denoiser.unconditional(condition, negative)
    pairs = zip(condition, none, strict=True)
    both = bind(denoiser, Condition(*(a if a is None or b is None else torch.cat([a, b]) for a, b in pairs)))

    def pair(x: Tensor, level: NoiseLevel) -> tuple[Denoised, Tensor]:
        twice = level if level.alpha.ndim == 0 else NoiseLevel(*(torch.cat([number, number]) for number in level))
        x0, variance_interpolation = both(torch.cat([x, x]), twice)
        x0_given, x0_none = x0.chunk(2)
        half = None if variance_interpolation is None else variance_interpolation.chunk(2)[0]
        return Denoised(x0_given, half), x0_none

    return _extrapolated(conditional, pair, scale, rescale, low, high)


def autoguidance(
    denoise: Denoise,
    weak: Denoise,
    scale: Tensor | float,
    *,
    rescale: float = 0.0,
    low: float = 0.0,
    high: float = math.inf,
) -> Denoise:
    """Autoguidance, `x0 = x0_weak + scale·(x0 − x0_weak)` (Karras et al. 2024).

    weak: a smaller or less trained model of the same data, with the same condition bound in, whose errors are the same
    in kind and larger. Scale and options: see `classifier_free`. A guided estimate calls both models.
    """
    return _extrapolated(denoise, lambda x, level: (denoise(x, level), weak(x, level).x0), scale, rescale, low, high)


def no_threshold(denoise: Denoise) -> Denoise:
    """x0_hat unchanged."""
    return denoise


def static_threshold(denoise: Denoise, bound: float = 1.0) -> Denoise:
    """x0_hat clipped to [−bound, bound], for bounded data (as in the sampling code of Ho et al. 2020)."""

    def clipped(x: Tensor, level: NoiseLevel) -> Denoised:
        denoised = denoise(x, level)
        return denoised._replace(x0=denoised.x0.clamp(-bound, bound))

    return clipped


def dynamic_threshold(denoise: Denoise, bound: float = 1.0, *, quantile: float = 0.995) -> Denoise:
    """x0_hat clipped to [−q, q] and scaled by bound/q, q = max(bound, this quantile of the picture's |x0_hat|).

    Prevents saturation under strong guidance, for bounded data (Saharia et al. 2022, section 2.3). quantile: in (0, 1].
    """
    if not 0 < quantile <= 1:
        raise UnblotError(f"dynamic thresholding needs a quantile above 0 and up to 1, not {quantile}")

    def clipped(x: Tensor, level: NoiseLevel) -> Denoised:
        denoised = denoise(x, level)
        x0 = denoised.x0
        q = x0.flatten(1).abs().float().quantile(quantile, dim=1).clamp(min=bound)
        q = q.to(x0.dtype).view(-1, *[1] * (x0.ndim - 1))
        return denoised._replace(x0=x0.clamp(-q, q) * (bound / q))

    return clipped


THRESHOLDS: dict[str, Callable[..., Denoise]] = {
    "none": no_threshold,
    "static": static_threshold,
    "dynamic": dynamic_threshold,
}


def _extrapolated(
    unguided: Denoise,
    pair: Callable[[Tensor, NoiseLevel], tuple[Denoised, Tensor]],
    scale: Tensor | float,
    rescale: float,
    low: float,
    high: float,
) -> Denoise:
    """`bad + scale·(good − bad)` for the two estimates of `pair`, where sigma/alpha is in [low, high].

    `unguided` gives the first of them alone: it is called where no picture is guided, at the cost of one estimate.
    """
    scale = torch.as_tensor(scale, dtype=torch.float64).cpu()
    if bool((scale == 1).all()):
        return unguided

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        ratio = level.sigma / level.alpha
        scale_here = torch.where((ratio >= low) & (ratio <= high), scale, 1.0)
        if bool((scale_here == 1).all()):
            return unguided(x, level)
        (good, variance_interpolation), bad = pair(x, level)
        x0 = good + broadcast(scale_here - 1, good) * (good - bad)  # in this form exact where the scale is 1
        if rescale > 0:
            x0 = torch.lerp(x0, x0 * (_std(good) / _std(x0)), rescale)
        return Denoised(x0, variance_interpolation)

    return denoise


def _std(x0: Tensor) -> Tensor:
    """Standard deviation over all values of each picture, (B, 1, 1, 1), at least 1e-8."""
    return x0.std(dim=tuple(range(1, x0.ndim)), keepdim=True, correction=0).clamp(min=1e-8)
