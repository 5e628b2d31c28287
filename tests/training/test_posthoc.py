"""Averages of any length from a few snapshots of two: their profiles' algebra, and what they rebuild."""

import pytest
import torch

from unblot import UnblotError
from unblot.runs.ema_profiles import Profile, combination, inner_products, power_exponent
from unblot.runs.snapshots import Snapshots
from unblot.training.averages import posthoc
from unblot.training.averages.ema import Ema

STEPS = 800
TRACKED = "power:std=0.05+power:std=0.1"


def density(profile: Profile, t: torch.Tensor) -> torch.Tensor:
    """The profile's definition."""
    shape = (profile.exponent + 1) / profile.step * (t / profile.step) ** profile.exponent
    return torch.where(t <= profile.step, shape, 0.0)


def kept(count: int = 8, stds: tuple[float, ...] = (0.05, 0.1)) -> list[Profile]:
    return [Profile(power_exponent(std), STEPS * (k + 1) / count) for k in range(count) for std in stds]


def test_inner_products_are_the_integrals():
    profiles = [Profile(6.94, 300.0), Profile(16.97, 800.0), Profile(2.0, 500.0)]
    t = torch.linspace(0, 800, 400_001, dtype=torch.float64)
    for i, a in enumerate(profiles):
        for j, b in enumerate(profiles):
            integral = float(torch.trapezoid(density(a, t) * density(b, t), t))
            assert float(inner_products(profiles, profiles)[i, j]) == pytest.approx(integral, rel=1e-4)


@pytest.mark.parametrize("index", [0, 7, 14, 15])
def test_a_tracked_average_is_rebuilt_as_itself(index):
    coefficients, error = combination(kept(), kept()[index])
    assert error < 1e-6
    assert torch.allclose(coefficients, torch.eye(16, dtype=torch.float64)[index], atol=1e-6)


def test_coefficients_add_up_to_1_and_more_snapshots_come_nearer():
    for std, bar in ((0.03, 0.11), (0.04, 0.04), (0.07, 0.02), (0.15, 0.04), (0.2, 0.08)):
        wanted = Profile(power_exponent(std), float(STEPS))
        found = [combination(kept(count), wanted) for count in (4, posthoc.COUNT, 16)]
        assert all(float(x.sum()) == pytest.approx(1, abs=1e-6) for x, _ in found)
        assert found[0][1] > found[1][1] > found[2][1]
        assert found[1][1] < bar


def test_the_error_is_that_of_the_profile_and_its_width_the_one_asked_for():
    t = torch.linspace(0, STEPS, 200_001, dtype=torch.float64)
    for std in (0.06, 0.08, 0.12):
        wanted = Profile(power_exponent(std), float(STEPS))
        coefficients, error = combination(kept(), wanted)
        made = sum(c * density(p, t) for c, p in zip(coefficients, kept(), strict=True))
        square = torch.trapezoid((made - density(wanted, t)) ** 2, t) / torch.trapezoid(density(wanted, t) ** 2, t)
        assert float(square.sqrt()) == pytest.approx(error, rel=0.02)
        mean = torch.trapezoid(made * t, t)
        width = torch.trapezoid(made * (t - mean) ** 2, t).sqrt() / STEPS
        assert float(width) == pytest.approx(std, rel=0.03)


NOISE, SIZE = 0.3, 2000


def drift(t: torch.Tensor) -> torch.Tensor:
    """How far the weights still are from where they go, at the share t of the run: a fast approach and a slow one."""
    return 0.5 ** (20 * t) + 0.2 * (1 - t)


@pytest.fixture(scope="module")
def walked(tmp_path_factory):
    """A run whose weights go a known way with noise on it: its folder, its averages, and others tracked beside."""
    run = tmp_path_factory.mktemp("run")
    module = torch.nn.Linear(SIZE, 1, bias=False)
    ema, others = Ema(module, TRACKED), {std: Ema(module, f"power:std={std}") for std in (0.03, 0.07, 0.15)}
    g = torch.Generator().manual_seed(0)
    start, end = torch.randn(2, 1, SIZE, generator=g)
    for step in range(1, STEPS + 1):
        noise = NOISE * torch.randn(1, SIZE, generator=g)
        module.weight.data = end + (start - end) * drift(torch.tensor(step / STEPS)) + noise
        for average in (ema, *others.values()):
            average.update(module, step)
        if posthoc.due(step, STEPS):
            posthoc.keep(run, step, STEPS, ema)
    return run, ema, others


def test_rebuilt_averages_are_as_near_to_tracked_ones_as_their_profiles_are(walked):
    run, ema, others = walked
    snapshots = Snapshots(run)
    assert (snapshots.step, len(snapshots.kept)) == (STEPS, 2 * posthoc.COUNT)
    t = torch.arange(1, STEPS + 1, dtype=torch.float64)
    for std, other in others.items():
        wanted = Profile(power_exponent(std), float(STEPS))
        coefficients, _ = combination(kept(), wanted)
        shares = [density(p, t - 0.5) for p in (wanted, *kept())]
        off = sum(c * share for c, share in zip(coefficients, shares[1:], strict=True)) - shares[0]
        noise, bias = NOISE * off.square().sum().sqrt(), 2**0.5 * (off * drift(t / STEPS)).sum()
        rounding = 2**-10 / 12**0.5 / 1.5 * coefficients[:-2].square().sum().sqrt()  # in 16 bits, but for the last
        expected = float(noise.square() + bias.square() + rounding.square()) ** 0.5
        found = snapshots.weights(std)["weight"] - other.weights["weight"]
        assert float(found.square().mean().sqrt()) == pytest.approx(expected, rel=0.1), std
        assert expected < 0.3 * float((ema.weights["weight"] - other.weights["weight"]).square().mean().sqrt())


def test_tracked_lengths_come_back_to_the_last_bit(walked):
    run, ema, _ = walked
    for std, average in zip((0.05, 0.1), ema.averages, strict=True):
        assert torch.equal(Snapshots(run).weights(std)["weight"], average["weight"])


def test_snapshots_of_steps_that_are_taken_again_go(walked, tmp_path):
    import shutil

    run = shutil.copytree(walked[0], tmp_path / "run")
    posthoc.forget_after(run, 450)
    assert posthoc.steps_kept(run) == [100, 200, 300, 400]


def test_a_run_without_snapshots_and_a_length_that_cannot_be_are_one_line(walked, tmp_path):
    with pytest.raises(UnblotError, match="no snapshots"):
        Snapshots(tmp_path)
    with pytest.raises(UnblotError, match=r"0\.28"):
        Snapshots(walked[0]).weights(0.3)
