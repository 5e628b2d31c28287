"""What is compared: samples, training and held-out pictures of a data set, and what features are fitted to."""

from functools import partial
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch

from unblot.data.dataset import Dataset
from unblot.errors import UnblotError
from unblot.evaluation.features import FeatureData
from unblot.evaluation.image_set import ImageSet


class Parts(NamedTuple):
    """What is compared: samples, training and held-out pictures, each in random order."""

    samples: ImageSet
    training: ImageSet
    held_out: ImageSet


def parts_of(dataset: Dataset, samples: np.ndarray) -> Parts:
    """The pictures of a data set and samples (N, C, H, W), which have stored values of the data set's type.

    The order of each part follows from its size alone. Raises UnblotError for samples of another shape.
    """
    if samples.shape[1:] != dataset.pictures.shape[1:]:
        raise UnblotError(
            f"samples of shape {samples.shape[1:]} do not fit pictures of shape {dataset.pictures.shape[1:]};"
            " sample from a run that was trained on this data"
        )
    encode = partial(dataset.values.encode, dtype=np.float32)
    members = ((samples, np.arange(len(samples))), *((dataset.pictures, i) for i in (dataset.train, dataset.held_out)))
    return Parts(
        *(
            ImageSet(stored, encode, np.random.default_rng([0, part]).permutation(indices))
            for part, (stored, indices) in enumerate(members)
        )
    )


def feature_data(dataset: Dataset, cache: Path | None = None) -> FeatureData:
    """What features of a data set are fitted to: all its training pictures, in their own order.

    The order counts: trained in another one, the classifier would be another judge of the same data.
    """
    encode = partial(dataset.values.encode, dtype=np.float32)
    training = ImageSet(dataset.pictures, encode, dataset.train)
    labels = None if dataset.labels is None else torch.from_numpy(dataset.labels[dataset.train])
    return FeatureData(training, labels, len(dataset.classes), cache, dataset.values.alpha)
