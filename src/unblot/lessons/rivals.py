"""A GAN, a VAE and this package's model, each trained for a given CPU time with a given number of parameters.

The rivals' recipes: the non-saturating GAN loss with the R1 gradient penalty (Goodfellow et al. 2014; Mescheder et al.
2018), spread of the batch as a feature of the discriminator (Karras et al. 2018) and averaged generator weights; a VAE
with a learned noise level (Rybkin et al. 2021) and a factor beta on its KL term (Higgins et al. 2017). Learning
rates fall to zero over the time given. What is tuned of each, R1's gamma and beta, is the caller's `strength`. Both are
perceptrons: convolutions of as many parameters take ten times as long a step at 8x8 pixels, and were worse for it.
"""

import copy
import tempfile
import time
from bisect import bisect_left
from collections.abc import Callable, Sequence
from itertools import pairwise
from pathlib import Path
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor, nn
from torch.nn.functional import softplus

from unblot import api
from unblot.config.schema import DataConfig
from unblot.data.dataset import open_data
from unblot.training.trainer import denoising_trainer

RATE = 1e-3


class Trained(NamedTuple):
    """`sample(n)` gives new pictures (n, C, H, W) in the network's range; parameters of all that was trained."""

    sample: Callable[[int], Tensor]
    parameters: int
    seconds: float
    steps: int


class BatchSpread(nn.Module):
    """Appends the standard deviation over the batch, averaged over all features, to each row (B, F)."""

    def forward(self, x: Tensor) -> Tensor:
        spread = (x - x.mean(0)).square().mean(0).add(1e-8).sqrt().mean()
        return torch.cat([x, spread.expand(len(x), 1)], 1)


def perceptron(inputs: int, outputs: int, width: int, spread: bool = False) -> nn.Module:
    """From rows (B, inputs) to (B, outputs) by three hidden layers; `spread`: with the batch's spread as a feature."""
    sizes = [inputs, width, width, width]
    layers = [layer for a, b in pairwise(sizes) for layer in (nn.Linear(a, b), nn.LeakyReLU(0.2))]
    return nn.Sequential(nn.Flatten(), *layers, *[BatchSpread()] * spread, nn.Linear(width + spread, outputs))


def count(*modules: nn.Module) -> int:
    """Parameters of all modules."""
    return sum(p.numel() for module in modules for p in module.parameters())


def fitting(build: Callable[[int], tuple[nn.Module, ...]], parameters: int) -> tuple[nn.Module, ...]:
    """The modules of that width whose parameters come nearest to the number given."""
    widths = range(4, 1200, 2)
    with torch.device("meta"):  # counted without making them
        at = bisect_left(widths, parameters, hi=len(widths) - 1, key=lambda width: count(*build(width)))
        width = min(widths[max(0, at - 1) : at + 1], key=lambda width: abs(count(*build(width)) - parameters))
    return build(width)


def gan(pictures: Tensor, seconds: float, seed: int, parameters: int, strength: float) -> Trained:
    """A GAN; strength: gamma of R1."""
    torch.default_generator.manual_seed(seed)  # of the CPU alone
    shape, values = pictures.shape[1:], pictures[0].numel()
    latent, batch = (8, 256) if shape[1] == 1 else (64, 64)
    generator, critic = fitting(lambda w: (perceptron(latent, values, w), perceptron(values, 1, w, True)), parameters)
    average, taken = copy.deepcopy(generator), 0
    optimizers = [torch.optim.Adam(m.parameters(), lr=RATE, betas=(0.0, 0.99), fused=True) for m in (generator, critic)]

    flat = pictures.flatten(1)

    def step(done: float) -> None:
        _set_rate(optimizers, RATE * (1 - done))
        real = flat[torch.randint(len(flat), (batch,))].requires_grad_()
        fake = generator(torch.randn(batch, latent))
        real_score = critic(real)
        (slope,) = torch.autograd.grad(real_score.sum(), real, create_graph=True)
        loss = softplus(-real_score).mean() + softplus(critic(fake.detach())).mean()
        loss = loss + strength / 2 * slope.square().sum(1).mean()
        _descend(optimizers[1], loss)
        _descend(optimizers[0], softplus(-critic(generator(torch.randn(batch, latent)))).mean())
        nonlocal taken
        taken += 1
        with torch.no_grad():
            for kept, live in zip(average.parameters(), generator.parameters()):
                kept.lerp_(live, max(0.002, 10 / (10 + taken)))

    took, steps = run_for(seconds, step)

    def sampled(n: int) -> Tensor:
        return average(torch.randn(n, latent)).view(-1, *shape)

    return Trained(lambda n: _in_parts(sampled, n), count(generator, critic), took, steps)


