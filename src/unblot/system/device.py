"""The device that a run computes on, and the precision that it computes in."""

import os

import torch
from torch import Tensor

from unblot.errors import UnblotError, arg, counted

WITHOUT_FLOAT64 = ("mps",)  # Apple's GPUs


def available_device(name: str) -> torch.device:
    """The device called `name`; "auto" is the best that is available.

    Raises UnblotError where it is not available, and where torchrun has started more processes than there are GPUs.
    """
    best = "cuda" if torch.cuda.is_available() else "mps" if torch.backends.mps.is_available() else "cpu"
    try:
        device = torch.device(best if name == "auto" else name)
        gpus = torch.cuda.device_count() if device.type == "cuda" else 0
        if 0 < gpus <= int(os.environ.get("LOCAL_RANK", "0")):
            raise UnblotError(
                f"torchrun has started more processes on this machine than its {counted(gpus, 'GPU')}; start "
                f"no more than these, or use {arg('device', 'cpu')}"
            )
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
    able = precision != "fp32" and _has_bf16(device)
    if precision == "bf16" and not able:
        way_out = arg("precision", "fp32")
        raise UnblotError(f"precision bf16 needs a CUDA device that has it, not {device}; use {way_out}")
    return torch.autocast(device.type, torch.bfloat16, enabled=able)


def precision_of(trained: str, device: torch.device) -> torch.autocast:
    """The context in which a model computes that was trained in the precision `trained`: that one where the device has
    it, for a run may be used on another machine."""
    return mixed_precision("fp32" if trained == "fp32" else "auto", device)


def _has_bf16(device: torch.device) -> bool:
    """Whether a device computes in bfloat16 itself: emulated it would be slow."""
    if device.type != "cuda":
        return False
    with torch.cuda.device(device):  # the question is of the current one
        return torch.cuda.is_bf16_supported(including_emulation=False)


def wait_for(device: torch.device) -> None:
    """Returns when a GPU has done all its work; at once on a CPU."""
    if device.type == "cuda":
        torch.cuda.synchronize(device)
    elif device.type == "mps":
        torch.mps.synchronize()


def give_memory_back(device: torch.device) -> None:
    """Gives a GPU back the memory that was freed and kept for later; nothing on a CPU."""
    if device.type == "cuda":
        torch.cuda.empty_cache()
    elif device.type == "mps":
        torch.mps.empty_cache()


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
