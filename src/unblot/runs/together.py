"""Sampling for several calls at once: their pictures share batches, and each is what its own call would give."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unblot.config.sampling import SampleConfig
from unblot.data.values import ValueMap
from unblot.denoiser import Condition, Denoiser
from unblot.errors import UnblotError
from unblot.process.randomness import picture_generators
from unblot.process.schedules import SCHEDULES
from unblot.runs.conditions import conditions
from unblot.runs.run import Run, provenance_of
from unblot.runs.samples import Samples
from unblot.sampling.batched import batch_of
from unblot.sampling.loop import Progress
from unblot.sampling.settings import SamplerConfig
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build


@dataclass(frozen=True)
class Call:
    """What a call of `Run.sample` asks for, checked: its samples' numbers, its sampler, and what each shows."""

    config: SampleConfig
    indices: Sequence[int]
    sampler: SamplerConfig
    labels: list[int] | None
    prompts: list[str] | None
    condition: Condition

    @property
    def shared(self) -> tuple[Any, ...]:
        """What must be equal in calls that are sampled together."""
        return self.sampler, self.config.guidance_rescale, self.config.threshold, self.config.negative


def checked_call(run: Run, sampler: SamplerConfig, config: SampleConfig, first: int = 0) -> Call:
    """The call for `config.n` samples, numbered from `first`. Raises UnblotError for what this run cannot use."""
    indices = range(first, first + config.n)
    labels, prompts, condition = conditions(run.denoiser, run.config, config, indices)
    call = Call(config, indices, sampler, labels, prompts, condition)
    _guidance(run, call, condition, indices)
    return call


def sample_together(
    run: Run, calls: Sequence[Call], on_step: Callable[[Progress], None] | None = None
) -> list[Samples | UnblotError]:
    """The samples of calls whose `shared` is equal, from one batch; instead of those that are not finite, the error.

    Each picture comes from its own generator, so that it is the one that `Run.sample` gives for its call.
    """
    first, data = calls[0], run.config.data
    levels = first.sampler.levels(build(SCHEDULES, run.config.train.schedule, "schedule"))
    solver = build(SOLVERS, first.sampler.solver, "solver")
    generators = [g for call in calls for g in picture_generators(call.config.seed, call.indices)]
    condition, indices = _joined(run.denoiser, calls), [i for call in calls for i in call.indices]
    guidance = _guidance(run, first, condition, indices)
    batch = batch_of(run.denoiser, run.config.shape, generators, levels, solver, condition, guidance)
    pictures = run.drawn(batch, on_step)
    drawn: list[Samples | UnblotError] = []
    for call, end in zip(calls, torch.tensor([len(call.indices) for call in calls]).cumsum(0).tolist()):
        try:
            array = ValueMap.from_dict(data.values).decode(pictures[end - len(call.indices) : end])
        except UnblotError as error:
            drawn.append(error)
            continue
        about = provenance_of(run, call.sampler, call.config)
        drawn.append(Samples(array, call.labels, data, call.indices, about, call.prompts))
    return drawn


def _guidance(run: Run, call: Call, condition: Condition, indices: Sequence[int]) -> Any:
    config = call.config
    return run.guidance(call.sampler, condition, indices, config.guidance_rescale, config.threshold, config.negative)


def _joined(denoiser: Denoiser, calls: Sequence[Call]) -> Condition:
    """The conditions of all calls, one after the other; a picture without label or text has "none" of it."""

    def rows(known: Sequence[Tensor | None], none: Callable[[], Tensor]) -> Tensor | None:
        if all(part is None for part in known):
            return None
        sizes = [len(call.indices) for call in calls]
        filled = [none().expand(n, *none().shape[1:]) if part is None else part for part, n in zip(known, sizes)]
        return torch.cat(filled)

    def no_text() -> Tensor:
        assert denoiser.text_encoder is not None
        return denoiser.text_encoder.read([""])

    labels, tokens = ([call.condition[i] for call in calls] for i in (0, 1))
    device = next(denoiser.parameters()).device
    return Condition(rows(labels, lambda: torch.tensor([denoiser.num_classes], device=device)), rows(tokens, no_text))
