"""The Gaussian algebra between noise levels: its identities, and figures derived here from the definitions alone."""

from fractions import Fraction

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from scipy import stats

from oracles import F64, level
from unblot.process.levels import (
    NoiseLevel,
    corrupt,
    eps_from_x0,
    log_noise_ratio,
    log_snr,
    norm,
    posterior,
    transition,
)
from unblot.process.prior import Prior
from unblot.process.schedules import SCHEDULES, linear

alphas = st.floats(0.01, 1.0)
ratios = st.floats(0.01, 100.0)  # sigma/alpha
falls = st.floats(0.01, 0.99)  # how sigma/alpha falls from one level to a cleaner one


def pair(alpha: float, ratio: float) -> NoiseLevel:
    return level(alpha, alpha * ratio)


def ddpm_alpha_bar(index: int) -> Fraction:
    """Ho et al.'s alpha_bar in exact arithmetic, from the text: betas from 1e-4 to 0.02 in 1000 equal steps."""
    product = Fraction(1)
    for i in range(index):
        product *= 1 - (Fraction(1, 10**4) + (Fraction(2, 100) - Fraction(1, 10**4)) * i / 999)
    return product


@pytest.mark.parametrize(("index", "figure"), [(1000, 4.035829765e-5), (500, 0.0785872429)])
def test_alpha_bar_of_ddpm(index: int, figure: float) -> None:
    exact = float(ddpm_alpha_bar(index))
    assert exact == pytest.approx(figure, rel=1e-9)
    assert float(linear()(torch.tensor([index / 1000])).alpha ** 2) == pytest.approx(exact, rel=1e-12)


def test_posterior_variance_at_index_2() -> None:
    beta_2 = 1 - ddpm_alpha_bar(2) / ddpm_alpha_bar(1)
    exact = float(beta_2 * (1 - ddpm_alpha_bar(1)) / (1 - ddpm_alpha_bar(2)))  # Ho et al., eq. 7
    assert exact == pytest.approx(5.4531877e-5, rel=1e-8)
    sequence = linear()(torch.tensor([0.001, 0.002], dtype=F64))
    assert float(posterior(sequence.at(1), sequence.at(0)).var) == pytest.approx(exact, rel=1e-10)


@pytest.mark.parametrize(("variance", "figure"), [("optimal", 0.0), ("posterior", 0.456348), ("beta", 0.001092)])
def test_bound_minus_entropy_for_normal_data(variance: str, figure: float) -> None:
    """Data N(0, ¼), exact posterior mean, T = 1000: what each reverse variance costs, in nats (docs: section 1)."""
    std, sequence = 0.5, linear()(torch.linspace(0, 1, 1001, dtype=F64))
    s, t = sequence.at(slice(0, -1)), sequence.at(slice(1, None))
    q = posterior(t, s)
    x0_error = (std * t.sigma / norm(t, std)) ** 2  # E[(x0 − x0_hat)²], the variance of x0 given x_t
    spread = q.var + q.on_x0**2 * x0_error  # E[(x_s − mean)²] given x_t: the variance that is right for normal data
    reverse = {"optimal": spread, "posterior": q.var, "beta": transition(t, s).beta}[variance].clone()
    if variance == "posterior":
        reverse[0] = transition(t, s).beta[0]  # the posterior's is 0 at the last step, which ends in the decoder
    kl = 0.5 * (spread / reverse - 1 - torch.log(q.var / reverse))
    decoder = 0.5 * (torch.log(2 * torch.pi * reverse[0]) + spread[0] / reverse[0])
    entropy = 0.5 * torch.log(torch.tensor(2 * torch.pi * torch.e * std**2, dtype=F64))
    excess = float(Prior(sequence.at(-1), 1.0).kl(torch.full((1, 1, 1, 1), std))) + kl[1:].sum() + decoder - entropy
    assert float(excess) == pytest.approx(figure, abs=6e-7)


@given(alphas, ratios, falls, falls)
def test_transitions_compose(alpha: float, ratio: float, fall: float, fall_again: float) -> None:
    t, r, s = pair(alpha, ratio), pair(alpha**0.5, ratio * fall), pair(alpha**0.3, ratio * fall * fall_again)
    one, two, whole = transition(r, s), transition(t, r), transition(t, s)
    assert float(two.r * one.r) == pytest.approx(float(whole.r), rel=1e-12)
    assert float(two.r**2 * one.beta + two.beta) == pytest.approx(float(whole.beta), rel=1e-9)


