"""torch.compile where it pays: tried on a GPU, timed against the network as it is, given up where it is no faster."""

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import torch
from torch import nn

from unblot.errors import UnblotError, arg

MODES = ("auto", "on", "off")
WORTH = 600.0  # seconds of a run from which on it is tried: compiling takes about a minute
GAIN = 1.05  # how much faster it must make a pass
PASSES = 5  # timed of each, the fastest of them counts
MANY = 200  # passes from which on the trial's own can be spared


def check_mode(mode: str) -> None:
    """Raises UnblotError for a mode that is not in MODES."""
    if mode not in MODES:
        raise UnblotError(f"unknown mode {arg('compile', mode)}; choose {', '.join(MODES)}")


def compile_where_it_pays(
    network: nn.Module,
    mode: str,
    device: torch.device,
    passes: Callable[[], object],
    steps: int,
    note: Callable[[str], None],
) -> bool:
    """Whether the network now runs compiled; `note` gets a line that says why or why not, if it was tried.

    mode: "on", "off", or "auto", which tries it on a GPU where the `steps` that are left take a while. passes: one pass
    over a batch, which is timed. A compiler that fails is no failure of the run. Raises UnblotError for another mode.
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
    except Exception as error:  # a compiler raises what it likes
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
    """Within it the network runs compiled, where that pays for `count` passes; on input of another form as it is.

    As `compile_where_it_pays`; not tried for fewer passes than MANY.
    """
    if count < MANY or not compile_where_it_pays(network, mode, device, passes, count, note):
        yield  # without the compiler, whose import takes a second
        return
    try:
        with torch.compiler.set_stance("eager_on_recompile"):
            yield
    finally:
        del network.forward


def fastest(passes: Callable[[], object], device: torch.device) -> float:
    """Seconds of the fastest of a few passes, after one that is not counted."""
    passes()
    taken = []
    for _ in range(PASSES):
        _wait(device)
        start = time.perf_counter()
        passes()
        _wait(device)
        taken.append(time.perf_counter() - start)
    return min(taken)


def first_line(error: Exception) -> str:
    """The first line of an error's message that says anything."""
    return next((line.strip() for line in str(error).splitlines() if line.strip()), "no reason given")[:200]


def _wait(device: torch.device) -> None:
    if device.type == "cuda":
        torch.cuda.synchronize(device)
