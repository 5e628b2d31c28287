"""Likelihood: the bound and the ODE against the closed forms of a Gaussian, whose denoiser is known exactly."""

import math

import pytest
import torch
from torch import Tensor

from oracles import gaussian
from unblot.denoiser import Denoised
from unblot.evaluation.likelihood import ode_log_likelihood, variational_bound
from unblot.process.levels import NoiseLevel, broadcast, posterior, transition
from unblot.process.prior import Prior
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES, uniform_time_levels
from unblot.vlb import VARIANCES, Variance, density, discretised

STD = 0.5
ENTROPY = 0.5 * math.log(2 * math.pi * math.e * STD**2)


def gaussian_data(n: int, mean: float = 0.0, shape: tuple[int, ...] = (1, 4, 4)) -> Tensor:
    g = torch.Generator().manual_seed(0)
    return mean + STD * torch.randn(n, *shape, generator=g, dtype=torch.float64)


def uncertainty(t: NoiseLevel) -> Tensor:
    """The variance of x0 given x_t for data N(0, STD²)."""
    return STD**2 * t.sigma**2 / (t.alpha**2 * STD**2 + t.sigma**2)


def optimal(t: NoiseLevel, s: NoiseLevel, clipped: Tensor, denoised: Denoised) -> Tensor:
    """The variance of x_s given x_t for data N(0, STD²)."""
    _, on_x0, var = posterior(t, s)
    return broadcast(var + on_x0**2 * uncertainty(t), denoised.x0)


def expected_excess(levels: NoiseLevel, variance: Variance) -> float:
    """How far the bound lies above the entropy of N(0, STD²), in expectation, from the formulas alone."""
    zero = Denoised(torch.zeros(1, 1, 1, 1, dtype=torch.float64), torch.full((), 0.25, dtype=torch.float64))
    total = float(Prior(levels.at(0), 1.0).kl(torch.full((1, 1, 1, 1), STD)))
    last = len(levels.sigma) - 2
    for i in range(last + 1):
        t, s = levels.at(slice(i, i + 1)), levels.at(slice(i + 1, i + 2))
        _, on_x0, var = posterior(t, s)
        clipped = posterior(levels.at(slice(i - 1, i)), t).var if i == last else var
        reverse = variance(t, s, clipped, zero).flatten()
        miss = on_x0**2 * uncertainty(t)
        if i < last:
            total += float(0.5 * ((reverse / var).log() + (var + miss) / reverse - 1))
        else:
            total += float(0.5 * ((2 * math.pi * reverse).log() + miss / reverse))
    return total - ENTROPY


LINEAR = uniform_time_levels(SCHEDULES["linear"](), 1000)


@pytest.mark.parametrize(
    ("variance", "excess"), [(optimal, 0.0), (VARIANCES["posterior"], 0.456348), (VARIANCES["beta"], 0.001092)]
)
def test_the_formula_gives_the_published_excess(variance: Variance, excess: float) -> None:
    assert expected_excess(LINEAR, variance) == pytest.approx(excess, abs=1e-6)


@pytest.mark.parametrize("variance", [optimal, *VARIANCES.values()], ids=["optimal", *VARIANCES])
@pytest.mark.parametrize("nfe", [None, 40])
def test_the_bound_of_the_exact_denoiser_is_the_closed_form(variance: Variance, nfe: int | None) -> None:
    exact = gaussian(0.0, STD)

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(exact(x, level).x0, torch.full_like(x, 0.25))

    levels = uniform_time_levels(SCHEDULES["linear"](), 100) if nfe is None else LINEAR
    x0 = gaussian_data(600)
    bound = variational_bound(denoise, x0, levels, variance, density, picture_generators(0, range(600)), nfe)
    assert all(term.shape == (600,) for term in bound)
    # Against each picture's own log density, which takes most of the sampling noise away.
    own = 0.5 * (math.log(2 * math.pi * STD**2) + x0.square().flatten(1).mean(1) / STD**2)
    excess = bound.total - own
    error = float(excess.std()) / math.sqrt(600)
    assert error < 0.02
    assert abs(float(excess.mean()) - expected_excess(levels, variance)) < 3 * error


def test_looking_at_some_steps_is_unbiased_where_the_denoiser_is_bad() -> None:
    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        return Denoised(torch.zeros_like(x))

    x0 = gaussian_data(2000, shape=(1, 1, 1))
    levels = uniform_time_levels(SCHEDULES["cosine"](), 30)
    both = [
        variational_bound(denoise, x0, levels, VARIANCES["beta"], density, picture_generators(0, range(2000)), nfe)
        for nfe in (None, 5)
    ]
    # The last step takes every picture through its own noise again, so that only the steps are compared.
    difference = both[0].steps - both[1].steps
    assert float(difference.abs().max()) > 0
    assert abs(float(difference.mean())) < 3 * float(difference.std()) / math.sqrt(2000)


