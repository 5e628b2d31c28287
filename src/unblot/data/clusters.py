"""Clusters: groups of alike pictures, found without labels, which a model then learns as if they were labels.

A model that is told the group of each picture need not find out by itself how often each kind of picture comes, and
has less to guess at the noisy levels: most of what labels give a conditional model comes from the division of the data
alone, and k-means on simple features gives one to data without labels (Bao et al. 2022, "Why are conditional generative
models better than unconditional ones?"; Hu et al. 2023, "Self-guided diffusion models").
"""

import dataclasses
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from unblot.data.dataset import Dataset
from unblot.errors import UnblotError

SIDE = 16  # pictures are averaged down to so many pixels: what they show, not their grain
DIMENSIONS = 32  # principal components kept
LEARNED_FROM = 20_000  # pictures: more do not move the centres
AT_A_TIME = 4096


@lru_cache(maxsize=1)  # planning a run and training it ask for the same
def clustered(dataset: Dataset, count: int) -> Dataset:
    """The data set with the number of its cluster, 0 … count − 1, as the label (N,) of every picture.

    Clusters are learned from training pictures alone, and are the same each time: k-means over the first principal
    components of the pictures, averaged down.
    """
    from sklearn.cluster import KMeans

    chosen = dataset.train[np.linspace(0, len(dataset.train) - 1, min(len(dataset.train), LEARNED_FROM)).astype(int)]
    sample = _features(dataset, chosen)
    mean = sample.mean(0)
    _, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False, ddof=0).reshape(len(mean), -1))
    axes = directions[:, ::-1][:, :DIMENSIONS]
    # In float64, so that the number of threads cannot decide which of two centres is nearer.
    centres = KMeans(count, n_init=1, random_state=0).fit((sample - mean) @ axes)
    parts = np.array_split(np.arange(len(dataset)), -(-len(dataset) // AT_A_TIME))
    labels = np.concatenate([centres.predict((_features(dataset, part) - mean) @ axes) for part in parts])
    return dataclasses.replace(dataset, labels=labels.astype(np.int64))


def shares(dataset: Dataset, count: int) -> tuple[float, ...]:
    """The share of the training pictures that each of `count` clusters has; none for 0.

    Raises UnblotError where there are labels already, or too few pictures.
    """
    if not count:
        return ()
    if dataset.labels is not None:
        raise UnblotError(f"--clusters {count} stand in for labels, and {dataset.name} has labels; add --unlabelled")
    most = len(dataset.train) // 2
    if not 2 <= count <= most:
        raise UnblotError(f"--clusters must be 0, or from 2 to half the training pictures, {most}, not {count}")
    labels = clustered(dataset, count).labels
    assert labels is not None
    return tuple((np.bincount(labels[dataset.train], minlength=count) / len(dataset.train)).round(6).tolist())


def _features(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Pictures averaged down and laid flat, (n, C·h·w) float64."""
    parts = np.array_split(indices, -(-len(indices) // AT_A_TIME))
    pictures = (dataset.batch(part)[0] for part in parts)
    return torch.cat([F.adaptive_avg_pool2d(x, _smaller(x.shape)).flatten(1) for x in pictures]).double().numpy()


def _smaller(shape: torch.Size) -> tuple[int, int]:
    return min(SIDE, shape[2]), min(SIDE, shape[3])
