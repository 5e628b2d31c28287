"""What one training step is made of: which pictures, at which levels, with which noise.

A batch is cut into grains of GRAIN pictures. All that is random in a grain comes from its own generator, from
(seed, step, grain), so that a batch is the same however many processes share it out, and after a resume.
"""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.config.schema import TrainConfig
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import chunk_generator, epoch_order, stratified_uniform, uniform_indices
from unblot.process.schedules import SCHEDULES, Schedule, only_at
from unblot.sampling.batched import sampling_levels
from unblot.specs import build

RNG_CHUNK = 16  # pictures
INDICES = 1000  # DDPM's T
TIMES = ("stratified", "index", "adaptive", "spacing")


class BatchDraw(NamedTuple):
    """The random part of a step for B pictures: positions among the training pictures (B,), times (B,) and their
    levels (B,), noise (B, C, H, W), which labels are hidden (B,) bool, and the generator of each grain, for what is
    still to be drawn. Adaptive times are still to be made of these, as in `Adaptive.times`."""

    pictures: Tensor
    t: Tensor
    level: NoiseLevel
    eps: Tensor
    hidden: Tensor
    generators: list[torch.Generator]


class Batch(NamedTuple):
    """What goes into a step: pictures and noise (B, C, H, W), times (B,), labels (B,) or None, what augmentation did to
    each picture (B, K), and the second noise of a distillation, (B, C, H, W), else (B, 0). Times are on the CPU, as
    levels are everywhere."""

    x0: Tensor
    t: Tensor
    eps: Tensor
    label: Tensor | None
    conditions: Tensor
    second_noise: Tensor

    def to(self, device: torch.device) -> "Batch":
        """The batch on the device, without a wait for it."""
        return self._each(lambda x: x.to(device, non_blocking=True))

    def pinned(self) -> "Batch":
        """The batch in memory that a GPU reads by itself."""
        return self._each(Tensor.pin_memory)

    def _each(self, change: Callable[[Tensor], Tensor]) -> "Batch":
        label = None if self.label is None else change(self.label)
        return Batch(
            change(self.x0), self.t, change(self.eps), label, change(self.conditions), change(self.second_noise)
        )


@dataclass
class BatchSampler:
    """The draw of every step of a run. Every picture comes once in each pass over the `count` training pictures.

    times: "stratified" spreads the times of a batch evenly over [0, 1]; "index" draws DDPM's i/1000 uniformly;
    "spacing" is stratified, over a schedule that `only_at` made of the levels that sampling visits; "adaptive" is
    stratified too, quantiles of a density that training learns as it goes, which no draw may depend on.
    """

    seed: int
    batch_size: int
    count: int
    shape: tuple[int, ...]
    schedule: Schedule
    times: str
    label_dropout: float
    _order: tuple[int, Tensor] = field(default=(-1, torch.empty(0)), repr=False)  # the present pass and its order

    def __post_init__(self) -> None:
        if self.times not in TIMES:
            raise UnblotError(f"unknown times {self.times!r}; choose one of {', '.join(TIMES)}")

    def at(self, step: int, rank: int = 0, world: int = 1) -> BatchDraw:
        """The draw of step 0, 1, …; of several processes each takes every `world`-th grain.

        Raises UnblotError where there are more processes than grains.
        """
        numbers = range(-(-self.batch_size // RNG_CHUNK))[rank::world]
        if not numbers:
            raise UnblotError(
                f"a batch of {self.batch_size} pictures cannot be shared out among {world} processes; use --batch-size "
                f"{RNG_CHUNK * world} or more"
            )
        generators = [chunk_generator(self.seed, step, chunk) for chunk in numbers]
        chunks = [self._grain(chunk, g) for chunk, g in zip(numbers, generators, strict=True)]
        t, eps, hidden = (torch.cat(column) for column in zip(*chunks, strict=True))
        whole = self._pictures(step).split(RNG_CHUNK)
        return BatchDraw(torch.cat([whole[chunk] for chunk in numbers]), t, self.schedule(t), eps, hidden, generators)

    def _grain(self, chunk: int, g: torch.Generator) -> tuple[Tensor, Tensor, Tensor]:
        first = chunk * RNG_CHUNK
        n = min(RNG_CHUNK, self.batch_size - first)
        if self.times == "index":
            t = uniform_indices(n, INDICES, g).double() / INDICES
        else:
            t = stratified_uniform(n, self.batch_size, first, g)
        eps = torch.randn(n, *self.shape, generator=g)
        return t, eps, torch.rand(n, generator=g) < self.label_dropout

    def _pictures(self, step: int) -> Tensor:
        start, parts, missing = step * self.batch_size, [], self.batch_size
        while missing:
            epoch, offset = divmod(start, self.count)
            passing, order = self._order  # read once: another thread may be at another pass
            if passing != epoch:
                order = epoch_order(self.seed, epoch, self.count)
                self._order = epoch, order
            part = order[offset : offset + missing]
            parts.append(part)
            start, missing = start + len(part), missing - len(part)
        return torch.cat(parts)


# --- which noise goes to which picture


def independent() -> Callable[[Tensor, Tensor], Tensor]:
    """The noise as it was drawn."""
    return lambda x0, eps: eps


def ot() -> Callable[[Tensor, Tensor], Tensor]:
    """The noise of each grain shared out among its pictures so that the sum of squared distances is least.

    Immiscible diffusion (Li et al. 2024), minibatch optimal transport (Pooladian et al. 2023), with minibatches of one
    grain. Each noise is still normal, but no longer independent of its picture.
    """
    from scipy.optimize import linear_sum_assignment

    def assign(x0: Tensor, eps: Tensor) -> Tensor:
        """x0, eps: (B, C, H, W), in grains; returns eps in another order within each grain, on the CPU."""
        parts = []
        for pictures, noise in zip(x0.cpu().split(RNG_CHUNK), eps.split(RNG_CHUNK), strict=True):
            _, order = linear_sum_assignment(-(pictures.flatten(1) @ noise.flatten(1).T).numpy())
            parts.append(noise[torch.from_numpy(order)])
        return torch.cat(parts)

    return assign


COUPLINGS: dict[str, Callable[..., Callable[[Tensor, Tensor], Tensor]]] = {
    "independent": independent,
    "ot": ot,
}


def training_schedule(train: TrainConfig) -> Schedule:
    """The schedule that training draws from: the run's own, or for times "spacing" the levels that sampling visits."""
    if train.times == "spacing":
        return only_at(sampling_levels(train.schedule, train.spacing, train.sampling_steps))
    return build(SCHEDULES, train.schedule, "schedule")
