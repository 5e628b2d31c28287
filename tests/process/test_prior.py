"""What sampling starts from: the marginal of the noisiest level, also where that is not yet noise alone."""

import math

import pytest
import torch
from torch import Tensor, nn

from oracles import level, no_noise
from unblot.denoiser import Denoiser
from unblot.process.levels import NoiseLevel
from unblot.process.prior import Prior
from unblot.process.schedules import SCHEDULES, linear
from unblot.process.spectrum import Spectrum
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import spaced_levels

SHAPES = [(1, 8, 8), (3, 6, 10), (4, 7, 5)]
every_shape = pytest.mark.parametrize("shape", SHAPES, ids=str)


class Silent(nn.Module):
    """A network that says nothing, so that a denoiser with a spectrum is Wiener's filter."""

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        return torch.zeros_like(x)


def spectrum_of(channels: int) -> Spectrum:
    axes, _ = torch.linalg.qr(torch.randn(channels, channels, generator=torch.Generator().manual_seed(1)))
    stds = torch.linspace(0.1, 4.0, 9) * torch.linspace(1, 0.4, channels)[:, None]
    return Spectrum(torch.linspace(-0.6, 0.5, channels), axes, stds)


def exact(prior: Prior, shape: tuple[int, int, int]) -> torch.distributions.MultivariateNormal:
    """The prior over flat pictures, from its draws of each unit noise."""
    unit = torch.eye(math.prod(shape), dtype=torch.float64).reshape(-1, *shape)
    mean = prior.draw(torch.zeros(1, *shape, dtype=torch.float64))
    across = (prior.draw(unit) - mean).flatten(1)
    return torch.distributions.MultivariateNormal(mean.flatten(), across.T @ across, validate_args=False)


@every_shape
@pytest.mark.parametrize("known", [False, True], ids=["white", "spectrum"])
def test_densities_and_divergences_are_those_of_what_is_drawn(shape: tuple[int, int, int], known: bool) -> None:
    t = level(0.6, 0.5)
    prior = Prior(t, 0.8, spectrum_of(shape[0]) if known else None)
    x = torch.randn(3, *shape, generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    p, dims = exact(prior, shape), math.prod(shape)
    torch.testing.assert_close(prior.log_density(x), p.log_prob(x.flatten(1)) / dims, rtol=1e-5, atol=1e-5)
    q = torch.distributions.MultivariateNormal(0.6 * x.flatten(1), 0.25 * torch.eye(dims, dtype=torch.float64))
    kl = torch.distributions.kl_divergence(q, p.expand((3,)))
    torch.testing.assert_close(prior.kl(x), kl / dims, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(prior.draw(prior.noise(x)), x, rtol=0, atol=1e-5)


def test_the_divergence_of_ddpm_in_bits() -> None:
    # KL(N(m, s²) || N(0, 1)) = (m² + s² − 1 − log s²)/2, with m² = alpha_bar and s² = 1 − alpha_bar
    end = linear()(torch.ones(1, dtype=torch.float64)).at(0)
    alpha_bar = float(end.alpha**2)
    bits = -math.log1p(-alpha_bar) / 2 / math.log(2)
    assert bits == pytest.approx(2.9113e-5, rel=2e-5)
    assert float(Prior(end, 1.0).kl(torch.ones(1, 1, 2, 2))) / math.log(2) == pytest.approx(bits, rel=1e-6)


@every_shape
def test_pictures_have_the_mean_and_the_spread_of_the_data_from_any_first_level(shape: tuple[int, int, int]) -> None:
    spectrum = spectrum_of(shape[0])
    denoiser = Denoiser(Silent(), "edm", 0.8, spectrum=spectrum)
    one = torch.zeros(1, *shape)
    one[0, 0, 0, 0] = 1  # one standard deviation of the mean colour, along the first axis
    noise = torch.cat([torch.zeros(1, *shape), spectrum.from_waves(one)])
    mean = spectrum.mean[:, None, None].expand(shape)
    brighter = mean + spectrum.from_waves(spectrum.stds(*shape[1:]) * one)[0]
    for high in (2, 80):
        levels = spaced_levels(SCHEDULES["edm"](), f"karras:high={high},low=0.002", 80)
        prior = denoiser.prior(levels.at(0))
        with torch.no_grad():
            x = sample(denoiser, prior.draw(noise), levels, SOLVERS["heun"](), no_noise)
            white = sample(denoiser, Prior(levels.at(0), 0.8).draw(noise), levels, SOLVERS["heun"](), no_noise)
        torch.testing.assert_close(x, torch.stack([mean, brighter]), rtol=0, atol=0.01)
        wrong = (white[0] - mean).abs().max()
        assert wrong > 0.1 if high == 2 else wrong < 0.1  # what noise alone leads to


def test_without_a_spectrum_it_is_white_noise_as_strong_as_data_and_noise() -> None:
    noise = torch.randn(2, 1, 4, 4)
    t = NoiseLevel(torch.tensor(1.0).double(), torch.tensor(3.0).double())
    assert torch.equal(Prior(t, 4.0).draw(noise), 5 * noise)
