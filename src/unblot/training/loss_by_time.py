"""What training learns from its loss by time: which times to draw more often, and how much each level's loss counts.

Adaptive times are drawn more often where the loss is large, each loss divided by the density of its time: the variance
of a mean estimated with density p, each term weighted by 1/p, is least for p in proportion to the root mean square of
the loss (Nichol & Dhariwal 2021, section 3.3).

Balanced losses are divided by their size at their level, so that no level decides alone where the weights go (Kendall
et al. 2018; Karras et al. 2024, "Analyzing and improving the training dynamics of diffusion models", eq. 21, which
trains a small network to tell the size; here it is a running mean). At high noise most of the loss is what nobody can
know, and its gradient is mostly noise.
"""

from collections.abc import Callable, Mapping
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.system.distributed import Group, sum_over
from unblot.training.batches import Batch

BINS = 32  # of the times; a power of two, so that a uniform density leaves times as they are, to the bit
KNOWN = 10  # losses in every bin before anything is learned from them, as in Nichol & Dhariwal
MEMORY = 256  # effective number of losses in a bin's running mean
FLOOR = 0.1  # share of adaptive times that stays uniform: no loss is weighted by more than 1/FLOOR
POWER = 0.7  # of a loss's size, by which a balanced loss is divided
REFRESH = 50  # steps between two changes of a density or of weights
FINE = 32  # root mean squares are rounded to powers of 2^(1/FINE), that is to some 2 %


class Use(NamedTuple):
    """What is made of the loss by time: `rule` maps its sizes (BINS,) to one number for each bin, of mean 1, which a
    checkpoint keeps under `name`, and `apply` gives a batch with what follows from these."""

    name: str
    rule: Callable[[Tensor], Tensor]
    apply: Callable[[Batch, Tensor], Batch]


class LossByTime:
    """The running root mean square of the loss in BINS equal parts of the times in [0, 1], and what is made of it.

    `seen` (2, BINS) holds the number of losses and the sum of their squares, on the device, where each step adds to it.
    Every REFRESH steps `learned` (BINS,) is made from it, which is the only wait for the device.
    """

    def __init__(self, device: torch.device, use: Use):
        self.use = use
        self.seen = torch.zeros(2, BINS, device=device)
        self.learned = torch.ones(BINS, dtype=torch.float64)

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch of a step, with what follows from the loss by time."""
        self.refresh(step)
        return self.use.apply(batch, self.learned)

    def refresh(self, step: int) -> None:
        """Makes what is used at this step and those up to the next change; to be called before each step."""
        if step % REFRESH == 0:
            self.learned = self.use.rule(sizes_from(*self.seen.cpu().double()))

    def learn(self, losses: Tensor, t: Tensor, bad: Tensor, group: Group) -> None:
        """Adds this process's share of a step's losses (B,), before weighting, to the estimate; not where `bad`.

        Without a wait for the device. All processes must call it at once.
        """
        number = bin_of(t).to(losses.device, non_blocking=losses.is_cuda)
        members = (number[:, None] == torch.arange(BINS, device=losses.device)).to(losses.dtype)
        new = torch.stack([members.sum(0), (members * losses.square()[:, None]).sum(0)])
        sum_over(group, new)
        kept = self.seen * (MEMORY / self.seen[0]).clamp(max=1)  # old losses fade, so that a bin follows its loss
        self.seen = torch.where(bad | ~torch.isfinite(new).all(), self.seen, kept + new)

    def tensors(self) -> dict[str, Tensor]:
        """The state, by name."""
        return {"seen": self.seen, self.use.name: self.learned}

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state that `tensors` gave."""
        self.seen = tensors["seen"].to(self.seen.device)
        self.learned = tensors[self.use.name].cpu()


def sizes_from(counts: Tensor, squares: Tensor) -> Tensor:
    """The size (BINS,) of the loss from the number of losses and the sum of their squares in each bin, both (BINS,).

    1 everywhere while a bin is hardly known. Rounded, so that sums in another order, on several processes, give the
    same.
    """
    means = squares / counts
    if counts.min() < KNOWN or not means.any():
        return torch.ones_like(means)
    return torch.exp2((FINE * 0.5 * means.log2()).round() / FINE)


def density_from(sizes: Tensor) -> Tensor:
    """The density of adaptive times (BINS,), of mean 1, for losses of these sizes (BINS,)."""
    return FLOOR + (1 - FLOOR) * sizes / sizes.mean()


def weights_from(sizes: Tensor) -> Tensor:
    """The weights of balanced losses (BINS,), of mean 1, for losses of these sizes (BINS,)."""
    inverse = sizes.clamp(min=1e-3 * sizes.max()) ** -POWER  # a loss of 0 must not weigh without end
    return inverse / inverse.mean()


def times_of(u: Tensor, density: Tensor) -> Tensor:
    """The quantiles u (B,) in (0, 1) of a density (BINS,), on the CPU: times with this density where u is uniform.

    Rising with u, so that strata of u are strata of the times.
    """
    ends = torch.cat([torch.zeros(1, dtype=torch.float64), density.cumsum(0) / BINS])
    number = torch.searchsorted(ends[1:-1], u, right=True)
    within = (u - ends[number]) * BINS / density[number]
    return ((number + within.clamp(0, 1)) / BINS).clamp(1e-12, 1 - 1e-12)


def weight_of(t: Tensor, density: Tensor) -> Tensor:
    """1/density at times t (B,), on the CPU: so weighted, the mean loss is that over uniform times."""
    return 1 / density[bin_of(t)]


def with_adaptive_times(batch: Batch, density: Tensor) -> Batch:
    """The batch with times of this density (BINS,), and the weights that go with them."""
    t = times_of(batch.t, density)
    return batch._replace(t=t, weight=weight_of(t, density))


def with_balanced_losses(batch: Batch, weights: Tensor) -> Batch:
    """The batch with the weight of each picture's time in the gradient, of weights (BINS,)."""
    return batch._replace(balance=weights[bin_of(batch.t)])


def bin_of(t: Tensor) -> Tensor:
    """The number of the bin of each time (B,)."""
    return (t * BINS).long().clamp(0, BINS - 1)


ADAPTIVE = Use("density", density_from, with_adaptive_times)
BALANCED = Use("weights", weights_from, with_balanced_losses)
