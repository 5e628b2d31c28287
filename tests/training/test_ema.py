"""Averages of weights: the shares that past steps have in them."""

import pytest
import torch

from unblot.runs.ema_profiles import power_exponent
from unblot.training.averages.ema import EMAS, Ema


def shares(spec: str, steps: int) -> torch.Tensor:
    """The share of each step 1 … steps in the average, read off by averaging one-hot weights."""
    module = torch.nn.Linear(steps, 1, bias=False).double()
    ema = Ema(module, spec)
    for step in range(1, steps + 1):
        module.weight.data = torch.nn.functional.one_hot(torch.tensor([step - 1]), steps).double()
        ema.update(module, step)
    return ema.weights["weight"][0]


@pytest.mark.parametrize("std", [0.02, 0.05, 0.1, 0.2])
def test_power_profile_has_the_width_it_is_named_for(std):
    """Karras et al. 2024: the profile's standard deviation is `std` of the run's length, whatever the length."""
    for steps in (500, 1000):
        share = shares(f"power:std={std}", steps)
        assert share.sum().item() == pytest.approx(1)
        t = torch.arange(1, steps + 1) / steps
        mean = (share * t).sum()
        assert ((share * (t - mean) ** 2).sum()).sqrt().item() == pytest.approx(std, rel=0.03)


def test_power_exponent_of_the_paper():
    """Karras et al. 2024, appendix C: gamma 6.94 and 16.97 for widths 0.10 and 0.05."""
    assert power_exponent(0.10) == pytest.approx(6.94, abs=0.01)
    assert power_exponent(0.05) == pytest.approx(16.97, abs=0.01)


@pytest.mark.parametrize("spec", [f"{name}" for name in EMAS])
def test_the_first_weights_leave_the_average(spec):
    assert shares(spec, 300)[0].item() < 0.05


def test_decay_is_exponential_after_its_warm_up():
    share = shares("decay:rate=0.9", 200)
    assert torch.allclose(share[150:199] / share[151:200], torch.tensor(0.9, dtype=torch.float64))
