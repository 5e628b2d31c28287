"""The first stage of a run in latents: an autoencoder learns the training pictures, before any diffusion.

    autoencoder.safetensors    in the run folder: weights and the optimizer's moments, with the step in the header

The bottleneck is plain: latents are brought to mean 0 and standard deviation 1 in each channel of a batch, and noise of
standard deviation `latent_noise` is added. A decoder that has seen it makes pictures of latents that no encoder made,
as those of the second stage. There is no posterior to sample: the second stage learns the means themselves.
"""

import json
import math
import time
from collections.abc import Callable, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional as F

from unblot.config.schema import RunConfig
from unblot.data.augment import AUGMENTATIONS
from unblot.data.dataset import Dataset
from unblot.data.subset import spread
from unblot.errors import UnblotError, arg, typed
from unblot.latent.latents import build_autoencoder
from unblot.nn.autoencoder import Autoencoder, frozen
from unblot.process.randomness import LATENT, epoch_order, generator
from unblot.runs.folder import write_run_config
from unblot.specs import build
from unblot.system.device import to_float64
from unblot.system.files import read_metadata, read_tensors, under, write_tensors
from unblot.system.interrupts import end_where_terminated, interruptible
from unblot.training.budget_controller import BudgetController
from unblot.training.counting import shapes_of
from unblot.training.learning_rate import warmup_cosine
from unblot.training.optim import Optimizer

FILE, HEADER = "autoencoder.safetensors", "unblot_autoencoder"
EDGES = 1.0  # weight of the differences between neighbours, against that of the values
DETAIL = 10.0  # ... of the strength of detail at the end; it grows from 0, since from the beginning it costs colours
OCTAVES = 2  # of detail, from wavelengths of 2 pixels
FAINT = 0.01  # strength of detail below which differences do not matter, in the network's range
OPTIMIZER = "muon"
BATCH, LEARNING_RATE, WARMUP = 4, 4e-3, 0.05  # many small steps: large batches bring no more a step
KEPT = 20  # times that a whole first stage is saved
MEASURED = 4096  # pictures that mean and standard deviation of the latents are measured on
SHARE = 0.25  # of a time budget
MOST = 40_000  # steps that a budget gives at most: fast machines have better use for their hours
TRIES = 4  # steps that are timed
LOOK_EVERY = 10  # steps after which a first stage with a budget looks at its pace

Report = Callable[[str], None]


def reconstruct(autoencoder: Autoencoder, x: Tensor, noise: Tensor) -> Tensor:
    """The pictures x (B, C, H, W) encoded and decoded, with noise (B, c, h, w) on their latents.

    The latents have mean 0 and standard deviation 1 in each channel of this batch.
    """
    raw = autoencoder.raw(x)
    z = (raw - raw.mean((0, 2, 3), keepdim=True)) / (raw.std((0, 2, 3), keepdim=True) + 1e-5)
    return autoencoder.decode(z + noise, *x.shape[2:])


def reconstruction_loss(x: Tensor, y: Tensor, detail_weight: float = 0.0) -> tuple[Tensor, Tensor]:
    """The value error and the loss of reconstructions y of pictures x (B, C, H, W), each ().

    The loss is the weighted sum of three errors: L1 error of values, L1 error of neighbour differences (which blur
    raises), and `detail_error`, which compares the strength of detail and not its exact position.
    """
    edges = [(y - x).diff(dim=axis).abs().mean() for axis in (2, 3) if x.shape[axis] > 1]
    value_error = (y - x).abs().mean()
    loss = value_error + EDGES * (sum(edges, x.new_zeros(())) / max(1, len(edges)))
    if detail_weight > 0:
        loss = loss + detail_weight * detail_error(x, y)
    return value_error, loss


def detail_error(x: Tensor, y: Tensor) -> Tensor:
    """The mean absolute difference in the strength of detail of two pictures (B, C, H, W), summed over octaves, ().

    The strength is the root mean square of Haar's three differences of 2x2 pixels, each over squares of two by two.
    """
    total = x.new_zeros(())
    for _ in range(OCTAVES):
        if min(x.shape[2:]) < 2:
            break
        (x, detail), (y, other) = _haar(x), _haar(y)
        total = total + (_strength(detail) - _strength(other)).abs().mean()
    return total


