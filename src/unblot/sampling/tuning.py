"""Tuning: the solver, grid, number of steps and guidance that a model samples best with.

A grid is learned from one fine run of the ODE: a step from any visited level to any other is foretold from what was
seen there, without a further evaluation, and dynamic programming finds the N steps whose errors sum to the least.
Settings are compared by a figure of merit, and those that no other beats are the front.
"""

import math
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.denoiser import Denoised
from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import Schedule
from unblot.sampling.grids import GRIDS, levels_at, log_snr
from unblot.sampling.guidance import autoguidance
from unblot.sampling.loop import Denoise, Progress, Solver, evaluations, sample
from unblot.sampling.singlestep import dpmpp_2s
from unblot.sampling.solvers import SOLVERS
from unblot.specs import build

# --- settings, and the choice among them


@dataclass(frozen=True)
class Setting:
    """How to sample: specs of a solver and a grid, the number of steps, and guidance, none where its scale is 1.

    guidance, its interval of sigma/alpha, and autoguide, the weaker model, are those of `Run.sample`.
    """

    solver: str
    grid: str
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
        return build(GRIDS, self.grid, "grid")(schedule, self.steps)

    def evaluations(self, schedule: Schedule) -> int:
        """The calls of a network that a picture takes, two for each guided estimate; 0 where the pictures decide."""
        solver, levels = build(SOLVERS, self.solver, "solver"), self.levels(schedule)
        return evaluations(solver, levels) if not self.guided else self._counted(solver, levels)

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
class Trial:
    """A setting, what it costs in calls of the denoiser, and how good it was found to be: the lower the better.

    spread: standard deviation of how far the figure lies above the least one, by chance.
    """

    setting: Setting
    evaluations: int
    figure: float
    spread: float = 0.0


QUALITIES = {"draft": 1.5, "good": 1.1, "best": 1.0}  # the figure may be this many times the least one


