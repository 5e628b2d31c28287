"""Training and sampling on a GPU: one command, one table, in under 8 minutes.

Training: whole steps (batch, loss, backward, optimiser, average) at 32x32 with 35 M parameters and at 64x64 with 105 M,
in bf16, in turns with diffusers' training loop of as large a network and with a matrix product, whose rate is the limit
that shares are of; then the default networks at 64 and 128 pixels, with peak memory beside the plan's. diffusers'
networks are google/ddpm-cifar10-32's and its training script's own; its loop runs at our batch size, and at its default
of 16. Sampling: 20 network calls, compiled and not, beside diffusers' DDIM. Whether a run that was stopped is the run
in peace. Then the default recipe learns from CIFAR-10-size pictures for the time that is left: Fréchet distances
(random features) to held-out pictures. Without a GPU the same at small sizes in fp32, in two minutes of one core.
Usage: python benchmarks/gpu.py [--minutes 7.5] [--skip-peer] [--out gpu.json]
"""

import argparse
import itertools
import json
import os
import sys
import tempfile
import time
from collections.abc import Callable
from datetime import UTC, datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from torch.utils.flop_counter import FlopCounterMode

from gpu_parts import CUDA, DEVICE, default_network, same_again, sampling, synchronize, table
from measure import machine, matrix_product, seconds, summary
from speed import engine
from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset, open_data
from unblot.denoiser import Condition
from unblot.evaluation.distances import frechet_distance
from unblot.evaluation.features import FeatureData, build_features, extract
from unblot.evaluation.image_set import ImageSet
from unblot.process.randomness import labels_for
from unblot.sampling.batched import sample_batches
from unblot.training.trainer import Trainer, denoising_trainer

os.environ.setdefault("CUBLAS_WORKSPACE_CONFIG", ":4096:8")  # deterministic kernels need it, before the first product
CIFAR = Path(os.environ.get("UNBLOT_DATA", Path(__file__).parents[2] / "shared" / "data")) / "cifar10-test.tar"


class Size(NamedTuple):
    """What is measured at one size of pictures: our network, diffusers' widths and the size with attention."""

    side: int
    network: str
    widths: tuple[int, ...]
    attention: int
    batch: int


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
CURVE = "unet:width=192,multipliers=1-2,patch=2" if CUDA else "unet:width=16,multipliers=1-2,patch=2"
CURVE_BATCH, CURVE_RATE, CURVE_POINTS = (512, 1e-3, 6) if CUDA else (16, 4e-3, 2)
CURVE_PICTURES = 2000 if CUDA else 50


def main() -> None:
    start = time.perf_counter()
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=7.5 if CUDA else 1.8, help="for everything together")
    parser.add_argument("--rounds", type=int, default=5 if CUDA else 2)
    parser.add_argument("--skip-peer", action="store_true", help="where diffusers is not installed")
    parser.add_argument("--out", type=Path, help="a JSON file of everything")
    args = parser.parse_args()
    torch.manual_seed(0)
    found: dict[str, Any] = {"date": f"{datetime.now(UTC):%Y-%m-%d %H:%M} UTC", "device": DEVICE, "missing": MISSING}
    dtype = torch.bfloat16 if CUDA and torch.cuda.is_bf16_supported(False) else torch.float32
    product, operations = matrix_product(8192 if CUDA else 1024, DEVICE, dtype)
    rate = operations / summary(seconds({"product": product}, args.rounds, wait=synchronize)["product"])["median"]
    peer, parts = not args.skip_peer, dict[str, Callable[[], dict[str, Any]]]()
    for size in SIZES:
        name = f"{size.side}x{size.side}"
        parts[f"training {name}"] = partial(speed_at, size, args.rounds, peer)
        theirs = partial(peer_network, size) if peer else None
        parts[f"sampling {name}"] = partial(sampling, size.side, size.network, size.batch, args.rounds, theirs)
    for side in DEFAULTS:
        parts[f"default network {side}x{side}"] = partial(default_network, side, rate, args.rounds)
    parts["stopped and gone on with"] = partial(same_again, 32, SAME)
    for name, part in parts.items():
        left = 60 * args.minutes - (time.perf_counter() - start)
        tell(f"{name}, {left:.0f} s left …")
        found[name] = attempt(part) if left > 0 else {"left out": "no time was left"}
    left = max(10.0, 60 * args.minutes - (time.perf_counter() - start))
    tell(f"training curve, {left:.0f} s …")
    found["curve"] = attempt(lambda: training_curve(0.75 * left))
    found["seconds"] = round(time.perf_counter() - start)
    if args.out:
        args.out.write_text(json.dumps({**found, "machine": machine()}, indent=2) + "\n")
    print("\n".join(table({**found, "machine": machine()})))


