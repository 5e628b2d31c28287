"""How much x0_hat changes at each step of sampling, in coarse waves and in fine ones: outlines first, details last."""

from collections.abc import Sequence
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.process.spectrum import to_waves

MOST_CYCLES = 4.0  # across a picture's shorter side: coarser waves make its outlines
MOST_FREQUENCY = 0.25  # cycles a pixel, half of what pixels can show, so that pictures of 8 pixels have fine waves too


class Band(NamedTuple):
    """The changes of x0_hat in one band of frequencies, at the N − 1 steps after the first of N.

    share: (N − 1,), what each step adds in the direction of the whole change, from the first estimate to the last, as a
    share of it. Shares sum to 1; a step that leads away from the last estimate has a negative one. All are 0 where the
    band does not change. rms: (N − 1,), root mean square of each change over all values, in the network's range.
    """

    share: Tensor
    rms: Tensor

    def half(self) -> int | None:
        """The first step, counted from 1, after which half of the whole change is over; None where there is none."""
        over = (self.share.cumsum(0) >= 0.5).nonzero()
        return int(over[0]) + 2 if len(over) else None


class Changes(NamedTuple):
    """The changes below and from `border_cycles` on, a number of cycles across the picture's shorter side."""

    border_cycles: float
    coarse: Band
    fine: Band


def changes(estimates: Sequence[Tensor]) -> Changes:
    """How the estimates x0_hat (N, C, H, W) of each step of sampling follow from one another, over all pictures."""
    height, width = estimates[0].shape[-2:]
    fine = frequencies(height, width) * min(height, width) >= border_cycles(height, width)
    whole = to_waves(estimates[-1].double() - estimates[0].double())
    steps = [to_waves(b.double() - a.double()) for a, b in pairwise(estimates)]
    return Changes(border_cycles(height, width), _band(steps, whole, ~fine), _band(steps, whole, fine))


def border_cycles(height: int, width: int) -> float:
    """Cycles across the shorter side from which on waves count as fine."""
    return min(MOST_CYCLES, MOST_FREQUENCY * min(height, width))


def frequencies(height: int, width: int) -> Tensor:
    """The frequency of each wave of the cosine transform in cycles a pixel, (H, W), float64; diagonal ones reach √½."""
    down, across = (torch.arange(n, dtype=torch.float64) / (2 * n) for n in (height, width))
    return torch.hypot(down[:, None], across)


def _band(steps: Sequence[Tensor], whole: Tensor, waves: Tensor) -> Band:
    """The changes of some waves, (H, W) bool."""
    goal = whole * waves
    square = float(goal.square().sum())
    share = [float((step * goal).sum()) / square if square > 0 else 0.0 for step in steps]
    rms = [float((step * waves).square().mean().sqrt()) for step in steps]
    return Band(torch.tensor(share, dtype=torch.float64), torch.tensor(rms, dtype=torch.float64))
