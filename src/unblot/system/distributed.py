"""Several processes on one run, as torchrun starts them: their ranks, and sums over all of them.

Every process holds the whole network and takes its share of each batch. Without torchrun there is one process, and the
functions here do nothing.
"""

import atexit
import os
import time
import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache
from typing import Any, NamedTuple

import torch
import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.rendezvous import rendezvous


class Group(NamedTuple):
    """The rank of this process and the number of processes."""

    rank: int = 0
    world: int = 1

    @property
    def is_main_process(self) -> bool:
        """Whether this is the process that writes files and messages."""
        return self.rank == 0


def join_group() -> Group:
    """The group that torchrun started, joined at the first call; a group of one without torchrun."""
    world = int(os.environ.get("WORLD_SIZE", "1"))
    if world == 1:
        return Group()
    if not dist.is_initialized():
        local, gpus = int(os.environ.get("LOCAL_RANK", "0")), torch.cuda.device_count()
        if local < gpus:  # else `available_device` refuses GPUs
            torch.cuda.set_device(local)
        store = dist.PrefixStore("group", meeting_store())
        dist.init_process_group(backends(gpus), store=store, rank=int(os.environ["RANK"]), world_size=world)
        atexit.register(_leave_group)
    return Group(dist.get_rank(), world)


def _leave_group() -> None:
    """At the end of the process, which the threads of a group that is left to it may abort."""
    if dist.is_initialized():  # a script may have left it itself
        dist.destroy_process_group()


def backends(gpus: int) -> str:
    """What carries tensors between processes of a machine with so many GPUs: those on a CPU, and those on a GPU.

    Both, since a run may be on the CPU of a machine with GPUs; what is no tensor goes by the CPU's.
    """
    return "cpu:gloo,cuda:nccl" if gpus and dist.is_nccl_available() else "gloo"


@lru_cache(maxsize=1)
def meeting_store() -> dist.Store:
    """Keys and values that all processes of the group read and write, and wait for as long as they like.

    A collective operation gives up after minutes; this is for waits of hours.
    """
    store, rank, world = next(rendezvous("env://"))
    return dist.PrefixStore(_session(store, rank, world), store)


def _session(store: dist.Store, rank: int, world: int) -> str:
    """A name of this start of the group, the same in all processes and another at each start.

    torchrun's store outlives its processes: after a start again it still says where the dead ones were.
    """
    mine = uuid.uuid4().hex
    if rank:
        store.set(f"hello {rank}", mine)
        store.wait([f"answer {mine}"])
        session = store.get(f"answer {mine}").decode()
        store.set(f"heard {mine} {session}", "")
        return session
    missing = set(range(1, world))
    while missing:
        for other in [other for other in sorted(missing) if store.check([f"hello {other}"])]:
            its = store.get(f"hello {other}").decode()  # perhaps of a dead process, which will not hear the answer
            store.set(f"answer {its}", mine)
            if store.check([f"heard {its} {mine}"]):
                missing.remove(other)
        time.sleep(0.02)
    return mine


def lost_process(error: Exception) -> bool:
    """Whether an operation over all processes has failed, as it does where one of them has ended."""
    return isinstance(error, dist.DistError) or "gloo" in str(error)


def sum_over(group: Group, *values: Tensor) -> None:
    """Each tensor becomes its sum over all processes."""
    if group.world > 1:
        for value in values:
            dist.all_reduce(value)


def sum_gradients(group: Group, parameters: Iterable[nn.Parameter]) -> None:
    """The gradients become their sums over all processes, sent as one block; a missing one counts as zeros."""
    if group.world == 1:
        return
    gradients = []
    for p in parameters:
        p.grad = torch.zeros_like(p) if p.grad is None else p.grad
        gradients.append(p.grad)
    block = torch.cat([g.reshape(-1) for g in gradients])
    dist.all_reduce(block)
    for gradient, part in zip(gradients, block.split([g.numel() for g in gradients]), strict=True):
        gradient.copy_(part.view(gradient.shape))


def shared_clock(group: Group) -> Callable[[], float]:
    """The main process's clock in seconds, so that all decide alike; all processes must read it together."""
    if group.world == 1:
        return time.monotonic

    def read() -> float:
        now = torch.tensor(time.monotonic(), dtype=torch.float64)  # on the CPU, which need not wait for a GPU
        dist.broadcast(now, 0)
        return now.item()

    return read


def gathered_objects(group: Group, value: Any) -> list[Any]:
    """The values of all processes, by rank, in the main process; an empty list in the others."""
    if group.world == 1:
        return [value]
    values: list[Any] | None = [None] * group.world if group.is_main_process else None
    dist.gather_object(value, values)
    return values or []


def wait_for_all(group: Group) -> None:
    """Returns when every process has called it."""
    if dist.is_initialized():
        sum_over(group, torch.zeros(1))  # on the CPU: a barrier may choose a GPU that the run does not use
