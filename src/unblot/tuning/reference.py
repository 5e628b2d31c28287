"""The distance by which ways of sampling one model are compared: Fréchet, to real pictures of its own data."""

from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.evaluation.distances import Moments, frechet, moments
from unblot.evaluation.features import FITTED_TO, FeatureData, Features, build_features, default_features, extract
from unblot.evaluation.image_set import ImageSet

ENOUGH = 20
"""Held-out pictures a feature dimension: with fewer, the reference's own chance is more than what is to be seen."""


@dataclass(frozen=True)
class ReferenceStatistics:
    """Real pictures' moments, in what features they are seen, and which pictures they are: `name` and `count`.

    real: features of training pictures; None where these are the reference themselves.
    """

    features: Features
    reference: Moments
    name: str
    count: int
    real: Tensor | None = None

    def see(self, batches: Iterable[Tensor]) -> Tensor:
        """Features (N, d) of pictures in the network's range."""
        return extract(self.features, batches)

    def floor(self, count: int) -> float | None:
        """The distance of so many training pictures: what a perfect model would reach with as many; None if unknown."""
        return None if self.real is None else self.distance(self.real[:count])

    def distance(self, seen: Tensor) -> float:
        """Squared Fréchet distance of features (N, d) to the reference."""
        return frechet(moments(seen), self.reference)


def reference_statistics(dataset: Dataset, spec: str = "", cache: Path | None = None) -> ReferenceStatistics:
    """The yardstick of a data set, in the features that its evaluation uses, or in those of `spec`.

    The reference are the held-out pictures where there are ENOUGH of them, else the training ones: a solver and a
    handful of levels learn no picture by heart, and a few dozen pictures say less than the choice is about.
    """

    def encode(stored: np.ndarray) -> np.ndarray:
        return dataset.values.encode(stored, np.float32)

    rng = np.random.default_rng(0)
    training, held_out = (
        ImageSet(dataset.pictures, encode, rng.permutation(part)) for part in (dataset.train, dataset.held_out)
    )
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[training.indices])
    source = FeatureData(training, labels, len(dataset.classes), cache)
    features = build_features(spec or default_features(source), source)
    real = extract(features, training.take(np.arange(min(FITTED_TO, len(training)))).chunks())
    if len(held_out) < ENOUGH * real.shape[1]:
        return ReferenceStatistics(features, moments(real), "training pictures", len(real))
    others = held_out.take(np.arange(min(FITTED_TO, len(held_out))))
    reference = moments(extract(features, others.chunks()))
    return ReferenceStatistics(features, reference, "held-out pictures", len(others), real)
