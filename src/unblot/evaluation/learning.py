"""The loss of a model on held-out and on training pictures, by noise level: does it learn, or only memorize?"""

import math
from dataclasses import asdict, dataclass
from typing import Any

import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.evaluation.distances import mean_and_half
from unblot.evaluation.image_set import at_once, seen_by
from unblot.losses import Weighting, training_loss
from unblot.process.levels import log_noise_ratio
from unblot.process.randomness import normal
from unblot.process.schedules import Schedule

BINS = 8


@dataclass(frozen=True)
class Bin:
    """Mean losses at the noise levels of one of BINS equal shares of the training times, the least noise first.

    `log_noise_ratio`: log(sigma/alpha) in the middle. `training`, `held_out`: mean squared error of the network's
    output, weighted as in training, with the half-widths of their 95 % intervals.
    """

    log_noise_ratio: float
    training: float
    training_half: float
    held_out: float
    held_out_half: float


@dataclass(frozen=True)
class Learning:
    """Losses by noise level, and their gap: the held-out loss over the training loss, minus 1.

    `low`, `high`: the gap's 95 % interval. `n_training`, `n_held_out`: numbers of pictures.
    """

    bins: list[Bin]
    gap: float
    low: float
    high: float
    n_training: int
    n_held_out: int

    def to_dict(self) -> dict[str, Any]:
        """Plain values for JSON."""
        return asdict(self)


def loss_by_level(
    denoiser: Denoiser,
    dataset: Dataset,
    schedule: Schedule,
    weighting: Weighting,
    pictures: int = 256,
    seed: int = 0,
    batch_size: int = 64,
) -> Learning:
    """The loss on up to `pictures` held-out and as many training pictures, each at one level of every bin.

    denoiser: with the averaged weights. schedule, weighting: as in training. seed: of pictures, levels and noise.
    batch_size: pictures computed together, at most; it changes no loss. Needs at least 2 pictures of either kind.
    """
    parts = []
    for indices in (dataset.train, dataset.held_out):
        order = torch.randperm(len(indices), generator=torch.Generator().manual_seed(seed))[:pictures]
        chosen = indices[order.sort().values.numpy()]
        parts.append(_losses(denoiser, dataset, chosen, schedule, weighting, seed, batch_size))
    training, held_out = parts
    middle = log_noise_ratio(schedule((torch.arange(BINS) + 0.5).double() / BINS))
    bins = [Bin(float(middle[i]), *mean_and_half(training[:, i]), *mean_and_half(held_out[:, i])) for i in range(BINS)]
    (seen, seen_half), (unseen, unseen_half) = mean_and_half(training.mean(1)), mean_and_half(held_out.mean(1))
    gap = unseen / seen - 1
    half = (1 + gap) * math.hypot(seen_half / seen, unseen_half / unseen)
    return Learning(bins, gap, gap - half, gap + half, len(training), len(held_out))


@torch.no_grad()
def _losses(
    denoiser: Denoiser,
    dataset: Dataset,
    indices: Any,
    schedule: Schedule,
    weighting: Weighting,
    seed: int,
    batch_size: int,
) -> Tensor:
    """Losses (N, BINS), float64: picture i's level in each bin and its noise follow from (seed, i)."""
    rows = []
    batch = min(batch_size, at_once(dataset.shape))
    for x0, condition, generators in seen_by(denoiser, dataset, indices, batch, seed):
        columns = []
        for i in range(BINS):
            u = torch.tensor([float(torch.rand((), dtype=torch.float64, generator=g)) for g in generators]).double()
            level = schedule((i + u).clamp_min(1e-6) / BINS)
            eps = normal(generators, x0.shape[1:]).to(x0)
            losses = training_loss(denoiser, x0, level, eps, condition, weighting(level, denoiser))
            columns.append(losses.cpu().double())
        rows.append(torch.stack(columns, 1))
    return torch.cat(rows)
