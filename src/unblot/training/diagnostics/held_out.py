"""The averaged weights' loss on held-out and on training pictures, by noise level, while a run trains.

The same pictures, levels and noise each time, which follow from the run's seed: the curve shows what the weights do,
and the difference of two measurements is not blurred by chance draws.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from unblot.config.schema import DataFacts, TrainConfig
from unblot.data.dataset import Dataset
from unblot.process.levels import log_snr
from unblot.process.randomness import MEASURE, generator
from unblot.runs.metrics import Line
from unblot.system.distributed import sum_over
from unblot.training.batches import Batch
from unblot.training.trainer import Trainer

LEVELS = 5  # equal shares of the training times, the least noise first
PARTS = 8  # disjoint parts of the pictures, so that a change of the loss has a spread
BLOCK = LEVELS * PARTS
MOST_BLOCKS = 16  # 640 pictures: more say nothing more
COST = 0.015  # of the time, at most
PASSES = 3  # forward passes that a picture of a training step takes as long as
MEMORY = 2**28  # bytes of what is measured
AT_A_TIME = 64  # pictures


def pictures_a_side(train: TrainConfig, data: DataFacts) -> int:
    """How many held-out and as many training pictures are measured: what COST and MEMORY leave room for, BLOCK at
    least."""
    affordable = COST * PASSES * (train.held_out_every or 0) * train.batch_size / 2
    holdable = MEMORY / (3 * 4 * data.channels * data.height * data.width)
    return BLOCK * max(1, min(MOST_BLOCKS, round(affordable / BLOCK), int(holdable / BLOCK)))


class HeldOutLoss:
    """What is measured again and again; `measure()` gives a line of metrics.

    Measurement k is of picture k of either side (in turns, where there are fewer), at a level of bin k % LEVELS, with
    noise from (seed, k). Several processes share the measurements out.
    """

    def __init__(self, trainer: Trainer):
        config, data = trainer.config, trainer.dataset
        self.trainer, self.n = trainer, pictures_a_side(config.train, config.data)
        self.generators = [generator(config.train.seed, MEASURE, k) for k in range(self.n)]
        u = torch.stack([torch.rand((), dtype=torch.float64, generator=g) for g in self.generators])
        bins = torch.arange(self.n) % LEVELS
        self.t = ((bins + u) / LEVELS).clamp(1e-6, 1 - 1e-6)
        middle = (torch.arange(LEVELS).double() + 0.5) / LEVELS
        self.log_snr = log_snr(trainer.batch_sampler.schedule(middle))
        rank, world = trainer.group.rank, trainer.group.world
        self.mine = torch.arange(self.n)[rank::world]
        eps = torch.stack([torch.randn(config.data.shape, generator=self.generators[k]) for k in self.mine.tolist()])
        sides = {"training": data.train, "held_out": data.held_out}
        self.batches = {side: self._batch(data, chosen, eps) for side, chosen in sides.items() if len(chosen)}

    def measure(self) -> Line:
        """Losses, weighted as in training: by level, the least noise first, and by parts of the pictures, with the
        log SNR in the middle of each level's bin; `held_out` is None without held-out pictures."""
        line: Line = {"step": self.trainer.step, "log_snr": self.log_snr, "training": None, "held_out": None}
        with self.trainer.averaged(), torch.no_grad():
            for side, batch in self.batches.items():
                sums = torch.zeros(PARTS, LEVELS, dtype=torch.float64)
                losses = self._losses(batch)
                sums.index_put_((self.mine // LEVELS % PARTS, self.mine % LEVELS), losses, accumulate=True)
                sums = sums.to(self.trainer.device, sums.dtype if self.trainer.device.type != "mps" else torch.float32)
                sum_over(self.trainer.group, sums)
                means = sums.cpu() / (self.n / BLOCK)
                line |= {side: means.mean(0), f"{side}_parts": means.mean(1)}
        return line

    def _batch(self, data: Dataset, indices: np.ndarray, eps: Tensor) -> Batch:
        """This process's share of the measurements on the pictures at `indices`."""
        order = torch.randperm(len(indices), generator=generator(self.trainer.config.train.seed, MEASURE, self.n))
        x0, label = data.batch(indices[order[self.mine % len(order)].numpy()])
        device, denoiser = self.trainer.device, self.trainer.denoiser
        x0, noise = (x.to(device, memory_format=torch.channels_last) for x in (x0, eps))
        conditions, second_noise = x0.new_zeros(len(x0), denoiser.conditions), x0.new_empty(len(x0), 0)
        return Batch(
            x0, self.t[self.mine], noise, None if label is None else label.to(device), conditions, second_noise
        )

    def _losses(self, batch: Batch) -> Tensor:
        """One loss a measurement, float64 on the CPU; every process makes as many calls of the network."""
        calls = -(-len(range(0, self.n, self.trainer.group.world)) // min(AT_A_TIME, self.trainer.micro_batch))
        ends = [len(batch.x0) * i // calls for i in range(calls + 1)]
        rows = [slice(a, b) for a, b in itertools.pairwise(ends)]
        return torch.cat([self.trainer.losses(batch, part) for part in rows]).double().cpu()
