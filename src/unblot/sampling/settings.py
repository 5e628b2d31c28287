"""How a model samples: solver, spacing, number of steps and guidance; the choice among measured candidates."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from unblot.config.options import MOST_STEPS
from unblot.denoiser import Denoised
from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import Schedule
from unblot.sampling.guidance import autoguidance
from unblot.sampling.loop import Solver, count_nfe, sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS, spaced_levels
from unblot.specs import build, without_defaults


@dataclass(frozen=True)
class SamplerConfig:
    """Specs of a solver and a spacing, the number of steps, and the guidance; guidance scale 1 is none.

    guidance: a scale, or several that take turns. guidance_low, guidance_high: the interval of sigma/alpha in which it
    acts. autoguide: path of the weaker model. Raises UnblotError for a scale that is not finite and for an empty
    interval.
    """

    solver: str
    spacing: str
    steps: int
    guidance: float | Sequence[float] = 1.0
    guidance_low: float = 0.0
    guidance_high: float | None = None
    autoguide: str | None = None

    def __post_init__(self) -> None:
        scales = [self.guidance] if isinstance(self.guidance, int | float) else list(self.guidance)
        if not scales or not all(map(math.isfinite, scales)):
            raise UnblotError(f"{arg('guidance', self.guidance)} is not a finite scale; 1 is no guidance, 2 is strong")
        if self.guidance_high is not None and not self.guidance_low <= self.guidance_high:
            raise UnblotError(
                f"{arg('guidance_low', self.guidance_low)} and {arg('guidance_high', self.guidance_high)} leave no "
                f"noise level to guide; give {arg('guidance_high')} the larger sigma/alpha"
            )

    @property
    def guided(self) -> bool:
        """Whether the guidance scale is another than 1."""
        return self.guidance != 1

    def levels(self, schedule: Schedule) -> NoiseLevel:
        """The visited levels (steps + 1,), noisiest first."""
        return spaced_levels(schedule, self.spacing, self.steps)

    def nfe(self, schedule: Schedule) -> int:
        """Network calls per picture, two for each guided estimate; 0 where the number depends on the pictures."""
        solver, levels = build(SOLVERS, self.solver, "solver"), self.levels(schedule)
        guided = self.guided and solver.nfe != 0
        return self._guided_nfe(solver, levels) if guided else count_nfe(solver, levels)

    def _guided_nfe(self, solver: Solver, levels: NoiseLevel) -> int:
        """Network calls per picture with guidance, counted by sampling with a denoiser that only counts."""
        calls = 0

        def count(x: Tensor, level: NoiseLevel) -> Denoised:
            nonlocal calls
            calls += 1
            return Denoised(torch.zeros_like(x), torch.zeros_like(x))  # with a variance, where one is learned

        high = math.inf if self.guidance_high is None else self.guidance_high
        guided = autoguidance(count, count, 2.0, low=self.guidance_low, high=high)  # any scale but 1 costs the same
        x = torch.zeros(1, 1, 1, 1)
        sample(guided, x, levels, solver, lambda: x)
        return calls


@dataclass(frozen=True)
class Candidate:
    """A sampler, its number of network calls, and its measured distance to real pictures (`distance`, lower is better).

    spread: standard deviation, from the finite number of samples, of the difference to the best candidate's distance.
    """

    sampler: SamplerConfig
    nfe: int
    distance: float
    spread: float = 0.0


QUALITIES = {"draft": 1.5, "good": 1.1, "best": 1.0}  # largest distance, as a multiple of the least


def sampler_for(solver: str, spacing: str, nfe: int, schedule: Schedule) -> SamplerConfig | None:
    """The sampler with the most steps that takes at most `nfe` denoiser calls; None where there is none."""
    rule = build(SOLVERS, solver, "solver")
    if rule.nfe == 0 or nfe < 1:
        return None
    for steps in range(min((nfe - 1) // rule.nfe + 1, MOST_STEPS), 0, -1):  # a solver's route may visit more levels
        sampler = SamplerConfig(solver, spacing, steps)
        if count_nfe(rule, sampler.levels(schedule)) <= nfe:
            return sampler
    return None


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The Pareto front: candidates that no other beats in both NFE and distance, lowest NFE first."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.nfe, c.distance)):
        if not best or candidate.distance < best[-1].distance:
            best.append(candidate)
    return best


def choose(candidates: Sequence[Candidate], quality: str) -> Candidate:
    """The candidate of lowest NFE with a distance within a quality's factor of the least: draft 1.5, good 1.1, best 1.

    A distance above the least by at most its own spread counts as the least (the one-standard-error rule of Breiman et
    al. 1984). Raises UnblotError for an unknown quality and for no candidates.
    """
    if quality not in QUALITIES:
        raise UnblotError(f"unknown quality {quality!r}; choose one of {', '.join(QUALITIES)}")
    if not candidates:
        raise UnblotError("this run has no tuned sampler; run: unblot tune RUN")
    least = min(candidate.distance for candidate in candidates)
    good = (c for c in candidates if c.distance <= max(least * QUALITIES[quality], least + c.spread))
    return min(good, key=lambda c: (c.nfe, c.distance))


def within(candidates: Sequence[Candidate], nfe: int, calls: int = 1) -> Candidate:
    """The candidate of lowest distance with at most `nfe` network calls, each of its own taking `calls` of them.

    Raises UnblotError where there is none.
    """
    cheap = [candidate for candidate in candidates if calls * candidate.nfe <= nfe]
    if not cheap:
        least = calls * min((candidate.nfe for candidate in candidates), default=1)
        raise UnblotError(
            f"{arg('nfe', nfe)}: the cheapest tuned sampler takes {least} network calls; give {arg('nfe', least)}, or "
            f"{arg('steps', nfe)} for a sampler that was not tuned, or tune for a longer time"
        )
    return min(cheap, key=lambda c: c.distance)


def describe_sampler(sampler: SamplerConfig) -> str:
    """A sampler in words, without the options that have their default value."""
    listed = sampler.spacing.startswith("listed")
    spacing = "its own levels" if listed else without_defaults(SPACINGS, sampler.spacing, "spacing")
    guidance = f", guidance {describe_guidance(sampler)}" if sampler.guided else ""
    steps = f"{sampler.steps} step{'' if sampler.steps == 1 else 's'}"
    return f"{without_defaults(SOLVERS, sampler.solver, 'solver')}, {steps} on {spacing}{guidance}"


def describe_guidance(sampler: SamplerConfig) -> str:
    """The guidance of a sampler in words: scale, kind and interval of sigma/alpha; empty where there is none."""
    if not sampler.guided:
        return ""
    weak, high = sampler.autoguide, sampler.guidance_high
    kind = "towards the label" if weak is None else f"away from {weak.removesuffix('.safetensors')}"
    return f"{sampler.guidance} {kind}" + ("" if high is None else f", at {sampler.guidance_low:.2g} to {high:.2g}")


def describe_spacing(sampler: SamplerConfig) -> str:
    """The spacing of a sampler in words; of a listed one the ratios sigma/alpha, rounded."""
    _, _, ratios = sampler.spacing.partition("ratios=")
    own = ", ".join(f"{float(ratio):.2g}" for ratio in ratios.split("/")) if ratios else ""
    return own or without_defaults(SPACINGS, sampler.spacing, "spacing")
