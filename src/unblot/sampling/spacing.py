"""Grids: which levels of a schedule sampling goes through, noisiest first, ending on the clean picture.

A grid is a function of a schedule and a number of steps N, and gives N + 1 levels. What matters to a solver is how
sigma/alpha falls; the schedule says which (alpha, sigma) has a given ratio.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unblot.errors import UnblotError
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import SIGMA_MAX, SIGMA_MIN, Schedule, karras_ratios, uniform_time_levels

Spacing = Callable[[Schedule, int], NoiseLevel]  # schedule, steps -> levels (steps + 1,)


def uniform_time() -> Spacing:
    """The schedule at N + 1 equally spaced times, from 1 to 0."""
    return uniform_time_levels


def trailing(*, indices: int = 1000) -> Spacing:
    """Equally spaced whole indices, of a schedule trained on `indices` of them, from the last on (Lin et al. 2024)."""

    def spacing(schedule: Schedule, steps: int) -> NoiseLevel:
        if steps > indices:
            raise UnblotError(f"grid 'trailing' has no more than {indices} steps, not {steps}")
        return schedule((torch.linspace(1, 0, steps + 1, dtype=torch.float64) * indices).round() / indices)

    return spacing


def karras(*, rho: float = 7.0, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> Spacing:
    """(sigma/alpha)^(1/rho) falls in equal steps from `high` to `low`, then comes 0 (Karras et al. 2022, eq. 5).

    The range is cut to that of the schedule. A greater rho has shorter steps at low noise.
    """
    _check_range("karras", low, high)
    if rho <= 0:
        raise UnblotError(f"grid 'karras' needs rho > 0, not {rho}")
    return _spaced(low, high, lambda first, last, share: karras_ratios(first, last, share, rho))


def uniform_log_snr(*, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> Spacing:
    """log SNR rises in equal steps while sigma/alpha falls from `high` to `low`, then comes 0 (Lu et al. 2022)."""
    _check_range("log_snr", low, high)

    def ratios(first: float, last: float, share: Tensor) -> Tensor:
        ends = torch.tensor([first, last], dtype=torch.float64).log()
        return torch.lerp(ends[0], ends[1], share).exp()

    return _spaced(low, high, ratios)


def listed(*, ratios: str = "") -> Spacing:
    """The levels with these values of sigma/alpha, then 0: `listed:ratios=80/6/1.1/0.2`, as tuning writes them."""
    try:
        wanted = torch.tensor([float(ratio) for ratio in ratios.split("/")], dtype=torch.float64)
    except ValueError:
        raise UnblotError(
            f"grid 'listed' needs numbers parted by /, as in ratios=80/6/1.1/0.2, not {ratios!r}"
        ) from None
    if not bool((wanted > 0).all()) or not bool((wanted.diff() < 0).all()):
        raise UnblotError(f"grid 'listed' needs falling numbers above 0, not {ratios!r}")

    def spacing(schedule: Schedule, steps: int) -> NoiseLevel:
        if steps != len(wanted):
            raise UnblotError(f"this listed grid has {len(wanted)} steps, not {steps}; leave --steps out")
        return levels_at(schedule, wanted)

    return spacing


SPACINGS: dict[str, Callable[..., Spacing]] = {
    "time": uniform_time,
    "trailing": trailing,
    "karras": karras,
    "log_snr": uniform_log_snr,
    "listed": listed,
}


def levels_at(schedule: Schedule, ratios: Tensor) -> NoiseLevel:
    """The schedule's levels with these ratios sigma/alpha (N,), falling, and the clean one after them: (N + 1,).

    A ratio beyond the schedule's ends is held at its end.
    """
    low, high = torch.zeros_like(ratios), torch.ones_like(ratios)
    for _ in range(60):  # bisection in time, to the last bit
        middle = (low + high) / 2
        level = schedule(middle)
        short = level.sigma < ratios * level.alpha
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return schedule(torch.cat([high, torch.zeros(1, dtype=torch.float64)]))


def spec_of(levels: NoiseLevel) -> str:
    """The spec of the listed grid that goes through these levels, which end on the clean picture."""
    return "listed:ratios=" + "/".join(f"{ratio:.6g}" for ratio in (levels.sigma / levels.alpha)[:-1].tolist())


def _spaced(low: float, high: float, ratios: Callable[[float, float, Tensor], Tensor]) -> Spacing:
    """The spacing with the levels `ratios(first, last, shares)` between two ratios within the schedule's range."""

    def spacing(schedule: Schedule, steps: int) -> NoiseLevel:
        ends = schedule(torch.tensor([1.0, 1e-9], dtype=torch.float64))
        most, least = (ends.sigma / ends.alpha).tolist()
        share = torch.linspace(0, 1, steps, dtype=torch.float64)
        return levels_at(schedule, ratios(min(high, most), max(low, least), share))

    return spacing


def _check_range(spacing: str, low: float, high: float) -> None:
    if not 0 < low < high:
        raise UnblotError(f"grid {spacing!r} needs 0 < low < high, not {low} and {high}")
