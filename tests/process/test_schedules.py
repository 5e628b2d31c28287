"""What every schedule promises, and what the published ones say."""

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from oracles import F64
from unblot.errors import UnblotError
from unblot.process.levels import log_snr
from unblot.process.schedules import (
    SCHEDULES,
    cosine,
    ddpm_index,
    edm,
    flow,
    from_betas,
    karras,
    linear,
    rescaled_index,
    schedule_index,
    uniform_time_levels,
    zero_terminal_snr,
)
from unblot.specs import build, options_of

every = pytest.mark.parametrize("schedule", [make() for make in SCHEDULES.values()], ids=list(SCHEDULES))


@every
def test_ends_and_kind(schedule) -> None:
    sequence = schedule(torch.tensor([0.0, 1.0]))
    assert (float(sequence.alpha[0]), float(sequence.sigma[0])) == (1, 0)
    assert sequence.alpha.dtype == sequence.sigma.dtype == F64
    assert float(sequence.sigma[1]) > 3 * float(sequence.alpha[1])  # hardly a picture any more


@every
@given(st.floats(1e-9, 1 - 1e-9), st.floats(1e-7, 1))
def test_signal_to_noise_falls_strictly(schedule, t: float, step: float) -> None:
    sequence = schedule(torch.tensor([t, min(1.0, t + step)], dtype=F64))
    assert float(log_snr(sequence).diff()) < 0
    assert bool(((sequence.alpha >= 0) & (sequence.alpha <= 1) & (sequence.sigma > 0)).all())


@every
@pytest.mark.parametrize("steps", [1, 2, 7])
def test_sampling_levels_run_from_noise_to_the_picture(schedule, steps: int) -> None:
    sequence = uniform_time_levels(schedule, steps)
    assert sequence.sigma.shape == (steps + 1,)
    assert (float(sequence.alpha[-1]), float(sequence.sigma[-1])) == (1, 0)
    assert bool(((sequence.sigma / sequence.alpha).diff() < 0).all())


