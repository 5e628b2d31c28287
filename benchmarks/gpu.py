"""Training and sampling on a GPU: one command, one table, in under 8 minutes.

First the default networks at 64 and 128 pixels, with peak memory beside the plan's, and whether a run that was stopped
is the run in peace. Training: whole steps (batch, loss, backward, optimiser, average) at 32x32 with 35 M parameters and
at 64x64 with 105 M, in bf16, in turns with diffusers' training loop of as large a network and with a matrix product,
whose rate is the limit that shares are of. diffusers' networks are google/ddpm-cifar10-32's and its training script's
own; its loop runs at our batch size, and at its default of 16. Sampling: 20 network calls, compiled and not, beside
diffusers' DDIM. Then the default recipe learns from CIFAR-10-size pictures for the time that is left: Fréchet distances
(random features) to held-out pictures. The JSON file is written anew after each part. A part that fails, and diffusers
where it is missing, leave the rest as it is. Without a GPU the same at small sizes in fp32, in two minutes of one core.
Usage: python benchmarks/gpu.py [--minutes 7.5] [--skip-peer] [--out gpu.json]
"""

import argparse
import os
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from importlib.metadata import version
from importlib.util import find_spec
from pathlib import Path
from typing import Any, NamedTuple

import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_curve import DATA, training_curve
from gpu_parts import (
    CUDA,
    DEVICE,
    attempt,
    default_network,
    described,
    fresh_memory,
    same_again,
    sampling,
    synchronize,
    table,
    tell,
)
from measure import machine, matrix_product, seconds, summary
from speed import engine
from unblot.system.files import write_json

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic kernels need it, before the first product


class Size(NamedTuple):
    """What is measured at one size of pictures: our network, diffusers' widths and the size with attention."""

    side: int
    network: str
    widths: tuple[int, ...]
    attention: int
    batch: int


class Counted(NamedTuple):
    """Pictures of a training step, its floating-point operations, and the parameters of its network."""

    batch: int
    operations: float
    parameters: int


SIZES = (
    [
        Size(32, "unet:width=192,multipliers=1-2,patch=2", (128, 256, 256, 256), 1, 512),
        Size(64, "unet:width=288,multipliers=1-2,blocks=3,patch=4", (128, 128, 256, 256, 512, 512), 4, 256),
    ]
    if CUDA
    else [
        Size(32, "unet:width=24,multipliers=1-2,patch=2", (16, 32, 32), 1, 16),
        Size(64, "unet:width=24,multipliers=1-2,patch=4", (16, 16, 32, 32), 2, 16),
    ]
)
DEFAULTS = (64, 128) if CUDA else (32,)
SAME = "unet:width=64,multipliers=1-2,patch=2" if CUDA else "unet:width=16,multipliers=1,patch=2"
MISSING = ["several cards"] if CUDA else ["everything of a GPU: this is the same script at small sizes on a CPU"]
STEPS = 10 if CUDA else 1  # of training, timed together
COMPILE = "on" if CUDA else "off"
DTYPE = torch.bfloat16 if CUDA and torch.cuda.is_bf16_supported(False) else torch.float32


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5 if CUDA else 1.8, help="for everything together")
    parser.add_argument("--rounds", type=int, default=5 if CUDA else 2)
    parser.add_argument("--skip-peer", action="store_true", help="measure nothing of diffusers")
    parser.add_argument("--out", type=Path, help="a JSON file of everything, written anew after each part")
    args = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "device": DEVICE, "missing": MISSING}
    peer, about = (False, "left out") if args.skip_peer else diffusers_here()
    found |= {"diffusers": about, "learns from": DATA}
    parts = parts_of(args.rounds, peer)
    keep(found, start, args.out)  # a place that cannot be written shows at once
    for name, part in parts.items():
        left = 60 * args.minutes - (time.perf_counter() - start)
        tell(f"{name}, {left:.0f} s left …")
        found[name] = attempt(part) if left > 0 else {"left out": "no time was left"}
        keep(found, start, args.out)
    left = max(10.0, 60 * args.minutes - (time.perf_counter() - start))
    tell(f"training curve, {left:.0f} s …")
    points: list[dict[str, Any]] = []
    found["curve"] = {**attempt(lambda: training_curve(0.75 * left, points)), "points": points}
    keep(found, start, args.out)
    print("\n".join(table({**found, "machine": machine()})))


def parts_of(rounds: int, peer: bool) -> dict[str, Callable[[], dict[str, Any]]]:
    """All parts but the curve, the cheapest first: those that compile come last."""
    parts: dict[str, Callable[[], dict[str, Any]]] = {}
    for side in DEFAULTS:
        parts[f"default network {side}x{side}"] = partial(default_network, side, partial(rate_of, rounds), rounds)
    parts["stopped and gone on with"] = partial(same_again, 32, SAME)
    for size in SIZES:
        name = f"{size.side}x{size.side}"
        parts[f"training {name}"] = partial(speed_at, size, rounds, peer)
        theirs = partial(peer_network, size) if peer else None
        parts[f"sampling {name}"] = partial(sampling, size.side, size.network, size.batch, rounds, theirs)
    return parts


