"""Spacings: the noise levels that a sampler visits, noisiest first, ending on the clean picture.

A spacing maps a schedule and a number of steps N to N + 1 levels. It decides how sigma/alpha falls; the schedule gives
the pair (alpha, sigma) with a given ratio. Other names in the literature: sigma schedule, timestep spacing.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from unblot.config.options import MOST_STEPS
from unblot.errors import UnblotError, arg
from unblot.process.levels import NoiseLevel
from unblot.process.schedules import SIGMA_MAX, SIGMA_MIN, Schedule, karras_ratios, uniform_time_levels
from unblot.specs import build

Spacing = Callable[[Schedule, int], NoiseLevel]  # schedule, steps -> levels (steps + 1,)


def uniform_time() -> Spacing:
    """The schedule at N + 1 equally spaced times, from t = 1 to t = 0."""
    return uniform_time_levels


def trailing(*, indices: int = 1000) -> Spacing:
    """Equally spaced indices of a schedule trained on `indices` of them, the last one included (Lin et al. 2024)."""

    def spacing(schedule: Schedule, steps: int) -> NoiseLevel:
        if steps > indices:
            raise UnblotError(f"spacing 'trailing' has at most {indices} steps, not {steps}")
        return schedule((torch.linspace(1, 0, steps + 1, dtype=torch.float64) * indices).round() / indices)

    return spacing


def karras(*, rho: float = 7.0, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> Spacing:
    """Equal steps of (sigma/alpha)^(1/rho) from `high` to `low`, then 0 (Karras et al. 2022, eq. 5).

    [low, high] is clipped to the schedule's range. A larger rho makes shorter steps at low noise.
    """
    _check_range("karras", low, high)
    if rho <= 0:
        raise UnblotError(f"spacing 'karras' needs rho > 0, not {rho}")
    return _spaced(low, high, lambda first, last, share: karras_ratios(first, last, share, rho))


def uniform_log_snr(*, low: float = SIGMA_MIN, high: float = SIGMA_MAX) -> Spacing:
    """Equal steps of log SNR while sigma/alpha falls from `high` to `low`, then 0 (Lu et al. 2022)."""
    _check_range("log_snr", low, high)

    def ratios(first: float, last: float, share: Tensor) -> Tensor:
        ends = torch.tensor([first, last], dtype=torch.float64).log()
        return torch.lerp(ends[0], ends[1], share).exp()

    return _spaced(low, high, ratios)


def listed(*, ratios: str = "") -> Spacing:
    """The levels with these ratios sigma/alpha, then 0: `listed:ratios=80/6/1.1/0.2`, as tuning writes them."""
    try:
        wanted = torch.tensor([float(ratio) for ratio in ratios.split("/")], dtype=torch.float64)
    except ValueError:
        raise UnblotError(
            f"spacing 'listed' needs numbers separated by /, as in ratios=80/6/1.1/0.2, not {ratios!r}"
        ) from None
    if not bool((wanted > 0).all()) or not bool((wanted.diff() < 0).all()):
        raise UnblotError(f"spacing 'listed' needs falling numbers above 0, not {ratios!r}")

    def spacing(schedule: Schedule, steps: int) -> NoiseLevel:
        if steps != len(wanted):
            raise UnblotError(f"this listed spacing has {len(wanted)} steps, not {steps}; leave out {arg('steps')}")
        return levels_at(schedule, wanted)

    return spacing


SPACINGS: dict[str, Callable[..., Spacing]] = {
    "time": uniform_time,
    "trailing": trailing,
    "karras": karras,
    "log_snr": uniform_log_snr,
    "listed": listed,
}


def spaced_levels(schedule: Schedule, spacing: str, steps: int) -> NoiseLevel:
    """The levels (steps + 1,) that a spacing, a spec into SPACINGS, chooses of a schedule, noisiest first.

    Raises UnblotError for a bad spec and for more than MOST_STEPS steps.
    """
    if not 1 <= steps <= MOST_STEPS:
        raise UnblotError(f"sampling takes 1 to {MOST_STEPS} steps, not {steps}")
    return build(SPACINGS, spacing, "spacing")(schedule, steps)


def levels_at(schedule: Schedule, ratios: Tensor) -> NoiseLevel:
    """The schedule's levels with these falling ratios sigma/alpha (N,), then the clean level: (N + 1,).

    A ratio outside the schedule's range is clipped to it.
    """
    low, high = torch.zeros_like(ratios), torch.ones_like(ratios)
    for _ in range(60):  # bisection in t, to the last bit
        middle = (low + high) / 2
        level = schedule(middle)
        short = level.sigma < ratios * level.alpha
        low, high = torch.where(short, middle, low), torch.where(short, high, middle)
    return schedule(torch.cat([high, torch.zeros(1, dtype=torch.float64)]))


def spec_of(levels: NoiseLevel) -> str:
    """The spec of the `listed` spacing with these levels (N + 1,), the last of which is clean."""
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
        raise UnblotError(f"spacing {spacing!r} needs 0 < low < high, not {low} and {high}")