def test_a_picture_has_the_same_bound_in_any_batch() -> None:
    x0 = gaussian_data(6)
    args = (uniform_time_levels(SCHEDULES["linear"](), 50), VARIANCES["beta"], density)
    whole = variational_bound(gaussian(0.0, STD), x0, *args, picture_generators(3, range(6)), 10)
    part = variational_bound(gaussian(0.0, STD), x0[4:], *args, picture_generators(3, [4, 5]), 10)
    for a, b in zip(whole, part, strict=True):
        torch.testing.assert_close(a[4:], b)


@pytest.mark.parametrize("std", [1e-3, 0.02, 0.5, 3.0])
def test_the_discretised_decoder_is_a_probability(std: float) -> None:
    values = torch.arange(256, dtype=torch.float64).view(-1, 1, 1, 1) / 127.5 - 1
    for mean in (-1.3, -0.99, 0.004, 0.5, 1.0):
        nats = discretised(2 / 255)(values, torch.full_like(values, mean), torch.full_like(values, std**2))
        assert float(torch.exp(-nats).sum()) == pytest.approx(1, abs=1e-9)
        assert nats.isfinite().all()


def test_the_discretised_decoder_is_the_density_where_bins_are_narrow() -> None:
    x0, mean = gaussian_data(100) / 4, gaussian_data(100) / 5
    var = torch.full_like(x0, 0.04)
    torch.testing.assert_close(
        discretised(1e-3)(x0, mean, var), density(x0, mean, var) - math.log(1e-3), atol=1e-4, rtol=0
    )


def test_learned_variance_lies_between_its_ends() -> None:
    t, s = LINEAR.at(slice(500, 502)), LINEAR.at(slice(501, 503))
    var = posterior(t, s).var
    for mix, end in [(0.0, var), (1.0, transition(t, s).beta)]:
        estimate = Denoised(torch.zeros(2, 1, 1, 1, dtype=torch.float64), torch.full((2, 1, 1, 1), mix).double())
        torch.testing.assert_close(VARIANCES["learned"](t, s, var, estimate).flatten(), end)


@pytest.mark.parametrize(("schedule", "steps"), [("linear", 1000), ("cosine", 1000), ("flow", 500), ("karras", 300)])
@pytest.mark.parametrize("exact_trace", [True, False])
def test_ode_likelihood_is_the_gaussians_log_density(schedule: str, steps: int, exact_trace: bool) -> None:
    # The prior has mean 0 as the data has; what is left is the error of the method.
    x0 = gaussian_data(6, shape=(1, 2, 2))
    levels = uniform_time_levels(SCHEDULES[schedule](), steps)
    first = levels.at(int((levels.alpha > 0).nonzero()[0]))
    generators = None if exact_trace else picture_generators(0, range(6))
    found = ode_log_likelihood(gaussian(0.0, STD), x0, levels, generators, Prior(first, STD))
    expected = -0.5 * (math.log(2 * math.pi * STD**2) + x0.square().flatten(1).mean(1) / STD**2)
    torch.testing.assert_close(found, expected, atol=1e-3, rtol=0)


def test_hutchinsons_estimate_is_unbiased_and_the_trace_exact_for_a_correlated_gaussian() -> None:
    turn, _ = torch.linalg.qr(torch.randn(4, 4, generator=torch.Generator().manual_seed(1), dtype=torch.float64))
    cov = turn @ torch.tensor([0.04, 0.25, 0.5, 1.0], dtype=torch.float64).diag() @ turn.T

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        alpha, sigma = level
        eye = torch.eye(4, dtype=torch.float64)
        gain = alpha * cov @ torch.linalg.inv(alpha**2 * cov + sigma**2 * eye)
        return Denoised((x.flatten(1) @ gain.T).view_as(x))

    one = torch.tensor([0.3, -0.2, 0.5, 0.1], dtype=torch.float64).view(1, 1, 2, 2)
    levels = uniform_time_levels(SCHEDULES["cosine"](), 200)
    expected = float(torch.distributions.MultivariateNormal(torch.zeros(4).double(), cov).log_prob(one.flatten())) / 4
    exact = ode_log_likelihood(denoise, one, levels)
    assert float(exact) == pytest.approx(expected, abs=2e-3)
    estimates = ode_log_likelihood(denoise, one.expand(300, -1, -1, -1), levels, picture_generators(0, range(300)))
    error = float(estimates.std()) / math.sqrt(300)
    assert error > 0
    assert abs(float(estimates.mean()) - float(exact)) < 3 * error


def test_likelihood_marks_an_anomaly() -> None:
    x0 = torch.cat([gaussian_data(40), torch.full((1, 1, 4, 4), 1.5, dtype=torch.float64)])
    levels = uniform_time_levels(SCHEDULES["linear"](), 50)
    generators = picture_generators(0, range(41))
    bound = variational_bound(gaussian(0.0, STD), x0, levels, VARIANCES["beta"], density, generators)
    assert int(bound.total.argmax()) == 40
    assert int(ode_log_likelihood(gaussian(0.0, STD), x0, levels, generators).argmin()) == 40
    assert bound.total.isfinite().all()
