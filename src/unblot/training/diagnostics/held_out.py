"""The averaged weights' loss on held-out and on training pictures, by noise level, while a run trains.

Pictures, levels and noise are the same each time and follow from the run's seed: the curve shows how the weights
change, and the difference of two measurements is not blurred by random draws.
"""

import itertools

import numpy as np
import torch
from torch import Tensor

from unblot.config.schema import DataFacts, RunConfig, TrainConfig
from unblot.process.levels import log_snr
from unblot.process.randomness import MEASURE, generator
from unblot.runs.conditions import shown
from unblot.runs.metrics import Line
from unblot.system.distributed import Group, sum_over
from unblot.training.batches import Batch
from unblot.training.task import Task

LEVELS = 5  # bins: equal shares of the training times, the least noise first
PARTS = 8  # disjoint parts of the pictures, so that a change of the loss has a standard error
BLOCK = LEVELS * PARTS
MOST_BLOCKS = 16  # 640 pictures: more say nothing more
COST = 0.015  # share of the time, at most
PASSES = 3  # forward passes that a training step takes as long as
MEMORY = 2**28  # bytes of the pictures and noise that are measured on
AT_A_TIME = 64  # pictures


def pictures_a_side(train: TrainConfig, data: DataFacts) -> int:
    """The number of held-out pictures measured on, and of training pictures: a multiple of BLOCK within COST and
    MEMORY, at least BLOCK."""
    affordable = COST * PASSES * (train.held_out_every or 0) * train.batch_size / 2
    holdable = MEMORY / (3 * 4 * data.channels * data.height * data.width)
    return BLOCK * max(1, min(MOST_BLOCKS, round(affordable / BLOCK), int(holdable / BLOCK)))


class HeldOutLoss:
    """A fixed measurement of the task's loss; `measure(step, …)` gives a line of metrics.

    Item k is picture k of either side (in turns, where there are fewer), at a level of bin k % LEVELS, with noise from
    (seed, k). Several processes share the items.
    """

    def __init__(self, config: RunConfig, task: Task, group: Group, device: torch.device):
        data = task.batches.dataset
        self.task, self.group, self.device = task, group, device
        self.seed, self.n = config.train.seed, pictures_a_side(config.train, config.data)
        generators = [generator(self.seed, MEASURE, k) for k in range(self.n)]
        u = torch.stack([torch.rand((), dtype=torch.float64, generator=g) for g in generators])
        self.t = ((torch.arange(self.n) % LEVELS + u) / LEVELS).clamp(1e-6, 1 - 1e-6)
        middle = (torch.arange(LEVELS).double() + 0.5) / LEVELS
        self.log_snr = log_snr(task.schedule(middle))
        self.mine = torch.arange(self.n)[group.rank :: group.world]
        eps = torch.stack([torch.randn(config.shape, generator=generators[k]) for k in self.mine.tolist()])
        sides = {"training": data.train, "held_out": data.held_out}
        self.batches = {side: self._batch(chosen, eps) for side, chosen in sides.items() if len(chosen)}

    def measure(self, step: int, at_a_time: int = AT_A_TIME) -> Line:
        """The line of metrics of the denoiser's present weights, which should be the averaged ones.

        Losses are weighted as in training: by level, the least noise first, and by parts of the pictures; with the log
        SNR in the middle of each level's bin. `held_out` is None without held-out pictures.
        """
        line: Line = {"step": step, "log_snr": self.log_snr, "training": None, "held_out": None}
        for side, batch in self.batches.items():
            sums = torch.zeros(PARTS, LEVELS, dtype=torch.float64)
            losses = self._losses(batch, min(AT_A_TIME, at_a_time))
            sums.index_put_((self.mine // LEVELS % PARTS, self.mine % LEVELS), losses, accumulate=True)
            sums = sums.to(self.device, sums.dtype if self.device.type != "mps" else torch.float32)
            sum_over(self.group, sums)
            means = sums.cpu() / (self.n / BLOCK)
            line |= {side: means.mean(0), f"{side}_parts": means.mean(1)}
        return line

    def _batch(self, indices: np.ndarray, eps: Tensor) -> Batch:
        """This process's items on the pictures at `indices`."""
        order = torch.randperm(len(indices), generator=generator(self.seed, MEASURE, self.n))
        chosen = indices[order[self.mine % len(order)].numpy()]
        x0, condition = shown(self.task.denoiser, self.task.batches.seen, chosen)
        x0, noise = (x.to(self.device, memory_format=torch.channels_last) for x in (x0, eps))
        return Batch(x0, self.t[self.mine], noise, condition.label, condition.tokens)

    @torch.no_grad()
    def _losses(self, batch: Batch, at_a_time: int) -> Tensor:
        """The loss of each item, float64 on the CPU; every process makes the same number of network calls."""
        calls = -(-len(range(0, self.n, self.group.world)) // at_a_time)
        ends = [len(batch.x0) * i // calls for i in range(calls + 1)]
        parts = [batch.rows(slice(a, b)) for a, b in itertools.pairwise(ends)]
        return torch.cat([self.task.measured(part) for part in parts]).double().cpu()
