"""The choices of `unblot plan`, `unblot explain` and `unblot studio` that they share with no other command."""

from dataclasses import dataclass

from unblot.config.options import Checked, option


@dataclass(frozen=True, kw_only=True)
class PlanConfig(Checked):
    """What a plan of a training is asked."""

    hours: float | None = option("also say what fits into this time", "time", "H", low=0, default=None)


@dataclass(frozen=True, kw_only=True)
class ExplainConfig(Checked):
    """What decides the numbers of the lessons."""

    seed: int = option("seed of every random number", "lessons", "N", low=0, default=0)


@dataclass(frozen=True, kw_only=True)
class StudioConfig(Checked):
    """Where the studio listens."""

    host: str = option("address to listen on", "service", "NAME", default="127.0.0.1")
    port: int = option("port to listen on", "service", "N", low=0, high=65535, default=8770)
