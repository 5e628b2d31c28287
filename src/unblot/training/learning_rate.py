"""The learning rate of each step: a rise, a fall to the end, and a bend where the end is moved."""

import math
from collections.abc import Callable
from typing import NamedTuple

from unblot.config.schema import TrainConfig


class Switch(NamedTuple):
    """The step at which the number of steps of a run was changed, and the learning rate that held there."""

    step: int
    rate: float


def learning_rate(train: TrainConfig, step: int, switch: Switch | None = None) -> float:
    """The learning rate of step 0, 1, …: a linear rise over the warm-up, then the decay to zero at the last step.

    After a switch it is that of a run which had the new number of steps from the start, reached from the rate before
    in a line over the warm-up's share of the steps left. A run that has decayed to its end and is given more warms up
    again (as Ibrahim et al. 2024 found to be needed), the higher the more it is given.
    """
    rate = _planned_rate(train, step)
    if switch is None:
        return rate
    renoise = max(1, round(train.warmup * (train.steps - switch.step)))
    return switch.rate + (rate - switch.rate) * min(1.0, (step - switch.step + 1) / renoise)


def _planned_rate(train: TrainConfig, step: int) -> float:
    """The learning rate of a run that has had its number of steps from the start."""
    renoise = max(1, round(train.warmup * train.steps))
    if step < renoise:
        return train.learning_rate * (step + 1) / renoise
    done = min(1.0, (step - renoise) / max(1, train.steps - renoise))
    return train.learning_rate * DECAYS[train.decay](done)


DECAYS: dict[str, Callable[[float], float]] = {
    "cosine": lambda done: 0.5 + 0.5 * math.cos(math.pi * done),
    "linear": lambda done: 1 - done,
    "none": lambda done: 1.0,
}
