"""A run as other runtimes see it, plain tensors in and out: its denoiser, or all of a distilled one; its decoder."""

from collections.abc import Callable
from itertools import pairwise
from typing import NamedTuple

import torch
from torch import Tensor, nn

from unblot.config.sampling import SampleConfig
from unblot.denoiser import Condition, Denoiser
from unblot.nn.autoencoder import Autoencoder
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import SCHEDULES
from unblot.runs.run import Run
from unblot.sampling.settings import SamplerConfig
from unblot.specs import build


class Part(NamedTuple):
    """A file of an export. inputs: names of what the module takes; shown: how many of them, the last, are conditions.

    examples: inputs of n pictures, from a seed, to trace and to compare with.
    """

    module: nn.Module
    inputs: list[str]
    output: str
    shown: int
    examples: Callable[[int, int], tuple[Tensor, ...]]


class PlainDenoiser(nn.Module):
    """x0_hat (B, C, H, W) of x_t (B, C, H, W) at a level, alpha and sigma (B,), float64, and what it shows.

    Then follow, as far as the run knows them, label (B,) int64 (the number of classes: no label) and tokens (B, L)
    int64.
    """

    def __init__(self, denoiser: Denoiser):
        super().__init__()
        self.denoiser = denoiser

    def forward(self, x: Tensor, alpha: Tensor, sigma: Tensor, *shown: Tensor) -> Tensor:
        given = list(shown)
        label = given.pop(0) if self.denoiser.num_classes else None
        tokens = given.pop(0) if self.denoiser.text_encoder is not None else None
        return self.denoiser(x, NoiseLevel(alpha, sigma), Condition(label, tokens)).x0


class PlainSampler(nn.Module):
    """Pictures (B, C, H, W) in the network's range of standard normal noise (B, C, H, W), of latents (B, c, h, w), by
    first-order steps over levels (N + 1,), noisiest first; then follows what they show, as for `PlainDenoiser`.
    """

    def __init__(self, denoiser: Denoiser, levels: NoiseLevel, size: tuple[int, int]):
        super().__init__()
        self.decoder = None if denoiser.autoencoder is None else PlainDecoder(denoiser.autoencoder, size)
        self.denoise = PlainDenoiser(denoiser)
        self.levels = list(zip(levels.alpha.tolist(), levels.sigma.tolist(), strict=True))
        self.prior = denoiser.prior(levels.at(0))

    def forward(self, noise: Tensor, *shown: Tensor) -> Tensor:
        x, one = self.prior.draw(noise), torch.ones_like(noise[:, 0, 0, 0], dtype=torch.float64)
        for (alpha, sigma), (next_alpha, next_sigma) in pairwise(self.levels):
            x0 = self.denoise(x, alpha * one, sigma * one, *shown)
            x = next_alpha * x0 + next_sigma * ((x - alpha * x0) / sigma)
        return x if self.decoder is None else self.decoder(x)


class PlainDecoder(nn.Module):
    """Pictures (B, C, H, W) of this height and width, in the network's range, of latents (B, c, h, w)."""

    def __init__(self, autoencoder: Autoencoder, size: tuple[int, int]):
        super().__init__()
        self.autoencoder, self.size = autoencoder, size

    def forward(self, z: Tensor) -> Tensor:
        return self.autoencoder.decode(z, *self.size)


def parts_of(run: Run) -> dict[str, Part]:
    """What is exported of a run, by the names of the files: the model, and the decoder of latents beside a denoiser.

    A distilled run, which knows its own levels alone, is one model from noise to pictures.
    """
    module, names = exported_module(run), input_names(run)
    shown = len(names) - (3 if run.config.distill is None else 1)
    output = "x0" if run.config.distill is None or run.config.latent is None else "pictures"
    parts = {"model": Part(module, names, output, shown, lambda n, seed: examples(run, n, seed))}
    if run.denoiser.autoencoder is not None and run.config.distill is None:
        decoder = PlainDecoder(run.denoiser.autoencoder, run.config.data.shape[1:]).eval()
        parts["decoder"] = Part(decoder, ["x0"], "pictures", 0, lambda n, seed: examples(run, n, seed)[:1])
    return parts


def exported_module(run: Run) -> nn.Module:
    """What is exported of a run: its denoiser, or, of a distilled one, which knows its own levels alone, all of it."""
    if run.config.distill is None:
        return PlainDenoiser(run.denoiser).eval()
    levels = levels_of(run, run.sampler(SampleConfig()))
    return PlainSampler(run.denoiser, levels, run.config.data.shape[1:]).eval()


def levels_of(run: Run, sampler: SamplerConfig) -> NoiseLevel:
    """The levels (N + 1,) that a sampler visits, noisiest first."""
    return sampler.levels(build(SCHEDULES, run.config.train.schedule, "schedule"))


def input_names(run: Run) -> list[str]:
    """The names of the inputs of `exported_module`, in order."""
    labelled, reads = run.config.data.num_labels > 0, run.denoiser.text_encoder is not None
    first = ["x", "alpha", "sigma"] if run.config.distill is None else ["noise"]
    return [*first, *(["label"] if labelled else []), *(["tokens"] if reads else [])]


def examples(run: Run, n: int, seed: int = 0) -> tuple[Tensor, ...]:
    """Inputs of n pictures to compare with: noise of every size; labels and texts take turns, "none" is one."""
    denoiser, g = run.denoiser, torch.Generator().manual_seed(seed)
    share = (torch.arange(n, dtype=torch.float64) + 0.5) / n
    alpha, sigma = torch.cos(share * torch.pi / 2), torch.sin(share * torch.pi / 2)
    x = torch.randn(n, *run.config.shape, generator=g)
    shown = [torch.arange(n) % (denoiser.num_classes + 1)] if denoiser.num_classes else []
    if denoiser.text_encoder is not None:
        assert run.config.data.text is not None
        words = run.config.data.text.words.split(" ")
        shown.append(denoiser.text_encoder.read([" ".join(words[: i % 4]) for i in range(n)]))
    first = (x, alpha, sigma) if run.config.distill is None else (x,)
    return *first, *shown
