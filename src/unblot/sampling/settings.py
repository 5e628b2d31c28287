"""How a model samples: solver, spacing, number of steps and guidance; the choice among measured candidates."""

import math
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import Schedule
from unblot.sampling.guidance import autoguidance
from unblot.sampling.loop import Solver, count_nfe, sample
from unblot.sampling.solvers import SOLVERS
from unblot.sampling.spacing import SPACINGS
from unblot.specs import build, options_of, parse


@dataclass(frozen=True)
class SamplerConfig:
    """How to sample: specs of a solver and a grid, the number of steps, and guidance, none where its scale is 1.

    guidance, its interval of sigma/alpha, and autoguide, the weaker model, are those of `Run.sample`.
    """

    solver: str
    spacing: str
    steps: int
    guidance: float | Sequence[float] = 1.0
    guidance_low: float = 0.0
    guidance_high: float | None = None
    autoguide: str | None = None

    @property
    def guided(self) -> bool:
        """Whether anything is pushed."""
        return self.guidance != 1

    def levels(self, schedule: Schedule) -> NoiseLevel:
        """The levels (steps + 1,) of the schedule that the grid chooses."""
        return build(SPACINGS, self.spacing, "spacing")(schedule, self.steps)

    def nfe(self, schedule: Schedule) -> int:
        """The calls of a network that a picture takes, two for each guided estimate; 0 where the pictures decide."""
        solver, levels = build(SOLVERS, self.solver, "solver"), self.levels(schedule)
        return count_nfe(solver, levels) if not self.guided else self._counted(solver, levels)

    def _counted(self, solver: Solver, levels: NoiseLevel) -> int:
        """Told by going all the way with a denoiser that does nothing but count."""
        calls = 0

        def count(x: Tensor, level: NoiseLevel) -> Denoised:
            nonlocal calls
            calls += 1
            return Denoised(torch.zeros_like(x))

        high = math.inf if self.guidance_high is None else self.guidance_high
        guided = autoguidance(count, count, 2.0, low=self.guidance_low, high=high)  # any scale but 1 costs the same
        x = torch.zeros(1, 1, 1, 1)
        sample(guided, x, levels, solver, lambda: x)
        return calls


@dataclass(frozen=True)
class Candidate:
    """A setting, what it costs in calls of the denoiser, and how good it was found to be: the lower the better.

    spread: standard deviation of how far the figure lies above the least one, by chance.
    """

    sampler: SamplerConfig
    nfe: int
    figure: float
    spread: float = 0.0


QUALITIES = {"draft": 1.5, "good": 1.1, "best": 1.0}  # the figure may be this many times the least one


def sampler_for(solver: str, spacing: str, calls: int, schedule: Schedule) -> SamplerConfig | None:
    """The setting of most steps that takes no more than `calls` evaluations; None where there is none."""
    rule = build(SOLVERS, solver, "solver")
    if rule.nfe == 0 or calls < 1:
        return None
    for steps in range((calls - 1) // rule.nfe + 1, 0, -1):  # a route may take more than its steps
        sampler = SamplerConfig(solver, spacing, steps)
        if count_nfe(rule, sampler.levels(schedule)) <= calls:
            return sampler
    return None


def front(candidates: Iterable[Candidate]) -> list[Candidate]:
    """The trials that no other beats in both evaluations and figure, fewest evaluations first."""
    best: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda t: (t.nfe, t.figure)):
        if not best or candidate.figure < best[-1].figure:
            best.append(candidate)
    return best


def choose(candidates: Sequence[Candidate], quality: str) -> Candidate:
    """The cheapest trial whose figure is within a quality's factor of the least: draft 1.5, good 1.1, best 1.

    One that lies above the least by no more than its spread counts as good as that (as in the rule of one standard
    error, Breiman et al. 1984).
    """
    if quality not in QUALITIES:
        raise UnblotError(f"unknown quality {quality!r}; choose one of {', '.join(QUALITIES)}")
    if not candidates:
        raise UnblotError("nothing was tuned yet; run unblot tune first")
    least = min(candidate.figure for candidate in candidates)
    good = (t for t in candidates if t.figure <= max(least * QUALITIES[quality], least + t.spread))
    return min(good, key=lambda t: (t.nfe, t.figure))


def within(candidates: Sequence[Candidate], calls: int) -> Candidate:
    """The best trial of no more than `calls` evaluations. Raises UnblotError where there is none."""
    cheap = [candidate for candidate in candidates if candidate.nfe <= calls]
    if not cheap:
        least = min((candidate.nfe for candidate in candidates), default=1)
        raise UnblotError(f"no tuned setting takes {calls} evaluations or fewer; the cheapest takes {least}")
    return min(cheap, key=lambda t: t.figure)


def describe_sampler(sampler: SamplerConfig) -> str:
    """A setting in a few words: options that are the defaults are left out."""
    spacing = "its own levels" if sampler.spacing.startswith("listed") else short(SPACINGS, sampler.spacing, "spacing")
    pushed = f", guidance {describe_guidance(sampler)}" if sampler.guided else ""
    return f"{short(SOLVERS, sampler.solver, 'solver')}, {sampler.steps} steps on {spacing}{pushed}"


def describe_guidance(sampler: SamplerConfig) -> str:
    """The guidance of a setting: its scale, what it leads towards or away from, and at which sigma/alpha."""
    if not sampler.guided:
        return ""
    weak, high = sampler.autoguide, sampler.guidance_high
    way = "towards the label" if weak is None else f"away from {weak.removesuffix('.safetensors')}"
    return f"{sampler.guidance} {way}" + ("" if high is None else f", at {sampler.guidance_low:.2g} to {high:.2g}")


def levels(sampler: SamplerConfig) -> str:
    """The grid of a setting; of learned levels their sigma/alpha, rounded."""
    _, _, ratios = sampler.spacing.partition("ratios=")
    own = ", ".join(f"{float(ratio):.2g}" for ratio in ratios.split("/")) if ratios else ""
    return own or short(SPACINGS, sampler.spacing, "spacing")


def short(entries: Mapping[str, Callable[..., Any]], spec: str, kind: str) -> str:
    """The spec without the options that are as they would be anyway."""
    name, options = parse(entries, spec, kind)
    usual = options_of(entries[name])
    unusual = [f"{k}={v}" for k, v in options.items() if v != usual[k]]
    return name + (":" + ",".join(unusual) if unusual else "")