def peer_network(size: Size) -> Any:
    """diffusers' network at one size."""
    from diffusers_loop import unet

    return unet(3, size.side, size.widths, size.attention)


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work gives; an error is a metric too, so that the other metrics are not lost."""
    try:
        return work()
    except (RuntimeError, ValueError, OSError, ImportError) as error:
        return {"failed": f"{type(error).__name__}: {error}"[:500]}


def speed_at(size: Size, rounds: int, peer: bool) -> dict[str, Any]:
    """Pictures/s and shares of the matrix-product rate, ours and diffusers', at one size; smaller batches at need."""
    batch = size.batch
    while True:
        try:
            return speed_with(size, batch, rounds, peer)
        except torch.OutOfMemoryError:
            pass
        batch //= 2
        torch.cuda.empty_cache()


def speed_with(size: Size, batch: int, rounds: int, peer: bool) -> dict[str, Any]:
    """`speed_at` with this batch."""
    shape = (3, size.side, size.side)
    dtype = torch.bfloat16 if CUDA and torch.cuda.is_bf16_supported(False) else torch.float32
    product, operations = matrix_product(8192 if CUDA else 1024, DEVICE, dtype)
    notes: list[str] = []
    trainer = engine(batch, shape, network=size.network, device=DEVICE, compile="on" if CUDA else "off")
    counted = {"unblot": (operations_of(trainer.take_step), batch)}
    parameters = {"unblot": sum(p.numel() for p in trainer.denoiser.parameters())}
    trainer.compile(notes.append)
    work: dict[str, Callable[[], Any]] = {"product": product, "unblot": repeated(trainer.take_step)}
    if peer:
        from diffusers_loop import DiffusersLoop

        batches = {"diffusers": batch} | ({"diffusers, its default batch": 16} if batch != 16 else {})
        for name, theirs in batches.items():
            pictures = torch.randn(2 * batch, *shape).clamp(-1, 1)
            model = peer_network(size)
            loop = DiffusersLoop(model, pictures, theirs, DEVICE, dtype is torch.bfloat16)
            parameters[name] = sum(p.numel() for p in model.parameters())
            counted[name] = operations_of(loop.step), theirs
            work[name] = repeated(loop.step)
    taken = seconds(work, rounds, wait=synchronize)
    rate = operations / summary(taken.pop("product"))["median"]
    result: dict[str, Any] = {"matrix_product_tflops": round(rate / 1e12, 3), "dtype": str(dtype), "notes": notes}
    for name, (flop, pictures_a_step) in counted.items():
        step = {k: v / STEPS for k, v in summary(taken[name]).items()}
        result[name] = {
            "parameters": parameters[name],
            "batch": pictures_a_step,
            "gflop_per_picture": round(flop / pictures_a_step / 1e9, 3),
            "pictures_per_second": round(pictures_a_step / step["median"], 1),
            "step_seconds": step,
            "model_flop_use": round(flop / step["median"] / rate, 3),
        }
    if CUDA:
        result["peak_memory_gib"] = round(torch.cuda.max_memory_allocated() / 2**30, 2)
    for name in counted.keys() - {"unblot"}:
        ratios = [
            a / pictures / (b / batch)
            for a, b, (_, pictures) in zip(taken[name], taken["unblot"], itertools.repeat(counted[name]))
        ]
        result[f"times as many pictures/s as {name}"] = {k: round(v, 2) for k, v in summary(ratios).items()}
    return result


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


