"""The contestants of peers.py: how each is trained for a given time, and how its network is sampled afterwards.

Each takes the same training pictures. The peers work on sides that their levels can halve: MNIST's 28x28 gets a frame
of two black pixels round each, which is cut off their samples. With labels, unblot and diffusers' network are told
them; denoising-diffusion-pytorch's Trainer knows none. Two things are left out of both peers to their advantage: they
read their pictures from memory and not from files, and they do not mirror them, which would make digits of no kind.

At 64 pixels the peers have the levels and the proportions of their own examples, in a width that gives them hundreds of
steps in minutes of one core: a quarter of train_unconditional.py's UNet2DModel (128 to 512 channels in six levels,
attention at the fifth), and three eighths of the Unet in denoising-diffusion-pytorch's readme (dim 64, four levels).
diffusers' learning rate warms up in 100 steps there, since the script's 500 would be half of its training.
"""

import contextlib
import importlib.metadata
import json
import resource
import shutil
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from PIL import Image
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.nn.functional import pad
from torch.utils.flop_counter import FlopCounterMode

from diffusers_loop import DiffusersLoop, endless, unet
from stopwatch import Drawable, Stopwatch, Trained
from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoised, Denoiser
from unblot.latent.latents import with_latents
from unblot.process.levels import NoiseLevel, log_noise_ratio
from unblot.process.schedules import SCHEDULES
from unblot.runs.folder import MODEL, load_model, save_model
from unblot.training.budget import choose
from unblot.training.budget_controller import BudgetController
from unblot.training.trainer import denoising_trainer

MULTIPLE = 32  # of which the sides of what the peers see are multiples
LOOK_EVERY = 10  # steps after which a run with a budget looks at its pace


class TrainingSet(NamedTuple):
    """What all contestants are trained on: the training pictures of a data set, and how unblot is told of it."""

    source: DataConfig
    dataset: Dataset

    @property
    def pictures(self) -> Tensor:
        """(N, C, H, W) in [-1, 1], framed for the peers."""
        found, frame = self.dataset.batch(self.dataset.train)[0], frame_of(self.dataset.shape)
        return pad(found, (frame,) * 4, value=-1)

    @property
    def labels(self) -> Tensor | None:
        """(N,) or None."""
        return self.dataset.batch(self.dataset.train)[1]

    @property
    def task(self) -> "Task":
        """What the peers' networks are made for."""
        c, side = self.dataset.shape[0], self.dataset.shape[1] + 2 * frame_of(self.dataset.shape)
        return Task((c, side, side), len(self.dataset.classes))


class Task(NamedTuple):
    """The shape (C, H, W) of framed pictures, and the number of classes, 0 without labels."""

    shape: tuple[int, int, int]
    classes: int


def frame_of(shape: tuple[int, int, int]) -> int:
    """Black pixels on each side of what the peers see, for pictures (C, side, side)."""
    return -shape[1] % MULTIPLE // 2


def train_unblot(preset: str) -> Callable[[TrainingSet, Stopwatch], Trained]:
    """What `unblot train --budget` does: trial steps, a network, and a number of steps that keeps to the end."""

    def train(data: TrainingSet, stopwatch: Stopwatch) -> Trained:
        choices = {"preset": preset, "preview_every": 0, "held_out_every": 0}
        stopwatch.begin()
        controller = BudgetController(stopwatch.seconds, lambda: stopwatch.elapsed)
        config, _ = choose(
            lambda **own: api.plan_run(data.source, data.dataset, {**own, **choices}), choices, data.dataset, controller
        )
        trainer, last = denoising_trainer(config, data.dataset), False
        while not last:
            trainer.take_step()
            steps = (
                controller.wanted_steps(trainer.config.train, trainer.step) if trainer.step % LOOK_EVERY == 0 else None
            )
            if steps is not None:
                trainer.change_steps(steps)
            ended = trainer.step >= trainer.config.train.steps
            last = stopwatch.over(lambda path: save_model(path, config, trainer.ema.weights), last=ended)
        return Trained(trainer.denoiser, config.train.batch_size, trainer.take_step)

    return train


