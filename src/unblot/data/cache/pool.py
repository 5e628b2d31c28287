"""Decoding on all cores: worker processes share the tasks, and survive whatever a decoder does."""

import contextlib
import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from unblot.data.cache.decoding import Decoded
from unblot.data.readers.listing import Item
from unblot.errors import UnblotError

PATIENCE = 300.0  # seconds for one task: beyond it a decoder hangs
LIMIT = Path("/sys/fs/cgroup/cpu.max")  # of a control group: microseconds of processor time, and within how many
Task = tuple[int, list[Item]]


def cores(limit: Path = LIMIT) -> int:
    """The number of processor cores this process may use; fewer where its control group has less of their time."""
    own = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
    try:
        time, period = map(int, limit.read_text().split())
    except (OSError, ValueError):  # "max 100000": no limit
        return own
    return min(own, -(-time // period))


class Worker:
    """One worker process, started and not waited for. Raises UnblotError where it cannot be started."""

    def __init__(self) -> None:
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "unblot.data.cache.worker"]
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
            )
        except OSError as error:
            raise _cannot_start(error.strerror or str(error)) from None

    def begin(self, job: dict[str, Any]) -> None:
        """Sends it the job. Raises UnblotError if it does not answer."""
        if self._ask(job) != "ready":
            raise _cannot_start("it ended at once")

    def ask(self, task: Task) -> Decoded | None:
        """The result of a task; None if the process died of it or was ended. Raises OSError if it could not write."""
        answer = self._ask(task)
        if isinstance(answer, dict):
            raise OSError(*answer["cannot write"])
        return None if answer is None else Decoded(*answer)

    def close(self) -> None:
        """Ends the process; its pipes go with this object, as a thread may still be reading them."""
        self.process.kill()
        self.process.wait()

    def _ask(self, message: Any) -> Any:
        """Sends one line of JSON and reads one; None when the process is gone."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        try:
            self.process.stdin.write(json.dumps(message).encode() + b"\n")
            self.process.stdin.flush()
            return json.loads(self.process.stdout.readline() or b"null")
        except (OSError, ValueError):
            return None


@contextlib.contextmanager
def started(count: int) -> Iterator[list[Worker]]:
    """`count` workers, which start while the files are still being listed; those that nobody takes are ended."""
    idle: list[Worker] = []
    try:
        for _ in range(count):
            idle.append(Worker())
        yield idle
    finally:
        for worker in idle:
            worker.close()


def decode_all(
    job: dict[str, Any], tasks: Iterator[Task], missing: int, count: int, idle: list[Worker]
) -> Iterator[Decoded]:
    """The result of every task, in the order in which they are done, from up to `count` worker processes.

    missing: how many pictures the tasks have together. idle: workers that are started already, taken from the list.
    A task that kills its worker, or that keeps it busy when nobody has answered for PATIENCE seconds, is tried again
    picture by picture, so that only the picture at fault is left out. Raises UnblotError when workers cannot be
    started, OSError when they cannot write. No worker outlives the iteration.
    """
    crew = _Crew(job, tasks, idle)
    for _ in range(min(count, missing)):
        threading.Thread(target=crew.drive, daemon=True).start()
    try:
        while missing:
            try:
                answer = crew.done.get(timeout=PATIENCE)
            except queue.Empty:
                crew.end_workers()
                continue
            if isinstance(answer, BaseException):
                raise answer
            missing -= len(answer.digests)
            yield answer
    finally:
        crew.over = True
        crew.end_workers()


class _Crew:
    """What the threads share; each of them drives one worker process."""

    def __init__(self, job: dict[str, Any], tasks: Iterator[Task], idle: list[Worker]):
        self.job, self.tasks, self.idle, self.lock, self.over = job, tasks, idle, threading.Lock(), False
        self.workers: set[Worker] = set()
        self.done: queue.SimpleQueue[Decoded | BaseException] = queue.SimpleQueue()

    def drive(self) -> None:
        """One thread: takes tasks and has them done by a worker, until there are none or something goes wrong."""
        try:
            if (task := self._take()) is None:  # without a worker, as there is no work
                return
            worker = self._begin()
            while task is not None:
                worker = self._have_done(task, worker)
                task = self._take()
        except BaseException as error:
            self.done.put(error)

    def end_workers(self) -> None:
        """Ends all workers; those that had a task are replaced, unless all is over."""
        with self.lock:
            for worker in self.workers:
                worker.close()

    def _take(self) -> Task | None:
        with self.lock:
            return None if self.over else next(self.tasks, None)

    def _begin(self) -> Worker:
        """A worker that knows the job: one that is idle, or a new one."""
        with self.lock:
            worker = self.idle.pop() if self.idle else Worker()
            self.workers.add(worker)
            if self.over:
                worker.close()
        worker.begin(self.job)
        return worker

    def _have_done(self, task: Task, worker: Worker) -> Worker:
        """Has a task done; the worker for the next one, which is another if this one died."""
        answer = worker.ask(task)
        if answer is not None or self.over:
            self.done.put(answer or Decoded(task[0], [], [], {}))
            return worker
        worker.close()
        worker = self._begin()
        start, items = task
        if len(items) == 1:
            self.done.put(Decoded(start, [0], [], {}, passing=[(start, "its decoder crashed or hung")]))
            return worker
        for i, item in enumerate(items):
            worker = self._have_done((start + i, [item]), worker)
        return worker


def _cannot_start(why: str) -> UnblotError:
    """The error for a worker process that cannot be started."""
    return UnblotError(f"cannot start the worker process '{sys.executable} -m unblot.data.cache.worker': {why}")