@given(alphas, ratios, falls)
def test_posterior_undoes_the_transition(alpha: float, ratio: float, fall: float) -> None:
    """q(x_s|x_t, x0)·q(x_t|x0) = q(x_t|x_s)·q(x_s|x0): mean, variance and covariance agree."""
    t, s = pair(alpha, ratio), pair(alpha**0.5, ratio * fall)
    (r, beta), q = transition(t, s), posterior(t, s)
    assert float(q.on_x_t * t.alpha + q.on_x0) == pytest.approx(float(s.alpha), rel=1e-9)
    assert float(q.on_x_t**2 * t.sigma**2 + q.var) == pytest.approx(float(s.sigma**2), rel=1e-9)
    assert float(q.on_x_t * t.sigma**2) == pytest.approx(float(r * s.sigma**2), rel=1e-9)
    assert float(1 / q.var) == pytest.approx(float(1 / s.sigma**2 + r**2 / beta), rel=1e-9)


@given(alphas, ratios)
def test_eps_and_log_snr_invert_what_they_are_made_from(alpha: float, ratio: float) -> None:
    t = pair(alpha, ratio)
    x0, eps = torch.tensor([[0.7]], dtype=F64), torch.tensor([[-1.2]], dtype=F64)
    assert float(eps_from_x0(corrupt(x0, t, eps), x0, t)) == pytest.approx(-1.2, rel=1e-9)
    assert float(log_snr(t).exp()) == pytest.approx(ratio**-2, rel=1e-9)
    assert float(log_noise_ratio(t).exp()) == pytest.approx(ratio, rel=1e-9)


def test_both_ends_are_finite_for_the_network() -> None:
    ends = NoiseLevel(torch.tensor([1.0, 0.0], dtype=F64), torch.tensor([0.0, 1.0], dtype=F64))
    assert log_snr(ends).tolist() == [float("inf"), float("-inf")]
    low, high = log_noise_ratio(ends).tolist()
    assert -high == low == pytest.approx(-0.5 * 9 * torch.log(torch.tensor(10.0, dtype=F64)).item())


def test_levels_of_a_batch_act_picture_by_picture() -> None:
    g = torch.Generator().manual_seed(0)
    x0, eps = torch.randn(3, 2, 4, 5, generator=g), torch.randn(3, 2, 4, 5, generator=g)
    sequence = linear()(torch.tensor([0.1, 0.5, 0.9], dtype=F64))
    together = corrupt(x0, sequence, eps)
    assert together.dtype == torch.float32
    for i in range(3):
        torch.testing.assert_close(together[i], corrupt(x0[i : i + 1], sequence.at(i), eps[i : i + 1])[0])


def test_a_step_between_near_levels_keeps_its_digits() -> None:
    """beta of two levels 1e-9 apart, against exact arithmetic; the naive difference of squares has lost it."""
    ratio, fall = Fraction(1), Fraction(1, 10**9)
    t, s = level(1.0, 1.0), level(1.0, float(1 - fall))
    exact = float(ratio - (1 - fall) ** 2)
    assert float(transition(t, s).beta) == pytest.approx(exact, rel=1e-6)


@pytest.mark.parametrize("name", SCHEDULES)
def test_forward_marginals(name: str) -> None:
    """Thirty noising steps, one after the other, have the distribution of the one step that training takes."""
    g = torch.Generator().manual_seed(1)
    sequence = SCHEDULES[name]()(torch.linspace(0, 1, 31, dtype=F64))
    x = torch.full((20_000,), 0.8, dtype=F64)
    for i in range(1, 31):
        r, beta = transition(sequence.at(i), sequence.at(i - 1))
        x = r * x + beta.sqrt() * torch.randn(len(x), generator=g, dtype=F64)
        if i in (5, 20, 30):
            here = sequence.at(i)
            p = stats.kstest(x.numpy(), stats.norm(0.8 * float(here.alpha), float(here.sigma)).cdf).pvalue
            assert p > 1e-3
