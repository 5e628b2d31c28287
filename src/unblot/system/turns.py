"""One process does a thing first, and the others wait, hours where it takes hours; its error stops them all."""

import itertools
import os
import time
from collections.abc import Callable, Sequence
from datetime import timedelta
from typing import TypeVar

from unblot.errors import UnblotError, sentence
from unblot.system.distributed import Group, meeting_store

T = TypeVar("T")

AS_LONG_AS_IT_TAKES = timedelta(days=30)
GOODBYE = 10.0  # seconds in which every process has heard of an error, before the first of them ends
DONE, FAILED = "+", "-"
_turns = itertools.count()  # all processes take the same turns in the same order


def decided(group: Group, decide: Callable[[], str]) -> str:
    """The text that the main process decides on, in all processes. Its error is an UnblotError in all of them."""
    if group.world == 1:
        return decide()
    key = f"turn {next(_turns)}"
    if group.is_main_process:
        _do(key, decide)
    return _heard(group, [key])[0]


def one_a_node_first(group: Group, work: Callable[[], T]) -> T:
    """What `work` gives in this process; one process of each node does it first, and then the others.

    An error of any node's first process is an UnblotError in all processes.
    """
    if group.world == 1:
        return work()
    turn, done = next(_turns), list[T]()
    keys = [f"turn {turn} of node {node}" for node in range(int(os.environ.get("GROUP_WORLD_SIZE", "1")))]

    def do() -> str:
        done.append(work())
        return ""

    if os.environ.get("LOCAL_RANK", "0") == "0":
        _do(keys[int(os.environ.get("GROUP_RANK", "0"))], do)
    _heard(group, keys)
    return done[0] if done else work()


def _do(key: str, work: Callable[[], str]) -> None:
    """Does the work and writes down at `key` what came of it."""
    outcome = f"{FAILED}the process that the others waited for has ended"
    try:
        outcome = DONE + work()
    except UnblotError as error:
        outcome = f"{FAILED}{error}"
    except OSError as error:
        outcome = f"{FAILED}{sentence(error)}"
    finally:
        meeting_store().set(key, outcome)


def _heard(group: Group, keys: Sequence[str]) -> list[str]:
    """What was written down at these keys, once all of it is. Raises UnblotError where one of them is an error."""
    store = meeting_store()
    store.wait(list(keys), AS_LONG_AS_IT_TAKES)
    outcomes = [store.get(key).decode() for key in keys]
    failed = next((outcome for outcome in outcomes if outcome.startswith(FAILED)), None)
    if failed is None:
        return [outcome.removeprefix(DONE) for outcome in outcomes]
    # torchrun ends all processes when the first ends, and the store may end with the main one.
    heard, until = f"{keys[0]} heard", time.monotonic() + GOODBYE
    store.add(heard, 1)
    while store.add(heard, 0) < group.world and time.monotonic() < until:
        time.sleep(0.05)
    raise UnblotError(failed.removeprefix(FAILED))
