"""The contestants of peers.py: how each is trained for a given time, and how its network is sampled afterwards.

Each takes MNIST's training pictures (N, 28, 28) as bytes, without labels. The peers work on 32x32 pictures, a frame of
two black pixels round each, which is cut off their samples. Two things are left out of both to their advantage: they
read their pictures from memory and not from files, and they do not mirror them, which would make digits of no kind.
"""

import contextlib
import importlib.metadata
import json
import resource
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
from unblot.data.dataset import open_data
from unblot.denoiser import Denoised, Denoiser
from unblot.process.levels import NoiseLevel, log_noise_ratio
from unblot.process.schedules import SCHEDULES
from unblot.runs.folder import load_model, save_model
from unblot.training.budget import choose
from unblot.training.budget_controller import BudgetController
from unblot.training.trainer import denoising_trainer

FRAME = 2  # black pixels on each side of what the peers see
LOOK_EVERY = 10  # steps after which a run with a budget looks at its pace


def train_unblot(preset: str) -> Callable[[Tensor, Stopwatch], Trained]:
    """What `unblot train --budget` does: trial steps, a network, and a number of steps that keeps to the end."""

    def train(pictures: Tensor, stopwatch: Stopwatch) -> Trained:
        path = stopwatch.folder.parent / "data.npy"  # packed once for both presets
        if not path.exists():
            np.save(path, pictures[:, None].numpy())
        dataset = open_data(str(path), held_out=0, cache=path.parent / "cache", options={"layout": "NCHW"})
        source, choices = (
            DataConfig(data=str(path), held_out=0),
            {"preset": preset, "preview_every": 0, "held_out_every": 0},
        )
        stopwatch.begin()
        controller = BudgetController(stopwatch.seconds, lambda: stopwatch.elapsed)
        config, _ = choose(
            lambda **own: api.plan_run(source, dataset, {**own, **choices}), choices, dataset, controller
        )
        trainer, last = denoising_trainer(config, dataset), False
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


def load_unblot(path: Path) -> Drawable:
    """The averaged weights of a snapshot."""
    config, denoiser = load_model(path)
    return Drawable(denoiser, config.train.schedule, config.data.shape, config.data.clusters)


def diffusers_network() -> nn.Module:
    """UNet2DModel of 1.6 M parameters at 32x32."""
    return unet(1, 32, (32, 64, 64))


def train_diffusers(pictures: Tensor, stopwatch: Stopwatch) -> Trained:
    """diffusers' unconditional training script with its defaults: batches of 16, AdamW at 1e-4, its own average."""
    torch.manual_seed(0)
    loop = DiffusersLoop(diffusers_network(), framed(pictures) * 2 - 1)
    stopwatch.begin()
    loop.step()
    while not stopwatch.over(lambda path: save_file(loop.averaged(), path)):
        loop.step()
    return Trained(loop.model, loop.batch, loop.step)


def load_diffusers(path: Path) -> Drawable:
    """Its network as an eps-predictor on DDPM's linear schedule, x0 clipped as its own sampler does."""
    model = diffusers_network()
    model.load_state_dict(load_file(path))
    network = Adapter(lambda x, index: model(x, index).sample, "ddpm_index", model)
    return Drawable(Clipped(network, "eps").eval(), "linear", (1, 32, 32))


def lucidrains_diffusion() -> nn.Module:
    """denoising-diffusion-pytorch's Unet of 1.5 M parameters in its GaussianDiffusion: v-prediction, sigmoid."""
    from denoising_diffusion_pytorch import GaussianDiffusion, Unet

    return GaussianDiffusion(Unet(dim=24, dim_mults=(1, 2, 4), channels=1), image_size=32)


class TimeUp(Exception):
    """Ends a trainer's loop that knows steps only."""


