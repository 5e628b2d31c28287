"""Batches that are made ahead: a GPU never waits for the next one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

AHEAD = 2  # batches made before they are asked for


class Prefetcher(Generic[T]):
    """`at(step)` is `make(step)`; for a GPU a thread makes the next few meanwhile.

    `make` must be a function of the step alone, so that it makes no difference when it is called.
    """

    def __init__(self, make: Callable[[int], T], device: torch.device):
        self.make = make
        self.waiting: dict[int, Future[T]] = {}
        self.worker: ThreadPoolExecutor | None = None
        if device.type == "cuda":  # on a CPU the thread would take its time from the step itself
            index = torch.cuda.current_device() if device.index is None else device.index
            self.worker = ThreadPoolExecutor(1, "feed", torch.cuda.set_device, (index,))  # its pinned memory is there

    def at(self, step: int) -> T:
        """The batch of this step. What `make` raises for it is raised here."""
        if self.worker is None:
            return self.make(step)
        if step not in self.waiting:  # the run went back, or has just begun
            for future in self.waiting.values():
                future.cancel()
            self.waiting.clear()
        for ahead in range(step, step + AHEAD + 1):
            if ahead not in self.waiting:
                self.waiting[ahead] = self.worker.submit(self.make, ahead)
        return self.waiting.pop(step).result()
