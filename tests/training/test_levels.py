"""Which choices about noise levels go together: what a plan accepts has finite losses and samples, all the way."""

import contextlib
import dataclasses
import itertools

import pytest
import torch

from unblot import UnblotError, api
from unblot.config.schema import TrainConfig
from unblot.denoiser import Denoiser
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.schedules import SCHEDULES
from unblot.sampling.batched import sample_batches
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build
from unblot.training.batches import TIMES, Batch, BatchSampler, training_schedule
from unblot.training.levels import check_levels
from unblot.training.task import denoising_loss
from unblot.vlb import density

OPTIONS = {"listed": "listed:ratios=50/5/1/0.2"}
CHOICES = TrainConfig(
    **{"network": "", "parameterization": "edm", "schedule": "edm", "times": "stratified", "weighting": "none"},
    **{"data_std": 0.5, "steps": 10, "batch_size": 8, "learning_rate": 1e-3, "warmup": 0.0, "decay": "none"},
    **{"ema": "power", "spacing": "karras", "solver": "euler", "sampling_steps": 4, "preview_every": 0},
    **{"checkpoint_every": 10, "clusters": 0, "optimizer": "adamw"},
)


class Net(torch.nn.Module):
    """A smooth network of one channel with a nonzero output."""

    embeds = "log_noise_ratio"

    def __init__(self, outputs):
        super().__init__()
        self.outputs = outputs
        self.weight = torch.nn.Parameter(torch.ones(()))

    def forward(self, x, noise, label):
        return torch.tanh(self.weight * x + 0.1 * noise.view(-1, 1, 1, 1)).expand(-1, self.outputs, -1, -1)


def accepted(**choices):
    train = dataclasses.replace(CHOICES, **choices)
    with contextlib.suppress(UnblotError):
        check_levels(train)
        return train
    return None


def denoiser_of(train):
    learned = build(OBJECTIVES, train.objective, "objective").learned_variance
    return Denoiser(Net(2 if learned else 1), train.parameterization, train.data_std, learned_variance=learned)


def losses_of(train):
    """The losses at the times that a run draws in its first two steps of 512, and their gradient."""
    sampler = BatchSampler(0, 512, 512, (1, 1, 1), train.times, 0.0)
    draws, denoiser = [sampler.at(step) for step in range(2)], denoiser_of(train)
    t, eps = (torch.cat([getattr(d, name) for d in draws]) for name in ("t", "eps"))
    batch = Batch(train.data_std * torch.randn(len(t), 1, 1, 1), t, eps)
    tables = {"objective": OBJECTIVES, "weighting": WEIGHTINGS}
    objective, weighting = (build(table, getattr(train, name), name) for name, table in tables.items())
    losses = denoising_loss(denoiser, batch, training_schedule(train), objective, weighting, density)
    losses.mean().backward()
    return torch.cat([losses.detach(), denoiser.network.weight.grad.view(1)])


def samples_of(train):
    names = ("schedule", "spacing", "solver")
    how = {name: getattr(train, name) for name in names}
    return next(sample_batches(denoiser_of(train), (1, 1, 1), range(2), steps=train.sampling_steps, **how))


@pytest.mark.parametrize("schedule", SCHEDULES)
def test_what_is_accepted_has_finite_losses_and_samples_over_the_whole_product(schedule):
    count = 0
    product = itertools.product(PARAMETERIZATIONS, TIMES, OBJECTIVES, SPACINGS)
    for parameterization, times, objective, spacing in product:
        named = {"parameterization": parameterization, "times": times, "objective": objective}
        train = accepted(schedule=schedule, **named, spacing=OPTIONS.get(spacing, spacing))
        if train is None:
            continue
        count += 1
        if times == "spacing" or spacing == "karras":  # else the losses do not depend on the spacing
            assert losses_of(train).isfinite().all(), train
        if times == "stratified":  # nor the samples on the times
            assert samples_of(train).isfinite().all(), train
    assert count > 50


def test_sensible_combinations_are_accepted():
    for schedule, parameterization in itertools.product(SCHEDULES, ("v", "x0", "edm", "flow")):
        assert accepted(schedule=schedule, parameterization=parameterization)
    assert accepted(schedule="linear", parameterization="eps", times="index", spacing="time", solver="ddpm")
    assert accepted(schedule="linear", objective="hybrid", solver="ddpm:variance=learned", parameterization="eps")


@pytest.mark.parametrize("times", ["index", "stratified"])
def test_eps_prediction_of_pure_noise_is_refused_where_training_or_sampling_visits_it(times):
    choices = {"network": "mlp:width=16", "schedule": "linear_zero_snr", "parameterization": "eps", "times": times}
    with pytest.raises(UnblotError, match="eps-prediction needs alpha > 0"):
        api.plan_run(api.DataConfig(data="digits"), api.open_data("digits"), {**choices, "spacing": "time"})


def test_a_bound_over_levels_that_do_not_change_is_refused():
    assert accepted(objective="hybrid", times="spacing") is None
    assert accepted(solver="ddpm:variance=learned") is None
