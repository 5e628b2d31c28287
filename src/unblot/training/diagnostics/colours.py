"""The colours of previews compared with those of training pictures: mean and standard deviation of each channel."""

import math
from collections.abc import Iterable, Iterator, Sequence

import numpy as np
import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.runs.metrics import Line

REFERENCE = 1000  # training pictures compared with
VALUES = 2**26  # values in them, at most
AT_A_TIME, VALUES_AT_A_TIME = 64, 2**21  # pictures, and values in them: fewer pictures where they are large


class ColourStatistics:
    """The colours of training pictures with the labels of previews.

    labels: (n,) int64, one for each picture of a preview, or None.
    """

    def __init__(self, dataset: Dataset, labels: Tensor | None):
        most = int(min(REFERENCE, max(AT_A_TIME, VALUES // math.prod(dataset.shape))))
        chosen = alike(dataset, labels, most)
        means = _means(batches_of(dataset, chosen))
        self.mean = means.mean(0)
        squares = self._squares(batches_of(dataset, chosen))
        self.std = squares.mean(0).sqrt()
        spread = [x.std(0) if len(chosen) > 1 else x[0] * torch.nan for x in (means, squares)]
        self.spread = torch.stack(spread)  # from picture to picture; unknown for one
        self.count = len(chosen)

    def compare(self, step: int, pictures: Tensor) -> Line:
        """A line of metrics of a preview, (n, C, H, W) in the network's range.

        For each channel: mean, std; mean_off: the difference of the mean from that of the training pictures, in their
        standard deviations; std_off: log of the ratio of the two standard deviations; mean_z, std_z: both differences
        in standard errors.
        """
        parts = split(pictures.cpu())
        mean, squares = _means(parts).mean(0), self._squares(parts)
        chance = self.spread * (1 / len(pictures) + 1 / self.count) ** 0.5 + 1e-12
        square = squares.mean(0)
        found = {
            "mean": mean,
            "std": (square - (mean - self.mean) ** 2).clamp_min(0).sqrt(),
            "mean_off": (mean - self.mean) / self.std.clamp_min(1e-12),
            "std_off": 0.5 * (square.clamp_min(1e-24) / self.std.clamp_min(1e-12) ** 2).log(),
            "mean_z": (mean - self.mean) / chance[0],
            "std_z": (square - self.std**2) / chance[1],
        }
        return {"step": step, "preview": {key: value.tolist() for key, value in found.items()}}

    def _squares(self, parts: Iterable[Tensor]) -> Tensor:
        """Mean square difference from the mean of the channel over all training pictures, (n, C)."""
        mean = self.mean[:, None, None]
        return torch.cat([(part.double() - mean).square().mean((2, 3)) for part in parts])


def _means(parts: Iterable[Tensor]) -> Tensor:
    """The mean of each channel of each picture, (n, C)."""
    return torch.cat([part.double().mean((2, 3)) for part in parts])


def at_a_time(shape: Sequence[int]) -> int:
    """As many pictures of `shape` (C, H, W) as statistics are taken of at a time, so that their memory is no matter."""
    return min(AT_A_TIME, max(1, VALUES_AT_A_TIME // math.prod(shape)))


def split(pictures: Tensor) -> Sequence[Tensor]:
    """Pictures (n, C, H, W), `at_a_time`."""
    return pictures.split(at_a_time(pictures.shape[1:]))


def batches_of(dataset: Dataset, chosen: np.ndarray) -> Iterator[Tensor]:
    """The pictures at the indices `chosen`, (n, C, H, W) in the network's range, `at_a_time`."""
    n = at_a_time(dataset.shape)
    return (dataset.batch(chosen[i : i + n])[0] for i in range(0, len(chosen), n))


def alike(dataset: Dataset, labels: Tensor | None, most: int) -> np.ndarray:
    """Indices of up to `most` training pictures, with the class frequencies of `labels`."""
    shuffled = np.random.default_rng(0).permutation(dataset.train)
    if labels is None or dataset.labels is None:
        return np.sort(shuffled[:most])
    wanted, of_each = np.unique(labels.numpy(), return_counts=True)
    by_class = [shuffled[dataset.labels[shuffled] == c] for c in wanted]
    times = min([most / len(labels), *(len(p) / n for p, n in zip(by_class, of_each) if len(p))])
    parts = [p[: max(1, int(times * n))] for p, n in zip(by_class, of_each)]
    return np.sort(np.concatenate(parts))
