"""How long steps and previews take on this machine, by a few of them."""

from collections.abc import Callable

import torch

from unblot.system.device import wait_for
from unblot.training.prefetch import AHEAD
from unblot.training.previews import PREVIEW_STEPS, preview_decoded, preview_samples
from unblot.training.trainer import Trainer

TRIES, MOST_TRIES = 2, 200  # timed steps, at least and at most
STREAK, STREAK_SECONDS = AHEAD + 8, 0.5  # steps and seconds that are timed as one on a GPU, at least
TRIAL_SAMPLING_STEPS = 2  # of the timed preview

Clock = Callable[[], float]


def step_times(trainer: Trainer, clock: Clock, until: float) -> list[float]:
    """The seconds of each of a few steps, and of more of them up to the time `until` on the clock."""
    if trainer.device.type == "cuda":
        return streak(trainer, clock, until)
    times: list[float] = []
    while len(times) < TRIES or (clock() < until and len(times) < MOST_TRIES):
        start = clock()
        trainer.take_step().loss.item()
        times.append(clock() - start)
    return times


def streak(trainer: Trainer, clock: Clock, until: float) -> list[float]:
    """`step_times` on a GPU: each the mean of all, which follow one another without a wait for the GPU, as in training.

    Before them the batches are used up that were made ahead while other things were timed: from then on a step takes as
    long as its batch where that takes longer.
    """
    for _ in range(AHEAD):
        trainer.take_step()
    wait_for(trainer.device)
    start, steps = clock(), 0
    trainer.take_step()
    wait_for(trainer.device)
    least = STREAK if clock() - start < STREAK_SECONDS else TRIES  # a long step is timed well enough by a few
    start = clock()
    while (now := clock()) < start + STREAK_SECONDS or steps < least or (now < until and steps < MOST_TRIES):
        trainer.take_step()
        steps += 1
    wait_for(trainer.device)
    return [(clock() - start) / steps] * steps


def least_seconds(step: float, device: torch.device) -> float:
    """About how many seconds a first step and `step_times` take at least, where a step takes `step` seconds."""
    if device.type == "cuda":
        timed = TRIES * step if step >= STREAK_SECONDS else max(STREAK * step, STREAK_SECONDS)
        return (1 + AHEAD + 1) * step + timed
    return (1 + TRIES) * step


def preview_time(trainer: Trainer, clock: Clock) -> float:
    """The seconds of a preview, by one of a few steps; on a GPU after a first, in which its kernels are chosen."""
    if trainer.device.type == "cuda":
        preview_decoded(trainer, preview_samples(trainer, 1)[0])
    wait_for(trainer.device)
    start = clock()
    x0, _ = preview_samples(trainer, TRIAL_SAMPLING_STEPS)
    wait_for(trainer.device)
    sampled = clock()
    preview_decoded(trainer, x0)  # on the CPU, so that the GPU has been waited for
    return (sampled - start) * PREVIEW_STEPS / TRIAL_SAMPLING_STEPS + clock() - sampled