def rate_of(rounds: int) -> float:
    """Operations a second of the matrix product."""
    product, operations = matrix_product(8192 if CUDA else 1024, DEVICE, DTYPE)
    return operations / summary(seconds({"product": product}, rounds, wait=synchronize)["product"])["median"]


def keep(found: dict[str, Any], start: float, out: Path | None) -> None:
    """Writes all that was found so far, whole or not at all."""
    found["seconds"] = round(time.perf_counter() - start)
    if out:
        write_json(out, {**found, "machine": machine()})


def diffusers_here() -> tuple[bool, str]:
    """Whether diffusers can be measured, and its version, or why it cannot."""
    if find_spec("diffusers") is None:
        return False, "not installed"
    try:
        import diffusers_loop  # noqa: F401
    except Exception as error:  # a library may raise anything
        return False, described(error)
    return True, version("diffusers")


def peer_network(size: Size) -> Any:
    """diffusers' network at one size."""
    from diffusers_loop import unet

    return unet(3, size.side, size.widths, size.attention)


def speed_at(size: Size, rounds: int, peer: bool) -> dict[str, Any]:
    """Pictures/s and shares of the matrix-product rate, ours and diffusers', at one size; smaller batches at need."""
    batch = size.batch
    while True:
        try:
            return speed_with(size, batch, rounds, peer)
        except torch.OutOfMemoryError:
            if batch == 1:
                raise
        batch //= 2
        fresh_memory()


def speed_with(size: Size, batch: int, rounds: int, peer: bool) -> dict[str, Any]:
    """`speed_at` with this batch."""
    notes: list[str] = []
    trainer = engine(batch, (3, size.side, size.side), network=size.network, device=DEVICE, compile=COMPILE)
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    counted = {"unblot": Counted(batch, operations_of(trainer.take_step), parameters)}
    trainer.compile(notes.append)
    work: dict[str, Callable[[], Any]] = {"unblot": repeated(trainer.take_step)}
    work["unblot"]()
    memory = {"peak_memory_gib": round(torch.cuda.max_memory_allocated() / 2**30, 2)} if CUDA else {}
    batches = {"diffusers": batch} | ({"diffusers, its default batch": 16} if batch != 16 else {})
    for name, theirs in batches.items() if peer else ():
        try:
            counted[name], work[name] = peer_at(size, batch, theirs)
        except torch.OutOfMemoryError:
            raise
        except Exception as error:  # it must not cost us our own figures
            notes.append(f"{name} failed: {described(error)}")
    product, operations = matrix_product(8192 if CUDA else 1024, DEVICE, DTYPE)
    taken = seconds({"product": product, **work}, rounds, wait=synchronize)
    rate = operations / summary(taken.pop("product"))["median"]
    result: dict[str, Any] = {"matrix_product_tflops": round(rate / 1e12, 3), "dtype": str(DTYPE), "notes": notes}
    result |= {name: speed_of(counted[name], taken[name], rate) for name in counted} | memory
    for name in counted.keys() - {"unblot"}:
        ratios = summary([a / counted[name].batch / (b / batch) for a, b in zip(taken[name], taken["unblot"])])
        result[f"times as many pictures/s as {name}"] = {k: round(v, 2) for k, v in ratios.items()}
    return result


def peer_at(size: Size, pictures: int, batch: int) -> tuple[Counted, Callable[[], None]]:
    """diffusers' training at one size: what a step takes, and its steps."""
    from diffusers_loop import DiffusersLoop

    model = peer_network(size)
    made = torch.randn(2 * pictures, 3, size.side, size.side).clamp(-1, 1)
    loop = DiffusersLoop(model, made, batch, DEVICE, DTYPE is torch.bfloat16)
    return Counted(batch, operations_of(loop.step), sum(p.numel() for p in model.parameters())), repeated(loop.step)


def speed_of(counted: Counted, taken: list[float], rate: float) -> dict[str, Any]:
    """The speed of STEPS steps that took these seconds, and the share of `rate` operations a second."""
    step = {k: v / STEPS for k, v in summary(taken).items()}
    return {
        "parameters": counted.parameters,
        "batch": counted.batch,
        "gflop_per_picture": round(counted.operations / counted.batch / 1e9, 3),
        "pictures_per_second": round(counted.batch / step["median"], 1),
        "step_seconds": step,
        "model_flop_use": round(counted.operations / step["median"] / rate, 3),
    }


def operations_of(step: Callable[[], Any]) -> float:
    """Floating-point operations of one training step's convolutions, matrix products and attention."""
    with FlopCounterMode(display=False) as counter:
        step()
    return counter.get_total_flops()


def repeated(step: Callable[[], Any]) -> Callable[[], None]:
    """Several steps, so that a device that is given work ahead is timed as in a run."""

    def steps() -> None:
        for _ in range(STEPS):
            step()

    return steps


if __name__ == "__main__":
    main()