def vae(pictures: Tensor, seconds: float, seed: int, parameters: int, strength: float) -> Trained:
    """A VAE; strength: beta."""
    torch.default_generator.manual_seed(seed)  # of the CPU alone
    shape, values = pictures.shape[1:], pictures[0].numel()
    latent, batch = (4, 256) if shape[1] == 1 else (24, 64)
    decoder, encoder = fitting(lambda w: (perceptron(latent, values, w), perceptron(values, 2 * latent, w)), parameters)
    log_std = nn.Parameter(torch.zeros(()))
    optimizer = torch.optim.Adam([*decoder.parameters(), *encoder.parameters(), log_std], lr=RATE, fused=True)

    flat = pictures.flatten(1)

    def step(done: float) -> None:
        _set_rate([optimizer], RATE * (1 - done))
        real = flat[torch.randint(len(flat), (batch,))]
        mean, log_var = encoder(real).chunk(2, 1)
        log_var = log_var.clamp(-12, 8)
        z = mean + (log_var / 2).exp() * torch.randn_like(mean)
        missed = (decoder(z) - real).square().sum(1)
        noise = log_std.clamp_min(-5)
        fit = missed / 2 * torch.exp(-2 * noise) + values * noise
        divergence = (mean.square() + log_var.exp() - 1 - log_var).sum(1) / 2
        _descend(optimizer, (fit + strength * divergence).mean())

    took, steps = run_for(seconds, step)
    # Points carry the noise of the data; of a picture the mean is what one would look at.
    noise = float(log_std.detach().clamp_min(-5).exp()) if shape[1] == 1 else 0.0

    def sampled(n: int) -> Tensor:
        found = decoder(torch.randn(n, latent)).view(-1, *shape)
        return found + noise * torch.randn_like(found)

    return Trained(lambda n: _in_parts(sampled, n), count(decoder, encoder) + 1, took, steps)


def ours(pictures: Tensor, seconds: float, seed: int, network: str, batch_size: int = 0) -> Trained:
    """This package's default recipe, with as many steps as fit into the time."""
    with tempfile.TemporaryDirectory() as folder:
        np.save(Path(folder) / "data.npy", pictures.numpy())
        source = DataConfig(data=str(Path(folder) / "data.npy"), held_out=0)
        dataset = open_data(source.data, held_out=0, cache=folder, options={"layout": "NCHW"})
        choices = {"network": network, "seed": seed, "device": "cpu"} | (
            {"batch_size": batch_size} if batch_size else {}
        )
        trial = denoising_trainer(api.plan_run(source, dataset, {**choices, "steps": 1000}), dataset)
        _, done = run_for(min(3.0, seconds / 10), lambda _: trial.take_step())
        start = time.process_time()
        for _ in range(max(2, done // 2)):
            trial.take_step()
        speed = max(2, done // 2) / (time.process_time() - start)
        # The recipe needs its number of steps beforehand; should they take longer than was seen, time decides.
        config = api.plan_run(source, dataset, {**choices, "steps": max(2, int(0.95 * seconds * speed))})
        trainer, start = denoising_trainer(config, dataset), time.process_time()
        while trainer.step < config.train.steps and time.process_time() - start < seconds:
            trainer.take_step()
        took = time.process_time() - start
    run = api.Run(Path(folder), config, trainer.denoiser)

    def sampled(n: int) -> Tensor:
        with trainer.averaged():
            return torch.from_numpy(run.sample(n, seed=seed, guidance=1.0, batch_size=500).array).float()

    return Trained(sampled, count(trainer.denoiser), took, trainer.step)


def run_for(seconds: float, step: Callable[[float], object]) -> tuple[float, int]:
    """Takes steps until the time is over, each given the share of it that is over; seconds taken, and steps."""
    start, steps = time.process_time(), 0
    while (gone := time.process_time() - start) < seconds:
        step(gone / seconds)
        steps += 1
    return time.process_time() - start, steps


def _descend(optimizer: torch.optim.Optimizer, loss: Tensor) -> None:
    optimizer.zero_grad()
    loss.backward()
    optimizer.step()


def _set_rate(optimizers: Sequence[torch.optim.Optimizer], rate: float) -> None:
    for optimizer in optimizers:
        for group in optimizer.param_groups:
            group["lr"] = rate


@torch.no_grad()
def _in_parts(sampled: Callable[[int], Tensor], n: int, size: int = 1000) -> Tensor:
    return torch.cat([sampled(min(size, n - start)) for start in range(0, n, size)])
