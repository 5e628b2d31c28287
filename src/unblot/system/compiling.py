"""torch.compile where it pays: tried on a GPU, timed against eager mode, and dropped where it is not faster."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unblot.errors import UnblotError, arg
from unblot.system.device import wait_for

MODES = ("auto", "on", "off")
WORTH = 600.0  # seconds of a run from which it is tried: compiling takes about a minute
GAIN = 1.05  # speedup of a pass that is required
PASSES = 5  # timed of each; the fastest counts
MANY = 200  # passes from which the cost of a trial is small


def check_mode(mode: str) -> None:
    """Raises UnblotError for a mode that is not in MODES."""
    if mode not in MODES:
        raise UnblotError(f"unknown {arg('compile', mode)}; choose {', '.join(MODES)}")


def compile_where_it_pays(
    network: nn.Module,
    mode: str,
    device: torch.device,
    passes: Callable[[], object],
    steps: int,
    note: Callable[[str], None],
) -> bool:
    """Compiles the network where that pays, and returns whether it did; `note` gets a line with the times of a trial.

    mode: "on", "off", or "auto", which tries it on a GPU where the `steps` left take WORTH seconds. passes: one pass
    over a batch, which is timed. Where compiling fails, the network stays eager. Raises UnblotError for another mode.
    """
    check_mode(mode)
    if mode == "off" or (mode == "auto" and device.type != "cuda"):
        return False
    before = fastest(passes, device)
    if mode == "auto" and before * steps < WORTH:
        return False
    network.forward = torch.compile(network.forward, dynamic=False)  # the names of its weights stay as they are
    try:
        after = fastest(passes, device)
    except Exception as error:  # a compiler may raise anything
        del network.forward
        note(f"torch.compile failed, going on without it: {type(error).__name__}: {first_line(error)}")
        return False
    times = f"{1e3 * before:.3g} ms a pass without torch.compile, {1e3 * after:.3g} ms with it"
    if mode == "auto" and after * GAIN > before:
        del network.forward
        note(f"{times}: going on without it")
        return False
    note(f"{times}: going on with it")
    return True


@contextmanager
def compiled_for_many(
    network: nn.Module,
    mode: str,
    device: torch.device,
    passes: Callable[[], object],
    count: int,
    note: Callable[[str], None],
) -> Iterator[None]:
    """Within it the network runs compiled, where that pays for `count` passes; eager on inputs of another shape.

    See `compile_where_it_pays`; not tried for fewer than MANY passes.
    """
    if count < MANY or not compile_where_it_pays(network, mode, device, passes, count, note):
        yield  # without the compiler, whose import takes a second
        return
    try:
        with torch.compiler.set_stance("eager_on_recompile"):
            yield
    finally:
        del network.forward


def is_compiled(network: nn.Module) -> bool:
    """Whether the network runs through torch.compile, or is being tried with it."""
    return "forward" in vars(network)


def fastest(passes: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of PASSES passes, after one that is not timed."""
    passes()
    taken = []
    for _ in range(PASSES):
        wait_for(device)
        start = time.perf_counter()
        passes()
        wait_for(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def first_line(error: Exception) -> str:
    """The first line of an error's message that is not empty."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]
