"""The queue of a service: requests wait in it, and one thread computes them, those that go together at once."""

import math
import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Sequence
from concurrent.futures import Future
from dataclasses import dataclass, field
from typing import Any

MOST_WAIT = 60  # seconds that a client is told to wait, at most


class Late(Exception):
    """Nobody waits for the results any more."""


class Full(Exception):
    """The queue is full; a new request has a place in about `seconds`."""

    def __init__(self, seconds: int):
        super().__init__(f"the queue is full; try again in {seconds} s")
        self.seconds = seconds


Check = Callable[[], None]  # raises Late where nobody waits


@dataclass(frozen=True, eq=False)
class Job:
    """A request that waits: `compute(asked of all, check)` gives the results, or errors, of jobs with an equal key.

    size: the number of its pictures. deadline: on the clock of `time.monotonic`. left: set when nobody waits any more.
    """

    key: Hashable
    size: int
    asked: Any
    compute: Callable[[Sequence[Any], Check], Sequence[Any]]
    deadline: float
    future: Future = field(default_factory=Future)
    left: threading.Event = field(default_factory=threading.Event)


class Queue:
    """At most `waiting` jobs, the oldest computed first with those of its key, up to `pictures` of them together.

    on_batch: called with the number of pictures before each computation.
    """

    def __init__(self, waiting: int, pictures: int, on_batch: Callable[[int], None] = lambda pictures: None):
        self._most, self._pictures, self._on_batch = waiting, pictures, on_batch
        self._jobs: deque[Job] = deque()
        self._changed = threading.Condition()
        self._ended = False
        self._seconds_per_picture = 0.0
        self._thread = self._started()

    def __len__(self) -> int:
        """The number of jobs that wait."""
        return len(self._jobs)

    def put(self, job: Job) -> None:
        """Lets a job wait. Raises Full where there is no place."""
        with self._changed:
            if len(self._jobs) >= self._most:
                self._jobs = deque(waiting for waiting in self._jobs if not waiting.future.cancelled())
            if len(self._jobs) >= self._most:
                seconds = self._seconds_per_picture * sum(waiting.size for waiting in self._jobs)
                raise Full(min(MOST_WAIT, max(1, math.ceil(seconds))))
            self._jobs.append(job)
            if self._ended:  # an application that was stopped and is used again
                self._ended, self._thread = False, self._started()
            self._changed.notify()

    def end(self) -> None:
        """Computes what waits, then ends the thread."""
        with self._changed:
            self._ended = True
            self._changed.notify()
        self._thread.join()

    def _started(self) -> threading.Thread:
        thread = threading.Thread(target=self._work, name="compute", daemon=True)
        thread.start()
        return thread

    def _work(self) -> None:
        while jobs := self._take():
            self._compute(jobs)

    def _take(self) -> list[Job]:
        """The oldest job and those that go with it, in order, all of them still wanted; none at the end."""
        with self._changed:
            while True:
                while not self._jobs and not self._ended:
                    self._changed.wait()
                taken: list[Job] = []
                left: deque[Job] = deque()
                pictures = 0
                for job in self._jobs:
                    if taken and (job.key != taken[0].key or pictures + job.size > self._pictures):
                        left.append(job)
                    elif job.future.set_running_or_notify_cancel():
                        taken.append(job)
                        pictures += job.size
                self._jobs = left
                if taken or (self._ended and not left):
                    return taken

    def _compute(self, jobs: Sequence[Job]) -> None:
        last, pictures = max(job.deadline for job in jobs), sum(job.size for job in jobs)

        def check() -> None:
            if time.monotonic() > last or all(job.left.is_set() for job in jobs):
                raise Late

        self._on_batch(pictures)
        start = time.monotonic()
        try:
            check()
            results = jobs[0].compute([job.asked for job in jobs], check)
        except Exception as error:  # whatever it is, the clients hear of it, and the thread goes on
            results = [error] * len(jobs)
        self._seconds_per_picture = (time.monotonic() - start) / pictures
        for job, result in zip(jobs, results, strict=True):
            if isinstance(result, Exception):
                job.future.set_exception(result)
            else:
                job.future.set_result(result)
