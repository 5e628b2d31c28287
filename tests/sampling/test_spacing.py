"""Grids: what every entry promises on every schedule, and what the published ones say."""

import pytest
import torch

from oracles import F64
from unblot.errors import UnblotError
from unblot.process.schedules import SCHEDULES, flow, linear
from unblot.process.schedules import karras as karras_schedule
from unblot.sampling.spacing import (
    SPACINGS,
    karras,
    levels_at,
    listed,
    spec_of,
    trailing,
    uniform_log_snr,
    uniform_time,
)
from unblot.specs import build

MADE = {name: make() for name, make in SPACINGS.items() if name != "listed"}


@pytest.mark.parametrize("spacing", MADE.values(), ids=MADE)
@pytest.mark.parametrize("schedule", SCHEDULES)
@pytest.mark.parametrize("steps", [1, 2, 5, 50])
def test_every_spacing_falls_from_noise_to_the_picture(spacing, schedule: str, steps: int) -> None:
    levels = spacing(SCHEDULES[schedule](), steps)
    assert levels.sigma.shape == (steps + 1,)
    assert levels.sigma.dtype == F64
    assert (float(levels.alpha[-1]), float(levels.sigma[-1])) == (1, 0)
    assert bool(((levels.sigma / levels.alpha).diff() < 0).all())
    assert float(levels.sigma[0] / levels.alpha[0]) > 3


def test_karras_is_its_papers_time_steps() -> None:
    """Karras et al. 2022, eq. 5: N levels from sigma_max to sigma_min, then 0."""
    n, rho = 18, 7
    i = torch.arange(n, dtype=F64)
    t = (80 ** (1 / rho) + i / (n - 1) * (0.002 ** (1 / rho) - 80 ** (1 / rho))) ** rho
    levels = karras()(karras_schedule(), n)
    torch.testing.assert_close(levels.sigma[:-1], t, rtol=1e-6, atol=0)


@pytest.mark.parametrize("spacing", [karras(), uniform_log_snr()])
def test_levels_lie_on_the_schedule(spacing) -> None:
    """Of a variance-preserving schedule they preserve variance, of a straight one they lie on the line."""
    levels = spacing(linear(), 9)
    torch.testing.assert_close(levels.alpha**2 + levels.sigma**2, torch.ones(10, dtype=F64))
    levels = spacing(flow(), 9)
    torch.testing.assert_close(levels.alpha + levels.sigma, torch.ones(10, dtype=F64))


def test_log_snr_is_uniform() -> None:
    levels = uniform_log_snr(low=0.01, high=50)(flow(), 7)
    steps = (levels.sigma / levels.alpha)[:-1].log().diff()
    torch.testing.assert_close(steps, steps[0].expand(6))
    assert float((levels.sigma / levels.alpha)[0]) == pytest.approx(50)


def test_trailing_stands_on_whole_indices() -> None:
    levels, every = trailing()(linear(), 7), linear()(torch.arange(1001, dtype=F64) / 1000)
    positions = [1000, 857, 714, 571, 429, 286, 143, 0]
    torch.testing.assert_close(levels.sigma, every.sigma[positions], rtol=1e-12, atol=0)


def test_time_is_the_schedule_at_equal_times() -> None:
    levels = uniform_time()(flow(), 4)
    assert levels.sigma.tolist() == [1.0, 0.75, 0.5, 0.25, 0.0]


def test_levels_are_found_by_their_ratio() -> None:
    ratios = torch.tensor([1e6, 7.0, 0.3, 1e-6], dtype=F64)
    found = levels_at(linear(), ratios)
    assert (found.sigma / found.alpha)[1:3].tolist() == pytest.approx([7.0, 0.3], rel=1e-9)
    end = linear()(torch.ones(1, dtype=F64))
    assert float(found.sigma[0]) == float(end.sigma[0])


def test_a_listed_spacing_goes_through_a_spec_and_back() -> None:
    levels = karras()(linear(), 6)
    again = build(SPACINGS, spec_of(levels), "spacing")(linear(), 6)
    torch.testing.assert_close(again.sigma, levels.sigma, rtol=1e-5, atol=0)


@pytest.mark.parametrize(
    "make",
    [
        lambda: karras(rho=-1.0),
        lambda: karras(low=3.0, high=2.0),
        lambda: uniform_log_snr(low=0.0),
        lambda: listed(),
        lambda: listed(ratios="80/90"),
        lambda: listed(ratios="80/x"),
        lambda: listed(ratios="80/20")(linear(), 3),
        lambda: trailing()(linear(), 1001),
    ],
)
def test_what_is_wrong_is_said_in_one_line(make) -> None:
    with pytest.raises(UnblotError) as error:
        make()
    assert "\n" not in str(error.value)
