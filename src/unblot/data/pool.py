"""Decoding with all cores: tasks shared out among worker processes, surviving whatever a decoder does."""

import json
import os
import queue
import subprocess
import sys
import threading
from collections.abc import Iterator, Sequence
from typing import Any

from unblot.data.listing import Item
from unblot.data.reading import Decoded
from unblot.errors import UnblotError

PATIENCE = 300.0  # seconds for one task: beyond it a decoder hangs
Task = tuple[int, list[Item]]


def cores() -> int:
    """The number of processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


class Worker:
    """One worker process for a job. Raises UnblotError where it cannot be started."""

    def __init__(self, job: dict[str, Any]):
        env = os.environ | {"PYTHONPATH": os.pathsep.join(p or os.getcwd() for p in sys.path), "OMP_NUM_THREADS": "1"}
        command = [sys.executable, "-m", "unblot.data.worker"]
        self.process = subprocess.Popen(
            command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, env=env
        )
        if self._ask(job) != "ready":
            raise UnblotError(f"cannot start the worker process {' '.join(command)!r}")

    def ask(self, task: Task) -> Decoded | None:
        """What became of a task; None if the process died of it, or was still at it after PATIENCE seconds."""
        timer = threading.Timer(PATIENCE, self.process.kill)
        timer.start()
        answer = self._ask(task)
        timer.cancel()
        if isinstance(answer, dict):
            raise UnblotError(f"cannot write the pack: {answer['cannot write']}; set UNBLOT_CACHE to another folder")
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


def decode_all(job: dict[str, Any], tasks: Sequence[Task], count: int) -> Iterator[Decoded]:
    """What became of every task, in the order in which they are done, from `count` worker processes.

    A task that kills its worker is tried again picture by picture, so that only the guilty one is broken. Raises
    UnblotError when workers cannot be started or cannot write. No worker outlives the iteration.
    """
    crew = _Crew(job, tasks)
    for _ in range(count):
        threading.Thread(target=crew.drive, daemon=True).start()
    missing = sum(len(items) for _, items in tasks)
    try:
        while missing:
            answer = crew.done.get()
            if isinstance(answer, BaseException):
                raise answer
            missing -= len(answer.digests)
            yield answer
    finally:
        crew.stop()


class _Crew:
    """What the threads share, each of which drives one worker process."""

    def __init__(self, job: dict[str, Any], tasks: Sequence[Task]):
        self.job, self.tasks, self.lock, self.over = job, iter(tasks), threading.Lock(), False
        self.workers: set[Worker] = set()
        self.done: queue.SimpleQueue[Decoded | BaseException] = queue.SimpleQueue()

    def drive(self) -> None:
        """One thread's life: takes tasks and has them done, until there are none or something goes wrong."""
        try:
            worker = self._replace(None)
            while (task := self._take()) is not None:
                worker = self._have_done(task, worker)
        except BaseException as error:
            self.done.put(error)

    def stop(self) -> None:
        """Ends all workers, and lets none be started."""
        with self.lock:
            self.over = True
            for worker in self.workers:
                worker.close()

    def _take(self) -> Task | None:
        with self.lock:
            return None if self.over else next(self.tasks, None)

    def _replace(self, dead: Worker | None) -> Worker:
        """A new worker, instead of one that died."""
        worker = Worker(self.job)
        with self.lock:
            if dead:
                self.workers.discard(dead)
                dead.close()
            self.workers.add(worker)
            if self.over:
                worker.close()
        return worker

    def _have_done(self, task: Task, worker: Worker) -> Worker:
        """Has a task done and gives back the worker to go on with: another one if this one died."""
        answer = worker.ask(task)
        if answer is not None or self.over:
            self.done.put(answer or Decoded(task[0], [], [], {}))
            return worker
        worker = self._replace(worker)
        start, items = task
        if len(items) == 1:
            self.done.put(Decoded(start, [0], [(start, "its decoder crashed or hung")], {}))
            return worker
        for i, item in enumerate(items):
            worker = self._have_done((start + i, [item]), worker)
        return worker
