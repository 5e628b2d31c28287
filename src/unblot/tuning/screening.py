"""The first stage of tuning: deterministic samplers compared by their error against a fine trajectory."""

import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field, replace

import numpy as np
import torch
from torch import Tensor

from unblot.data.dataset import Dataset
from unblot.denoiser import Condition, Denoised
from unblot.process.levels import NoiseLevel
from unblot.process.randomness import OF_SCREENING, picture_generators
from unblot.process.schedules import SCHEDULES, Schedule
from unblot.runs.choosing import text_guidance
from unblot.runs.conditions import condition_as_trained
from unblot.runs.run import Run
from unblot.sampling.guidance import Guidance, guided
from unblot.sampling.loop import Denoise, pictures_noise
from unblot.sampling.settings import SamplerConfig, describe_sampler
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spec_of, uniform_log_snr
from unblot.specs import build, canonical
from unblot.tuning.learned_spacing import Trajectory, end_error, learned_spacing, refined_spacing, solve_trajectory

NFES = (10, 8, 6, 5, 12, 4, 15, 20, 30)  # in the order in which they get time
DETERMINISTIC = ("dpmpp_2m", "dpmpp_3m", "unipc", "unipc:order=3", "deis", "deis:order=2", "ipndm", "heun")
STOCHASTIC = ("dpmpp_2m_sde:eta=0.5", "dpmpp_2m_sde", "dpmpp_3m_sde")  # from STOCHASTIC_FROM NFE on
PLAIN_SPACINGS = ("time", "karras", "log_snr")  # tried beside the learned one
STOCHASTIC_FROM, REFINED_TO, LONG = 8, 12, 20  # NFE
NOISES, VALUES = 64, 2**18  # of screening, at most
KEPT = 3  # candidates that screening keeps for each NFE
SCREENING_END = 0.25  # share of the time budget at which this stage ends


@dataclass
class Clock:
    """The time budget of a search."""

    seconds: float
    start: float = field(default_factory=time.monotonic)

    @property
    def share(self) -> float:
        """The share of the budget that is used: 0 at the start, 1 when it is used up."""
        return (time.monotonic() - self.start) / max(self.seconds, 1e-9)


@dataclass
class ScreeningSet:
    """The noises of screening and their fine trajectory.

    unit: (N, C, H, W) standard normal. condition: what the N show. seconds: measured per picture and estimate.
    batch_size: pictures that go through the network together, at most.
    """

    run: Run
    condition: Condition
    unit: Tensor
    trajectory: Trajectory
    seconds: float
    batch_size: int

    @property
    def schedule(self) -> Schedule:
        """The run's schedule."""
        return build(SCHEDULES, self.run.config.train.schedule, "schedule")

    def error(self, count: int) -> Callable[[SamplerConfig], float]:
        """The error of a sampler against the fine trajectory, with the first `count` noises; see `end_error`."""
        unit, target = self.unit[:count], self.trajectory.end[:count]
        denoise = in_batches(self.run, self.condition, count, self.batch_size)

        def error(sampler: SamplerConfig) -> float:
            levels = sampler.levels(self.schedule)
            x_T = self.run.denoiser.prior(levels.at(0)).draw(unit)
            return end_error(denoise, x_T, target, build(SOLVERS, sampler.solver, "solver"))(levels)

        return error


def in_batches(run: Run, condition: Condition, count: int, batch_size: int) -> Denoise:
    """The denoiser of `count` pictures of this condition, guided as samples are, for `batch_size` of them at a time."""
    guidance = Guidance(text_guidance(run.config))
    parts = [slice(first, min(first + batch_size, count)) for first in range(0, count, batch_size)]
    denoisers = [guided(run.denoiser, condition.rows(part), guidance) for part in parts]

    def denoise(x: Tensor, level: NoiseLevel) -> Denoised:
        x0 = [one(x[part], level).x0 for part, one in zip(parts, denoisers, strict=True)]
        return Denoised(torch.cat(x0))

    return denoise


