"""The power spectrum of previews over that of training pictures, by octave, and how far chance alone moves it."""

import math

import numpy as np
import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.data.values import ValueMap
from unblot.process.octaves import EMPTY, octave_powers
from unblot.training.diagnostics.colours import AT_A_TIME, alike, batches_of, split

REFERENCE = 500  # training pictures compared with
VALUES = 2**25  # values in them, at most
RESAMPLES = 1000  # sets of real pictures, as many as a preview has, that say what chance does


class OctaveStatistics:
    """The spectral power of training pictures with the labels of previews, in each octave.

    labels: (n,) int64, one for each picture of a preview, or None.
    """

    def __init__(self, dataset: Dataset, labels: Tensor | None, count: int):
        most = int(min(REFERENCE, max(AT_A_TIME, VALUES // math.prod(dataset.shape))))
        chosen = alike(dataset, labels, most)
        powers = torch.cat([octave_powers(part) for part in batches_of(dataset, chosen)])
        self.values: ValueMap = dataset.values
        self.power = powers.mean(0)
        self.known = self.power > EMPTY * (1 + self.power.sum())  # a flat picture has rounding errors
        self.low, self.high = _by_chance(powers, count)

    def compare(self, pictures: Tensor) -> dict[str, list[float]]:
        """`octaves`: power of the pictures (n, C, H, W), as they are written, over that of training pictures, finest
        first. `octaves_low`, `octaves_high`: the least and the most that sets of as many real pictures reach.

        Not finite where the training pictures have no power in an octave.
        """
        written = self.values.encode(self.values.decode(pictures.cpu().numpy()), np.float32)
        powers = torch.cat([octave_powers(part).sum(0)[None] for part in split(torch.from_numpy(written))])
        ratio = powers.sum(0) / len(pictures) / self.power
        found = {"octaves": ratio, "octaves_low": self.low, "octaves_high": self.high}
        return {key: torch.where(self.known, value, torch.nan).tolist() for key, value in found.items()}


def _by_chance(powers: Tensor, count: int) -> tuple[Tensor, Tensor]:
    """The least and the most ratio (K,) of the mean power of `count` real pictures to that of another set of them.

    powers: (N, K). Both sets are drawn with replacement, so that the chance in either of them counts.
    """
    rng = np.random.default_rng(0)
    n = len(powers)
    few, all_of_them = (
        torch.from_numpy(rng.multinomial(size, [1 / n] * n, RESAMPLES)).double() @ powers / size for size in (count, n)
    )
    ratios = few / all_of_them
    return ratios.min(0).values, ratios.max(0).values
