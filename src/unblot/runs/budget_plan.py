"""The plan of a run with a time budget, in plain values and in words."""

from dataclasses import asdict, dataclass
from typing import Any

from unblot.config.durations import format_seconds


@dataclass(frozen=True)
class BudgetPlan:
    """What a run with a budget is going to be, as trial steps foretell it. Times in seconds, memory in bytes.

    used: before this sitting's first step, trials included. steps, pictures, passes: from step `first` on. aside_share:
    of the time, for previews and checkpoints. ends: clock time, ISO 8601.
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
    memory: int
    overhead_share: float
    ends: str

    def to_dict(self) -> dict[str, Any]:
        """Plain JSON values."""
        return asdict(self)

    def __str__(self) -> str:
        return describe_plan(self.to_dict())


def describe_plan(plan: dict[str, Any]) -> str:
    """A plan in words, as `Plan.to_dict` gives it, in three lines."""
    memory = f"{plan['memory'] / 1e9:.1f} GB" if plan["memory"] >= 1e9 else f"{plan['memory'] / 1e6:.0f} MB"
    return (
        f"{plan['steps']:,} steps of {plan['batch_size']}: {plan['pictures']:,} pictures, {plan['passes']:.1f} passes "
        f"over the data\n"
        f"{plan['network']}, {plan['parameters'] / 1e6:.2f} M parameters, "
        f"{plan['pictures_per_second']:.0f} pictures/s, {memory} of memory\n"
        f"ends at {plan['ends'][11:]}, {100 * plan['overhead_share']:.0f} % of the time for previews, saving and "
        f"measuring (budget {format_seconds(plan['budget'])}, {plan['used']:.0f} s of it used so far)"
    )
