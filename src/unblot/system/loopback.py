"""How fast processes of this machine send to one another, measured with gloo between two threads."""

import threading
import time
from datetime import timedelta
from typing import Any, NamedTuple

import torch
import torch.distributed as dist

SMALL, LARGE = 2**8, 2**20  # numbers in a message
ROUNDS = 5
PATIENCE = timedelta(minutes=1)


class Link(NamedTuple):
    """latency: seconds of a sum over two processes of next to nothing. rate: bytes a second that each sends."""

    latency: float
    rate: float


def loopback() -> Link:
    """The link between two processes of this machine; takes about a second."""
    store, taken = dist.HashStore(), dict[int, float]()

    def process(rank: int) -> None:
        group: Any = dist.ProcessGroupGloo(store, rank, 2, PATIENCE)
        for size in (SMALL, LARGE):
            block, seconds = torch.zeros(size), []
            for _ in range(ROUNDS):
                start = time.perf_counter()
                group.allreduce([block]).wait()
                seconds.append(time.perf_counter() - start)
            taken[size] = sorted(seconds)[ROUNDS // 2]  # of either thread: both wait for the same

    threads = [threading.Thread(target=process, args=(rank,)) for rank in range(2)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return Link(taken[SMALL], 4 * LARGE / max(1e-9, taken[LARGE] - taken[SMALL]))  # a ring of two sends the block once
