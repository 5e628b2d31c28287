"""The best EMA std for a trained run: each candidate is rebuilt from the run's snapshots and measured."""

import dataclasses
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unblot.config.measuring import EmaConfig
from unblot.config.sampling import SampleConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError, arg, note, typed
from unblot.evaluation.features import default_features
from unblot.evaluation.learning import loss_by_level
from unblot.evaluation.parts import feature_data
from unblot.losses import WEIGHTINGS
from unblot.nn.low_rank import additions
from unblot.process.randomness import OF_EMA
from unblot.process.schedules import SCHEDULES
from unblot.runs.adapter import save_adapter
from unblot.runs.choosing import untuned_sampler
from unblot.runs.conditions import as_trained, needs_clusters
from unblot.runs.folder import MODEL, read_config, save_model
from unblot.runs.run import Run
from unblot.runs.snapshots import EmaCandidate, Snapshots, steps_kept
from unblot.specs import build, several
from unblot.system.folders import locked
from unblot.training.averages.ema import power_std
from unblot.training.checkpoint import newest_state
from unblot.tuning.reference import reference_of

EMA_STDS = (0.03, 0.04, 0.05, 0.06, 0.08, 0.1, 0.12, 0.15, 0.2)
"""Candidates. Eight snapshots of 0.05 and 0.1 rebuild the profiles from 0.04 to 0.15 to 3 %, the outer ones to 10 %."""

Judge = Callable[[], float]
"""The loss or the distance of a run with its present weights."""


def snapshots_of(path: Path) -> Snapshots:
    """The snapshots of a run; notes where the newest is of another step than the newest checkpoint.

    Raises UnblotError where there are none.
    """
    step = newest_state(path).get("step")
    going_on = f"go on with it by unblot train --resume {typed(path)}"
    if step is not None and not steps_kept(path):
        train = read_config(path).train
        if step < train.steps and any(map(power_std, several(train.ema))):
            raise UnblotError(f"run {str(path)!r} was stopped after step {step}, before its first snapshot; {going_on}")
    snapshots = Snapshots(path)
    if step is not None and step != snapshots.step:
        note(
            f"run {str(path)!r} has a checkpoint of step {step}, and its newest snapshot is of step {snapshots.step}: "
            f"the average is that of step {snapshots.step}; for one of all steps {going_on}"
        )
    return snapshots


def best_std(
    run: Run,
    dataset: Dataset,
    snapshots: Snapshots,
    choices: EmaConfig,
    cache: Path,
    report: Callable[[EmaCandidate], None],
) -> float:
    """The EMA std of EMA_STDS with the lowest loss or distance; `report` gets each. Changes the run's weights.

    Raises UnblotError for an unknown criterion, and for a loss where the run was distilled, needs
    clusters, or has no held-out pictures.
    """
    if choices.by not in ("loss", "distance"):
        raise UnblotError(f"unknown criterion {choices.by!r}; give {arg('by', 'loss')} or {arg('by', 'distance')}")
    config, by_loss = run.config, choices.by == "loss"
    if by_loss and config.distill is not None:
        raise UnblotError(
            f"this run was distilled and knows few noise levels, so that {arg('by', 'loss')}, of all levels, takes the "
            f"average that learned least; give {arg('by', 'distance')}"
        )
    if by_loss and needs_clusters(config):
        raise UnblotError(
            f"this run never saw pictures without a cluster, and held-out pictures are measured without one; give "
            f"{arg('by', 'distance')}"
        )
    judge = held_out_loss(run, dataset, choices) if by_loss else distance(run, dataset, choices, cache)
    rows = []
    for std in EMA_STDS:
        load_average(run.denoiser, snapshots.weights(std))
        rows.append(EmaCandidate(std, judge(), snapshots.error(std)))
        report(rows[-1])
    return min(rows, key=lambda row: row.metric).std


@torch.no_grad()
def load_average(denoiser: Denoiser, weights: Mapping[str, Tensor]) -> None:
    """Copies the weights into the denoiser; of one with an adapter those of that alone, which are all it learned."""
    learned = {id(p) for addition in additions(denoiser.network).values() for p in addition.parameters()}
    for name, parameter in denoiser.named_parameters():
        if not learned or id(parameter) in learned:
            parameter.copy_(weights[name])


def save_average(run: Run, std: float) -> None:
    """Writes a run whose denoiser has the average of an EMA std: its model, and its adapter where it trained one."""
    config = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, ema=f"power:std={std}"))
    with locked(run.path):
        save_model(run.path / MODEL, config, run.denoiser.state_dict())
        if config.adapter is not None:
            save_adapter(run)


def held_out_loss(run: Run, dataset: Dataset, choices: EmaConfig) -> Judge:
    """The held-out loss, on the same pictures, noise levels and noise in each call.

    The levels and noise are not those of `evaluate`; nor are the pictures where many are held out.
    """
    if not len(dataset.held_out):
        raise UnblotError(f"this run has no held-out pictures to measure a loss on; give {arg('by', 'distance')}")

    schedule = build(SCHEDULES, run.config.train.schedule, "schedule")
    weighting = build(WEIGHTINGS, run.config.train.weighting, "weighting")
    same = {"seed": OF_EMA + choices.seed, "batch_size": choices.batch_size}

    def judge() -> float:
        found = loss_by_level(run.denoiser, dataset, schedule, weighting, **same)
        return sum(part.held_out for part in found.bins) / len(found.bins)

    return judge


def distance(run: Run, dataset: Dataset, choices: EmaConfig, cache: Path) -> Judge:
    """The distance of samples of the run to real pictures, with the same seeds, labels and texts in each call.

    They are drawn with the run's own sampler and the usual guidance, since what tuning found holds for other weights,
    and are not samples of `evaluate`.
    """
    reference = reference_of(dataset, default_features(feature_data(dataset)), cache / "features")
    shown = as_trained(run.config.data, dataset, OF_EMA + choices.seed, choices.n)
    drawn = SampleConfig(n=choices.n, **shown, seed=choices.seed, batch_size=choices.batch_size)
    sampler, numbers = untuned_sampler(run.config, drawn), range(OF_EMA, OF_EMA + choices.n)
    return lambda: reference.distance(reference.see(run.sample_with(sampler, drawn, numbers)))
