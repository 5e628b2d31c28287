"""The order in which training goes through shards: a shuffle in windows, a function of (seed, epoch, position)."""

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import torch
from torch import Tensor

from unblot.process.randomness import epoch_order, window_order

WINDOW = 8  # shards whose pictures are mixed


@dataclass(frozen=True, eq=False)
class WindowedOrder:
    """The order of training pictures that lie in shards.

    In each epoch the shards are permuted; every WINDOW of them in turn make a window, and the pictures of a window are
    permuted. So an epoch takes each picture once, and needs the shards of one window at a time.

    counts: of training pictures in each shard. firsts: the number of the first picture of each shard, and at the end
    the number of all pictures.
    """

    counts: Sequence[int]
    firsts: np.ndarray = field(init=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "firsts", np.concatenate([[0], np.cumsum(self.counts)]).astype(np.int64))

    def __len__(self) -> int:
        return int(self.firsts[-1])

    def windows(self, seed: int, epoch: int) -> list[list[int]]:
        """The shards of each window of an epoch."""
        shards = epoch_order(seed, epoch, len(self.counts)).tolist()
        return [shards[i : i + WINDOW] for i in range(0, len(shards), WINDOW)]

    def window_at(self, seed: int, epoch: int, position: int) -> tuple[int, int]:
        """The window of an epoch in which a position lies, and the position of the window's first picture."""
        start = 0
        for number, shards in enumerate(self.windows(seed, epoch)):
            size = sum(self.counts[s] for s in shards)
            if position < start + size:
                return number, start
            start += size
        raise IndexError(position)

    def pictures(self, seed: int, epoch: int, window: int, missing: frozenset[int] = frozenset()) -> Tensor:
        """The numbers (n,) of a window's pictures in their order.

        missing: shards that cannot be read; others of the window take the places of their pictures, in turn, so that
        every other picture keeps its place. Raises ValueError where all are missing.
        """
        shards = self.windows(seed, epoch)[window]
        numbers = np.concatenate([np.arange(self.firsts[s], self.firsts[s + 1]) for s in shards])
        numbers = numbers[window_order(seed, epoch, window, len(numbers)).numpy()]
        if absent := missing & set(shards):
            bad = np.isin(self.shard_of(numbers), sorted(absent))
            if bad.all():
                raise ValueError(f"all shards of window {window} are missing")
            numbers[bad] = np.resize(numbers[~bad], int(bad.sum()))
        return torch.from_numpy(numbers)

    def shard_of(self, numbers: np.ndarray) -> np.ndarray:
        """The shard (n,) of each picture of these numbers (n,)."""
        return np.searchsorted(self.firsts, numbers, side="right") - 1
