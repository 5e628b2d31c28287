"""What a device can do is asked of that device, and what it cannot do is refused."""

from contextlib import contextmanager

import pytest
import torch

from unblot import UnblotError
from unblot.errors import is_out_of_memory
from unblot.system import device as devices
from unblot.system.device import (
    available_device,
    give_memory_back,
    mixed_precision,
    precision_of,
    wait_for,
)
from unblot.system.distributed import backends

GPU = torch.device("cuda", 1)


@pytest.fixture
def asked(monkeypatch) -> list[torch.device]:
    """The devices that were asked for bfloat16, of which none has it."""
    current: list[torch.device] = []

    @contextmanager
    def chosen(device):
        current.append(device)
        yield

    monkeypatch.setattr(torch.cuda, "device", chosen)
    monkeypatch.setattr(torch.cuda, "is_bf16_supported", lambda including_emulation: including_emulation)
    return current


def test_bf16_is_refused_where_the_device_does_not_have_it(asked) -> None:
    with pytest.raises(UnblotError, match=r"bf16 needs a CUDA device that has it, not cuda:1.*precision='fp32'"):
        mixed_precision("bf16", GPU)
    with pytest.raises(UnblotError, match=r"bf16 needs a CUDA device that has it, not cpu"):
        mixed_precision("bf16", torch.device("cpu"))
    assert asked == [GPU]  # the given one, whichever is current
    assert not mixed_precision("auto", GPU)._enabled


def test_a_run_in_bf16_is_used_where_there_is_none(asked) -> None:
    for device in (GPU, torch.device("cpu")):
        assert not precision_of("bf16", device)._enabled


def test_more_processes_than_gpus_are_refused_on_gpus_alone(monkeypatch) -> None:
    monkeypatch.setattr(torch.cuda, "device_count", lambda: 2)
    monkeypatch.setattr(devices.torch, "empty", lambda *size, device: None)
    monkeypatch.setenv("LOCAL_RANK", "2")
    with pytest.raises(UnblotError, match=r"2 GPUs; start no more .*device='cpu'"):
        available_device("cuda")
    assert available_device("cpu").type == "cpu"
    monkeypatch.setenv("LOCAL_RANK", "1")
    assert available_device("cuda").type == "cuda"


def test_tensors_of_a_cpu_go_between_processes_also_where_there_are_gpus(monkeypatch) -> None:
    monkeypatch.setattr(torch.distributed, "is_nccl_available", lambda: True)
    assert backends(0) == "gloo"
    assert backends(2) == "cpu:gloo,cuda:nccl"


def test_out_of_memory_is_known_by_its_class_and_on_apples_gpus_by_its_words() -> None:
    assert is_out_of_memory(torch.OutOfMemoryError("made up"))
    assert is_out_of_memory(RuntimeError("MPS backend out of memory (MPS allocated: 17.93 GB, max allowed: 18.13 GB)"))
    assert not is_out_of_memory(RuntimeError("mat1 and mat2 shapes cannot be multiplied"))


@pytest.mark.parametrize("kind", ["cuda", "mps", "cpu"])
def test_a_gpu_of_either_kind_is_waited_for_and_gives_memory_back(kind, monkeypatch) -> None:
    asked: list[str] = []
    for gpu in ("cuda", "mps"):
        for name in ("synchronize", "empty_cache"):
            monkeypatch.setattr(f"torch.{gpu}.{name}", lambda *device, call=f"{gpu}.{name}": asked.append(call))
    wait_for(torch.device(kind))
    give_memory_back(torch.device(kind))
    assert asked == ([] if kind == "cpu" else [f"{kind}.synchronize", f"{kind}.empty_cache"])
