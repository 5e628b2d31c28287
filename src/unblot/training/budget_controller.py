"""The time of a run: what it has used, how fast it is, and how many steps its budget still allows.

A machine slows down and speeds up, so a run with a budget predicts its end while it trains, and changes its number of
steps where the prediction is off. A run without a budget only measures the time.
"""

import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from statistics import fmean
from typing import NamedTuple

from unblot.config.schema import TrainConfig

TOLERANCE = 0.01  # share of the budget by which the predicted end may be off before the number of steps is changed
FINE = 0.002  # share of the budget between two measurements of the speed, at least
TAIL = 0.01  # steps left at least, as a share of those taken, so that a late run still decays to its end
MEASURING = 0.03  # share of the time used that measurements of the held-out loss may take, twice what is planned
FINE_TUNING = "fine-tuning"  # of a decoder, a kind of overhead
RECENT = 3  # previews or checkpoints whose mean duration predicts the next


class Mark(NamedTuple):
    """A position in the run: seconds used in all, seconds of them that were overhead, steps taken."""

    seconds: float
    overhead: float
    step: int


class BudgetController:
    """The time of one run, over all its sessions; this session begins when the controller is made.

    budget: seconds in all, None for a run that ends by its steps alone. clock: seconds from any origin; all processes
    must read the same time. before: seconds of earlier sessions. step_seconds, expected: the seconds of a step, and of
    each kind of overhead, as trial steps measured them (`planned_step_seconds` keeps the former); replaced by what the
    run itself takes.
    """

    def __init__(self, budget: float | None = None, clock: Callable[[], float] = time.monotonic, before: float = 0.0):
        self.budget, self.clock = budget, clock
        self.origin = clock() - before
        self.step_seconds = self.planned_step_seconds = 0.0
        self.expected: dict[str, float] = {}
        self.durations: dict[str, list[float]] = defaultdict(list)
        self.marks: list[Mark] = []

    def used(self) -> float:
        """Seconds used so far, in this session and before it."""
        return self.clock() - self.origin

    @contextmanager
    def overhead(self, kind: str) -> Iterator[None]:
        """Measures the seconds of work besides the training steps."""
        start = self.clock()
        yield
        self.durations[kind].append(self.clock() - start)

    def may_measure(self) -> bool:
        """Whether another measurement of the held-out loss keeps within its share of the time used; always without a
        budget, where metrics must not depend on the clock."""
        if self.budget is None:
            return True
        taken = sum(self.durations.get("measurements", [])) + self._duration("measurements")
        return taken <= MEASURING * self.used()

    def mean_step_seconds(self, seconds: float, steps: int) -> float:
        """Mean seconds of the `steps` steps of this session, which has taken `seconds` in all; 0 without steps."""
        return (seconds - sum(map(sum, self.durations.values()))) / steps if steps else 0.0

    def overhead_seconds(self, train: TrainConfig, step: int) -> float:
        """Predicted seconds of all overhead after `step`, that at the end included."""
        seconds = {kind: count * self._duration(kind) for kind, count in occasions(train, step).items()}
        if self.budget is not None:
            seconds["measurements"] = min(seconds["measurements"], MEASURING * self.budget)
        return sum(seconds.values())

    def seconds_for(self, kind: str, train: TrainConfig) -> float:
        """Seconds that are left, after the last step, for one kind of overhead beside the others; with a budget."""
        assert self.budget is not None
        return self.budget - self.used() - self.overhead_seconds(train, train.steps) + self._duration(kind)

    def wanted_steps(self, train: TrainConfig, step: int) -> int | None:
        """The number of steps in all that fills the budget; None where the present number is close enough.

        To be called whenever the device has been waited for.
        """
        if self.budget is None or not self._measure_speed(step):
            return None
        overhead = self.overhead_seconds(train, step)
        left = self.budget - self.used() - overhead
        off = abs(left - (train.steps - step) * self.step_seconds)
        if off <= max(TOLERANCE * self.budget, self.step_seconds):
            return None
        steps = step + max(0, int(left / self.step_seconds))
        if steps < train.steps:  # a run that is late is never made longer, so that it ends
            steps = min(train.steps, max(steps, step + 1 + int(TAIL * step)))
        return None if steps == train.steps else steps

    def _measure_speed(self, step: int) -> bool:
        """Updates `step_seconds`; False where too little time has gone by since the last measurement.

        The time left is predicted from the last stretch half as long: early in the run from everything, so that one
        slow minute changes little, and towards the end from the most recent speed.
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
            worked = (last.seconds - first.seconds) - (last.overhead - first.overhead)
            self.step_seconds = worked / (last.step - first.step)
        return self.step_seconds > 0

    def _duration(self, kind: str) -> float:
        taken = self.durations.get(kind)
        return fmean(taken[-RECENT:]) if taken else self.expected.get(kind, 0.0)


def occasions(train: TrainConfig, step: int) -> dict[str, int]:
    """How often each kind of overhead comes after `step`; each comes at the end too.

    Fine-tuning, which only runs in latents have, takes no time elsewhere.
    """
    every = {
        "previews": train.preview_every,
        "checkpoints": train.checkpoint_every,
        "measurements": train.held_out_every or 0,
    }
    last = max(step, train.steps - 1)
    return {kind: last // n - step // n + 1 if n else 0 for kind, n in every.items()} | {FINE_TUNING: 1}