def train_in_latents(data: TrainingSet, stopwatch: Stopwatch) -> Trained:
    """`unblot train --latent --budget` as it is; its steps are those of the second stage."""
    chosen = {"preview_every": 0, "held_out_every": 0, "budget": f"{stopwatch.seconds:.0f}s"}
    stopwatch.begin()
    folder = stopwatch.folder / "run"
    run = api.train(data.source.data, size=data.source.size, out=folder, overwrite=True, latent=True, **chosen)
    stopwatch.steps = run.config.train.steps - 1
    stopwatch.over(lambda path: shutil.copyfile(folder / MODEL, path), last=True)
    assert run.denoiser.autoencoder is not None
    trainer = denoising_trainer(run.config, with_latents(data.dataset, run.denoiser.autoencoder))
    return Trained(run.denoiser, run.config.train.batch_size, trainer.take_step)


def load_unblot(path: Path, task: Task) -> Drawable:
    """The averaged weights of a snapshot."""
    config, denoiser = load_model(path)
    return Drawable(denoiser, config.train.schedule, config.shape, config.data.clusters)


def diffusers_network(task: Task) -> nn.Module:
    """UNet2DModel of 1.6 M parameters at 32x32, of 7.1 M above."""
    (channels, side, _), classes = task
    widths = (32, 64, 64) if side <= 32 else (32, 32, 64, 64, 128, 128)
    return unet(channels, side, widths, num_class_embeds=classes or None)


def train_diffusers(data: TrainingSet, stopwatch: Stopwatch) -> Trained:
    """diffusers' unconditional training script with its defaults: batches of 16, AdamW at 1e-4, its own average."""
    torch.manual_seed(0)
    warmup = 500 if data.task.shape[1] <= 32 else 100
    loop = DiffusersLoop(diffusers_network(data.task), data.pictures, labels=data.labels, warmup=warmup)
    stopwatch.begin()
    loop.step()
    while not stopwatch.over(lambda path: save_file(loop.averaged(), path)):
        loop.step()
    return Trained(loop.model, loop.batch, loop.step)


def load_diffusers(path: Path, task: Task) -> Drawable:
    """Its network as an eps-predictor on DDPM's linear schedule, x0 clipped as its own sampler does."""
    model = diffusers_network(task)
    model.load_state_dict(load_file(path))
    network = Adapter(lambda x, index, label: model(x, index, label).sample, "ddpm_index", model)
    return Drawable(Clipped(network, "eps").eval(), "linear", task.shape)


def lucidrains_diffusion(task: Task) -> nn.Module:
    """denoising-diffusion-pytorch's Unet in its GaussianDiffusion: v-prediction, sigmoid. 1.5 M parameters at 32x32,
    5.3 M above."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    channels, side, _ = task.shape
    network = Unet(dim=24, dim_mults=(1, 2, 4) if side <= 32 else (1, 2, 4, 8), channels=channels)
    return GaussianDiffusion(network, image_size=side)


class TimeUp(Exception):
    """Ends a trainer's loop that knows steps only."""


def train_lucidrains(data: TrainingSet, stopwatch: Stopwatch) -> Trained:
    """denoising-diffusion-pytorch's own Trainer with its defaults: batches of 16, Adam at 1e-4, averages at 0.995.

    It knows no labels.
    """
    torch.manual_seed(0)
    diffusion, pictures = lucidrains_diffusion(data.task), data.pictures / 2 + 0.5
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    with tempfile.TemporaryDirectory() as folder:
        for i in range(100):  # it insists on a folder of 100 pictures or more, whose place ours then take
            Image.new("L" if pictures.shape[1] == 1 else "RGB", pictures.shape[2:]).save(Path(folder) / f"{i}.png")
        options = {"augment_horizontal_flip": False, "calculate_fid": False, "save_and_sample_every": 10**9}
        theirs = TheirTrainer(
            diffusion, folder, train_num_steps=10**9, results_folder=str(stopwatch.folder / "theirs"), **options
        )

    def keep(path: Path) -> None:
        weights = theirs.ema.ema_model.model.state_dict()
        save_file({name: w.clone().contiguous() for name, w in weights.items()}, path)

    def timed():  # a batch is asked for at the beginning of each step, when the one before it is over
        batches = endless(len(pictures), theirs.batch_size)
        yield pictures[next(batches)]
        while not stopwatch.over(keep):
            yield pictures[next(batches)]
        raise TimeUp

    theirs.dl = timed()
    stopwatch.begin()
    with contextlib.suppress(TimeUp):
        theirs.train()
    rows = next(endless(len(pictures), theirs.batch_size))
    return Trained(diffusion.model, theirs.batch_size, lambda: diffusion(pictures[rows]).backward())


