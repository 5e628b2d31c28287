"""Adaptive training times: drawn more often where the loss is large, each loss divided by the density of its time.

The variance of a mean estimated with density p, each term weighted by 1/p, is least for p in proportion to the root
mean square of the loss (Nichol & Dhariwal 2021, section 3.3). Here it is estimated for BINS equal parts of [0, 1].
"""

from collections.abc import Mapping

import torch
from torch import Tensor

from unblot.system.distributed import Group, sum_over

BINS = 32  # a power of two, so that a uniform density leaves times as they are, to the bit
KNOWN = 10  # losses in every bin before the density is anything but uniform, as in Nichol & Dhariwal
MEMORY = 256  # effective number of losses in a bin's running mean
FLOOR = 0.1  # share of the times that stays uniform: no loss is weighted by more than 1/FLOOR
REFRESH = 50  # steps between two changes of the density
FINE = 32  # root mean squares are rounded to powers of 2^(1/FINE), that is to some 2 %


class Adaptive:
    """The estimated loss by time, and the density of the times: `density` (BINS,), of mean 1.

    `seen` (2, BINS) holds the number of losses and the sum of their squares, on the device, where each step adds to it.
    Every REFRESH steps the density is made from it, which is the only wait for the device.
    """

    def __init__(self, device: torch.device):
        self.seen = torch.zeros(2, BINS, device=device)
        self.density = torch.ones(BINS, dtype=torch.float64)

    def refresh(self, step: int) -> None:
        """Computes the density for this step and those up to the next change; to be called before each step."""
        if step % REFRESH == 0:
            self.density = density_from(*self.seen.cpu().double())

    def times(self, u: Tensor) -> Tensor:
        """The quantiles u (B,) in (0, 1) of the density, on the CPU: times with this density where u is uniform.

        Rising with u, so that strata of u are strata of the times.
        """
        ends = torch.cat([torch.zeros(1, dtype=torch.float64), self.density.cumsum(0) / BINS])
        number = torch.searchsorted(ends[1:-1], u, right=True)
        within = (u - ends[number]) * BINS / self.density[number]
        return ((number + within.clamp(0, 1)) / BINS).clamp(1e-12, 1 - 1e-12)

    def weight(self, t: Tensor) -> Tensor:
        """1/density at times t (B,), on the CPU: so weighted, the mean loss is that over uniform times."""
        return 1 / self.density[_bin(t)]

    def learn(self, losses: Tensor, t: Tensor, bad: Tensor, group: Group) -> None:
        """Adds this process's share of a step's losses (B,), before weighting, to the estimate; not where `bad`.

        Without a wait for the device. All processes must call it at once.
        """
        number = _bin(t).to(losses.device, non_blocking=losses.is_cuda)
        members = (number[:, None] == torch.arange(BINS, device=losses.device)).to(losses.dtype)
        new = torch.stack([members.sum(0), (members * losses.square()[:, None]).sum(0)])
        sum_over(group, new)
        kept = self.seen * (MEMORY / self.seen[0]).clamp(max=1)  # old losses fade, so that a bin follows its loss
        self.seen = torch.where(bad | ~torch.isfinite(new).all(), self.seen, kept + new)

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        return {"seen": self.seen, "density": self.density}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state that `tensors` gave."""
        self.seen = tensors["seen"].to(self.seen.device)
        self.density = tensors["density"].cpu()


def density_from(counts: Tensor, squares: Tensor) -> Tensor:
    """The density (BINS,), of mean 1, from the number of losses and the sum of their squares in each bin, both (BINS,).

    Uniform while a bin is hardly known. Rounded, so that sums in another order, on several processes, give the same.
    """
    means = squares / counts
    if counts.min() < KNOWN or not means.any():
        return torch.ones_like(means)
    root = torch.exp2((FINE * 0.5 * means.log2()).round() / FINE)
    return FLOOR + (1 - FLOOR) * root / root.mean()


def _bin(t: Tensor) -> Tensor:
    """The number of the bin of each time (B,)."""
    return (t * BINS).long().clamp(0, BINS - 1)
