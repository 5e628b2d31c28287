"""Does the model copy? Each sample's distance to its nearest training picture, and what that distance means."""

import math
from collections.abc import Iterator, Sequence
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor
from torch.nn.functional import pad

from unblot.errors import UnblotError
from unblot.evaluation.distances import Z95
from unblot.evaluation.image_set import ImageSet, shrink
from unblot.evaluation.neighbours import Variant, Variants, nearest, unchanged

NEIGHBOURS = 5
COPY_RATIO = 1 / 3
"""A picture is called a copy when its nearest training picture is nearer than a third of the fifth nearest.

Yoon et al. 2023 take a third of the second nearest. The fifth allows for a few near copies of one picture in the
training set (exact ones are left out before), and finds more of the strongly compressed copies. Real pictures that the
model never saw are not called copies (measured in docs/evaluation.md).
"""


class Nearness(NamedTuple):
    """Distances of pictures to the training set, over all values of a picture in the network's range.

    `distance` (N,): Euclidean distance to the nearest training picture, float64.
    `position` (N,): the position of that picture in the training set.
    `ratio` (N,): that distance over the distance to the fifth nearest distinct training picture, 0 to 1; 0 where both
        are 0.
    """

    distance: Tensor
    position: Tensor
    ratio: Tensor

    def copies(self) -> Tensor:
        """Whether each picture is called a copy, bool (N,)."""
        return self.ratio < COPY_RATIO


def nearness(pictures: ImageSet, training: ImageSet, variants: Variants = unchanged) -> Nearness:
    """The distance of each picture to the training pictures: exact, in bounded memory.

    Exact copies among the training pictures count once, as the first of them. `variants`, see `variants_of`, lets
    mirrored or moved copies count. Raises UnblotError for pictures of another shape and for fewer than two distinct
    training pictures.
    """
    if pictures.shape != training.shape:
        raise UnblotError(
            f"pictures of shape {pictures.shape} cannot be compared with training pictures of shape"
            f" {training.shape}; sample from a run that was trained on this data"
        )
    distinct = training.distinct()
    if len(distinct) < 2:
        raise UnblotError("the search for copies needs at least 2 different training pictures; there is only 1")
    distances, where = nearest(pictures, training.take(distinct), NEIGHBOURS, variants)
    # Training pictures are distinct, but variants of one picture may equal several of them: 0/0 is a copy, too.
    first = distances[:, 0].contiguous()
    ratio = torch.where(first == 0, 0.0, first / distances[:, -1])
    return Nearness(first, torch.from_numpy(distinct)[where[:, 0]], ratio)


def variants_of(flip: bool = False, shift: int = 0) -> Variants:
    """The variants in which a picture counts as the same: mirrored left to right, and moved by up to `shift` pixels.

    What a move brings in from outside the picture is not compared. (2·shift + 1)² variants, twice as many with `flip`;
    the time is in proportion.
    """

    def variants(pictures: Tensor) -> Iterator[Variant]:
        height, width = pictures.shape[-2:]
        for mirrored in [pictures, pictures.flip(-1)] if flip else [pictures]:
            wide = pad(mirrored, [shift] * 4)
            known = pad(torch.ones_like(pictures[0]), [shift] * 4)
            for top in range(2 * shift + 1):
                for left in range(2 * shift + 1):
                    window = (..., slice(top, top + height), slice(left, left + width))
                    yield Variant(wide[window], known[window])

    return variants


def share_interval(count: int, total: int) -> tuple[float, float]:
    """95 % interval of the share `count` of `total` (Wilson 1927), which is also right at 0 and at `total`."""
    share, z2 = count / total, Z95**2 / total
    centre = (share + z2 / 2) / (1 + z2)
    half = math.sqrt(share * (1 - share) * z2 + z2**2 / 4) / (1 + z2)
    return max(0.0, centre - half), min(1.0, centre + half)


def percentiles(distance: Tensor, held_out: Tensor) -> Tensor:
    """The percentile (N,), 0 to 100, of each distance among the held-out pictures' distances (M,); ties count half.

    Pictures from the data's own distribution have 50 on average. Near 0: nearer than real pictures are.
    """
    ordered = held_out.sort().values
    below = torch.searchsorted(ordered, distance, right=False)
    upto = torch.searchsorted(ordered, distance, right=True)
    return 100 * (below + upto).double() / (2 * len(ordered))


def copying_z(distance: Tensor, held_out: Tensor, cells: tuple[Tensor, Tensor] | None = None, least: int = 20) -> float:
    """The data-copying statistic C_T (Meehan et al. 2020): under −3 samples are too near to the training set.

    The Mann-Whitney statistic, in standard deviations, of the samples' distances to their nearest training pictures
    (N,) against those of the held-out pictures (M,). `cells`: the region of the space of each sample and of each
    held-out picture. The statistic is then computed in each cell with at least `least` of both, and averaged with the
    numbers of held-out pictures as weights (eq. 2 there), so that copying in one region is not hidden by another. Over
    +3: underfitted.
    """
    if cells is None:
        return _mann_whitney_z(distance, held_out)
    of_sample, of_held_out = cells
    scores, weights = [], []
    for cell in range(int(torch.cat(cells).max()) + 1):
        here, there = distance[of_sample == cell], held_out[of_held_out == cell]
        if min(len(here), len(there)) >= least:
            scores.append(_mann_whitney_z(here, there))
            weights.append(len(there))
    if not scores:
        return _mann_whitney_z(distance, held_out)
    return sum(w * z for w, z in zip(weights, scores)) / sum(weights)


def cells_of(training: ImageSet, sets: Sequence[ImageSet], count: int) -> list[Tensor]:
    """For each set the region of the space (N,) of each picture: one of `count` k-means cells of the training set.

    Fitted to at most 10,000 training pictures; all pictures are averaged down to 16 pixels a side.
    """
    from sklearn.cluster import KMeans

    def flat(pictures: ImageSet) -> np.ndarray:
        return torch.cat([shrink(chunk, 16).flatten(1) for chunk in pictures.chunks()]).numpy()

    cells = KMeans(count, n_init=1, random_state=0).fit(flat(training.sample(10_000)))
    return [torch.from_numpy(cells.predict(flat(pictures))).long() for pictures in sets]


def _mann_whitney_z(x: Tensor, y: Tensor) -> float:
    """Standardized count of the pairs in which x is larger; ties count half."""
    n, m = len(x), len(y)
    larger = float((percentiles(x, y) / 100).sum()) * m
    return (larger - n * m / 2) / math.sqrt(n * m * (n + m + 1) / 12)
