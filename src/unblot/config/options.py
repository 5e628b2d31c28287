"""Fields of a configuration that are flags of the command line as well, and the check of their values."""

import dataclasses
import math
import numbers
import types
from collections.abc import Mapping
from dataclasses import field
from typing import Any, get_args

from unblot.errors import UnblotError, arg

KINDS: dict[type, str] = {int: "a whole number", float: "a number", bool: "True or False", str: "text"}
MOST_STEPS = 10_000  # of sampling: ten times DDPM's 1000, so that a mistyped number fails at once
SPEC = "NAME[:OPTIONS]"
MOST = 2**63 - 1  # the largest whole number that a choice may be


def option(
    help: str,
    group: str,
    value: str = "",
    low: float = -math.inf,
    high: float = math.inf,
    table: str = "",
    repeats: bool = False,
    **default: Any,
) -> Any:
    """A field that is also a flag: its line of help, its group there, its value's name, and its least and most.

    value: what is wanted, as the help shows it (N, TIME, HxW). table: the table that the value is chosen from.
    repeats: whether the flag may be given several times.
    """
    metadata = {
        "help": help,
        "group": group,
        "value": value,
        "low": low,
        "high": high,
        "table": table,
        "repeats": repeats,
    }
    return field(metadata=metadata, **default)


class Checked:
    """A configuration whose values have the types of their fields, and its numbers the ranges of their options."""

    def __post_init__(self) -> None:
        check_values(type(self), vars(self))
        for f in dataclasses.fields(self):  # type: ignore[arg-type]
            value, kind = getattr(self, f.name), field_type(f)
            if kind in (int, float) and hasattr(value, "item"):  # a NumPy number, which is no JSON
                value = value.item()
            if kind is float and type(value) is int:  # as it is read back from a file
                value = float(value)
            object.__setattr__(self, f.name, value)


def check_values(config: type, values: Mapping[str, Any]) -> None:
    """Raises UnblotError for a value that does not suit the configuration's field of that name; others are not read."""
    for f in dataclasses.fields(config):
        if f.name in values and not (values[f.name] is None and _optional(f)):
            check_value(f, values[f.name])


def field_type(f: dataclasses.Field) -> type:
    """The plain type of a field, without None: `int` for `int | None`."""
    return next(t for t in get_args(f.type) if t is not type(None)) if _optional(f) else f.type  # type: ignore[return-value]


def _optional(f: dataclasses.Field) -> bool:
    return isinstance(f.type, types.UnionType)


def check_value(f: dataclasses.Field, value: Any) -> None:
    """Raises UnblotError for a value of another type than the field's, or out of its range."""
    kind, low, high = field_type(f), f.metadata["low"], f.metadata["high"]
    if _optional(f) and kind is str:
        return  # a label by index, a path: what it may be is said where it is used
    if _optional(f) and isinstance(value, list | tuple):  # several that take turns
        for one in value:
            check_value(f, one)
        return
    abstract: Any = {int: numbers.Integral, float: numbers.Real}.get(kind, kind)
    if not isinstance(value, abstract) or (isinstance(value, bool) and kind is not bool):
        raise UnblotError(f"{arg(f.name)} must be {KINDS[kind]}, not {value!r}")
    if kind not in (int, float):
        return
    if abs(value) > MOST or not math.isfinite(value) or not low <= value <= high:  # a huge whole number is no float
        bounds = [f"{word} {bound:g}" for word, bound in (("at least", low), ("at most", high)) if math.isfinite(bound)]
        limit = f"from {low:g} to {high:g}" if len(bounds) == 2 else "".join(bounds) or "a finite number"
        raise UnblotError(f"{arg(f.name)} must be {limit}, not {value}")


# --- fields that several configurations share


def device_option(group: str) -> Any:
    return option("cpu, cuda, mps, or auto: the best that is available", group, "DEVICE", default="auto")


def batch_size_option(group: str, what: str = "samples") -> Any:
    return option(f"{what} made at a time", group, "N", low=1, default=64)


def moved_data_option(group: str) -> Any:
    return option("where the training data is now, if it was moved", group, "PATH", default=None)


# What decides how a call samples that does not say it:
AS_THE_RUN = "those of the run"
AS_TUNED = "as tuned, else those of the run"
BY_THE_EDIT = "suits the edit, see docs/sampling.md"


def steps_option(group: str, by: str) -> Any:
    return option(f"steps from noise to picture (default: {by})", group, "N", low=1, high=MOST_STEPS, default=None)


def solver_option(group: str, by: str) -> Any:
    return option(f"solver (default: {by})", group, SPEC, table="SOLVERS", default=None)


def spacing_option(group: str, by: str) -> Any:
    return option(f"noise levels that the steps visit (default: {by})", group, SPEC, table="SPACINGS", default=None)


def nfe_option(group: str) -> Any:
    return option("network calls that a sample may take", group, "N", low=1, default=None)


def quality_option(group: str) -> Any:
    return option(
        "a sampler that `unblot tune` found (default: good, where the run was tuned)",
        group,
        "NAME",
        table="QUALITIES",
        default=None,
    )


def label_option(group: str, otherwise: str) -> Any:
    what = f"class by name or number; 0,1,2 or all take turns (default: {otherwise})"
    return option(what, group, "NAME", default=None)


def prompt_option(group: str) -> Any:
    return option(
        "what the picture shows, in words; several take turns (default: no text)",
        group,
        "TEXT",
        repeats=True,
        default=None,
    )


def negative_option(group: str) -> Any:
    return option("guide away from this text instead of from no text", group, "TEXT", default=None)