def test_linear_stands_on_ddpms_indices() -> None:
    betas = torch.linspace(1e-4, 0.02, 1000, dtype=F64)
    sequence = linear()(torch.arange(1, 1001, dtype=F64) / 1000)
    torch.testing.assert_close(sequence.alpha**2, (1 - betas).cumprod(0), rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(sequence.sigma**2, 1 - (1 - betas).cumprod(0), rtol=1e-10, atol=1e-12)


def test_between_the_indices_log_alpha_bar_is_a_straight_line() -> None:
    log_alpha = linear()(torch.tensor([0.5, 0.50025, 0.501], dtype=F64)).alpha.log()
    assert float(log_alpha[1]) == pytest.approx(0.75 * float(log_alpha[0]) + 0.25 * float(log_alpha[2]), rel=1e-12)


def test_cosine_follows_its_formula_until_beta_is_held() -> None:
    t = torch.tensor([0.1, 0.5, 0.9], dtype=F64)
    f = torch.cos((t + 0.008) / 1.008 * torch.pi / 2) ** 2
    f0 = torch.cos(torch.tensor(0.008 / 1.008 * torch.pi / 2, dtype=F64)) ** 2
    torch.testing.assert_close(cosine()(t).alpha ** 2, f / f0)


def test_zero_terminal_snr() -> None:
    sequence = zero_terminal_snr(linear())(torch.linspace(0, 1, 1001, dtype=F64))
    assert (float(sequence.alpha[-1]), float(sequence.sigma[-1])) == (0, 1)
    torch.testing.assert_close(sequence.alpha**2 + sequence.sigma**2, torch.ones(1001, dtype=F64))
    # Lin et al. 2024, algorithm 1, on the table of sqrt(alpha_bar), which holds the first entry where it was
    root = (1 - torch.linspace(1e-4, 0.02, 1000, dtype=F64)).cumprod(0).sqrt()
    theirs = (root - root[-1]) * root[0] / (root[0] - root[-1])
    assert float((theirs - sequence.alpha[1:]).abs().max()) < 1e-6


def test_edm_is_log_normal() -> None:
    t = (torch.arange(10_000, dtype=F64) + 0.5) / 10_000
    log_sigma = edm()(t).sigma.log()
    assert float(log_sigma.mean()) == pytest.approx(-1.2, abs=1e-3)
    assert float(log_sigma.std()) == pytest.approx(1.2, abs=1e-2)


def test_karras_is_rho_spaced() -> None:
    sigma = karras()(torch.tensor([1.0, 0.5, 1e-15], dtype=F64)).sigma
    assert sigma.tolist() == pytest.approx([80, ((80 ** (1 / 7) + 0.002 ** (1 / 7)) / 2) ** 7, 0.002], rel=1e-9)


@given(st.floats(0.1, 10), st.floats(0.01, 0.99))
def test_shifting_flow_scales_the_noise_ratio(shift: float, t: float) -> None:
    plain, shifted = (flow(shift=s)(torch.tensor([t], dtype=F64)) for s in (1.0, shift))
    assert float(shifted.sigma / shifted.alpha) == pytest.approx(shift * float(plain.sigma / plain.alpha), rel=1e-9)


@given(st.floats(1e-9, 1e9), st.floats(0, 1))
def test_flow_ends_exactly_on_noise_whatever_its_shift(shift: float, t: float) -> None:
    sequence = flow(shift=shift)(torch.tensor([0.0, t, 1.0], dtype=F64))
    assert (sequence.alpha[[0, 2]].tolist(), sequence.sigma[[0, 2]].tolist()) == ([1, 0], [0, 1])
    assert 0 <= float(sequence.alpha[1]) <= 1


@pytest.mark.parametrize("steps", [1, 2, 7, 1000])
@pytest.mark.parametrize("name", [name for name, made in SCHEDULES.items() if "steps" in options_of(made)])
def test_the_index_of_each_level_of_a_table(name: str, steps: int) -> None:
    spec = f"{name}:steps={steps}" + (",beta_end=0.5" if "linear" in name else "")  # short tables reach noise too
    schedule = build(SCHEDULES, spec, "schedule")
    index = schedule_index(spec)(schedule(torch.arange(1, steps + 1, dtype=F64) / steps))
    assert index.tolist() == list(range(steps))
    between = schedule_index(spec)(schedule(torch.linspace(0, 1, 50, dtype=F64)))
    assert bool((between.diff() >= 0).all())


def test_the_index_in_thousandths_of_a_table() -> None:
    levels = SCHEDULES["cosine"](steps=4000)(torch.tensor([1 / 4000, 0.5, 1.0], dtype=F64))
    assert rescaled_index("cosine:steps=4000")(levels).tolist() == pytest.approx([0, 499.75, 999.75])


def test_a_schedule_without_a_table_has_no_indices() -> None:
    with pytest.raises(UnblotError, match="'flow' has no indices to embed; choose one of linear, scaled_linear"):
        schedule_index("flow:shift=2")


def test_ddpm_index() -> None:
    index = ddpm_index(linear()(torch.arange(1, 1001, dtype=F64) / 1000))
    torch.testing.assert_close(index, torch.arange(1000, dtype=F64), atol=1e-7, rtol=0)
    outside = karras(sigma_min=1e-4, sigma_max=1e4)(torch.tensor([0, 1e-9, 1.0], dtype=F64))
    assert ddpm_index(outside).tolist() == [0, 0, 999]


def test_a_level_of_no_batch_has_an_index_too() -> None:
    assert float(ddpm_index(linear()(torch.tensor([0.5])).at(0))) == pytest.approx(499, abs=1e-7)


@pytest.mark.parametrize(
    "make",
    [
        lambda: from_betas(torch.tensor([])),
        lambda: linear(beta_end=1.5),
        lambda: karras(sigma_min=2.0, sigma_max=1.0),
        lambda: karras(rho=0.0),
        lambda: edm(std=0.0),
        lambda: flow(shift=-1.0),
    ],
)
def test_impossible_options_are_refused(make) -> None:
    with pytest.raises(UnblotError, match="needs"):
        make()
