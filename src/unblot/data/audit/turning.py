"""What a mirrored or turned picture is worth, as a share of a new one: what a set's augmentation can be judged by.

A model may as well be shown turned pictures where these tell it as much of pictures that it has not seen as new ones
would. So held-out pictures are denoised with what is known of half of the others, then with the turned copies of that
half as well, and then with the other half instead. The denoiser is the exact one of the pictures that it is given
(their average, each weighted by how likely it is to have become the noisy picture), so nothing is trained. Whether a
classifier can tell turned pictures from others is another question: under a microscope it can, by the lamp.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unblot.data.dataset import Dataset
from unblot.data.subset import spread

TURNS: dict[str, Callable[[Tensor], Tensor]] = {
    "flip": lambda x: x.flip(-1),
    "flip_vertical": lambda x: x.flip(-2),
    "quarter": lambda x: x.rot90(1, (-2, -1)),
}
AT_MOST = 1000  # pictures that are looked at
SIDE = 12  # pixels of the thumbnails
FOLDS = 5  # each is held out once
ENOUGH = 1500  # pictures held out in all: of fewer each is held out several times, in other company
LEVELS = 1.0, 2.0, 4.0  # of noise, in standard deviations of the data


def worth_of_turns(dataset: Dataset) -> dict[str, float]:
    """For each of TURNS, the worth of a turned picture as a share of a new one, the mean of all levels.

    1: as good as new; 0: no use; below 0: harmful. With labels, pictures of one class alone are compared as well, and
    the lesser worth counts: a turn that makes one class of another is harmful. Quarter turns only of square pictures.
    Empty for points and for fewer than two pictures a fold.
    """
    rows = spread(np.arange(len(dataset)), AT_MOST)
    if dataset.shape[1:] == (1, 1) or len(rows) < 2 * FOLDS:
        return {}
    small, labels = [], []
    for part in torch.from_numpy(rows).split(64):
        pictures, label = dataset.batch(part)
        small.append(_thumbnails(pictures))
        labels.append(torch.zeros(len(part), dtype=torch.long) if label is None else label)
    x, label = torch.cat(small), torch.cat(labels)
    found = worth(x, torch.zeros_like(label))
    by_class = found if dataset.labels is None else worth(x, label)
    square = dataset.shape[1] == dataset.shape[2]
    return {turn: min(found[turn], by_class[turn]) for turn in TURNS if square or turn != "quarter"}


def worth(x: Tensor, labels: Tensor) -> dict[str, float]:
    """As `worth_of_turns`, for square pictures (N, C, S, S) among those with the same label (N,)."""
    x = x - x.mean(0)
    generator = torch.Generator().manual_seed(0)
    gains = torch.zeros(len(LEVELS), 1 + len(TURNS), dtype=torch.float64)
    for _ in range(1 + ENOUGH // len(x)):
        order = torch.randperm(len(x), generator=generator)  # listings are sorted, by class or by slide
        gains += _gains(x[order], labels[order], generator)
    shares = gains[:, 1:] / gains[:, :1].clamp(min=1e-12)
    return {turn: round(float(share), 2) for turn, share in zip(TURNS, shares.mean(0))}


def _gains(x: Tensor, labels: Tensor, generator: torch.Generator) -> Tensor:
    """What new pictures, and what those of each of TURNS, take off the squared error at each of LEVELS, summed over
    folds: float64 (LEVELS, 1 + TURNS)."""
    deviation = float(x.std()) or 1.0
    fold = torch.arange(len(x)) * FOLDS // len(x)
    gains = torch.zeros(len(LEVELS), 1 + len(TURNS), dtype=torch.float64)
    for k in range(FOLDS):
        test, order = fold == k, torch.randperm(int((fold != k).sum()), generator=generator)
        known, of = x[~test][order], labels[~test][order]
        halves = [(known[i::2], of[i::2]) for i in range(2)]
        for row, level in enumerate(LEVELS):
            sigma = level * deviation
            noisy = x[test] + sigma * torch.randn(x[test].shape, generator=generator)

            def error(*parts: tuple[Tensor, Tensor]) -> float:
                bank, bank_labels = (torch.cat(column) for column in zip(*parts, strict=True))
                return _error(noisy, x[test], labels[test], bank, bank_labels, sigma)  # noqa: B023

            for own, new in (halves, halves[::-1]):
                alone = error(own)
                turned = [error(own, (turn(own[0]), own[1])) for turn in TURNS.values()]
                gains[row] += torch.tensor([alone - error(own, new), *(alone - one for one in turned)])
    return gains


def _error(noisy: Tensor, clean: Tensor, labels: Tensor, bank: Tensor, bank_labels: Tensor, sigma: float) -> float:
    """The sum of squared errors of the exact denoiser of `bank` (M, C, S, S) on noisy pictures (N, C, S, S)."""
    flat = bank.flatten(1)
    distance = torch.cdist(noisy.flatten(1), flat).square()
    distance = distance.where(labels[:, None] == bank_labels, distance + 1e6 * sigma**2)  # other classes hardly count
    x0_hat = (-distance / (2 * sigma**2)).softmax(1) @ flat
    return float((x0_hat - clean.flatten(1)).square().sum())


def _thumbnails(pictures: Tensor) -> Tensor:
    """The central squares of pictures (N, C, H, W), at most SIDE pixels wide."""
    height, width = pictures.shape[2:]
    side = min(height, width)
    top, left = (height - side) // 2, (width - side) // 2
    square = pictures[:, :, top : top + side, left : left + side]
    return adaptive_avg_pool2d(square, min(side, SIDE))
