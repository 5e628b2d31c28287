"""What the benchmarks share: timing in rounds, the machine's own matrix-product rate, and a JSON of both."""

import json
import platform
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from unblot.evaluation.distances import Z95, kernel_distance


def seconds(
    work: dict[str, Callable[[], Any]], rounds: int = 7, warm_up: int = 2, wait: Callable[[], Any] = lambda: None
) -> dict[str, list[float]]:
    """Seconds of each piece of work in each round. They take turns, so that a drift of the machine meets all alike.

    wait: returns when a device has done all that it was given.
    """
    taken: dict[str, list[float]] = {name: [] for name in work}
    for i in range(warm_up + rounds):
        for name, do in work.items():
            wait()
            start = time.perf_counter()
            do()
            wait()
            if i >= warm_up:
                taken[name].append(time.perf_counter() - start)
    return taken


def summary(values: list[float]) -> dict[str, float]:
    """Median, least and most."""
    return {"median": statistics.median(values), "min": min(values), "max": max(values)}


def kernel(samples: Tensor, reference: Tensor) -> list[float]:
    """The kernel distance of features (N, d) and (M, d), and the ends of its 95 % interval; unbiased at any N, M."""
    value, std = kernel_distance(samples, reference)
    return [float(f"{number:.4g}") for number in (value, value - Z95 * std, value + Z95 * std)]


def matrix_product(
    size: int = 2048, device: str = "cpu", dtype: torch.dtype = torch.float32
) -> tuple[Callable[[], Any], float]:
    """A matrix product, and the floating-point operations it takes: the yardstick of this machine."""
    a, b = (torch.randn(size, size, device=device, dtype=dtype) for _ in range(2))
    return lambda: a @ b, 2.0 * size**3


def machine() -> dict[str, Any]:
    """What the metrics were measured on, and with which versions."""
    cpuinfo = Path("/proc/cpuinfo")
    lines = cpuinfo.read_text().splitlines() if cpuinfo.exists() else []
    return {
        "cpu": next(
            (line.split(":")[1].strip() for line in lines if line.startswith("model name")), platform.machine()
        ),
        **({"gpu": torch.cuda.get_device_name()} if torch.cuda.is_available() else {}),
        "threads": torch.get_num_threads(),
        "python": platform.python_version(),
        "torch": torch.__version__,
        **({"cuda": torch.version.cuda} if torch.cuda.is_available() else {}),
    }


def report(out: Path | None = None, /, **metrics: Any) -> None:
    """Prints the metrics and the machine as JSON, and writes it to the file `out` where one is given."""
    text = json.dumps({**metrics, "machine": machine()}, indent=2)
    print(text)
    if out:
        out.write_text(text + "\n")
