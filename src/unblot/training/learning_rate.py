"""The learning rate of each step: warm-up, decay to the last step, and a transition where the last step is moved."""

import math
from collections.abc import Callable
from typing import NamedTuple

from unblot.config.schema import TrainConfig


class Switch(NamedTuple):
    """The step at which the number of steps of a run was changed, and the learning rate that held there."""

    step: int
    rate: float


def learning_rate(train: TrainConfig, step: int, switch: Switch | None = None) -> float:
    """The learning rate of step 0, 1, …: linear warm-up, then the decay to zero at the last step.

    After a switch it moves linearly from the rate before to that of a run planned with the new number of steps, over
    the warm-up's share of the steps left. So a run that has decayed to its end and is continued warms up again (as
    Ibrahim et al. 2024 found to be needed), to a higher rate the more steps it gets.
    """
    rate = _planned_rate(train, step)
    if switch is None:
        return rate
    warmup = max(1, round(train.warmup * (train.steps - switch.step)))
    return switch.rate + (rate - switch.rate) * min(1.0, (step - switch.step + 1) / warmup)


def _planned_rate(train: TrainConfig, step: int) -> float:
    """The learning rate of a run that was planned with its number of steps from the start."""
    warmup = max(1, round(train.warmup * train.steps))
    if step < warmup:
        return train.learning_rate * (step + 1) / warmup
    done = min(1.0, (step - warmup) / max(1, train.steps - warmup))
    return train.learning_rate * DECAYS[train.decay](done)


def warmup_cosine(step: int, warmup: float, done: float, peak: float = 1.0) -> float:
    """The rate of step 0, 1, …: linear warm-up to `peak` over `warmup` steps, times a cosine from 1 to 0.

    done: the share of all steps that is done, where the cosine is read.
    """
    return peak * min(1.0, (step + 1) / max(1.0, warmup)) * 0.5 * (1 + math.cos(math.pi * min(1.0, done)))


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
    "linear": lambda done: 1 - done,
    "none": lambda done: 1.0,
}