def load_lucidrains(path: Path, task: Task) -> Drawable:
    """Its network as a v-predictor on its sigmoid schedule, given the index 0 ... 999 of the level."""
    model = lucidrains_diffusion(task).model
    model.load_state_dict(load_file(path))
    ratios = log_noise_ratio(SCHEDULES["sigmoid"]()(torch.arange(1, 1001).double() / 1000))

    def told(x: Tensor, ratio: Tensor, label: Tensor | None) -> Tensor:
        index = np.interp(ratio.double().numpy(), ratios.numpy(), np.arange(1000.0))
        return model(x, torch.from_numpy(index).to(x))

    return Drawable(Clipped(Adapter(told, "log_noise_ratio", model), "v").eval(), "sigmoid", task.shape)


class Adapter(nn.Module):
    """A peer's network as this package calls one: with x (B, C, H, W), noise (B,), and label (B,) or None."""

    def __init__(self, call: Callable[[Tensor, Tensor, Tensor | None], Tensor], embeds: str, network: nn.Module):
        super().__init__()
        self.call, self.embeds, self.network = call, embeds, network

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return self.call(x, noise, label)


class Clipped(Denoiser):
    """A denoiser whose estimates are held to the range of pictures, as both peers' samplers do by default."""

    def forward(self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Denoised:
        return Denoised(super().forward(x_t, level, label).x0.clamp(-1, 1))


class Contestant(NamedTuple):
    """How a contestant is trained and sampled from, the package it comes from, and whether it can be told labels."""

    train: Callable[[TrainingSet, Stopwatch], Trained]
    load: Callable[[Path, Task], Drawable]
    package: str
    told_labels: bool = True


CONTESTANTS = {
    "unblot": Contestant(train_unblot("default"), load_unblot, "unblot"),
    "unblot-latents": Contestant(train_in_latents, load_unblot, "unblot"),
    "unblot-ddpm": Contestant(train_unblot("ddpm"), load_unblot, "unblot"),
    "diffusers": Contestant(train_diffusers, load_diffusers, "diffusers"),
    "denoising-diffusion-pytorch": Contestant(
        train_lucidrains, load_lucidrains, "denoising-diffusion-pytorch", told_labels=False
    ),
}


def train(name: str, data: TrainingSet, folder: Path, seconds: float, every: float) -> None:
    """Trains a contestant; leaves its snapshots in the folder, and training.json last of all."""
    folder.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(folder, seconds, every)
    network, batch, step = CONTESTANTS[name].train(data, stopwatch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FlopCounterMode(display=False) as counter:
        step()
    metrics = {
        "version": importlib.metadata.version(CONTESTANTS[name].package),
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": batch,
        "steps": stopwatch.steps,
        "seconds": round(stopwatch.spent, 2),
        "cpu_seconds": round(stopwatch.cpu_spent, 2),
        "threads": torch.get_num_threads(),
        "pictures_seen": stopwatch.steps * batch,
        "pictures_per_second": round(stopwatch.steps * batch / stopwatch.spent, 1),
        "gflop_per_picture": round(counter.get_total_flops() / batch / 1e9, 4),
        "gflops": round(stopwatch.steps * counter.get_total_flops() / stopwatch.spent / 1e9, 2),
        "peak_memory_mib": round(peak / 1024),
        "snapshots": stopwatch.snapshots,
    }
    (folder / "training.json").write_text(json.dumps(metrics, indent=2) + "\n")
