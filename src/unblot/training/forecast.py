"""What a training would take on devices that are not here: seconds of a step, memory, where more devices stop helping.

A step is the time that one device takes for its share of the batch, and then the time to send the gradients round:
every process sends 2·(n − 1)/n of them in a ring (Patarasuk & Yuan 2009). Of a sharded network the weights are gathered
twice and the gradients scattered once, 3·(n − 1)/n. Neither is overlapped with computing here, as training does not.

A run in latents trains its autoencoder first, on one device, whatever the number.

On a GPU the share takes its operations at `reached` of the GPU's rate, and no less than starting its kernels takes. On
CPUs it is measured here, with two sizes of share, and so is the link between two processes.
"""

import dataclasses
import math
from collections.abc import Callable
from pathlib import Path
from typing import Any, NamedTuple

import torch

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.errors import UnblotError, arg
from unblot.latent.latents import with_blank_latents
from unblot.runs.folder import build_denoiser
from unblot.runs.run_data import data_of_choices
from unblot.specs import several
from unblot.system import sharding
from unblot.system.loopback import loopback
from unblot.training.adversarial import decoder_seconds, fine_tunes_decoder
from unblot.training.batches import RNG_CHUNK, check_processes
from unblot.training.budget import try_out
from unblot.training.budget_controller import BudgetController
from unblot.training.counting import pass_bytes, pass_work, work
from unblot.training.first_stage import step_seconds, steps_in, without_values
from unblot.training.gpus import CPU, GPUS, parse_devices
from unblot.training.memory import LIBRARIES, first_stage_bytes, latents_bytes, taken
from unblot.training.plan import check_choices, plan_run

REACHED = 0.25  # share of a GPU's rate that training reaches: assumed, until benchmarks/gpu.py has measured it
LAUNCH = 5e-6  # seconds to start one kernel: assumed
UPDATE = 0.5  # kernels of the optimizer and the average beside those of a pass: assumed
HOP = 10e-6  # seconds of latency for each of the 2·(n − 1) messages of a ring between GPUs: assumed
HALF = 0.5  # bytes of a pass in bf16 as a share of those in float32
SLACK = 1.4  # times the tensors of a pass on a GPU, for gaps and for the buffers of kernels: assumed
MEASURED = 4.0  # seconds of trial steps for each share that is tried on a CPU
MOST = 4096  # devices up to which the end of scaling is looked for


class Step(NamedTuple):
    """One step on a number of devices. pictures: the largest share of the batch. computing, sending: seconds. memory:
    bytes of a device at its peak. sharded: whether the network is split among them.
    """

    devices: int
    pictures: int
    computing: float
    sending: float
    memory: float
    sharded: bool

    @property
    def seconds(self) -> float:
        """The whole step."""
        return self.computing + self.sending


class Devices(NamedTuple):
    """How devices compute and send. computing: pictures of a share → seconds. sending: bytes of weights, devices,
    sharded → seconds. memory: bytes of a device, None for a CPU. told: what was measured or assumed, a line each.
    first: seconds of a step of the autoencoder, 0 where there is none.
    """

    name: str
    computing: Callable[[float], float]
    sending: Callable[[float, int, bool], float]
    memory: float | None
    told: tuple[str, ...]
    first: float = 0.0

    def taken(self, size: int) -> int:
        """About how many bytes a tensor of `size` bytes in float32 takes within a pass."""
        return taken(size) if self.memory is None else int(SLACK * HALF * size)


class Forecast(NamedTuple):
    """The steps on ever more devices, the wanted number among them, and the number from which one more gains less than
    half of its share; None where that is not reached. parameters: of the network.
    """

    config: RunConfig
    wanted: Step
    steps: tuple[Step, ...]
    ends: int | None
    parameters: int
    devices: Devices

    @property
    def first_steps(self) -> int:
        """Steps of the autoencoder, 0 where there is none."""
        latent = self.config.latent
        return 0 if latent is None else latent.latent_steps or self.config.train.steps


def forecast(
    data: str | Path = "digits", *, devices: str, reached: float = REACHED, quiet: bool = False, **choices: Any
) -> Forecast:
    """What `train` with these choices would take on devices ("8xH100", "2xcpu"), without training.

    reached: the share of a GPU's rate that training reaches. On a CPU it measures for a few seconds. Raises UnblotError
    for unknown devices, and where the batch has too few pictures for so many.
    """
    count, name = parse_devices(devices)
    if not 0 < reached <= 1:
        raise UnblotError(f"{arg('reached', reached)} is no share; give a number above 0, at most 1")
    check_choices(choices)
    source, dataset = data_of_choices(data, choices, quiet)
    config = plan_run(source, dataset, choices)
    used = cpus(config, dataset, count) if name == CPU else gpus(config, name, reached)
    return forecast_on(config, used, count)


