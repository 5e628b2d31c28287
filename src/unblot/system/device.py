"""The device that a run computes on, and the precision that it computes in."""

import torch
from torch import Tensor

from unblot.errors import UnblotError, arg

WITHOUT_FLOAT64 = ("mps",)  # Apple's GPUs


def available_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the best that is available. Raises UnblotError where it is not available."""
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
        torch.empty(1, device=device)
    except (RuntimeError, AssertionError):
        raise UnblotError(f"device {name!r} cannot be used here; use {arg('device', best)}") from None
    return device


def mixed_precision(precision: str, device: torch.device) -> torch.autocast:
    """A context in which networks compute in bfloat16, where `precision` (auto, fp32 or bf16) and the device allow it.

    Never on a CPU, where bfloat16 was measured to be 400 times slower than float32. Raises UnblotError for bf16 on a
    device without it, and for another precision.
    """
    if precision not in ("auto", "fp32", "bf16"):
        raise UnblotError(f"unknown precision {precision!r}; choose auto, fp32 or bf16")
    if precision == "bf16" and device.type != "cuda":
        raise UnblotError(f"precision bf16 needs a CUDA device, not {device.type}; use {arg('precision', 'fp32')}")
    wanted = precision != "fp32" and device.type == "cuda" and torch.cuda.is_bf16_supported(False)
    return torch.autocast(device.type, torch.bfloat16, enabled=wanted)


def own_precision(x: Tensor) -> torch.autocast:
    """A context in which what is computed from x keeps its precision."""
    device = "cpu" if x.is_meta else x.device.type  # shapes alone, for a count of memory, have no autocast
    return torch.autocast(device, enabled=False)


def has_float64(device: torch.device) -> bool:
    """Whether the device computes in float64."""
    return device.type not in WITHOUT_FLOAT64


def to_float64(x: Tensor) -> Tensor:
    """x in float64, on its device or, where that has no float64, on the CPU."""
    return (x if has_float64(x.device) else x.cpu()).double()
