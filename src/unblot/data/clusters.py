"""Clusters: groups of similar pictures, found without labels, that a model is conditioned on as on labels.

A model that is conditioned on the cluster of each picture has less to predict at the noisy levels. Most of the benefit
of labels comes from the partition of the data alone, and k-means on simple features gives a partition to data without
labels (Bao et al. 2022, "Why are conditional generative models better than unconditional ones?"; Hu et al. 2023,
"Self-guided diffusion models").
"""

import dataclasses
from collections.abc import Iterator
from functools import lru_cache

import numpy as np
import torch
import torch.nn.functional as F

from unblot.data.dataset import Dataset
from unblot.data.subset import spread
from unblot.data.values import in_parts
from unblot.errors import UnblotError, arg, printable

SIDE = 16  # pixels that pictures are averaged down to, so that noise has no weight
DIMENSIONS = 32  # principal components kept
FITTED_TO = 20_000  # pictures: more do not move the centres
MOVED = 0.01  # share of the pictures in other clusters than before that rounding errors do not explain


@lru_cache(maxsize=1)  # planning a run and training it need the same
def clustered(dataset: Dataset, count: int) -> Dataset:
    """The data set with cluster indices as labels (N,) int64, 0 … count − 1.

    k-means on the first principal components of the pictures, averaged down. It is fitted to training pictures alone,
    with a fixed seed.
    """
    from sklearn.cluster import KMeans

    chosen = spread(dataset.train, FITTED_TO)
    sample = _features(dataset, chosen)
    mean = sample.mean(0)
    _, directions = np.linalg.eigh(np.cov(sample - mean, rowvar=False, ddof=0).reshape(len(mean), -1))
    axes = directions[:, ::-1][:, :DIMENSIONS]
    # In float64, so that the number of threads cannot decide which of two centres is nearer.
    centres = KMeans(count, n_init=1, random_state=0).fit((sample - mean) @ axes)

    def labels_of(x: torch.Tensor) -> np.ndarray:
        return centres.predict((_averaged(x) - mean) @ axes).astype(np.int64)

    labels = np.concatenate([labels_of(x) for x in _batches(dataset, np.arange(len(dataset)))])
    stream = None if dataset.stream is None else dataclasses.replace(dataset.stream, labels_of=labels_of)
    return dataclasses.replace(dataset, labels=labels, stream=stream)


def shares(dataset: Dataset, count: int) -> tuple[float, ...]:
    """The share of the training pictures in each of `count` clusters, summing to 1; empty for 0.

    Raises UnblotError where the data set has labels, or too few pictures.
    """
    if not count:
        return ()
    if dataset.labels is not None:
        raise UnblotError(
            f"{arg('clusters', count)} takes the place of labels, and {printable(dataset.name)!r} has labels; "
            f"add {arg('unlabelled', True)}"
        )
    most = len(dataset.train) // 2
    if not 2 <= count <= most:
        raise UnblotError(f"{arg('clusters')} must be 0, or from 2 to half the training pictures, {most}, not {count}")
    return clustered(dataset, count).label_shares(count)


def clustered_again(dataset: Dataset, known: tuple[float, ...]) -> Dataset:
    """`clustered` for a run that has learned clusters with these `shares`; the data set itself where there are none.

    Raises UnblotError where other clusters are found now: what the run learned of a cluster would go to another one.
    """
    if not known:
        return dataset
    found = clustered(dataset, len(known))
    moved = np.abs(np.subtract(found.label_shares(len(known)), known)).sum() / 2  # at least this share of the pictures
    if moved > MOVED:
        raise UnblotError(
            f"the {len(known)} clusters found in {printable(dataset.name)!r} now are not those that the run learned: "
            f"at least {moved:.0%} of the pictures are in another one. Other versions of scikit-learn and NumPy, or "
            "another processor, may find others; go on with those that the run began with, or train a new run"
        )
    return found


def _features(dataset: Dataset, indices: np.ndarray) -> np.ndarray:
    """Pictures averaged down, flattened to (n, C·h·w) float64."""
    return np.concatenate([_averaged(x) for x in _batches(dataset, indices)])


def _batches(dataset: Dataset, indices: np.ndarray) -> Iterator[torch.Tensor]:
    """The pictures (n, C, H, W) of these indices in the network's range, in parts that fit into memory."""
    return (dataset.batch(indices[part])[0] for part in in_parts(len(indices), dataset.shape))


def _averaged(x: torch.Tensor) -> np.ndarray:
    """Pictures (n, C, H, W) averaged down, flattened to (n, C·h·w) float64."""
    return F.adaptive_avg_pool2d(x, (min(SIDE, x.shape[2]), min(SIDE, x.shape[3]))).flatten(1).double().numpy()
