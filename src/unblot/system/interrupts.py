"""Ctrl-C and SIGTERM as a wish to stop soon, which long work asks for where it can stop well."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

STOPS = signal.SIGINT, signal.SIGTERM  # of a terminal; of a scheduler, a container, torchrun

_terminated = threading.Event()  # SIGTERM has come, and the process has not ended yet


@contextmanager
def interruptible() -> Iterator[Callable[[], bool]]:
    """Within it the first Ctrl-C or SIGTERM only sets a flag, which the yielded function reads; a second one of its
    kind stops at once. After the work `end_where_terminated` is to be called."""
    flag = threading.Event()
    if _terminated.is_set():
        flag.set()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def on_interrupt(signum: int, frame: Any) -> None:
        flag.set()
        if signum == signal.SIGTERM:
            _terminated.set()
        signal.signal(signum, before[signum])

    before: dict[int, Any] = {stop: signal.signal(stop, on_interrupt) for stop in STOPS}
    try:
        yield flag.is_set
    finally:
        for stop in STOPS:
            signal.signal(stop, before[stop])


def end_where_terminated() -> None:
    """Ends the process with exit code 143 where SIGTERM has come, whose sender waits for that. Raises SystemExit."""
    if _terminated.is_set():
        _terminated.clear()
        raise SystemExit(128 + signal.SIGTERM)
