"""Prefetching: batches are made ahead, so that a GPU does not wait for the next one."""

from collections.abc import Callable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import Generic, TypeVar

import torch

T = TypeVar("T")

AHEAD = 2  # batches made before they are needed


class Prefetcher(Generic[T]):
    """`at(step)` is `make(step)`; on a GPU a thread makes the next few batches ahead.

    `make` must depend on the step alone, so that it does not matter when it is called.
    """

    def __init__(self, make: Callable[[int], T], device: torch.device):
        self.make = make
        self.waiting: dict[int, Future[T]] = {}
        self.worker: ThreadPoolExecutor | None = None
        if device.type == "cuda":  # on a CPU the thread would compete with the step itself
            index = torch.cuda.current_device() if device.index is None else device.index
            self.worker = ThreadPoolExecutor(1, "prefetch", torch.cuda.set_device, (index,))  # for pinned memory

    def at(self, step: int) -> T:
        """The batch of this step. An error that `make` raises for it is raised here."""
        if self.worker is None:
            return self.make(step)
        if step not in self.waiting:  # the run has just begun, or gone back to a checkpoint
            for future in self.waiting.values():
                future.cancel()
            self.waiting.clear()
        for ahead in range(step, step + AHEAD + 1):
            if ahead not in self.waiting:
                self.waiting[ahead] = self.worker.submit(self.make, ahead)
        return self.waiting.pop(step).result()

    def close(self) -> None:
        """Ends the thread, and drops what it has made ahead."""
        if self.worker is not None:
            self.worker.shutdown(cancel_futures=True)
        self.waiting.clear()
