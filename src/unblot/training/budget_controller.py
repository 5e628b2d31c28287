"""How a run stands in time: what it has used, how fast it goes, and how many steps its budget still allows.

A machine slows down and speeds up, so a run with a budget foresees its end while it trains and changes its number of
steps where the foreseen end is off. A run without a budget has a pace too, which only keeps the time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import NamedTuple

from unblot.config.schema import TrainConfig

TOLERANCE = 0.01  # of the budget that the foreseen end may be off before the number of steps is changed
FINE = 0.002  # of the budget, at least, between two looks at the speed
TAIL = 0.01  # of the steps taken that are left at least, so that a run that is late still decays to its end
RECENT = 3  # previews or checkpoints whose mean duration is expected of the next


class Mark(NamedTuple):
    """Where the run stood: seconds used in all, seconds of them beside the training steps, steps taken."""

    seconds: float
    beside: float
    step: int


class BudgetController:
    """The time of one run, over all its sittings; it begins when it is made.

    budget: seconds in all, None for a run that ends by its steps alone. clock: seconds from any origin; of several
    processes all must read the same time. step_seconds and expected (by kind of work beside the steps) are what
    trial steps took; what the run itself takes replaces them.
    """

    def __init__(self, budget: float | None = None, clock: Callable[[], float] = time.monotonic, before: float = 0.0):
        self.budget, self.clock = budget, clock
        self.origin = clock() - before
        self.step_seconds = 0.0
        self.expected: dict[str, float] = {}
        self.durations: dict[str, list[float]] = defaultdict(list)
        self.marks: list[Mark] = []

    def used(self) -> float:
        """Seconds used so far, in this sitting and before it."""
        return self.clock() - self.origin

    @contextmanager
    def overhead(self, kind: str) -> Iterator[None]:
        """Within it is work beside the training steps: its time is no step's time."""
        start = self.clock()
        yield
        self.durations[kind].append(self.clock() - start)

    def overhead_seconds(self, train: TrainConfig, step: int) -> float:
        """Seconds that previews, checkpoints and measurements still take after `step`, those at the end included."""
        return sum(count * self._duration(kind) for kind, count in occasions(train, step).items())

    def wanted_steps(self, train: TrainConfig, step: int) -> int | None:
        """The number of steps in all that fills the budget; None where the present one does well enough.

        To be asked whenever the device has been waited for.
        """
        if self.budget is None or not self._look(step):
            return None
        overhead = self.overhead_seconds(train, step)
        left = self.budget - self.used() - overhead
        off = abs(left - (train.steps - step) * self.step_seconds)
        if off <= max(TOLERANCE * self.budget, self.step_seconds):
            return None
        steps = step + max(0, int(left / self.step_seconds))
        if steps < train.steps:  # a run that is late is never made longer, so that it comes to an end
            steps = min(train.steps, max(steps, step + 1 + int(TAIL * step)))
        return None if steps == train.steps else steps

    def _look(self, step: int) -> bool:
        """Takes the speed; False where too little time has gone by since the last look.

        The speed that is expected for the time left is that of the last half as long: early on all is looked at,
        so that a slow minute does not turn the run about, and towards the end only what is still true.
        """
        assert self.budget is not None
        now = self.used()
        if self.marks and step <= self.marks[-1].step:  # the run has gone back
            self.marks.clear()
        if self.marks and now - self.marks[-1].seconds < FINE * self.budget:
            return False
        self.marks.append(Mark(now, sum(map(sum, self.durations.values())), step))
        back = now - max(0.0, self.budget - now) / 2
        while len(self.marks) > 2 and self.marks[1].seconds <= back:
            self.marks.pop(0)
        first, last = self.marks[0], self.marks[-1]
        if last.step > first.step:
            worked = (last.seconds - first.seconds) - (last.beside - first.beside)
            self.step_seconds = worked / (last.step - first.step)
        return self.step_seconds > 0

    def _duration(self, kind: str) -> float:
        taken = self.durations.get(kind)
        return fmean(taken[-RECENT:]) if taken else self.expected.get(kind, 0.0)


def occasions(train: TrainConfig, step: int) -> dict[str, int]:
    """How often each work beside the training steps comes after `step`; each comes at the end too."""
    every = {
        "previews": train.preview_every,
        "checkpoints": train.checkpoint_every,
        "measurements": train.held_out_every or 0,
    }
    last = max(step, train.steps - 1)
    return {kind: last // n - step // n + 1 if n else 0 for kind, n in every.items()}
