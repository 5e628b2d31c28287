"""Training and sampling in numbers: the textbook at work, what a number of steps buys, and who keeps variety."""

import time
from typing import NamedTuple

import torch
from torch import Tensor
from torch.nn.functional import adaptive_avg_pool2d

from unblot.data.dataset import Dataset
from unblot.lessons import rivals, textbook
from unblot.lessons.noise import levels
from unblot.nn.mlp import MLP
from unblot.process.levels import corrupt, log_noise_ratio
from unblot.process.randomness import seeded
from unblot.process.schedules import linear
from unblot.runs.run import Run
from unblot.tuning.reference import reference_of

SIDE = 8  # pixels at most, of pictures for the textbook's algorithms
TRAINED, DRAWN = 1500, 16  # steps of training; pictures
STEPS = 1, 2, 4, 8, 16, 32
MEASURED = 512  # samples for each number of steps
CENTRES, ROUND, REACHED = (
    9,
    3.0,
    3,
)  # modes, a square number; standard deviations that belong to one; samples that reach it
PARAMETERS, SECONDS, SPREAD = 42_000, 6.0, 0.05  # of the three models of CENTRES Gaussians; of each Gaussian


class Textbook(NamedTuple):
    """What the textbook's algorithms did: losses of each step, real and drawn pictures (N, C, H, W), and seconds."""

    losses: list[float]
    real: Tensor
    drawn: Tensor
    training_seconds: float
    sampling_seconds: float


def by_the_book(pictures: Tensor, seed: int = 0) -> Textbook:
    """Trains and samples as `textbook` has it, on pictures (N, C, H, W) reduced to SIDE pixels."""
    height, width = (min(side, SIDE) for side in pictures.shape[2:])
    small = adaptive_avg_pool2d(pictures, (height, width))
    with seeded(seed):
        channels = small.shape[1]
        network = ByStep(MLP(channels, channels, (height, width), 0, width=320, depth=3))
        start = time.perf_counter()
        losses = textbook.train(network, small, TRAINED)
        between = time.perf_counter()
        drawn = textbook.sample(network.eval(), (DRAWN, *small.shape[1:]))
        end = time.perf_counter()
    return Textbook(losses, small[:DRAWN], drawn, between - start, end - between)


class ByStep(torch.nn.Module):
    """A network of this package that is called with the textbook's steps 0 … 999 instead of with noise levels."""

    def __init__(self, network: torch.nn.Module):
        super().__init__()
        self.network, self.ratios = network, log_noise_ratio(levels(linear()))[1:].float()

    def forward(self, x: Tensor, t: Tensor) -> Tensor:
        return self.network(x, self.ratios[t])


class Cost(NamedTuple):
    """What a number of steps costs and buys: seconds for a picture, and the distance of MEASURED samples."""

    steps: int
    seconds: float
    distance: float


class Costs(NamedTuple):
    """The costs of STEPS; the distance of as many real pictures, or None; its name and features; seconds of one x_t."""

    rows: list[Cost]
    floor: float | None
    distance: str
    features: str
    forward_seconds: float


def costs(run: Run, dataset: Dataset, seed: int = 0) -> Costs:
    """The quality of a run's samples by the number of steps, with the solver and the spacing of the run."""
    reference = reference_of(dataset, "random" if dataset.shape[1] > 1 else "pixels")
    rows = []
    for steps in STEPS:
        start = time.perf_counter()
        sampled = run.sample(MEASURED, steps=steps, seed=seed, solver=run.config.train.solver, batch_size=128)
        seconds = (time.perf_counter() - start) / MEASURED
        rows.append(Cost(steps, seconds, reference.distance(reference.see(sampled))))
    x0 = dataset.batch(dataset.train[:MEASURED])[0]
    start = time.perf_counter()
    corrupt(x0, levels(linear()).at(500), torch.randn(x0.shape))
    forward = (time.perf_counter() - start) / len(x0)
    name = reference.distance.name(MEASURED)
    return Costs(rows, reference.floor(MEASURED), name, reference.features.name, forward)


class Variety(NamedTuple):
    """One model of Gaussians after SECONDS: modes reached, share of samples in a mode, samples (N, 2), steps."""

    name: str
    modes: int
    inside: float
    samples: Tensor
    steps: int


def variety(seed: int = 0) -> list[Variety]:
    """A GAN, a VAE and a diffusion model of CENTRES Gaussians, trained for the same time with as many parameters."""
    g = torch.Generator().manual_seed(seed)
    line = torch.linspace(-1, 1, round(CENTRES**0.5))
    centres = torch.cartesian_prod(line, line)
    chosen = torch.randint(CENTRES, (10_000,), generator=g)
    data = (centres[chosen] + SPREAD * torch.randn(10_000, 2, generator=g)).view(-1, 2, 1, 1)
    with seeded(seed):
        found = [
            ("GAN", rivals.gan(data, SECONDS, seed, PARAMETERS, 1.0)),
            ("VAE", rivals.vae(data, SECONDS, seed, PARAMETERS, 1.0)),
            ("diffusion", rivals.ours(data, SECONDS, seed, "mlp:width=64,depth=2")),
        ]
        return [_variety(name, model.sample(2000).flatten(1), centres, model.steps) for name, model in found]


def _variety(name: str, samples: Tensor, centres: Tensor, steps: int) -> Variety:
    distance, nearest = torch.cdist(samples, centres).min(1)
    inside = distance < ROUND * SPREAD
    reached = nearest[inside].bincount(minlength=len(centres)) >= REACHED
    return Variety(name, int(reached.sum()), float(inside.double().mean()), samples, steps)
