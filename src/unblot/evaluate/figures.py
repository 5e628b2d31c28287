"""Figures: a number with its interval and with everything it was measured from; and those of two sets of features."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import torch
from torch import Tensor

from unblot.evaluate.coverage import class_counts, covering, share_distance
from unblot.evaluate.distances import (
    RESAMPLES,
    Z95,
    frechet_distance,
    frechet_error,
    frechet_infinity,
    kernel_distance,
)
from unblot.evaluate.memorization import share_interval

PAIRWISE = 10_000
"""Members of each set that a figure over all pairs looks at."""

WIDE = 256
"""Feature dimensions beyond which a Fréchet distance is resampled less often: each takes seconds there."""

RESAMPLES_WIDE = 8


@dataclass(frozen=True)
class Figure:
    """One measured number: `value` with its 95 % interval `low` to `high`, or, where it cannot be had, `needs`.

    `features`: what pictures were compared by; `n_samples`, `n_reference`: how many of either;
    `reference`: what they were compared with, with a hash of it. `needs`: what the figure would take, in words.
    """

    name: str
    value: float | None
    low: float | None
    high: float | None
    features: str
    n_samples: int
    n_reference: int
    reference: str
    needs: str = ""

    def __str__(self) -> str:
        if self.value is None:
            return f"{self.name}: {self.needs}"
        interval = "" if self.low is None or self.high is None else f" [{self.low:.4g}, {self.high:.4g}]"
        return (
            f"{self.name} {self.value:.4g}{interval} ({self.features} features,"
            f" {self.n_samples} samples against {self.n_reference} of {self.reference})"
        )

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


Estimate = tuple[float, float, float]  # a value and its 95 % interval


class Measure(NamedTuple):
    """How figures come from two sets of features (N, d) and (M, d).

    `compute` gives one estimate for each of `names`; `samples(d)`, `reference(d)`: the least N and M it can bear.
    `pairwise`: it looks at all pairs, and so at no more than the first PAIRWISE of either set.
    """

    names: tuple[str, ...]
    compute: Callable[[Tensor, Tensor], list[Estimate]]
    samples: Callable[[int], int]
    reference: Callable[[int], int]
    pairwise: bool = False


def compare_features(features: str, samples: Tensor, reference: Tensor, name: str) -> list[Figure]:
    """Every figure of MEASURES for features (N, d) and (M, d), both in random order.

    features: their name; name: what the reference is, a word and a hash. A figure that the counts cannot bear has no
    value, but says what it needs.
    """
    dims = samples.shape[1]
    found = []
    for names, compute, least, least_reference, pairwise in MEASURES:
        x, y = (samples[:PAIRWISE], reference[:PAIRWISE]) if pairwise else (samples, reference)
        about: dict[str, Any] = _about(features, x, y, name)
        if needs := _needs(least(dims), len(x), "samples") or _needs(
            least_reference(dims), len(y), f"{name.split()[0]} pictures"
        ):
            found += [Figure(n, None, None, None, **about, needs=needs) for n in names]
        else:
            found += [Figure(n, *estimate, **about) for n, estimate in zip(names, compute(x, y), strict=True)]
    return found


def _about(features: str, samples: Tensor, reference: Tensor, name: str) -> dict[str, Any]:
    return {"features": features, "n_samples": len(samples), "n_reference": len(reference), "reference": name}


def _needs(least: int, count: int, what: str) -> str:
    return f"needs at least {least} {what}, there are {count}" if count < least else ""


def _frechet(x: Tensor, y: Tensor) -> list[Estimate]:
    value, half = frechet_distance(x, y), Z95 * _frechet_error(x, y)
    return [(value, max(0.0, value - half), value + half)]


def _frechet_infinity(x: Tensor, y: Tensor) -> list[Estimate]:
    # To first order the sampling error is that of the distance itself; the extrapolation adds its own.
    value, error = frechet_infinity(x, y)
    half = Z95 * math.hypot(error, _frechet_error(x, y))
    return [(value, value - half, value + half)]


def _frechet_error(x: Tensor, y: Tensor) -> float:
    return frechet_error(x, y, RESAMPLES if x.shape[1] <= WIDE else RESAMPLES_WIDE)


def _kernel(x: Tensor, y: Tensor) -> list[Estimate]:
    value, error = kernel_distance(x, y)
    return [(value, value - Z95 * error, value + Z95 * error)]


def _covering(x: Tensor, y: Tensor) -> list[Estimate]:
    """At equal counts, without which recall and coverage do not compare."""
    count = min(len(x), len(y))
    found = covering(x[:count], y[:count])
    # The density is a mean over pairs: both sets' own spread is in its error.
    half = Z95 * float((found.density.var() + found.crowding.var()) / count) ** 0.5
    density = float(found.density.mean())
    shares = {
        n: (float(getattr(found, n).mean()), *share_interval(int(getattr(found, n).sum()), count)) for n in SHARES
    }
    return [
        shares["precision"],
        shares["recall"],
        (density, max(0.0, density - half), density + half),
        shares["coverage"],
    ]


SHARES = ("precision", "recall", "coverage")

MEASURES = [
    # A covariance of d dimensions means little from fewer than a few times d members; the extrapolation reads a line
    # through distances of a tenth of the samples and more, and each of these has to bear one.
    Measure(("frechet_distance",), _frechet, lambda d: 4 * d, lambda d: 4 * d),
    Measure(("frechet_infinity",), _frechet_infinity, lambda d: 10 * d, lambda d: 4 * d),
    Measure(("kernel_distance",), _kernel, lambda d: 50, lambda d: 50, pairwise=True),
    Measure(("precision", "recall", "density", "coverage"), _covering, lambda d: 50, lambda d: 50, pairwise=True),
]


def class_figures(features: str, samples: Tensor, reference: Tensor, classes: int, name: str) -> list[Figure]:
    """Distance of the shares of classes and number of classes reached, from class numbers (N,) and (M,).

    Needs 10 of either set for each class. The interval of the distance is a bootstrap over both sets.
    """
    about: dict[str, Any] = _about(features, samples, reference, name)
    least = 10 * classes
    if needs := _needs(least, len(samples), "samples") or _needs(least, len(reference), f"{name.split()[0]} pictures"):
        return [Figure(n, None, None, None, **about, needs=needs) for n in ("class_share_distance", "classes_reached")]
    counts, truth = class_counts(samples, classes), class_counts(reference, classes)
    value = share_distance(counts, truth)
    drawn = [_resampled(c, 200).double() for c in (counts, truth)]
    distances = torch.tensor([share_distance(a, b) for a, b in zip(*drawn)], dtype=torch.float64)
    half = Z95 * float(distances.std())
    return [
        Figure("class_share_distance", value, max(0.0, value - half), min(1.0, value + half), **about),
        Figure("classes_reached", float((counts > 0).sum()), None, None, **about),
    ]


def _resampled(counts: Tensor, resamples: int) -> Tensor:
    """Counts of `resamples` sets drawn with replacement from a set with these counts."""
    total = int(counts.sum())
    drawn = torch.multinomial(
        counts.double(), resamples * total, replacement=True, generator=torch.Generator().manual_seed(0)
    ).view(resamples, total)
    return torch.stack([torch.bincount(row, minlength=len(counts)) for row in drawn])
