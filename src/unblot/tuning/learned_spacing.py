"""Tuning: the solver, grid, number of steps and guidance that a model samples best with.

A grid is learned from one fine run of the ODE: a step from any visited level to any other is foretold from what was
seen there, without a further evaluation, and dynamic programming finds the N steps whose errors sum to the least.
Settings are compared by a figure of merit, and those that no other beats are the front.
"""

from collections.abc import Callable
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import Schedule
from unblot.sampling.loop import Denoise, Progress, Solver, sample
from unblot.sampling.singlestep import dpmpp_2s
from unblot.sampling.spacing import levels_at, uniform_log_snr

# --- settings, and the choice among them


# --- a learned grid


class Trajectory(NamedTuple):
    """A fine run of the ODE: levels (M + 1,) down to the clean picture, and inner products of what was seen there.

    products: (2M + 1, 2M + 1) float64, means over pictures and values of x_0 … x_M and x0_hat_0 … x0_hat_{M−1},
    noisiest first, each with each. end: x_M, the pictures (B, C, H, W) themselves.
    """

    levels: NoiseLevel
    products: Tensor
    end: Tensor


def solve_trajectory(denoise: Denoise, x_T: Tensor, schedule: Schedule, steps: int = 64) -> Trajectory:
    """The trajectory of x_T (B, C, H, W), in `steps` steps uniform in log SNR of two evaluations each.

    x_T is noise at the first level of spacing log_snr.
    """
    levels = uniform_log_snr()(schedule, steps)
    xs, x0s = [x_T], list[Tensor]()

    def see(progress: Progress) -> None:
        xs.append(progress.x)
        x0s.append(progress.x0)

    sample(denoise, x_T, levels, dpmpp_2s(), lambda: x_T, see)  # which draws no noise
    seen = torch.stack([x.flatten() for x in (*xs, *x0s)]).double()
    return Trajectory(levels, seen @ seen.T / x_T.numel(), xs[-1])


def learned_spacing(trajectory: Trajectory, steps: int) -> NoiseLevel:
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


def refined_spacing(
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
