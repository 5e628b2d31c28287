"""The plan of a run with a time budget, as plain values and in words."""

from dataclasses import asdict, dataclass
from typing import Any

from unblot.config.durations import format_seconds
from unblot.errors import counted
from unblot.system.memory import in_words


@dataclass(frozen=True)
class BudgetPlan:
    """What a run with a budget is going to be, as predicted by trial steps. Times in seconds, memory in bytes, None
    where the system does not say it.

    used: before this session's first step, trials included. steps, pictures, passes: from step `first` on.
    overhead_share: of the time left, for previews, saving and measuring, in [0, 1]. step_seconds: of the trial steps,
    whose number is trial_steps. ends: clock time, ISO 8601.
    """

    budget: float
    used: float
    first: int
    network: str
    parameters: int
    batch_size: int
    steps: int
    pictures: int
    passes: float
    pictures_per_second: float
    memory: int | None
    overhead_share: float
    step_seconds: float
    trial_steps: int
    ends: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return describe_plan(self.to_dict())


@dataclass(frozen=True)
class Outcome:
    """What a run with a budget came to. seconds and steps since the plan was made; memory in bytes or None."""

    seconds: float
    steps: int
    pictures: int
    memory: int | None


@dataclass(frozen=True)
class StoredPlan:
    """plan.json: the plan, and after the run what it came to."""

    plan: BudgetPlan
    came: Outcome | None = None


def describe_plan(plan: dict[str, Any]) -> str:
    """A plan in words, as `BudgetPlan.to_dict` gives it, in four lines."""
    budget = f"budget {format_seconds(plan['budget'])}, {plan['used']:.0f} s of it used so far"
    if plan["steps"]:
        first = (
            f"{plan['steps']:,} step{'' if plan['steps'] == 1 else 's'} of {plan['batch_size']}: "
            f"{plan['pictures']:,} pictures, {plan['passes']:.1f} passes over the data"
        )
        overhead = f"{100 * plan['overhead_share']:.0f} % of the time for previews, saving and measuring ({budget})"
    else:
        first = "no step fits into the time that is left; the run takes the few that its learning rate needs to end"
        overhead = f"all of the time is for the last preview and saving ({budget})"
    memory = "" if plan["memory"] is None else f", {in_words(plan['memory'])} of memory"
    return (
        f"{first}\n"
        f"{plan['network']}, {plan['parameters'] / 1e6:.2f} M parameters, "
        f"{plan['pictures_per_second']:.0f} pictures/s{memory}\n"
        f"ends at {plan['ends'][11:]}, {overhead}\n"
        f"assumes that the machine stays as idle as during {counted(plan['trial_steps'], 'trial step')} of "
        f"{plan['step_seconds']:.3g} s; if it gets slower, the run takes fewer steps"
    )
