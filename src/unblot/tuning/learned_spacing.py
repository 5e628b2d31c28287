"""A spacing learned from a model: dynamic programming over the errors of all steps of one fine trajectory.

The error of a first-order step between any two levels of the trajectory follows from the states and estimates there,
without a further denoiser call; dynamic programming finds the N steps of least total error (Watson et al. 2021).
"""

from collections.abc import Callable, Sequence
from typing import NamedTuple

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import Schedule
from unblot.sampling.loop import Denoise, Progress, Solver, no_noise, sample
from unblot.sampling.singlestep import dpmpp_2s
from unblot.sampling.spacing import levels_at, uniform_log_snr

AT_ONCE = 2**14  # values of each state that are multiplied at a time: 17 MB in float64


class Trajectory(NamedTuple):
    """A fine solution of the probability-flow ODE at levels (M + 1,), noisiest first, ending on the clean picture.

    products: (2M + 1, 2M + 1) float64 on the CPU, inner products, as means over pictures and values, among the states
    x_0 … x_M and the estimates x0_hat_0 … x0_hat_{M−1}. end: x_M (B, C, H, W), the samples.
    """

    levels: NoiseLevel
    products: Tensor
    end: Tensor


def solve_trajectory(denoise: Denoise, x_T: Tensor, schedule: Schedule, steps: int = 64) -> Trajectory:
    """The trajectory from x_T (B, C, H, W), in `steps` steps uniform in log SNR, at two denoiser calls each.

    x_T: noise at the first level of spacing `log_snr`. The 2M + 1 states wait on the CPU, each once, as they are.
    """
    levels = uniform_log_snr()(schedule, steps)
    xs, x0s = [x_T.flatten().cpu()], list[Tensor]()

    def record(progress: Progress) -> None:
        xs.append(progress.x.flatten().cpu())
        x0s.append(progress.x0.flatten().cpu())

    end = sample(denoise, x_T, levels, dpmpp_2s(), no_noise(), record)
    return Trajectory(levels, mean_products([*xs, *x0s]), end)


def mean_products(states: Sequence[Tensor], at_once: int = AT_ONCE) -> Tensor:
    """Inner products (n, n) of n states (D,), float64, as means over values; `at_once` values are copied at a time."""
    total = torch.zeros(len(states), len(states), dtype=torch.float64)
    for first in range(0, len(states[0]), at_once):
        part = torch.stack([state[first : first + at_once] for state in states]).double()
        total += part @ part.T
    return total / len(states[0])


def learned_spacing(trajectory: Trajectory, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) of the trajectory with the least sum of step errors, by dynamic programming.

    The errors are those of the first-order step; the spacing also suits solvers of higher order (docs/sampling.md).
    Raises UnblotError where the trajectory has fewer steps.
    """
    count = len(trajectory.levels.sigma) - 1
    if not 1 <= steps <= count:
        raise UnblotError(f"a spacing learned from {count} levels has 1 to {count} steps, not {steps}")
    errors = step_errors(trajectory)
    cost, came = errors[0], list[Tensor]()  # least error to each level in k steps, and the level before it
    for _ in range(steps - 1):
        cost, before = (cost[:, None] + errors).min(dim=0)
        came.append(before)
    path = [count]
    for before in reversed(came):
        path.append(int(before[path[-1]]))
    return trajectory.levels.at(torch.tensor([0, *path[::-1]]))


def step_errors(trajectory: Trajectory) -> Tensor:
    """Error of one first-order step from level i to level j > i, (M + 1, M + 1); infinite for j <= i.

    Root mean square over pictures and values, relative to the standard deviation of x_j.
    """
    levels, dots = trajectory.levels, trajectory.products
    count = len(levels.sigma) - 1
    i, j = torch.meshgrid(torch.arange(count + 1), torch.arange(count + 1), indexing="ij")
    shrink = levels.sigma[j] / levels.sigma[i]
    gain = levels.alpha[j] - shrink * levels.alpha[i]
    weights = (shrink, gain, -torch.ones_like(gain))  # of x_i and x0_i, whose sum predicts x_j, and of x_j
    places = (i, count + 1 + i.clamp(max=count - 1), j)
    terms = [a * b * dots[u, v] for a, u in zip(weights, places) for b, v in zip(weights, places)]
    error = torch.stack(terms).sum(0).clamp(min=0).sqrt()
    deviation = torch.sqrt(levels.alpha**2 * dots[count, count] + levels.sigma**2)
    return torch.where(i < j, error / deviation[j], torch.inf)


def refined_spacing(
    levels: NoiseLevel, schedule: Schedule, error: Callable[[NoiseLevel], float], rounds: int = 6
) -> NoiseLevel:
    """The levels with the inner ones moved, one at a time, as long as that lowers the error: coordinate descent.

    error: a function of levels, as `end_error` gives; called up to twice per level and round. log(sigma/alpha) of a
    level moves by 0.4 at first, and by half as much after a round without improvement.
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
    """The sampling error of a deterministic solver as a function of levels: the distance of its samples to `target`.

    Root mean square over the values of a picture, then the mean over pictures, so that the few that become another
    picture do not dominate. target: the end of the fine trajectory from the same x_T, both (B, C, H, W).
    """

    def error(levels: NoiseLevel) -> float:
        missed = sample(denoise, x_T, levels, solver, no_noise()) - target
        return float(missed.flatten(1).square().mean(1).sqrt().mean())

    return error