def _haar(x: Tensor) -> tuple[Tensor, Tensor]:
    """Means (B, C, h, w) of 2x2 pixels, and their three differences (B, 3C, h, w); a last odd row or column is left."""
    x = x[..., : x.shape[2] // 2 * 2, : x.shape[3] // 2 * 2]
    a, b, c, d = x[..., ::2, ::2], x[..., ::2, 1::2], x[..., 1::2, ::2], x[..., 1::2, 1::2]
    return (a + b + c + d) / 4, torch.cat([a + b - c - d, a - b + c - d, a - b - c + d], 1) / 4


def _strength(detail: Tensor) -> Tensor:
    return (F.avg_pool2d(detail.square(), 2, ceil_mode=True) + FAINT**2).sqrt()


class FirstStage:
    """The state of the first stage: an autoencoder, its optimizer, and the step. A batch follows from (seed, step)."""

    def __init__(self, config: RunConfig, dataset: Dataset, device: torch.device):
        assert config.latent is not None
        self.config, self.dataset, self.device = config, dataset, device
        self.noise = config.latent.latent_noise
        self.augment = build(AUGMENTATIONS, config.train.augment, "augmentation")
        self.autoencoder = build_autoencoder(config).to(device)
        self.optimizer = Optimizer(self.autoencoder, OPTIMIZER, weight_decay=0.0)
        self.step = 0

    def take_step(self, steps: int) -> Tensor:
        """One step of `steps`; the mean absolute error of its pictures, ()."""
        seed = self.config.train.seed
        done = self.step / steps
        rate = warmup_cosine(self.step, WARMUP * steps, done, LEARNING_RATE)
        x = self.dataset.batch(self.dataset.train[self._chosen(seed)])[0]
        channels, height, width = self.config.shape
        g = generator(seed, LATENT, self.step)
        noise = torch.randn(len(x), channels, height, width, generator=g)
        x = self.augment.apply(x, g)[0].to(self.device)
        y = reconstruct(self.autoencoder, x, self.noise * noise.to(self.device))
        value_error, loss = reconstruction_loss(x, y, DETAIL * done)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(self.optimizer.parameters, 1.0)
        self.optimizer.step(rate, torch.zeros((), device=self.device))
        self.step += 1
        return value_error.detach()

    def _chosen(self, seed: int) -> np.ndarray:
        """Positions among the training pictures, (B,): each pass takes every picture once, but for a last few."""
        count = len(self.dataset.train)
        size = min(BATCH, count)
        epoch, place = divmod(self.step, count // size)
        return epoch_order(seed, epoch, count)[place * size : (place + 1) * size].numpy()

    def save(self, folder: Path, about: Mapping[str, Any] | None = None) -> None:
        """Writes all that is needed to go on exactly; about: what a run that goes on wants to know besides."""
        tensors = {f"weights/{name}": tensor for name, tensor in self.autoencoder.state_dict().items()}
        tensors |= {f"optimizer/{name}": moment for name, moment in self.optimizer.tensors().items()}
        write_tensors(
            folder / FILE, tensors, {HEADER: json.dumps({"step": self.step, **(about or {})}, default=np.generic.item)}
        )

    def load(self, folder: Path) -> None:
        """Restores what `save` wrote. Raises UnblotError where the file is damaged, or of another network."""
        path = folder / FILE
        tensors, header = read_tensors(path)
        try:
            self.autoencoder.load_state_dict(under("weights/", tensors))
            self.optimizer.load(under("optimizer/", tensors))
            self.step = int(json.loads(header[HEADER])["step"])
        except (RuntimeError, LookupError, ValueError, TypeError) as e:
            reason = " ".join(str(e).split())[:160]
            raise UnblotError(f"{str(path)!r} does not fit this run ({reason}); train it again") from None

    @torch.no_grad()
    def measure(self) -> None:
        """Puts mean and standard deviation of the latents of training pictures, by channel, into the autoencoder."""
        chosen = spread(self.dataset.train, MEASURED)
        moments: list[Tensor] = []  # of a few pictures at a time, so that large ones need not all be held
        for first in range(0, len(chosen), BATCH):
            x = self.dataset.batch(chosen[first : first + BATCH])[0].to(self.device)
            raw = to_float64(self.autoencoder.raw(x))
            moments.append(torch.stack([raw.sum((0, 2, 3)), raw.square().sum((0, 2, 3))]))
        mean, square = torch.stack(moments).sum(0) / (len(chosen) * math.prod(self.config.shape[1:]))
        self.autoencoder.mean.copy_(mean)
        self.autoencoder.std.copy_((square - mean.square()).clamp_min(0).sqrt().clamp_min(1e-6))


def without_values(config: RunConfig) -> tuple[Autoencoder, Callable[[], Tensor]]:
    """The run's autoencoder and the loss of a batch of its training, on the meta device, to count what they take."""
    known, data = shapes_of(build_autoencoder(config)), config.data
    size = min(BATCH, data.count)
    x, noise = (torch.empty(size, *shape, device="meta") for shape in (data.shape, config.shape))
    return known, lambda: reconstruction_loss(x, reconstruct(known, x, noise), DETAIL)[1]


def planned_steps(config: RunConfig, dataset: Dataset, device: torch.device, seconds: float | None) -> int:
    """The number of steps of the first stage: as given, or as fit into its share of `seconds`, or those of the run.

    Raises UnblotError where the map of latents would be a single point.
    """
    latent, data = config.latent, config.data
    assert latent is not None
    if max(config.shape[1:]) < 2:
        raise UnblotError(
            f"{data.kind} of {data.height}x{data.width} are too small for latents of {latent.latent_factor}x"
            f"{latent.latent_factor} pixels; leave out {arg('latent')}"
        )
    if latent.latent_steps is not None:
        return latent.latent_steps
    if seconds is None:
        return config.train.steps
    return steps_in(seconds, step_seconds(config, dataset, device))


def step_seconds(config: RunConfig, dataset: Dataset, device: torch.device) -> float:
    """Seconds of a step, by trial steps on the clock of this process alone."""
    trial, times = FirstStage(config, dataset, device), []
    for _ in range(1 + TRIES):
        start = time.monotonic()
        trial.take_step(1 + TRIES).item()
        times.append(time.monotonic() - start)
    return sum(times[1:]) / TRIES


def steps_in(seconds: float, each: float) -> int:
    """The steps of a first stage that a budget of seconds gives, of so many seconds each."""
    return min(MOST, max(1, int(SHARE * seconds / each)))


def trained_autoencoder(
    folder: Path,
    config: RunConfig,
    dataset: Dataset,
    device: torch.device,
    note: Report,
    controller: BudgetController | None = None,
    about: Callable[[], Mapping[str, Any]] = dict,
) -> tuple[Autoencoder, int]:
    """The run's autoencoder, frozen, and its steps, trained as far as it is not yet; a run that was stopped goes on
    exactly from the file in its folder.

    controller: of its share of a budget, which changes the number of steps, also in the run's configuration. about:
    what is kept beside the state.
    """
    assert config.latent is not None
    stage, steps = FirstStage(config, dataset, device), config.latent.latent_steps or 0
    if (folder / FILE).exists():
        stage.load(folder)
    errors: list[Tensor] = []
    every, written = max(1, steps // KEPT), steps
    with interruptible() as interrupted:
        while stage.step < steps:
            errors.append(stage.take_step(steps))
            if controller is not None and stage.step % LOOK_EVERY == 0:
                errors[-1].item()  # waits for the device
                steps = _fitting(controller, config, stage.step, steps)
            if stage.step % every and stage.step < steps and not interrupted():
                continue
            error = float(torch.stack(errors).mean())
            if not math.isfinite(error):
                raise UnblotError("the autoencoder's error is not finite; check the pictures by unblot doctor")
            if stage.step == steps:
                stage.measure()
            note(f"autoencoder: step {stage.step} of {steps}, mean absolute error {error:.4f}")
            errors = []
            if steps != written:
                write_run_config(folder, of_steps(config, steps))
                written = steps
            stage.save(folder, about())
            if interrupted():
                note(f"stopped in the first stage; go on with: unblot train --resume {typed(folder)}")
                end_where_terminated()
                raise KeyboardInterrupt
    return frozen(stage.autoencoder), steps


def _fitting(controller: BudgetController, config: RunConfig, step: int, steps: int) -> int:
    """The number of steps in all that fills the time of the controller, after this step of `steps`."""
    return min(MOST, controller.wanted_steps(replace(config.train, steps=steps), step) or steps)


def kept_about(folder: Path) -> dict[str, Any]:
    """What `FirstStage.save` kept beside the state, with the step; empty where nothing was saved."""
    path = folder / FILE
    return json.loads(read_metadata(path).get(HEADER, "{}")) if path.exists() else {}


def of_steps(config: RunConfig, steps: int) -> RunConfig:
    """The configuration with so many steps of the first stage."""
    assert config.latent is not None
    return replace(config, latent=replace(config.latent, latent_steps=steps))
