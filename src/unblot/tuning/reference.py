"""Real pictures, and the distance of samples to them by which samplers and averages of the weights are chosen."""

import math
import time
from dataclasses import dataclass
from functools import partial
from pathlib import Path

import numpy as np
import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.evaluation.distances import DistanceTo
from unblot.evaluation.features import Features, build_features, extract, quick_features
from unblot.evaluation.image_set import MOST_PICTURES, ImageSet
from unblot.evaluation.parts import feature_data, parts_of
from unblot.runs.samples import Samples

ENOUGH = 20
"""Held-out pictures per feature dimension; with fewer, the sampling error of the reference hides the differences."""


@dataclass(frozen=True)
class Reference:
    """The real pictures that samples are compared with; `name` says whether they are training or held-out ones.

    distance: of the features (N, d) of samples. training: features (N, d) of training pictures; None where these are
    the reference. seconds: that the features of one picture took.
    """

    features: Features
    distance: DistanceTo
    name: str
    training: Tensor | None = None
    seconds: float = 0.0

    @property
    def count(self) -> int:
        """The number of the real pictures."""
        return len(self.distance.reference)

    def see(self, samples: Samples) -> Tensor:
        """Features (N, d) of samples."""
        encode = partial(samples.values.encode, dtype=np.float32)
        return extract(self.features, ImageSet(samples.array, encode).chunks())

    def floor(self, count: int) -> float | None:
        """The distance of `count` training pictures, which a perfect model would have with as many; None if unknown."""
        if self.training is None or len(self.training) < count:
            return None
        return self.distance(self.training[:count])


def reference_of(dataset: Dataset, spec: str = "", cache: Path | None = None, seconds: float = math.inf) -> Reference:
    """The reference of a data set, in the features of `spec`, by default `quick_features`.

    Held-out pictures where there are ENOUGH of them, else training pictures: the choice of a sampler cannot memorize
    pictures, and too few held-out ones cannot tell samplers apart. seconds: the time for the features of either.
    """
    source = feature_data(dataset, cache)
    _, training, held_out = parts_of(dataset, dataset.pictures[:0])
    features = build_features(spec or quick_features(source), source)
    start = time.monotonic()
    seen = _seen(features, training, seconds)
    each = (time.monotonic() - start) / len(seen)
    if len(held_out) < ENOUGH * seen.shape[1]:
        return Reference(features, DistanceTo(seen), "training pictures", None, each)
    others = _seen(features, held_out, seconds)
    return Reference(features, DistanceTo(others), "held-out pictures", seen, each)


def _seen(features: Features, pictures: ImageSet, seconds: float) -> Tensor:
    """Features (n, d) of the first MOST_PICTURES pictures of a set, or of as many as there is time for."""
    start, parts = time.monotonic(), list[Tensor]()
    for chunk in pictures.take(slice(MOST_PICTURES)).chunks():
        parts.append(extract(features, [chunk]))
        if time.monotonic() - start > seconds:
            break
    return torch.cat(parts)
