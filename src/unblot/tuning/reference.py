"""Reference statistics of a data set, for the Fréchet distance by which samplers of one model are compared."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.evaluation.distances import Moments, frechet, moments
from unblot.evaluation.features import FITTED_TO, Features, build_features, extract, quick_features
from unblot.evaluation.parts import feature_data, parts_of

ENOUGH = 20
"""Held-out pictures per feature dimension; with fewer, the sampling error of the reference hides the differences."""


@dataclass(frozen=True)
class ReferenceStatistics:
    """Feature moments of `count` real pictures, the `name` of which says whether they are training or held-out ones.

    real: features (N, d) of training pictures; None where these are the reference.
    """

    features: Features
    reference: Moments
    name: str
    count: int
    real: Tensor | None = None

    def see(self, batches: Iterable[Tensor]) -> Tensor:
        """Features (N, d) of batches of pictures in the network's range."""
        return extract(self.features, batches)

    def floor(self, count: int) -> float | None:
        """The distance of `count` training pictures, which a perfect model would have with as many; None if unknown."""
        return None if self.real is None else self.distance(self.real[:count])

    def distance(self, seen: Tensor) -> float:
        """Squared Fréchet distance of features (N, d) to the reference."""
        return frechet(moments(seen), self.reference)


def reference_statistics(dataset: Dataset, spec: str = "", cache: Path | None = None) -> ReferenceStatistics:
    """The reference statistics of a data set, in features of few dimensions or in those of `spec`.

    Held-out pictures where there are ENOUGH of them, else training pictures: the choice of a sampler cannot memorize
    pictures, and too few held-out ones cannot tell samplers apart.
    """
    source = feature_data(dataset, cache)
    _, training, held_out = parts_of(dataset, dataset.pictures[:0])
    features = build_features(spec or quick_features(source), source)
    real = extract(features, training.take(slice(FITTED_TO)).chunks())
    if len(held_out) < ENOUGH * real.shape[1]:
        return ReferenceStatistics(features, moments(real), "training pictures", len(real))
    others = held_out.take(slice(FITTED_TO))
    reference = moments(extract(features, others.chunks()))
    return ReferenceStatistics(features, reference, "held-out pictures", len(others), real)
