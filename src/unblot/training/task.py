"""What is learned in training: a task has the modules that learn, their batches, and their losses."""

from collections.abc import Mapping
from typing import Protocol

import torch
from torch import Tensor, nn

from unblot.config.schema import RunConfig, TrainConfig
from unblot.data.dataset import Dataset
from unblot.denoiser import Condition, Denoiser
from unblot.losses import OBJECTIVES, WEIGHTINGS, Objective, Weighting, bound_loss, training_loss
from unblot.nn.low_rank import additions
from unblot.process.schedules import Schedule
from unblot.runs.folder import build_denoiser
from unblot.specs import build
from unblot.system.device import available_device, mixed_precision
from unblot.system.distributed import Group
from unblot.text.layout import layout_loss
from unblot.training.batches import Batch, BatchMaker, training_schedule
from unblot.training.captions import remember_captions
from unblot.training.loss_by_time import ADAPTIVE, BALANCED, LossByTime
from unblot.vlb import Decoder, decoder_of, reverse_step


class Task(Protocol):
    """What `Trainer` needs to know of what is learned.

    denoiser: the model of the run. learners: every module that is trained, by name, each with an optimizer of its own.
    schedule: the noise level of each training time.
    """

    denoiser: Denoiser
    schedule: Schedule
    learners: Mapping[str, nn.Module]
    batches: BatchMaker

    def autocast(self) -> torch.autocast:
        """The context in which the networks compute."""

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch of a step as it is used, completed with what depends on the training so far; on the CPU."""

    def losses(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """The losses of each picture, by name, each (B,); their sum is made small.

        done: share of the run's steps taken so far. The first loss is the one that is logged. A learner whose name is
        missing is not trained at this step.
        """

    def measured(self, batch: Batch) -> Tensor:
        """The loss of each picture that is measured on held-out data, (B,)."""

    def learn(self, losses: Tensor, t: Tensor, bad: Tensor, group: Group) -> None:
        """Updates the task's state from this process's logged losses (B,) at times t (B,); skipped where `bad`."""

    def tensors(self) -> dict[str, Tensor]:
        """The state that a checkpoint must hold besides weights and optimizers, by name."""

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores the state that `tensors` gave."""


class DenoisingTask:
    """Ordinary training: the denoiser learns to denoise, by the objective, weighting and times of the run."""

    def __init__(self, config: RunConfig, dataset: Dataset):
        train = config.train
        self.device = available_device(train.device)
        self.precision = train.precision
        self.autocast()  # refuses what the device does not have
        denoiser = build_denoiser(config)
        denoiser.autoencoder = dataset.autoencoder
        self.denoiser = denoiser.to(self.device)
        remember_captions(self.denoiser, dataset)
        adapter = None if config.adapter is None else nn.ModuleList(additions(self.denoiser.network).values())
        self.learners: Mapping[str, nn.Module] = {"denoiser": self.denoiser if adapter is None else adapter}
        self.batches = BatchMaker(config, dataset, train.augment)
        self.schedule = training_schedule(train)
        self.objective = build(OBJECTIVES, train.objective, "objective")
        self.weighting = build(WEIGHTINGS, train.weighting, "weighting")
        self.decoder = decoder_of(self.batches.x0_dataset.values)
        self.by_time = _learned_by_time(train, self.device)

    def autocast(self) -> torch.autocast:
        """The context in which the network computes."""
        return mixed_precision(self.precision, self.device)

    def prepare(self, batch: Batch, step: int) -> Batch:
        """The batch with adaptive times or balanced losses, where the run has them.

        Not done when the batch is made: the prefetcher makes batches before the losses up to theirs are known.
        """
        return batch if self.by_time is None else self.by_time.prepare(batch, step)

    def losses(self, batch: Batch, done: float) -> dict[str, Tensor]:
        """The denoiser's loss at each picture's level, weighted by level, and that of a layout, each (B,)."""
        with self.autocast():
            condition = self.denoiser.encoded(batch.condition)
            losses = {"denoiser": self._denoising_loss(batch, condition)}
            if condition.layout is not None:
                losses["layout"] = layout_loss(condition.layout, batch.x0, self.denoiser.data_std)
            return losses

    def measured(self, batch: Batch) -> Tensor:
        """The loss of the objective, weighted by level, (B,)."""
        with self.autocast():
            return self._denoising_loss(batch)

    def _denoising_loss(self, batch: Batch, encoded: Condition | None = None) -> Tensor:
        known = self.schedule, self.objective, self.weighting, self.decoder
        return denoising_loss(self.denoiser, batch, *known, encoded)

    def learn(self, losses: Tensor, t: Tensor, bad: Tensor, group: Group) -> None:
        """Adaptive times and balanced losses learn from the losses."""
        if self.by_time is not None:
            self.by_time.learn(losses, t, bad, group)

    def tensors(self) -> dict[str, Tensor]:
        """What was learned of the loss by time."""
        return {} if self.by_time is None else self.by_time.tensors()

    def load(self, tensors: Mapping[str, Tensor]) -> None:
        """Restores what was learned of the loss by time."""
        if self.by_time is not None:
            self.by_time.load(tensors)


def _learned_by_time(train: TrainConfig, device: torch.device) -> LossByTime | None:
    """What learns from the loss by time, if anything; the bound alone (objective vlb) has no weights by level."""
    if train.times == "adaptive":
        return LossByTime(device, ADAPTIVE)
    squared_error = build(OBJECTIVES, train.objective, "objective").squared_error
    return LossByTime(device, BALANCED) if train.weighting == "balanced" and squared_error else None


def denoising_loss(
    denoiser: Denoiser,
    batch: Batch,
    schedule: Schedule,
    objective: Objective,
    weighting: Weighting,
    decoder: Decoder,
    encoded: Condition | None = None,
) -> Tensor:
    """The loss of an objective at the level of each picture, weighted by level, (B,).

    encoded: the condition of the batch, where its text is encoded already.
    """
    level = schedule(batch.t)
    weight, condition = weighting(level, denoiser), batch.condition if encoded is None else encoded
    if not objective.steps:
        return training_loss(denoiser, batch.x0, level, batch.eps, condition, weight, batch.augmentation)
    return bound_loss(
        denoiser,
        batch.x0,
        reverse_step(schedule, batch.t, objective.steps),
        batch.eps,
        objective,
        decoder,
        condition,
        weight,
        batch.augmentation,
    )
