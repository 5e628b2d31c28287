"""Metrics of two sets of features: numbers with their intervals, and with everything that they were measured from."""

import math
from collections.abc import Callable
from dataclasses import asdict, dataclass
from typing import Any, NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.data.split import AT_LEAST
from unblot.evaluation.coverage import class_counts, covering, share_distance
from unblot.evaluation.distances import (
    PER_DIMENSION,
    Z95,
    frechet_distance,
    frechet_error,
    frechet_infinity,
    kernel_distance,
)
from unblot.evaluation.image_set import MOST_PICTURES
from unblot.evaluation.memorization import share_interval

RESAMPLES_OF_SHARES = 200


@dataclass(frozen=True)
class Metric:
    """One metric: `value` with its 95 % interval `low` to `high`; or, where there are too few pictures, `needs`.

    `features`: name of the feature extractor; `n_samples`, `n_reference`: numbers of pictures; `reference`: what the
    samples were compared with, a word and a hash. `needs`: how many pictures the metric would need, in words.
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
Least = tuple[int, int]  # the least numbers of samples and of reference pictures


class Measure(NamedTuple):
    """How metrics are computed from two sets of features (N, d) and (M, d).

    `names`: the metrics, each with the least N and M that it needs, a function of d. `compute` is called where the
    first has what it needs, and gives an estimate of each, None where it cannot. `pairwise`: it compares all pairs, and
    is given no more than the first MOST_PICTURES of either set.
    """

    names: dict[str, Callable[[int], Least]]
    compute: Callable[[Tensor, Tensor], list[Estimate | None]]
    pairwise: bool = False


def compare_features(features: str, samples: Tensor, reference: Tensor, name: str) -> list[Metric]:
    """Every metric of MEASURES for features (N, d) and (M, d), both in random order.

    features: their name; name: what the reference is, a word and a hash. A metric for which there are too few pictures
    has no value, and says how many it needs.
    """
    found = []
    for names, compute, pairwise in MEASURES:
        x, y = (samples[:MOST_PICTURES], reference[:MOST_PICTURES]) if pairwise else (samples, reference)
        about = _about(features, x, y, name)
        needs = [_needs(least(x.shape[1]), x, y, name) for least in names.values()]
        estimates = [None] * len(names) if needs[0] else compute(x, y)
        for metric, estimate, needed in zip(names, estimates, needs, strict=True):
            value, low, high = estimate or (None, None, None)
            found.append(Metric(metric, value, low, high, **about, needs=needed))
    return found


def _about(features: str, samples: Tensor, reference: Tensor, name: str) -> dict[str, Any]:
    return {"features": features, "n_samples": len(samples), "n_reference": len(reference), "reference": name}


def _needs(least: Least, samples: Tensor, reference: Tensor, name: str) -> str:
    """What is missing, in words; "" where nothing is."""
    for needed, there, what in zip(least, (samples, reference), ("samples", f"{name.split()[0]} pictures")):
        if len(there) < needed:
            return f"needs at least {needed} {what}, there {'is' if len(there) == 1 else 'are'} {len(there)}"
    return ""


def _frechet(x: Tensor, y: Tensor) -> list[Estimate | None]:
    value = frechet_distance(x, y)
    error = frechet_error(x, y)
    distance = (value, max(0.0, value - Z95 * error), value + Z95 * error)
    if len(x) < _for_a_line(x.shape[1])[0]:
        return [distance, None]
    # To first order the sampling error is that of the distance itself; the extrapolation adds its own.
    infinite, extrapolation = frechet_infinity(x, y)
    half = Z95 * math.hypot(error, extrapolation)
    return [distance, (infinite, infinite - half, infinite + half)]


def _kernel(x: Tensor, y: Tensor) -> list[Estimate | None]:
    value, error = kernel_distance(x, y)
    return [(value, value - Z95 * error, value + Z95 * error)]


def _covering(x: Tensor, y: Tensor) -> list[Estimate | None]:
    """At equal counts: at others recall and coverage would not compare."""
    count = min(len(x), len(y))
    found = covering(x[:count], y[:count])
    # The density is a mean over pairs: its error comes from both sets.
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


def _for_a_covariance(dims: int) -> Least:
    """The least numbers of members for a covariance of d dimensions: a few times d."""
    return PER_DIMENSION * dims, PER_DIMENSION * dims


def _for_a_line(dims: int) -> Least:
    """The least numbers for the extrapolation, whose line starts at a tenth of the samples."""
    return 10 * dims, PER_DIMENSION * dims


def _for_neighbours(dims: int) -> Least:
    """The least numbers for nearest neighbours: what a split holds out of some hundred pictures is enough."""
    return AT_LEAST, AT_LEAST


MEASURES = [
    Measure({"frechet_distance": _for_a_covariance, "frechet_infinity": _for_a_line}, _frechet),
    Measure({"kernel_distance": _for_neighbours}, _kernel, pairwise=True),
    Measure(dict.fromkeys(("precision", "recall", "density", "coverage"), _for_neighbours), _covering, pairwise=True),
]


def class_metrics(features: str, samples: Tensor, reference: Tensor, classes: int, name: str) -> list[Metric]:
    """Distance of the shares of classes, and number of classes reached, from class indices (N,) and (M,).

    Needs 10 of either set for each class. The interval of the distance is a bootstrap over both sets.
    """
    about = _about(features, samples, reference, name)
    if needs := _needs((10 * classes, 10 * classes), samples, reference, name):
        return [Metric(n, None, None, None, **about, needs=needs) for n in ("class_share_distance", "classes_reached")]
    counts, truth = both = [class_counts(members, classes).double() for members in (samples, reference)]
    value = share_distance(counts, truth)
    rng = np.random.default_rng(0)
    shares = [(int(c.sum()), (c / c.sum()).numpy()) for c in both]
    resampled = [torch.from_numpy(rng.multinomial(n, p, RESAMPLES_OF_SHARES)) for n, p in shares]
    distances = torch.tensor([share_distance(a, b) for a, b in zip(*resampled)], dtype=torch.float64)
    half = Z95 * float(distances.std())
    return [
        Metric("class_share_distance", value, max(0.0, value - half), min(1.0, value + half), **about),
        Metric("classes_reached", float((counts > 0).sum()), None, None, **about),
    ]