def forecast_on(config: RunConfig, devices: Devices, count: int) -> Forecast:
    """The forecast of a run on `count` of these devices. Raises UnblotError where its batch has too few pictures."""
    check_processes(config.train.batch_size, count)
    chunks = -(-config.train.batch_size // RNG_CHUNK)
    denoiser = build_denoiser(config)
    parameters = sum(p.numel() for p in denoiser.parameters())
    first, stays = (0, 0) if config.latent is None else first_stage_bytes(config, devices.taken)
    beside = LIBRARIES + latents_bytes(config) if devices.memory is None else 0

    def step(n: int, pictures: float) -> Step:
        sharded = _sharded(config, parameters, n, devices.memory)
        held: float = (sharding.BYTES + 4 * (len(several(config.train.ema)) - 1)) * parameters / (n if sharded else 1)
        held += 0 if n == 1 or sharded else 4 * parameters  # the block in which gradients are sent
        ending = held + first if fine_tunes_decoder(config) else 0
        held += stays + pass_bytes(config, denoiser, max(1, round(pictures)), taken=devices.taken)
        memory = max(first, held, ending) + beside
        sending = devices.sending(4 * parameters, n, sharded)
        return Step(n, round(pictures), devices.computing(pictures), sending, memory, sharded)

    def share(n: int) -> int:
        return min(config.train.batch_size, -(-chunks // n) * RNG_CHUNK)

    shown = sorted({*(2**i for i in range(chunks.bit_length()) if 2**i <= chunks), count})
    rows = tuple(step(n, share(n)) for n in shown)
    seconds = [_smooth(config, devices, parameters, n) for n in range(1, min(MOST, chunks) + 1)]
    ends = next((n for n in range(1, len(seconds)) if seconds[n - 1] / seconds[n] - 1 < 0.5 / n), None)
    return Forecast(config, rows[shown.index(count)], rows, ends, parameters, devices)


def gpus(config: RunConfig, name: str, reached: float) -> Devices:
    """GPUs of this name, from their makers' figures."""
    gpu, (flops, kernels) = GPUS[name], pass_work(config, build_denoiser(config))

    def seconds(flops: float, kernels: int) -> float:
        return max((1 + UPDATE) * kernels * LAUNCH, flops / (reached * gpu.flops))

    def sending(size: float, n: int, sharded: bool) -> float:
        rate = gpu.link if n <= gpu.node else gpu.network
        return _ring(size, n, sharded) / rate + 2 * (n - 1) * HOP

    about = (
        f"{name}: {gpu.flops / 1e12:.0f} TFLOP/s in bf16, {gpu.memory / 1e9:.0f} GB; {gpu.link / 1e9:.0f} GB/s in "
        f"a node of {gpu.node}, {gpu.network / 1e9:.0f} GB/s between nodes"
    )
    assumed = (
        f"assumed: {reached:.0%} of that rate is reached ({arg('reached', reached)}), {LAUNCH * 1e6:.0f} µs for each "
        f"of about {(1 + UPDATE) * kernels:.0f} kernels, gradients sent after the pass and not during it"
    )
    told = (about, f"source: {gpu.source}", assumed)
    first = 0.0 if config.latent is None else seconds(*work(without_values(config)[1]))
    return Devices(name, lambda n: seconds(n * flops, kernels), sending, gpu.memory, told, first)


def cpus(config: RunConfig, dataset: Dataset, count: int) -> Devices:
    """Processes of CPUs as this one, with as many threads: measured here."""
    clock = BudgetController().clock
    first = 0.0
    if config.latent is not None:
        first = step_seconds(config, dataset, torch.device(CPU))
        dataset = with_blank_latents(dataset, config)

    def measured(pictures: int) -> float:
        train = dataclasses.replace(config.train, batch_size=pictures, device=CPU)
        return try_out(dataclasses.replace(config, train=train), dataset, clock, clock() + MEASURED).step_seconds

    batch = config.train.batch_size
    few = max(1, batch // max(2, count))
    whole, part = measured(batch), measured(few)
    each = max(0.0, whole - part) / max(1, batch - few)
    fixed, link = max(0.0, part - few * each), loopback()

    def sending(size: float, n: int, sharded: bool) -> float:
        return _ring(size, n, sharded) / link.rate + (n - 1) * link.latency

    told = (
        f"measured here: {1e3 * fixed:.1f} ms a step and {1e3 * each:.2f} ms a picture; {link.rate / 1e6:.0f} MB/s and "
        f"{1e3 * link.latency:.1f} ms between two processes",
        "assumed: every process has as much of a CPU as this one; gradients are sent after the pass, not during it",
    )
    return Devices(CPU, lambda n: fixed + n * each, sending, None, told, first)


def _ring(size: float, n: int, sharded: bool) -> float:
    """Bytes that each of n devices sends in a step for weights of this size; none for one device."""
    return (3 if sharded else 2) * (n - 1) / n * size


def _sharded(config: RunConfig, parameters: int, n: int, memory: float | None) -> bool:
    """Whether training shards the network, as `wants_shards` decides."""
    if n == 1 or config.train.shard == "off":
        return False
    return config.train.shard == "on" or (memory is not None and sharding.fills(parameters, memory))


def _smooth(config: RunConfig, devices: Devices, parameters: int, n: int) -> float:
    """Seconds of a step whose batch is shared out evenly, be it in parts of pictures."""
    sharded = _sharded(config, parameters, n, devices.memory)
    sending = devices.sending(4 * parameters, n, sharded)
    return devices.computing(config.train.batch_size / n) + sending


def hours_needed(found: Forecast) -> float:
    """Hours of all steps of the run, without previews, measurements, checkpoints, and what comes at the end."""
    return (found.first_steps * found.devices.first + found.config.train.steps * found.wanted.seconds) / 3600


def steps_within(found: Forecast, hours: float) -> tuple[int, int]:
    """Steps of the autoencoder, 0 where there is none, and of the denoiser, that fit into these hours."""
    latent, each, first = found.config.latent, found.devices.first, 0
    if latent is not None:
        first = latent.latent_steps or steps_in(3600 * hours, each)
    end = decoder_seconds(3600 * hours) if fine_tunes_decoder(found.config) else 0.0
    left = 3600 * hours - end - first * each
    return first, max(0, math.floor(left / found.wanted.seconds))
