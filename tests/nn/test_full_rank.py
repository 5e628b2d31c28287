"""Nothing is squeezed out: all of a picture finds a way through the networks of the default recipe."""

import math

import pytest
import torch
from torch import Tensor, nn

from unblot.config.presets import SMALL, TINY, ladder, resolve
from unblot.config.schema import DataFacts, TextFacts
from unblot.denoiser import Denoiser
from unblot.losses import training_loss
from unblot.nn import NETWORKS
from unblot.process.levels import NoiseLevel, corrupt
from unblot.process.spectrum import Spectrum
from unblot.specs import build
from unblot.training.optim import Optimizer

SIZES = 8, 28, 32, 48, 64, 96, 128, 256
CHANNELS = 1, 3, 4, 7
TEXT = TextFacts("", "", 0, 1000)


def facts(size: int, channels: int, text: TextFacts | None = None) -> DataFacts:
    return DataFacts("constant", channels, size, size, (), {}, 0.5, 1000, "", text=text)


PLAIN = [facts(s, c) for s in SIZES for c in CHANNELS if (s, c) != (256, 7)] + [facts(s, 3, TEXT) for s in SIZES]
NOT_TRAINED = [  # here: it would take too long, or there is no spectrum
    *[facts(s, c) for s, c in [(256, 7), (512, 3), (1024, 3)]],
    *[facts(s, c, TEXT) for s in SIZES for c in (1, 4)],
]


def narrowest(all_facts: list[DataFacts]) -> list[tuple[str, int, int]]:
    """The distinct (spec of the narrowest network, channels, one size that has it)."""
    found = {(ladder(f, "default")[0], f.channels): f.height for f in all_facts}
    return [(spec, c, size) for (spec, c), size in found.items()]


def tiny() -> list[tuple[str, int, int]]:
    """All networks for the smallest pictures of many channels, as latents may be."""
    return [(spec, c, TINY) for c in (7, 8, 9, 15, 16, 64) for spec in ladder(facts(TINY, c), "default")]


def loud(network: nn.Module) -> nn.Module:
    """The network with weights as after training: nothing that starts at zero is silent."""
    for parameter in network.parameters():
        if not parameter.any():
            nn.init.normal_(parameter, std=0.1)
    return network.eval()


def directions_lost(network: nn.Module, channels: int) -> int:
    """How many directions of the output in a folded square no change of the picture in that square moves."""
    patch, side = network.patch, network.multiple
    network.double()
    around = torch.randn(1, channels, side, side, generator=torch.Generator().manual_seed(1)).double()
    inside = (..., slice(patch), slice(patch))

    def output(square: Tensor) -> Tensor:
        x = around.clone()
        x[inside] = square
        return network(x, torch.tensor([-3.0]).double(), None)[inside]

    square = around[inside]
    jacobian = torch.autograd.functional.jacobian(output, square, vectorize=True)
    singular = torch.linalg.svdvals(jacobian.reshape(square.numel(), square.numel()))
    return int((singular < 1e-9 * singular[0]).sum())


@pytest.mark.parametrize(("spec", "channels", "size"), narrowest(PLAIN + NOT_TRAINED) + tiny(), ids=str)
def test_every_direction_of_the_output_can_be_reached_from_the_input(spec, channels, size):
    torch.manual_seed(0)
    network = loud(build(NETWORKS, spec, "network", channels, channels, (size, size), 0))
    assert directions_lost(network, channels) == 0


def test_that_law_is_broken_by_a_network_that_is_too_narrow():
    torch.manual_seed(0)
    spec = "unet:width=4,multipliers=1,blocks=1,patch=4"
    narrow = loud(build(NETWORKS, spec, "network", 3, 3, (8, 8), 0))
    assert directions_lost(narrow, 3) > 0


@pytest.mark.parametrize(("spec", "channels", "size"), [s for s in narrowest(PLAIN) if s[2] > SMALL], ids=str)
def test_a_brief_training_on_constant_pictures_leaves_no_noise_at_low_levels(spec, channels, size):
    """At sigma/alpha from 0.02 to 0.1 less than 5 % of the noise's power stays in x0_hat."""
    torch.manual_seed(0)
    generator = torch.Generator().manual_seed(0)
    network = build(NETWORKS, spec, "network", channels, channels, (size, size), 0)
    side = network.multiple
    train = resolve(facts(size, channels), {})
    assert train.spectrum == "data"
    spectrum = Spectrum.of(constant(256, channels, side, generator)[0])
    denoiser = Denoiser(network, "edm", 0.5, spectrum=spectrum).to(memory_format=torch.channels_last)
    optimizer = Optimizer(denoiser, train.optimizer, 0.0)
    steps = 10
    for step in range(steps):
        training_loss(denoiser, *constant(4, channels, side, generator)).mean().backward()
        nn.utils.clip_grad_norm_(denoiser.parameters(), 1.0)
        optimizer.step(train.learning_rate * (0.5 + 0.5 * math.cos(math.pi * step / steps)), torch.tensor(False))
    x0, level, eps = constant(32, channels, side, generator)
    with torch.no_grad():
        error = (denoiser(corrupt(x0, level, eps), level).x0 - x0).square().mean((1, 2, 3))
    assert (error / level.sigma.float().square()).mean() < 0.05


def constant(n: int, channels: int, side: int, generator: torch.Generator) -> tuple[Tensor, NoiseLevel, Tensor]:
    """Pictures of one colour each, levels with sigma/alpha from 0.02 to 0.1, and noise."""
    x0 = (2 * torch.rand(n, channels, 1, 1, generator=generator) - 1).expand(n, channels, side, side)
    sigma = 0.02 * 5 ** torch.rand(n, generator=generator).double()
    return x0, NoiseLevel(torch.ones_like(sigma), sigma), torch.randn(n, channels, side, side, generator=generator)
