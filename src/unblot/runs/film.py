"""Sampling as it can be seen: x_t and x0_hat after every step, and the same pictures in other numbers of steps."""

from collections.abc import Callable, Sequence
from itertools import pairwise
from typing import Any, NamedTuple

import numpy as np
import torch

from unblot.errors import UnblotError, arg
from unblot.runs.run import Run, Samples
from unblot.sampling.changes import Changes, changes
from unblot.sampling.loop import Progress


class Frame(NamedTuple):
    """One point of the trajectories, (N, C, H, W) each in the network's range.

    x: x_t/sqrt(alpha² + sigma²), at the level that the step reached. x0: the step's estimate x0_hat. noise_ratio: the
    sigma/alpha that it reached.
    """

    x: np.ndarray
    x0: np.ndarray
    noise_ratio: float


def shoot(
    run: Run, n: int, *, on_step: Callable[[Progress], None] | None = None, **choices: Any
) -> tuple[list[Frame], Samples]:
    """The frames of sampling n pictures, one for each step, and the samples; on_step and choices: see `Run.sample`."""
    frames: list[Frame] = []

    def keep(progress: Progress) -> None:
        frames.append(frame_of(run, progress))
        if on_step is not None:
            on_step(progress)

    samples = run.sample(n, batch_size=n, on_step=keep, **choices)
    return frames, samples


def frame_of(run: Run, progress: Progress, n: int | None = None) -> Frame:
    """The frame of the first n pictures, by default of all, after a step."""
    level = progress.level
    scale = float((level.alpha**2 + level.sigma**2).sqrt())
    x, x0 = (run.pictures(value[:n]).cpu().numpy() for value in (progress.x / scale, progress.x0))
    return Frame(x, x0, float(level.sigma / level.alpha))


def frame_changes(frames: Sequence[Frame]) -> Changes:
    """How x0_hat changes from frame to frame."""
    return changes([torch.from_numpy(frame.x0) for frame in frames])


def spread_frames(frames: Sequence[Frame], count: int) -> list[int]:
    """At most `count` frame numbers, the first and the last included, with about equal changes of x_t between them.

    Equally spaced steps would show mostly noise: many spacings have most of their levels where little is visible.
    """
    moved = [np.abs(b.x - a.x).mean() for a, b in pairwise(frames)]
    length = np.concatenate([[0.0], np.cumsum(moved)])
    return np.unique(np.searchsorted(length, np.linspace(0, length[-1], count)).clip(0, len(frames) - 1)).tolist()


def step_counts(text: str) -> list[int]:
    """The numbers of steps in "4,8,16,50", rising, each once. Raises UnblotError for anything else."""
    parts = [part.strip() for part in text.split(",")]
    if not all(part.isascii() and part.isdigit() and int(part) > 0 for part in parts):
        raise UnblotError(f"{arg('compare_steps', text)} is no list of numbers of steps; write 4,8,16,50")
    return sorted({int(part) for part in parts})


def in_steps(run: Run, n: int, counts: Sequence[int], **choices: Any) -> list[Samples]:
    """The same n pictures drawn once in each number of steps; choices: see `Run.sample`.

    Raises UnblotError where the steps are chosen otherwise too.
    """
    if given := [name for name in ("steps", "nfe", "quality") if choices.get(name) is not None]:
        raise UnblotError(f"{arg('compare_steps')} chooses the steps; leave out {arg(given[0])}")
    return [run.sample(n, steps=steps, **choices) for steps in counts]
