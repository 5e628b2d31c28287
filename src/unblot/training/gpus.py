"""Devices by name, with what their makers say of them: the rates that a forecast of a run is made from."""

from typing import NamedTuple

from unblot.errors import UnblotError, arg


class Gpu(NamedTuple):
    """A GPU. flops: dense bf16 operations a second, summed in float32. memory: bytes. link: bytes a second that it
    sends to another of its node; network: to one of another node. node: GPUs in a node. source: of all that.
    """

    flops: float
    memory: float
    link: float
    network: float
    node: int
    source: str


GPUS = {
    "H200": Gpu(989e12, 141e9, 450e9, 50e9, 8, "NVIDIA H200 data sheet (SXM); NVLink 900 GB/s both ways; 400 Gbit/s"),
    "H100": Gpu(989e12, 80e9, 450e9, 50e9, 8, "NVIDIA H100 data sheet (SXM); NVLink 900 GB/s both ways; 400 Gbit/s"),
    "A100": Gpu(312e12, 80e9, 300e9, 25e9, 8, "NVIDIA A100 data sheet (SXM); NVLink 600 GB/s both ways; 200 Gbit/s"),
    "L40S": Gpu(362e12, 48e9, 32e9, 3e9, 8, "NVIDIA L40S data sheet; PCIe 4 x16; 200 Gbit/s for a node"),
    "L4": Gpu(121e12, 24e9, 32e9, 3e9, 8, "NVIDIA L4 data sheet, half of its rate with sparsity; PCIe 4 x16"),
    "RTX4090": Gpu(165e12, 24e9, 32e9, 3e9, 8, "NVIDIA Ada architecture paper; PCIe 4 x16 by way of the host"),
}
CPU = "cpu"


def parse_devices(text: str) -> tuple[int, str]:
    """Number and name of devices: "8xH100" is (8, "H100"), "cpu" (1, "cpu"). Raises UnblotError for others."""
    count, _, name = text.rpartition("x") if text[:1].isdigit() else ("1", "", text)
    known = {device.lower(): device for device in (*GPUS, CPU)}
    if not count.isdecimal() or int(count) < 1 or name.lower() not in known:
        raise UnblotError(
            f"{arg('devices', text)} names no devices; write 8xH100, with one of {', '.join(known.values())}"
        )
    return int(count), known[name.lower()]
