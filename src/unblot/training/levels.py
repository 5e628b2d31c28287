"""Whether the choices about noise levels go together: tried before a run, at the levels that it is going to visit."""

import dataclasses
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor, nn

from unblot.config.schema import TrainConfig
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg
from unblot.losses import OBJECTIVES, WEIGHTINGS
from unblot.process.levels import broadcast, norm
from unblot.sampling.batched import sampling_levels
from unblot.sampling.loop import sample
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build
from unblot.training.batches import DDPM_STEPS, Batch, training_schedule
from unblot.training.task import denoising_loss
from unblot.vlb import density

TIMES = 1000  # training times that are tried, where they are not DDPM's indices
CLOSEST = 1e-9  # to 0 and 1 that they come
UNRELATED: dict[str, Any] = {  # values in place of choices that a trial does not depend on, so that it serves them all
    **{"network": "", "budget": "", "seed": 0, "learning_rate": 0.0},
    **{"steps": 1, "batch_size": 1, "log_every": 1, "preview_every": 0, "checkpoint_every": 1, "held_out_every": 0},
}
OF_SAMPLING: dict[str, Any] = {"spacing": "", "solver": "", "sampling_steps": 1}
OF_TRAINING: dict[str, Any] = {"times": "", "weighting": ""}


class Zero(nn.Module):
    """A network whose output is 0, for pictures of one channel."""

    embeds = "log_noise_ratio"

    def __init__(self, outputs: int):
        super().__init__()
        self.outputs = outputs

    def forward(self, x: Tensor, noise: Tensor, label: Tensor | None) -> Tensor:
        return x.new_zeros(len(x), self.outputs, *x.shape[2:])


def check_levels(train: TrainConfig) -> None:
    """Raises UnblotError where a run of these choices would meet a loss, or samples, that are not finite numbers.

    schedule, parameterization, times, objective, weighting, spacing and solver are tried together, with a network whose
    output is 0.
    """
    train = dataclasses.replace(train, **UNRELATED)
    _check_training(train if train.times == "spacing" else dataclasses.replace(train, **OF_SAMPLING))
    _check_sampling(dataclasses.replace(train, **OF_TRAINING))


@lru_cache(maxsize=1024)  # a run with a budget is planned many times
def _check_training(train: TrainConfig) -> None:
    t = visited_times(train.times)
    losses = denoising_loss(
        _denoiser(train),
        Batch(_normal(len(t), 0), t, _normal(len(t), 1)),
        training_schedule(train),
        build(OBJECTIVES, train.objective, "objective"),
        build(WEIGHTINGS, train.weighting, "weighting"),
        density,
    )
    if not bool(losses.isfinite().all()):
        raise UnblotError(
            f"the loss is not finite at time {float(t[~losses.isfinite()][0]):.4g}: {_process(train)}, times "
            f"{train.times}, objective {train.objective} and weighting {train.weighting} do not go together; use "
            f"{arg('times', 'stratified')}, {arg('objective', 'simple')} or {arg('weighting', 'none')}"
        )


@lru_cache(maxsize=1024)
def _check_sampling(train: TrainConfig) -> None:
    levels = sampling_levels(train.schedule, train.spacing, train.sampling_steps)
    x_T = broadcast(norm(levels.at(0), train.data_std), _normal(1, 2)) * _normal(1, 2)
    solver = build(SOLVERS, train.solver, "solver")
    if not bool(sample(_denoiser(train), x_T, levels, solver, lambda: _normal(1, 3)).isfinite().all()):
        raise UnblotError(
            f"samples are not finite: {_process(train)}, spacing {train.spacing} and solver {train.solver} do not go "
            f"together; use {arg('spacing', 'karras')} or {arg('solver', 'euler')}"
        )


def _denoiser(train: TrainConfig) -> Denoiser:
    learned = build(OBJECTIVES, train.objective, "objective").learned_variance
    return Denoiser(Zero(2 if learned else 1), train.parameterization, train.data_std, learned_variance=learned)


def _process(train: TrainConfig) -> str:
    return f"schedule {train.schedule}, {train.parameterization}-prediction"


def visited_times(times: str) -> Tensor:
    """Training times (N,), float64, that stand for all that a run visits."""
    if times == "index":
        return torch.arange(1, DDPM_STEPS + 1, dtype=torch.float64) / DDPM_STEPS
    return torch.linspace(CLOSEST, 1 - CLOSEST, TIMES, dtype=torch.float64)


def _normal(n: int, seed: int) -> Tensor:
    return torch.randn(n, 1, 1, 1, generator=torch.Generator().manual_seed(seed))