def reference_trajectories(run: Run, dataset: Dataset, seed: int, batch_size: int = 64) -> ScreeningSet:
    """The screening set of a run, whose noises are those of no other sample."""
    shape = run.config.shape
    count = max(8, min(NOISES, VALUES // int(np.prod(shape))))
    device = run.device
    unit = pictures_noise(picture_generators(seed, range(OF_SCREENING, OF_SCREENING + count)), shape, device)()
    condition = condition_as_trained(run.denoiser, run.config.data, dataset, seed, count)
    schedule = build(SCHEDULES, run.config.train.schedule, "schedule")
    top = uniform_log_snr()(schedule, 64).at(0)
    denoise, start = in_batches(run, condition, count, batch_size), time.monotonic()
    trajectory = solve_trajectory(denoise, run.denoiser.prior(top).draw(unit), schedule)
    seconds = (time.monotonic() - start) / (127 * count)
    return ScreeningSet(run, condition, unit, trajectory, seconds, batch_size)


def screen(screening: ScreeningSet, clock: Clock, report: Callable[[str], None]) -> dict[int, list[SamplerConfig]]:
    """Deterministic samplers for each NFE, lowest error first.

    When the time of this stage is used up, the rest are the first solver on a learned spacing.
    """
    ranked: dict[int, list[SamplerConfig]] = {}
    for nfe in NFES:
        if clock.share > SCREENING_END:
            ranked[nfe] = [_sampler(DETERMINISTIC[0], spec_of(learned_spacing(screening.trajectory, nfe)), nfe)]
            continue
        error = screening.error(len(screening.unit))
        errors = {sampler: error(sampler) for sampler in candidates(screening, nfe)}
        ranked[nfe] = sorted(errors, key=lambda s: errors[s])
        if nfe <= REFINED_TO:
            refined = refine(screening, next(s for s in ranked[nfe] if s.steps == nfe))
            for sampler in [replace(s, spacing=refined) for s in ranked[nfe][:KEPT] if s.steps == nfe]:
                errors[sampler] = error(sampler)
            ranked[nfe] = sorted(errors, key=lambda s: errors[s])
        report(f"{nfe} NFE: of {len(errors)} samplers, {describe_sampler(ranked[nfe][0])} has the lowest error")
    return ranked


def candidates(screening: ScreeningSet, nfe: int) -> Iterator[SamplerConfig]:
    """The deterministic samplers with `nfe` denoiser calls; above LONG only of the first three solvers."""
    for solver in DETERMINISTIC if nfe <= LONG else DETERMINISTIC[:3]:
        each = build(SOLVERS, solver, "solver").nfe
        steps = (nfe - 1) // each + 1
        if (steps - 1) * each + 1 == nfe:
            learned = spec_of(learned_spacing(screening.trajectory, steps))
            for spacing in (learned, *PLAIN_SPACINGS):
                yield _sampler(solver, spacing, steps)


def refine(screening: ScreeningSet, sampler: SamplerConfig) -> str:
    """The spec of the sampler's levels moved to a lower error with the first half of the noises."""
    error = screening.error(len(screening.unit) // 2)
    schedule = screening.schedule

    def of(levels: NoiseLevel) -> float:
        return error(replace(sampler, spacing=spec_of(levels)))

    return canonical(SPACINGS, spec_of(refined_spacing(sampler.levels(schedule), schedule, of, rounds=3)), "spacing")


def shortlist(nfe: int, ranked: Sequence[SamplerConfig], screening: ScreeningSet) -> list[SamplerConfig]:
    """The samplers to evaluate: the best of up to KEPT solvers, then the default sampler, then stochastic ones."""
    firsts: dict[str, SamplerConfig] = {}
    for sampler in ranked:
        firsts.setdefault(sampler.solver, sampler)
    chosen = list(firsts.values())[:KEPT]
    others = [("dpmpp_2m", "karras")]
    if nfe >= STOCHASTIC_FROM:
        learned = spec_of(learned_spacing(screening.trajectory, nfe))
        others += [(solver, spacing) for solver in STOCHASTIC for spacing in (learned, "karras")]
    for solver, spacing in others:
        sampler = _sampler(solver, spacing, nfe)
        if sampler not in chosen:
            chosen.append(sampler)
    return chosen


def _sampler(solver: str, spacing: str, steps: int) -> SamplerConfig:
    return SamplerConfig(canonical(SOLVERS, solver, "solver"), canonical(SPACINGS, spacing, "spacing"), steps)
