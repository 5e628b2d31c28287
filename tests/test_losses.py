"""The training loss: the founding text's, and weightings that mean the same under every parameterization."""

import pytest
import torch
from torch import Tensor, nn

from oracles import F64
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.losses import WEIGHTINGS, edm, min_snr, training_loss
from unblot.process.levels import NoiseLevel, corrupt, log_noise_ratio, log_snr, norm
from unblot.process.parameterizations import PARAMETERIZATIONS, network_target
from unblot.process.schedules import SCHEDULES, linear

G = torch.Generator().manual_seed(0)
T = torch.tensor([0.01, 0.2, 0.5, 0.8, 0.99], dtype=F64)
X0, EPS = torch.randn(5, 2, 3, 3, generator=G, dtype=F64), torch.randn(5, 2, 3, 3, generator=G, dtype=F64)


class Says(nn.Module):
    """A network whose output is given."""

    embeds = "log_noise_ratio"

    def __init__(self, output: Tensor):
        super().__init__()
        self.output = output

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        return self.output


def says_off_by(error: Tensor, parameterization: str, level: NoiseLevel, std: float) -> Denoiser:
    """A denoiser whose x0_hat is x0 + error."""
    function = PARAMETERIZATIONS[parameterization]
    target = network_target(function, level, std, X0, EPS)
    return Denoiser(Says(target + error / function(level, std)[1].view(-1, 1, 1, 1)), parameterization, std)


@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
@pytest.mark.parametrize("schedule", SCHEDULES)
def test_the_target_has_no_loss_and_is_the_picture(schedule: str, parameterization: str) -> None:
    level = SCHEDULES[schedule]()(T)
    denoiser = says_off_by(torch.zeros(()), parameterization, level, 0.5)
    assert float(training_loss(denoiser, X0, level, EPS).abs().max()) < 1e-12
    torch.testing.assert_close(denoiser(corrupt(X0, level, EPS), level).x0, X0, rtol=1e-7, atol=1e-7)


@pytest.mark.parametrize("weighting", ["min_snr", "edm"])
def test_a_weighting_means_the_same_under_every_parameterization(weighting: str) -> None:
    level, losses = linear()(T), {}
    for name in PARAMETERIZATIONS:
        denoiser = says_off_by(torch.full((), 0.1, dtype=F64), name, level, 0.5)
        losses[name] = training_loss(denoiser, X0, level, EPS, weight=WEIGHTINGS[weighting]()(level, denoiser))
    for loss in losses.values():
        torch.testing.assert_close(loss, losses["x0"], rtol=1e-6, atol=0)


@pytest.mark.parametrize("weighting", WEIGHTINGS)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("parameterization", PARAMETERIZATIONS)
def test_weights_are_positive_numbers(weighting: str, schedule: str, parameterization: str) -> None:
    level = SCHEDULES[schedule]()(T)
    weight = WEIGHTINGS[weighting]()(level, Denoiser(Says(X0), parameterization, 0.5))
    assert weight.shape == (5,)
    assert bool((weight.isfinite() & (weight > 0)).all())


def test_edms_weight_is_its_papers_and_1_on_its_own_network() -> None:
    sigma = torch.tensor([0.01, 0.5, 20.0], dtype=F64)
    level, network = NoiseLevel(torch.ones_like(sigma), sigma), Says(X0)
    torch.testing.assert_close(edm()(level, Denoiser(network, "edm", 0.5)), torch.ones(3, dtype=F64))
    on_x0 = edm()(level, Denoiser(network, "x0", 0.5))  # Karras et al. 2022, table 1: (sigma² + sd²)/(sigma·sd)²
    torch.testing.assert_close(on_x0, (sigma**2 + 0.25) / (0.5 * sigma) ** 2)


def test_min_snr_is_its_papers_on_eps_and_v() -> None:
    level = linear()(T)
    snr = log_snr(level).exp()
    held = snr.clamp(max=5)
    torch.testing.assert_close(min_snr()(level, Denoiser(Says(X0), "eps")), held / snr)
    torch.testing.assert_close(min_snr()(level, Denoiser(Says(X0), "v")), held / (snr + 1))


def test_mixed_precision_does_not_reach_the_loss() -> None:
    level = linear()(T)
    x0, eps = X0.float(), EPS.float()
    denoiser = Denoiser(Says(eps.bfloat16()), "eps")
    loss = training_loss(denoiser, x0, level, eps)
    assert loss.dtype == torch.float32
    expected = (eps.bfloat16().float() - eps).square().mean((1, 2, 3))
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-12)
    assert denoiser(x0, level).x0.dtype == torch.float32


class Asked(nn.Module):
    """A network that remembers what it was given."""

    def __init__(self, embeds: str):
        super().__init__()
        self.embeds = embeds

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        self.x, self.noise, self.label = x, noise, label
        return torch.zeros_like(x)


@pytest.mark.parametrize("embeds", ["log_noise_ratio", "ddpm_index"])
def test_one_level_is_the_same_level_for_every_picture(embeds: str) -> None:
    network = Asked(embeds)
    denoiser, level, x = Denoiser(network, "edm", 0.5), linear()(T).at(2), X0.float()
    one = denoiser(x, level).x0
    given_one = network.x, network.noise
    many = denoiser(x, level.expand(5)).x0
    torch.testing.assert_close(one, many)
    torch.testing.assert_close(given_one, (network.x, network.noise))
    assert network.noise.shape == (5,)
    assert network.noise.dtype == torch.float32


def test_a_network_that_embeds_what_is_not_known_is_refused() -> None:
    with pytest.raises(UnblotError, match="`embeds` is 'log_snr'; choose one of log_noise_ratio, ddpm_index"):
        Denoiser(Asked("log_snr"), "edm")


def test_a_network_without_embeds_is_given_the_log_noise_ratio() -> None:
    network, level = Asked("log_noise_ratio"), linear()(T)
    del network.embeds
    Denoiser(network, "edm", 0.5)(X0.float(), level)
    torch.testing.assert_close(network.noise, log_noise_ratio(level).float())


def test_the_networks_input_has_unit_variance() -> None:
    network = Asked("log_noise_ratio")
    level = NoiseLevel(torch.ones((), dtype=F64), torch.tensor(7.0, dtype=F64))
    Denoiser(network, "edm", 0.5)(X0, level)
    torch.testing.assert_close(network.x, X0 / norm(level, 0.5))
