"""Parts of gpu.py beside training at two sizes: the default networks, sampling, and whether a run is the same again."""

import gc
import itertools
import sys
import traceback
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from measure import seconds, summary
from speed import engine
from unblot.denoiser import Denoiser
from unblot.process.randomness import labels_for
from unblot.sampling.batched import sample_batches
from unblot.system.device import mixed_precision
from unblot.training.forecast import REACHED, forecast_on, gpus
from unblot.training.gpus import GPUS
from unblot.training.memory import expected_bytes
from unblot.training.trainer import Trainer

CUDA = torch.cuda.is_available()
DEVICE = "cuda" if CUDA else "cpu"
NFE = 20
STEPS = 6 if CUDA else 2  # of each half of a run that is stopped and goes on


def default_network(side: int, rate: Callable[[], float], rounds: int) -> dict[str, Any]:
    """Training of the default preset on colour pictures of this size, as it is: speed, share of `rate()` operations a
    second (the matrix product's), and peak memory beside what the plan says."""
    trainer = engine(64 if CUDA else 4, (3, side, side), device=DEVICE, compile="off")
    batch = trainer.config.train.batch_size
    with FlopCounterMode(display=False) as counter:
        trainer.take_step()
    taken = seconds({"step": repeated(trainer)}, rounds, wait=synchronize)["step"]
    step = summary([t / STEPS for t in taken])["median"]
    held = memory(trainer)  # before the matrix product takes some
    return held | {
        "network": trainer.config.train.network,
        "parameters": sum(p.numel() for p in trainer.denoiser.parameters()),
        "batch": batch,
        "pictures_per_second": round(batch / step, 1),
        "model_flop_use": round(counter.get_total_flops() / step / rate(), 3),
    }


def memory(trainer: Trainer) -> dict[str, Any]:
    """Peak memory beside the plan's, in GB; on a CPU only the plan's, since the process has held other things."""
    if not CUDA:
        expected = expected_bytes(trainer.config, trainer.denoiser, trainer.device)
        return {"memory_planned_gb": None if expected is None else round(expected / 1e9, 2)}
    gpu = next((name for name in GPUS if name in torch.cuda.get_device_name().replace(" ", "")), "H100")
    planned = forecast_on(trainer.config, gpus(trainer.config, gpu, REACHED), 1).wanted.memory
    measured = torch.cuda.max_memory_allocated()
    return {"memory_planned_gb": round(planned / 1e9, 2), "memory_gb": round(measured / 1e9, 2)}


def repeated(trainer: Trainer) -> Callable[[], None]:
    """STEPS steps, so that a device that is given work ahead is timed as in a run."""

    def steps() -> None:
        for _ in range(STEPS):
            trainer.take_step()

    return steps


def sampling(side: int, network: str, batch: int, rounds: int, peer: Callable[[], Any] | None) -> dict[str, Any]:
    """Pictures/s in NFE calls of the network, compiled and not; and of `peer`'s network with diffusers' DDIM."""
    trainer = engine(batch, (3, side, side), network=network, device=DEVICE)
    denoiser = trainer.denoiser.eval()
    work: dict[str, Callable[[], Any]] = {"unblot": drawing(trainer, denoiser, batch)}
    failed: dict[str, Any] = {}
    if peer is not None:
        try:
            theirs = diffusers_drawing(peer(), (batch, 3, side, side))
            theirs()
            work["diffusers"] = theirs
        except Exception as error:  # it must not cost us our own figures
            failed["diffusers"] = {"failed": described(error)}
    taken = seconds(work, rounds, warm_up=1, wait=synchronize)
    if CUDA:
        denoiser.network.forward = torch.compile(denoiser.network.forward, dynamic=False)
        try:
            taken |= seconds({"unblot, compiled": work["unblot"]}, rounds, wait=synchronize)
        except Exception as error:  # a compiler may raise anything
            failed["unblot, compiled"] = {"failed": described(error)}
    speed = {name: {"pictures_per_second": round(batch / summary(t)["median"], 1)} for name, t in taken.items()}
    result: dict[str, Any] = {"nfe": NFE, "batch": batch, **speed, **failed}
    if "diffusers" in taken:
        for name in taken.keys() - {"diffusers"}:
            ratios = summary([b / a for a, b in zip(taken[name], taken["diffusers"])])
            result[f"{name}: times as many as diffusers"] = {k: round(v, 2) for k, v in ratios.items()}
    return result