def setting_for(solver: str, grid: str, calls: int, schedule: Schedule) -> Setting | None:
    """The setting of most steps that takes no more than `calls` evaluations; None where there is none."""
    rule = build(SOLVERS, solver, "solver")
    if rule.evaluations == 0 or calls < 1:
        return None
    for steps in range((calls - 1) // rule.evaluations + 1, 0, -1):  # a route may take more than its steps
        setting = Setting(solver, grid, steps)
        if evaluations(rule, setting.levels(schedule)) <= calls:
            return setting
    return None


def front(trials: Iterable[Trial]) -> list[Trial]:
    """The trials that no other beats in both evaluations and figure, fewest evaluations first."""
    best: list[Trial] = []
    for trial in sorted(trials, key=lambda t: (t.evaluations, t.figure)):
        if not best or trial.figure < best[-1].figure:
            best.append(trial)
    return best


def choose(trials: Sequence[Trial], quality: str) -> Trial:
    """The cheapest trial whose figure is within a quality's factor of the least: draft 1.5, good 1.1, best 1.

    One that lies above the least by no more than its spread counts as good as that (as in the rule of one standard
    error, Breiman et al. 1984).
    """
    if quality not in QUALITIES:
        raise UnblotError(f"unknown quality {quality!r}; choose one of {', '.join(QUALITIES)}")
    if not trials:
        raise UnblotError("nothing was tuned yet; run unblot tune first")
    least = min(trial.figure for trial in trials)
    good = (t for t in trials if t.figure <= max(least * QUALITIES[quality], least + t.spread))
    return min(good, key=lambda t: (t.evaluations, t.figure))


def within(trials: Sequence[Trial], calls: int) -> Trial:
    """The best trial of no more than `calls` evaluations. Raises UnblotError where there is none."""
    cheap = [trial for trial in trials if trial.evaluations <= calls]
    if not cheap:
        least = min((trial.evaluations for trial in trials), default=1)
        raise UnblotError(f"no tuned setting takes {calls} evaluations or fewer; the cheapest takes {least}")
    return min(cheap, key=lambda t: t.figure)


# --- a learned grid


class Trajectory(NamedTuple):
    """A fine run of the ODE: levels (M + 1,) down to the clean picture, and inner products of what was seen there.

    products: (2M + 1, 2M + 1) float64, means over pictures and values of x_0 … x_M and x0_hat_0 … x0_hat_{M−1},
    noisiest first, each with each. end: x_M, the pictures (B, C, H, W) themselves.
    """

    levels: NoiseLevel
    products: Tensor
    end: Tensor


def follow(denoise: Denoise, x_T: Tensor, schedule: Schedule, steps: int = 64) -> Trajectory:
    """The trajectory of x_T (B, C, H, W), in `steps` steps uniform in log SNR of two evaluations each.

    x_T is noise at the first level of grid log_snr.
    """
    levels = log_snr()(schedule, steps)
    xs, x0s = [x_T], list[Tensor]()

    def see(progress: Progress) -> None:
        xs.append(progress.x)
        x0s.append(progress.x0)

    sample(denoise, x_T, levels, dpmpp_2s(), lambda: x_T, see)  # which draws no noise
    seen = torch.stack([x.flatten() for x in (*xs, *x0s)]).double()
    return Trajectory(levels, seen @ seen.T / x_T.numel(), xs[-1])


def learned_grid(trajectory: Trajectory, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of the trajectory whose foretold errors sum to the least (as in Watson et al. 2021).

    The errors are those of the first-order step; such a grid suits the higher orders too. Raises UnblotError where the
    trajectory is too short.
    """
    count = len(trajectory.levels.sigma) - 1
    if not 1 <= steps <= count:
        raise UnblotError(f"a grid learned from {count} levels has 1 to {count} steps, not {steps}")
    errors = step_errors(trajectory)
    cost, came = errors[0], list[Tensor]()  # of being at each level after so many steps, and from where
    for _ in range(steps - 1):
        cost, before = (cost[:, None] + errors).min(dim=0)
        came.append(before)
    way = [count]
    for before in reversed(came):
        way.append(int(before[way[-1]]))
    return trajectory.levels.at(torch.tensor([0, *way[::-1]]))


def step_errors(trajectory: Trajectory) -> Tensor:
    """Foretold error of one first-order step from level i to level j > i, (M + 1, M + 1); elsewhere infinite.

    Root mean square over pictures and values, relative to the deviation of x_j.
    """
    levels, dots = trajectory.levels, trajectory.products
    count = len(levels.sigma) - 1
    i, j = torch.meshgrid(torch.arange(count + 1), torch.arange(count + 1), indexing="ij")
    shrink = levels.sigma[j] / levels.sigma[i]
    gain = levels.alpha[j] - shrink * levels.alpha[i]
    weights = (shrink, gain, -torch.ones_like(gain))  # of x_i and x0_i, which foretell x_j, and of x_j
    places = (i, count + 1 + i.clamp(max=count - 1), j)
    terms = [a * b * dots[u, v] for a, u in zip(weights, places) for b, v in zip(weights, places)]
    error = torch.stack(terms).sum(0).clamp(min=0).sqrt()
    deviation = torch.sqrt(levels.alpha**2 * dots[count, count] + levels.sigma**2)
    return torch.where(i < j, error / deviation[j], torch.inf)


def polished_grid(
    levels: NoiseLevel, schedule: Schedule, error: Callable[[NoiseLevel], float], rounds: int = 6
) -> NoiseLevel:
    """The grid with its levels between the ends moved, one at a time, as long as that lowers the error.

    error: of sampling through given levels, as `end_error` gives it; asked up to twice per level and round. A level's
    log sigma/alpha moves by 0.4 at first, and by half as much after a round in which nothing helped.
    """
    places, stride = (levels.sigma / levels.alpha)[:-1].log(), 0.4
    best = error(levels)
    for _ in range(rounds):
        before = best
        for k in range(1, len(places)):
            for move in (stride, -stride):
                moved = places.clone()
                moved[k] += move
                if bool((moved.diff() < 0).all()) and (found := error(levels_at(schedule, moved.exp()))) < best:
                    places, best = moved, found
                    break
        stride = stride if best < before else stride / 2
    return levels_at(schedule, places.exp())


def end_error(denoise: Denoise, x_T: Tensor, target: Tensor, solver: Solver) -> Callable[[NoiseLevel], float]:
    """The error of a grid as a function of its levels: how far what it makes of x_T lies from `target`.

    Root mean square over a picture's values, and of that the mean over pictures, so that the few that turn into another
    picture altogether do not decide. target: what a fine run makes of the same x_T, both (B, C, H, W); solver: a
    deterministic one.
    """

    def error(levels: NoiseLevel) -> float:
        missed = sample(denoise, x_T, levels, solver, lambda: x_T) - target
        return float(missed.flatten(1).square().mean(1).sqrt().mean())

    return error