def train_lucidrains(pictures: Tensor, stopwatch: Stopwatch) -> Trained:
    """denoising-diffusion-pytorch's own Trainer with its defaults: batches of 16, Adam at 1e-4, averages at 0.995."""
    torch.manual_seed(0)
    diffusion = lucidrains_diffusion()
    from denoising_diffusion_pytorch import Trainer as TheirTrainer

    with tempfile.TemporaryDirectory() as folder:
        for i in range(100):  # it insists on a folder of 100 pictures or more, whose place ours then take
            Image.new("L", (32, 32)).save(Path(folder) / f"{i}.png")
        options = {"augment_horizontal_flip": False, "calculate_fid": False, "save_and_sample_every": 10**9}
        theirs = TheirTrainer(
            diffusion, folder, train_num_steps=10**9, results_folder=str(stopwatch.folder / "theirs"), **options
        )

    def keep(path: Path) -> None:
        weights = theirs.ema.ema_model.model.state_dict()
        save_file({name: w.clone().contiguous() for name, w in weights.items()}, path)

    def timed():  # a batch is asked for at the beginning of each step, when the one before it is over
        batches = endless(framed(pictures), theirs.batch_size)
        yield next(batches)
        while not stopwatch.over(keep):
            yield next(batches)
        raise TimeUp

    theirs.dl = timed()
    stopwatch.begin()
    with contextlib.suppress(TimeUp):
        theirs.train()
    batches = endless(framed(pictures), theirs.batch_size)
    return Trained(diffusion.model, theirs.batch_size, lambda: diffusion(next(batches)).backward())


def load_lucidrains(path: Path) -> Drawable:
    """Its network as a v-predictor on its sigmoid schedule, given the index 0 ... 999 of the level."""
    model = lucidrains_diffusion().model
    model.load_state_dict(load_file(path))
    ratios = log_noise_ratio(SCHEDULES["sigmoid"]()(torch.arange(1, 1001).double() / 1000))

    def told(x: Tensor, ratio: Tensor) -> Tensor:
        index = np.interp(ratio.double().numpy(), ratios.numpy(), np.arange(1000.0))
        return model(x, torch.from_numpy(index).to(x))

    return Drawable(Clipped(Adapter(told, "log_sigma_over_alpha", model), "v").eval(), "sigmoid", (1, 32, 32))


class Adapter(nn.Module):
    """A peer's network under this package's convention: called with x (B, C, H, W), noise (B,) and no label."""

    def __init__(self, call: Callable[[Tensor, Tensor], Tensor], embeds: str, network: nn.Module):
        super().__init__()
        self.call, self.embeds, self.network = call, embeds, network

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None = None) -> Tensor:
        return self.call(x, noise)


class Clipped(Denoiser):
    """A denoiser whose estimates are held to the range of pictures, as both peers' samplers do by default."""

    def forward(self, x_t: Tensor, level: NoiseLevel, label: Tensor | None = None) -> Denoised:
        return Denoised(super().forward(x_t, level, label).x0.clamp(-1, 1))


def framed(pictures: Tensor) -> Tensor:
    """Bytes (N, 28, 28) as (N, 1, 32, 32) in [0, 1], with a black frame."""
    return pad(pictures[:, None].float() / 255, (FRAME,) * 4)


class Contestant(NamedTuple):
    """How a contestant is trained and sampled from, and the package that it comes from."""

    train: Callable[[Tensor, Stopwatch], Trained]
    load: Callable[[Path], Drawable]
    package: str


CONTESTANTS = {
    "unblot": Contestant(train_unblot("default"), load_unblot, "unblot"),
    "unblot-ddpm": Contestant(train_unblot("ddpm"), load_unblot, "unblot"),
    "diffusers": Contestant(train_diffusers, load_diffusers, "diffusers"),
    "denoising-diffusion-pytorch": Contestant(train_lucidrains, load_lucidrains, "denoising-diffusion-pytorch"),
}


def train(name: str, pictures: Tensor, folder: Path, seconds: float, every: float) -> None:
    """Trains a contestant; leaves its snapshots in the folder, and training.json last of all."""
    folder.mkdir(parents=True, exist_ok=True)
    stopwatch = Stopwatch(folder, seconds, every)
    network, batch, step = CONTESTANTS[name].train(pictures, stopwatch)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    with FlopCounterMode(display=False) as counter:
        step()
    metrics = {
        "version": importlib.metadata.version(CONTESTANTS[name].package),
        "parameters": sum(p.numel() for p in network.parameters()),
        "batch": batch,
        "steps": stopwatch.steps,
        "seconds": round(stopwatch.spent, 2),
        "pictures_per_second": round(stopwatch.steps * batch / stopwatch.spent, 1),
        "gflop_per_picture": round(counter.get_total_flops() / batch / 1e9, 4),
        "gflops": round(stopwatch.steps * counter.get_total_flops() / stopwatch.spent / 1e9, 2),
        "peak_memory_mib": round(peak / 1024),
        "snapshots": stopwatch.snapshots,
    }
    (folder / "training.json").write_text(json.dumps(metrics, indent=2) + "\n")
