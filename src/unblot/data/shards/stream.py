"""Training pictures that stay in their shards: in which order, and batches of them."""

from collections.abc import Callable
from dataclasses import dataclass, field
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from unblot.data.shards.files import OpenShard, ShardFiles
from unblot.data.shards.index import ShardIndex
from unblot.data.shards.order import WindowedOrder
from unblot.data.shards.places import refuse
from unblot.data.values import ValueMap


class _Window(NamedTuple):
    """A window of an epoch: which one, the position of its first picture, and its pictures in order."""

    seed: int
    epoch: int
    first: int
    pictures: Tensor

    def holds(self, seed: int, epoch: int, position: int) -> bool:
        return (seed, epoch) == self[:2] and 0 <= position - self.first < len(self.pictures)


@dataclass(eq=False)
class Stream:
    """The training pictures of a data set in shards, each known by its number, 0 … len − 1.

    values: the map to the network's range. labels, captions: whether they are read. labels_of: gives pictures
    (B, C, H, W) in the network's range the labels (B,) that they have in place of those of the data.
    """

    index: ShardIndex
    files: ShardFiles
    values: ValueMap
    labels: bool
    captions: bool
    labels_of: Callable[[Tensor], np.ndarray] | None = None
    _order: WindowedOrder = field(init=False, repr=False)
    _held_out: np.ndarray = field(init=False, repr=False)  # in each shard
    _window: _Window = field(default=_Window(-1, -1, 0, torch.empty(0)), init=False, repr=False)

    def __post_init__(self) -> None:
        self._order = WindowedOrder([shard.training for shard in self.index.shards])
        self._held_out = np.array([shard.held_out for shard in self.index.shards], np.int64)

    def __len__(self) -> int:
        return len(self._order)

    @property
    def fingerprint(self) -> str:
        """A hash of the content that is read."""
        return self.index.fingerprint(self.labels, self.captions)

    def order(self, seed: int, epoch: int, start: int, stop: int) -> Tensor:
        """The numbers of the pictures at positions start … stop − 1 of an epoch, or fewer, but at least one.

        The shards of a window are opened when its first picture is asked for, and those of the next one are fetched
        ahead. Raises UnblotError where a shard cannot be used.
        """
        window = self._window  # read once: another thread may be at another window
        if not window.holds(seed, epoch, start):
            window = self._window = self._next_window(seed, epoch, start)
        return window.pictures[start - window.first : stop - window.first]

    def batch(self, numbers: np.ndarray) -> tuple[Tensor, Tensor | None]:
        """Pictures (B, C, H, W) float32 in the network's range and their labels (B,) int64, of these numbers (B,)."""
        stored = np.empty((len(numbers), *self.index.shape), self.index.dtype)
        labels = np.zeros(len(numbers), np.int64)
        for shard, rows, chosen in self._parts(numbers):
            stored[chosen] = shard.rows(rows)
            if self.labels and shard.labels is not None:
                labels[chosen] = shard.labels[rows]
        x = torch.from_numpy(self.values.encode(stored, np.float32))
        if self.labels_of is not None:
            return x, torch.from_numpy(self.labels_of(x))
        return x, torch.from_numpy(labels) if self.labels and self.index.labelled else None

    def captions_of(self, numbers: np.ndarray) -> list[tuple[str, ...]] | None:
        """The captions of these pictures, None where there are none or they are not read."""
        if not (self.captions and self.index.captioned):
            return None
        found: list[tuple[str, ...]] = [()] * len(numbers)
        for shard, rows, chosen in self._parts(numbers):
            assert shard.captions is not None
            for i, row in zip(chosen.tolist(), rows.tolist(), strict=True):
                found[i] = shard.captions[row]
        return found

    def names(self, numbers: np.ndarray) -> list[str]:
        """What people call these pictures: their shard and their row in it."""
        shards = self._order.shard_of(numbers)
        rows = self._rows(numbers, shards).tolist()
        return [f"picture {row} of {self.index.shards[s].file}" for s, row in zip(shards.tolist(), rows, strict=True)]

    def _next_window(self, seed: int, epoch: int, position: int) -> _Window:
        number, first = self._order.window_at(seed, epoch, position)
        windows = self._order.windows(seed, epoch)
        self.files.ahead(windows[number])  # copied while the first of them are opened
        for shard in windows[number]:
            self.files.open(shard)
        following = windows[number + 1] if number + 1 < len(windows) else self._order.windows(seed, epoch + 1)[0]
        self.files.ahead(following)
        try:
            pictures = self._order.pictures(seed, epoch, number, self.files.broken)
        except ValueError:
            name = self.index.shards[windows[number][0]].file
            reason = "and neither can the others that it is mixed with"
            raise refuse(self.files.place, name, reason) from None
        return _Window(seed, epoch, first, pictures)

    def _parts(self, numbers: np.ndarray) -> list[tuple[OpenShard, np.ndarray, np.ndarray]]:
        """For each shard of these pictures: the shard, their rows in it, and their places among the numbers."""
        shards = self._order.shard_of(numbers)
        rows = self._rows(numbers, shards)
        parts = []
        for number in np.unique(shards).tolist():
            shard = self.files.open(number)
            if shard is None:
                raise refuse(self.files.place, self.index.shards[number].file, "it was there, and is not any more")
            chosen = np.flatnonzero(shards == number)
            parts.append((shard, rows[chosen], chosen))
        return parts

    def _rows(self, numbers: np.ndarray, shards: np.ndarray) -> np.ndarray:
        """The rows of pictures in their shards: training pictures come after those held out."""
        return numbers - self._order.firsts[shards] + self._held_out[shards]
