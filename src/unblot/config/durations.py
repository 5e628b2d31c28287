"""Budgets as a person writes them: 90s, 20m, 2h, 1h30m, and +20m for a run that goes on."""

import re
from typing import Any

from unblot.errors import UnblotError, arg

LEAST_SECONDS = 10.0  # of a budget
EXAMPLES = "say 90s, 20m, 2h or 1h30m"
UNITS = {"h": 3600, "m": 60, "s": 1}


def parse_budget(text: str) -> tuple[float, bool]:
    """Seconds of a budget as a person writes it, and whether it adds to the earlier budget ("+20m").

    Raises UnblotError for anything else, and for less time than a plan needs.
    """
    parts = re.findall(r"([\d.]+)([^\d.]*)", text.removeprefix("+").replace(" ", ""))
    if not parts or not re.fullmatch(r"\+?[\d.]+[\w.]*", text.replace(" ", "")):
        raise UnblotError(f"{arg('budget', text)} is no time; {EXAMPLES}")
    for _, unit in parts:
        if unit not in UNITS:
            what = f"unknown unit {unit!r}" if unit else "a number without a unit"
            raise UnblotError(f"{arg('budget', text)}: {what}; {EXAMPLES}")
    try:
        seconds = sum(float(number) * UNITS[unit] for number, unit in parts)
    except ValueError:
        raise UnblotError(f"{arg('budget', text)} is no time; {EXAMPLES}") from None
    if seconds < LEAST_SECONDS:
        raise UnblotError(
            f"{arg('budget', text)} is too short: trial steps are part of it; give at least {LEAST_SECONDS:g}s"
        )
    return seconds, text.startswith("+")


def format_seconds(seconds: float) -> str:
    """A time as `parse_budget` reads it: 1h30m, 20m, 45s."""
    left, parts = round(seconds), []
    for unit, size in UNITS.items():
        count, left = divmod(left, size)
        parts.append(f"{count}{unit}" if count else "")
    return "".join(parts) or "0s"


def budget_of(choices: dict[str, Any]) -> float | None:
    """Seconds of the budget among the choices of a new run, where it is then written in full; None without one."""
    if not choices.get("budget"):
        return None
    if "steps" in choices:
        raise UnblotError(f"{arg('budget')} and {arg('steps')} both say when to stop; give one of them")
    seconds, more = parse_budget(str(choices["budget"]))
    if more:
        raise UnblotError(f"{arg('budget', choices['budget'])} adds to an existing run: unblot train --resume RUN")
    choices["budget"] = format_seconds(seconds)
    return seconds


def longer_budget(budget: str | None, steps: int | None, planned: str, used: float) -> str:
    """The whole budget of a run that goes on with other choices; "" where its number of steps says when it ends."""
    if budget is None:
        return ""
    if steps is not None:
        raise UnblotError(f"{arg('budget')} and {arg('steps')} both say when to stop; give one of them")
    seconds, more = parse_budget(str(budget))
    if more:
        seconds += parse_budget(planned)[0] if planned else used
    elif seconds <= used:
        raise UnblotError(
            f"{arg('budget', budget)}: the run has used {format_seconds(used)} already; give more, or +{budget} to add"
        )
    return format_seconds(seconds)
