"""A trained run, and sampling from it."""

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from unblot.config.choices import from_choices
from unblot.config.sampling import SampleConfig
from unblot.config.schema import RunConfig
from unblot.data.values import ValueMap
from unblot.denoiser import Condition, Denoiser
from unblot.errors import UnblotError, arg
from unblot.process.schedules import SCHEDULES
from unblot.runs.autoguide import weaker_model
from unblot.runs.choosing import sampler_of
from unblot.runs.conditions import conditions, note_on_turns, towards
from unblot.runs.folder import load_model
from unblot.runs.hub import local_run
from unblot.runs.samples import Samples, provenance
from unblot.sampling.batched import SamplingBatch, split_batches
from unblot.sampling.guidance import Guidance
from unblot.sampling.loop import Progress, sample
from unblot.sampling.settings import SamplerConfig
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build, several
from unblot.system.device import available_device, precision_of
from unblot.system.folders import user_path


@dataclass(frozen=True)
class Run:
    """A trained model: the folder it is in, its configuration, and the denoiser.

    adapters: what was added to the weights of the folder, in words. interrupted: of the run that a training returns,
    whether that was stopped before its end.
    """

    path: Path
    config: RunConfig
    denoiser: Denoiser
    adapters: tuple[str, ...] = ()
    interrupted: bool = False

    @property
    def device(self) -> torch.device:
        """The device of the denoiser, on which samples are computed."""
        return next(self.denoiser.parameters()).device

    @property
    def added(self) -> dict[str, Any]:
        """What the provenance of files says of the adapters; without adapters nothing."""
        return {"adapters": [*self.adapters]} if self.adapters else {}

    def sample(
        self, n: int = 16, *, first: int = 0, on_step: Callable[[Progress], None] | None = None, **choices: Any
    ) -> Samples:
        """n samples, numbered from `first`. Sample i is a function of (seed, i), label, prompt and the other choices.

        choices, the fields of `SampleConfig`:

        - seed: 0 by default. batch_size: samples computed together, 64; it changes none of them.
        - label: a class by name or index, several that take turns, or "all". By default, without a prompt, each class
          or cluster as often as it comes in the data; with one no label, if the model saw pictures without.
        - prompt: a text, or several that take turns, for a run that learned from captions. By default no text.
        - steps, solver, spacing: specs as in docs/sampling.md. nfe: the most network calls per sample. quality: draft,
          good or best, of a tuned run. By default what tuning found (good), else what the run was trained with.
        - guidance: a scale, or several that take turns; 1 is none. guidance_low, guidance_high: the interval of
          sigma/alpha in which it acts. guidance_rescale: in [0, 1]. autoguide: a run, a model file or a snapshot of
          this run, the weaker model of autoguidance. By default 2 with a prompt; without one what tuning found, but
          not of a run of captions; else 1.5 with a label or clusters, in latents 2; else none. negative: a text to
          guide away from, instead of from no text.
        - threshold: none, static or dynamic.

        on_step: called with a `Progress` after each step of each batch. Raises UnblotError for an unknown choice and
        for a value that this run cannot use.
        """
        config = from_choices(SampleConfig, {"n": n, **choices}, without=["device"])
        note_on_turns(config.prompt, n)
        return self.sample_with(self.sampler(config), config, range(first, first + n), on_step)

    def sample_with(
        self,
        sampler: SamplerConfig,
        config: SampleConfig,
        indices: Sequence[int],
        on_step: Callable[[Progress], None] | None = None,
    ) -> Samples:
        """The samples numbered `indices`, with this sampler; solver, steps and guidance in `config` are not used.

        Raises UnblotError for values that this run cannot use, and for samples that are not finite.
        """
        data = self.config.data
        chosen, prompts, condition = conditions(self.denoiser, self.config, config, indices)
        guidance = self.guidance(
            sampler, condition, indices, config.guidance_rescale, config.threshold, config.negative
        )
        train, values = self.config.train, ValueMap.from_dict(data.values)
        batches = split_batches(
            self.denoiser,
            self.config.shape,
            indices,
            sampler.levels(build(SCHEDULES, train.schedule, "schedule")),
            build(SOLVERS, sampler.solver, "solver"),
            seed=config.seed,
            condition=condition,
            guidance=guidance,
            batch_size=config.batch_size,
        )
        array = np.empty((len(indices), *data.shape), values.dtype)  # all samples once, however many batches
        for batch in batches:
            array[batch.part] = values.decode(self.drawn(batch, on_step))
        about = provenance_of(self, sampler, config)
        return Samples(array, chosen, data, indices, about, prompts)

    def drawn(self, batch: SamplingBatch, on_step: Callable[[Progress], None] | None = None) -> np.ndarray:
        """The pictures (B, C, H, W) of a batch, in the network's range; on a GPU in the precision of the training."""
        with precision_of(self.config.train.precision, self.device):
            x0 = sample(batch.denoise, batch.x_T(), batch.levels, batch.solver, batch.noise, on_step)
        return self.pictures(x0).cpu().numpy()

    def pictures(self, x0: Tensor) -> Tensor:
        """The pictures (B, C, H, W) in the network's range that an x0 of the denoiser stands for."""
        return self.denoiser.pictures(x0, self.config.data.shape[1:])

    def need_denoiser(self, what: str) -> None:
        """Raises UnblotError for a distilled run, which knows its own noise levels alone and cannot do `what`."""
        if self.config.distill is not None:
            raise UnblotError(
                f"{what} needs a denoiser of every noise level, and this run was distilled; use its teacher, "
                f"{self.config.distill.teacher!r}"
            )

    def sampler(self, config: SampleConfig) -> SamplerConfig:
        """The sampler that these choices lead to, see `sampler_of`."""
        return sampler_of(self.path, self.config, self.denoiser, config)

    def guidance(
        self,
        sampler: SamplerConfig,
        condition: Condition,
        indices: Sequence[int],
        rescale: float = 0.0,
        threshold: str = "none",
        negative: str | None = None,
    ) -> Guidance:
        """The guidance of the samples numbered `indices`, of this condition.

        Raises UnblotError where this run cannot have it.
        """
        scale = sampler.guidance
        weak = None
        if sampler.autoguide is not None:
            weak = self.weaker_model(sampler.autoguide)
        if scale != 1 and weak is None and condition.is_empty:
            raise UnblotError(f"{arg('guidance', scale)} guides towards {towards(self.config.data)}")
        if negative and (scale == 1 or weak is not None):
            raise UnblotError(
                f"{arg('negative', negative)} needs a guidance to lead away from it; give {arg('guidance', 2.0)} or "
                f"another scale, and no {arg('autoguide')}"
            )
        if scale != 1 and weak is None and not self._knows_no_label():
            raise UnblotError(
                f"{arg('guidance', scale)} needs a model that was also trained without labels, and this one had "
                f"{arg('label_dropout', 0.0)}; guide with {arg('autoguide')}, or train with "
                f"{arg('label_dropout', 0.15)}"
            )
        if scale == 1 and weak is not None:
            raise UnblotError(f"autoguidance with scale 1 changes nothing; give {arg('guidance', 1.5)} or more")
        if threshold != "none":
            self.config.need_pixels(arg("threshold", threshold))
        if threshold != "none" and not ValueMap.from_dict(self.config.data.values).bounded:
            raise UnblotError(
                f"{arg('threshold', threshold)} needs data with limits; this run's data are unbounded floats"
            )
        scales = scale if isinstance(scale, int | float) else torch.tensor([scale[i % len(scale)] for i in indices])
        high = math.inf if sampler.guidance_high is None else sampler.guidance_high
        return Guidance(scales, rescale, sampler.guidance_low, high, weak, negative or "", threshold)

    def weaker_model(self, path: str) -> Denoiser:
        """The model that autoguidance leads away from, on the run's device, see `autoguide.weaker_model`."""
        return weaker_model(path, self.path, self.config, self.denoiser.autoencoder).to(self.device)

    def _knows_no_label(self) -> bool:
        """Whether the model was trained without a label too, as classifier-free guidance needs."""
        return self.config.train.label_dropout > 0


def provenance_of(run: Run, sampler: SamplerConfig, config: SampleConfig) -> dict[str, Any]:
    """What is written into the files of a run's samples: the run and its adapters, the sampler, the seed."""
    train = run.config.train
    about = provenance(run.path.resolve().name, several(train.ema)[0], train.schedule, sampler, config)
    return {**about, **run.added}


def load(path: str | Path, device: str = "auto") -> Run:
    """The run in a folder, the model in a `model.safetensors`, or `hf:OWNER/NAME` of the hub, which is copied first.

    Raises UnblotError where there is none.
    """
    path = local_run(user_path(path))
    config, denoiser = load_model(path)
    return Run(path if path.is_dir() else path.parent, config, denoiser.to(available_device(device)))