def training_curve(limit: float) -> dict[str, Any]:
    """The default recipe at CIFAR-10 size for `limit` seconds: Fréchet distances of the averaged weights on the way."""
    with tempfile.TemporaryDirectory() as folder:
        dataset, name = pictures_to_learn(Path(folder))
        source = DataConfig(data=name, unlabelled=True)
        choices = {"network": CURVE, "batch_size": CURVE_BATCH, "learning_rate": CURVE_RATE, "device": DEVICE}
        encode = dataset.values.encode
        train = ImageSet(dataset.pictures, encode, dataset.train)
        features = build_features("random", FeatureData(train))
        target = extract(features, ImageSet(dataset.pictures, encode, dataset.held_out).chunks())
        trial = denoising_trainer(api.plan_run(source, dataset, {**choices, "steps": 1000}), dataset)
        per_step = run_for(trial, 0.05 * limit)
        steps = max(CURVE_POINTS, int(0.8 * limit / per_step))
        trainer = denoising_trainer(
            api.plan_run(source, dataset, {**choices, "steps": steps, "compile": "auto"}), dataset
        )
        notes: list[str] = []
        start, uncounted, points = time.perf_counter(), 0.0, []
        trainer.compile(notes.append)
        for step in range(1, steps + 1):
            loss = trainer.take_step().loss
            over = time.perf_counter() - start - uncounted > limit
            if step * CURVE_POINTS // steps > (step - 1) * CURVE_POINTS // steps or over:
                value = float(loss)  # waits for the device
                taken = time.perf_counter() - start - uncounted
                distance = frechet_distance(extract(features, [sampled(trainer)]), target)
                pictures = step * CURVE_BATCH
                points.append({"seconds": round(taken, 1), "pictures": pictures, "loss": value, "frechet": distance})
                uncounted = time.perf_counter() - start - taken
                tell(f"  {taken:.0f} s, {pictures} pictures, loss {value:.4f}, Fréchet distance {distance:.4g}")
                if over:
                    break
        floor = frechet_distance(extract(features, train.sample(CURVE_PICTURES).chunks()), target)
    return {"data": name, "network": CURVE, "batch": CURVE_BATCH, "notes": notes, "floor": floor, "points": points}


def pictures_to_learn(folder: Path) -> tuple[Dataset, str]:
    """The CIFAR-10 test pictures where they are at hand, else as many of soft coloured blobs; and what they are."""
    if CIFAR.exists():
        return open_data(str(CIFAR), cache=folder, labels=False), str(CIFAR.name)
    rng = np.random.default_rng(0)
    count = 10_000 if CUDA else 500
    y, x = np.mgrid[0:32, 0:32]
    made = np.zeros((count, 3, 32, 32), np.float32)
    for _ in range(4):
        at, wide, colour = (
            rng.uniform(0, 32, (2, count, 1, 1)),
            rng.uniform(3, 12, (count, 1, 1)),
            rng.uniform(-1, 1, (count, 3, 1, 1)),
        )
        blob = np.exp(-((x - at[0]) ** 2 + (y - at[1]) ** 2) / (2 * wide**2))
        made += colour * blob[:, None]
    np.save(folder / "blobs.npy", (255 / (1 + np.exp(-3 * made))).astype(np.uint8))
    return open_data(str(folder / "blobs.npy"), cache=folder, options={"layout": "NCHW"}), "blobs"


def run_for(trainer: Trainer, limit: float) -> float:
    """Seconds of a step, from as many as fit into `limit` seconds."""
    trainer.take_step().loss.item()
    start, done = time.perf_counter(), 0
    while done < 2 or time.perf_counter() - start < limit:
        trainer.take_step().loss.item()
        done += 1
    return (time.perf_counter() - start) / done


def sampled(trainer: Trainer) -> torch.Tensor:
    """Pictures from the averaged weights, sampled as the recipe says, rounded to bytes."""
    train, data = trainer.config.train, trainer.config.data
    with trainer.averaged():
        parts = sample_batches(
            trainer.denoiser,
            data.shape,
            range(CURVE_PICTURES),
            schedule=train.schedule,
            spacing=train.spacing,
            solver=train.solver,
            steps=train.sampling_steps,
            condition=Condition(labels_for(0, range(CURVE_PICTURES), clusters=data.clusters)),
            batch_size=500,
        )
        found = torch.cat([part.cpu() for part in parts])
    return ((found.clamp(-1, 1) + 1) * 127.5).round() / 127.5 - 1


def tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)


if __name__ == "__main__":
    main()