def drawing(trainer: Trainer, denoiser: Denoiser, batch: int) -> Callable[[], None]:
    """Draws a batch by the trainer's own recipe in NFE steps."""
    train, data = trainer.config.train, trainer.config.data

    def draw() -> None:
        with mixed_precision("auto", torch.device(DEVICE)):
            condition = denoiser.condition(labels_for(0, range(batch), clusters=data.clusters), None)
            choices: dict[str, Any] = {"schedule": train.schedule, "spacing": train.spacing, "solver": "dpmpp_2m"}
            for part in sample_batches(
                denoiser, data.shape, range(batch), **choices, steps=NFE, condition=condition, batch_size=batch
            ):
                part.cpu()

    return draw


def diffusers_drawing(model: Any, shape: tuple[int, ...]) -> Callable[[], None]:
    """Draws a batch with diffusers' DDIM scheduler in NFE steps, as its pipeline does."""
    from diffusers import DDIMScheduler

    model, scheduler = model.to(DEVICE).eval(), DDIMScheduler(num_train_timesteps=1000)

    @torch.no_grad()
    def draw() -> None:
        scheduler.set_timesteps(NFE)
        x = torch.randn(shape, device=DEVICE)
        with mixed_precision("auto", torch.device(DEVICE)):
            for t in scheduler.timesteps:
                x = scheduler.step(model(x, t).sample, t, x).prev_sample
        x.cpu()

    return draw


def same_again(side: int, network: str) -> dict[str, Any]:
    """A run stopped half-way and gone on with, beside one in peace: the largest difference of a weight, with kernels as
    they are, and with deterministic ones. On one card and with deterministic kernels it should be 0."""
    ways = {"kernels as they are": False, "deterministic kernels": True}
    return {name: attempt(partial(largest_difference, side, network, only)) for name, only in ways.items()}


def largest_difference(side: int, network: str, only: bool) -> dict[str, Any]:
    """`same_again` with deterministic kernels, where `only`, or with kernels as they are."""
    with deterministic(only):
        straight, stopped, going_on = (engine(32, (3, side, side), network=network, device=DEVICE) for _ in range(3))
        stopped.restore({k: t.clone() for k, t in straight.tensors().items()}, 0)
        repeated(straight)(), repeated(straight)()
        repeated(stopped)()
        going_on.restore({k: t.clone() for k, t in stopped.tensors().items()}, stopped.step)
        repeated(going_on)()
        pairs = zip(straight.denoiser.parameters(), going_on.denoiser.parameters(), strict=True)
        return {"largest_difference": max(float((p - q).detach().abs().max()) for p, q in pairs)}


@contextmanager
def deterministic(only: bool) -> Iterator[None]:
    """Within it only kernels that give the same bits each time are used, where `only`. gpu.py sets what CUDA needs."""
    torch.use_deterministic_algorithms(only)
    benchmark = torch.backends.cudnn.benchmark
    try:
        yield
    finally:
        torch.use_deterministic_algorithms(False)
        torch.backends.cudnn.benchmark = benchmark


def synchronize() -> None:
    """Waits for the GPU, where there is one."""
    if CUDA:
        torch.cuda.synchronize()


def attempt(work: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """What the work gives, on a device whose memory is free; an error is a result too, so that no other is lost."""
    try:
        fresh_memory()
        return work()
    except Exception as error:  # a compiler and a driver may raise anything
        traceback.print_exc()
        return {"failed": described(error)}


def fresh_memory() -> None:
    """Frees what earlier parts held, their compiled code with it, and counts peak memory anew."""
    if CUDA:
        torch.compiler.reset()
    gc.collect()  # a trainer and its prefetcher refer to each other
    if CUDA:
        torch.cuda.empty_cache()
        torch.cuda.reset_peak_memory_stats()


def described(error: Exception) -> str:
    """What an error was, and where."""
    frame = traceback.extract_tb(error.__traceback__)[-1]
    return f"{type(error).__name__}: {error}"[:500] + f" ({Path(frame.filename).name}:{frame.lineno})"


def tell(line: str) -> None:
    """A line on how far it is."""
    print(line, file=sys.stderr, flush=True)


def table(results: dict[str, Any]) -> list[str]:
    """All single figures of the results, a line each, with the path of names that leads to them."""

    def walk(path: tuple[str, ...], value: Any) -> Iterator[tuple[str, str]]:
        if isinstance(value, dict):
            yield from itertools.chain.from_iterable(walk((*path, str(k)), v) for k, v in value.items())
        elif isinstance(value, list):
            for row in value:
                yield from walk(path, " ".join(f"{k} {v}" for k, v in row.items()) if isinstance(row, dict) else row)
        else:
            yield " / ".join(path), f"{value}"

    rows = list(walk((), results))
    width = max(len(name) for name, _ in rows)
    return [f"{name:<{width}}  {value}" for name, value in rows]
