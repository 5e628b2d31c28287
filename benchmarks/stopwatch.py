"""Training by the clock: a watch that keeps snapshots of the averaged weights and counts only the time of training."""

import time
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

from torch import nn

from unblot.denoiser import Denoiser


class Drawable(NamedTuple):
    """A trained denoiser, the schedule to sample with, the shape (C, H, W) of its samples, and the shares of its
    clusters."""

    denoiser: Denoiser
    schedule: str
    shape: tuple[int, int, int]
    clusters: tuple[float, ...] = ()


class Stopwatch:
    """Counts training time, and keeps the averaged weights each time another `every` seconds of it are over.

    Making a snapshot is not counted. Snapshots are written beside their place and moved there.
    """

    def __init__(self, folder: Path, seconds: float, every: float):
        self.folder, self.seconds, self.every = folder, seconds, every
        self.snapshots: list[dict[str, Any]] = []
        self.steps, self.uncounted = 0, 0.0

    def begin(self) -> None:
        """Training starts now."""
        self.start, self.cpu_start = time.perf_counter(), time.process_time()

    @property
    def elapsed(self) -> float:
        """Seconds of training so far."""
        return time.perf_counter() - self.start - self.uncounted

    def over(self, keep: Callable[[Path], None], last: bool = False) -> bool:
        """To be called after every step; `keep(path)` writes the averaged weights. Whether the time is up.

        last: this was the last step, whatever the time.
        """
        self.steps += 1
        self.spent, self.cpu_spent = self.elapsed, time.process_time() - self.cpu_start
        last = last or self.spent >= self.seconds
        if last or self.spent >= self.every * (len(self.snapshots) + 1):
            path = self.folder / f"{round(self.spent):05d}.safetensors"
            keep(path.with_suffix(".part"))
            path.with_suffix(".part").replace(path)
            self.snapshots.append({"seconds": round(self.spent, 2), "steps": self.steps, "file": path.name})
            self.uncounted += self.elapsed - self.spent
        return last


class Trained(NamedTuple):
    """What was trained, and the batch; `step` takes one more step, whose operations are counted."""

    network: nn.Module
    batch: int
    step: Callable[[], Any]
