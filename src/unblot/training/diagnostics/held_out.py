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
from unblot.runs.conditions import pictures_and_condition
from unblot.runs.metrics import Line
from unblot.system.device import has_float64
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
    holdable = MEMORY / _item_bytes(data)
    return BLOCK * max(1, min(MOST_BLOCKS, round(affordable / BLOCK), int(holdable / BLOCK)))


def is_held(train: TrainConfig, data: DataFacts) -> bool:
    """Whether the pictures and noise stay in memory; where even BLOCK of them take more than MEMORY they are made anew
    for each measurement."""
    return pictures_a_side(train, data) <= MEMORY / _item_bytes(data)


def held_bytes(train: TrainConfig, data: DataFacts) -> int:
    """Bytes of the pictures and noise that stay in memory."""
    return pictures_a_side(train, data) * _item_bytes(data) if is_held(train, data) else 0


def _item_bytes(data: DataFacts) -> int:
    """Bytes of a held-out picture, a training picture and their noise."""
    return 3 * 4 * data.channels * data.height * data.width


class HeldOutLoss:
    """A fixed measurement of the task's loss; `measure(step, …)` gives a line of metrics.

    Item k is picture k of either side (in turns, where there are fewer), at a level of bin k % LEVELS, with noise from
    (seed, k), the same on both sides. Several processes share the items.
    """

    def __init__(self, config: RunConfig, task: Task, group: Group, device: torch.device):
        data = task.batches.dataset
        self.task, self.group, self.device, self.shape = task, group, device, config.shape
        self.seed, self.n = config.train.seed, pictures_a_side(config.train, config.x0_facts)
        u = torch.stack([self._draw(k)[0] for k in range(self.n)])
        self.t = ((torch.arange(self.n) % LEVELS + u) / LEVELS).clamp(1e-6, 1 - 1e-6)
        middle = (torch.arange(LEVELS).double() + 0.5) / LEVELS
        self.log_snr = log_snr(task.schedule(middle))
        self.mine = torch.arange(self.n)[group.rank :: group.world]
        sides = {"training": data.train, "held_out": data.held_out}
        self.chosen = {side: self._choose(of) for side, of in sides.items() if len(of)}
        self.held = self._make(slice(None)) if is_held(config.train, config.x0_facts) else None

    def measure(self, step: int, at_a_time: int = AT_A_TIME) -> Line:
        """The line of metrics of the denoiser's present weights, which should be the averaged ones.

        Losses are weighted as in training: by level, the least noise first, and by parts of the pictures; with the log
        SNR in the middle of each level's bin. `held_out` is None without held-out pictures.
        """
        line: Line = {"step": step, "log_snr": self.log_snr, "training": None, "held_out": None}
        for side, losses in self._losses(min(AT_A_TIME, at_a_time)).items():
            sums = torch.zeros(PARTS, LEVELS, dtype=torch.float64)
            sums.index_put_((self.mine // LEVELS % PARTS, self.mine % LEVELS), losses, accumulate=True)
            sums = sums.to(self.device, sums.dtype if has_float64(self.device) else torch.float32)
            sum_over(self.group, sums)
            means = sums.cpu() / (self.n / BLOCK)
            line |= {side: means.mean(0), f"{side}_parts": means.mean(1)}
        return line

    def batches(self, part: slice) -> dict[str, Batch]:
        """Some of this process's items, of either side."""
        if self.held is None:
            return self._make(part)
        return {side: batch.rows(part) for side, batch in self.held.items()}

    def _make(self, part: slice) -> dict[str, Batch]:
        items = self.mine[part]
        noise = self._on_device(torch.stack([self._noise(k) for k in items.tolist()]))
        made = {}
        for side, chosen in self.chosen.items():
            x0, condition = pictures_and_condition(self.task.denoiser, self.task.batches.x0_dataset, chosen[part])
            made[side] = Batch(self._on_device(x0), self.t[items], noise, condition.label, condition.tokens)
        return made

    def _choose(self, indices: np.ndarray) -> np.ndarray:
        """The picture of each of this process's items, among those at `indices`."""
        order = torch.randperm(len(indices), generator=generator(self.seed, MEASURE, self.n))
        return indices[order[self.mine % len(order)].numpy()]

    def _draw(self, k: int) -> tuple[Tensor, torch.Generator]:
        """Item k's place in its bin, in [0, 1), and the generator of its noise."""
        g = generator(self.seed, MEASURE, k)
        return torch.rand((), dtype=torch.float64, generator=g), g

    def _noise(self, k: int) -> Tensor:
        return torch.randn(self.shape, generator=self._draw(k)[1])

    def _on_device(self, x: Tensor) -> Tensor:
        return x.to(self.device, memory_format=torch.channels_last)

    @torch.no_grad()
    def _losses(self, at_a_time: int) -> dict[str, Tensor]:
        """The loss of each item, float64 on the CPU; every process makes the same number of network calls."""
        calls = -(-len(range(0, self.n, self.group.world)) // at_a_time)
        ends = [len(self.mine) * i // calls for i in range(calls + 1)]
        found: dict[str, list[Tensor]] = {side: [] for side in self.chosen}
        for a, b in itertools.pairwise(ends):
            for side, batch in self.batches(slice(a, b)).items():
                found[side].append(self.task.measured(batch).cpu().double())
        return {side: torch.cat(losses) for side, losses in found.items()}
