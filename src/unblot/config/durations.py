"""Budgets as a person writes them: 90s, 20m, 2h, 1h30m, and with --resume +20m."""

import re
from typing import Any

from unblot.errors import UnblotError

LEAST_SECONDS = 10.0  # of a budget
EXAMPLES = "say 90s, 20m, 2h or 1h30m"
UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_budget(text: str) -> tuple[float, bool]:
    """Seconds of a budget as a person writes it, and whether it is to be added to what was there ("+20m").

    Raises UnblotError for anything else, and for less than a plan needs.
    """
    parts = re.findall(r"([\d.]+)([^\d.]*)", text.removeprefix("+").replace(" ", ""))
    if not parts or not re.fullmatch(r"\+?[\d.]+[\w.]*", text.replace(" ", "")):
        raise UnblotError(f"--budget {text!r} is not a time; {EXAMPLES}")
    for _, unit in parts:
        if unit not in UNITS:
            what = f"unknown unit {unit!r}" if unit else "a number without a unit"
            raise UnblotError(f"--budget {text}: {what}; {EXAMPLES}")
    try:
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    except ValueError:
        raise UnblotError(f"--budget {text!r} is not a time; {EXAMPLES}") from None
    if seconds < LEAST_SECONDS:
        raise UnblotError(f"--budget {text} is too short: trial steps come out of it; give at least {LEAST_SECONDS:g}s")
    return seconds, text.startswith("+")


def format_seconds(seconds: float) -> str:
    """A time as `parse_budget` reads it: 1h30m, 20m, 45s."""
    left, parts = round(seconds), []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        parts.append(f"{count}{unit}" if count else "")
    return "".join(parts) or "0s"


def budget_of(choices: dict[str, Any]) -> float | None:
    """Seconds of the budget among the choices of a new run, which is then written out there; None without one."""
    if not choices.get("budget"):
        return None
    if "steps" in choices:
        raise UnblotError("--budget and --steps both say when to stop; give one of them")
    seconds, more = parse_budget(str(choices["budget"]))
    if more:
        raise UnblotError(f"--budget {choices['budget']} adds to a run that is there: give it with --resume RUN")
    choices["budget"] = format_seconds(seconds)
    return seconds


def longer_budget(budget: str | None, steps: int | None, planned: str, used: float) -> str:
    """The whole budget of a run that goes on with other choices; "" where its steps say when it ends."""
    if budget is None:
        return ""
    if steps is not None:
        raise UnblotError("--budget and --steps both say when to stop; give one of them")
    seconds, more = parse_budget(str(budget))
    if more:
        seconds += parse_budget(planned)[0] if planned else used
    elif seconds <= used:
        raise UnblotError(
            f"--budget {budget}: the run has had {format_seconds(used)} already; give more, or +{budget} to add it"
        )
    return format_seconds(seconds)
