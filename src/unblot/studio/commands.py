"""What the studio can run: each command with its choices, as a form shows them and as the command line takes them."""

import dataclasses
from collections.abc import Mapping
from typing import Any, NamedTuple

from unblot.config.distill import DistillConfig
from unblot.config.edits import EDITS
from unblot.config.latent import LatentConfig
from unblot.config.measuring import EmaConfig, EvaluateConfig, TuneConfig
from unblot.config.options import check_value, field_type
from unblot.config.sampling import EditConfig, FilmConfig, SampleConfig
from unblot.config.schema import DataConfig, TrainConfig
from unblot.config.tables import DECIDED, entries, help_of, names
from unblot.config.transfer import TransferConfig
from unblot.errors import UnblotError, flag


class Choices(NamedTuple):
    """The choices of a command: the configurations whose fields they are, and those of the first look.

    skipped: fields that the studio sets itself, or that do not apply.
    """

    configs: tuple[type, ...]
    first: tuple[str, ...]
    skipped: tuple[str, ...] = ("device",)


COMMANDS = {
    "train": Choices(
        (DataConfig, TransferConfig, LatentConfig, TrainConfig),
        ("size", "budget", "preset", "clusters", "augment", "seed"),
        ("data", "log_to"),
    ),
    "sample": Choices((SampleConfig,), ("prompt", "negative", "label", "n", "seed", "steps", "solver", "guidance")),
    "film": Choices((FilmConfig,), ("prompt", "label", "n", "seed", "steps", "solver", "guidance"),
                    ("device", "batch_size")),
    "edit": Choices((EditConfig,), ("prompt", "label", "n", "seed", "steps", "fit")),
    "evaluate": Choices((EvaluateConfig,), ("n", "features", "steps")),
    "tune": Choices((TuneConfig,), ("budget", "n")),
    "ema": Choices((EmaConfig,), ("std", "by")),
    "distill": Choices((DistillConfig,), ("nfe", "guidance"), ("teacher", "sha256")),
    "doctor": Choices((DataConfig,), ("size",), ("data", "on_broken")),
}  # fmt: skip


SLIDERS = {"steps": (1, 100), "guidance": (1, 8), "strength": (0, 1), "amount": (0, 1)}  # numbers with a slider beside


class Field(NamedTuple):
    """A choice in a form. kind: switch, number, text, or lines, each of which is a value. suggestions: the entries of
    its table. ends: of its slider."""

    name: str
    label: str
    help: str
    kind: str
    group: str
    placeholder: str
    suggestions: tuple[str, ...]
    ends: tuple[int, int] | None


def fields(command: str) -> tuple[list[Field], list[Field]]:
    """The choices of a command: those of the first look, and all others."""
    chosen = COMMANDS[command]
    found = {f.name: _field(f) for f in _options(command)}
    first = [found.pop(name) for name in chosen.first if name in found]
    return first, list(found.values())


def edit_fields() -> dict[str, list[Field]]:
    """The choices of each kind of edit, without the mask, which is painted."""
    return {kind: [_field(f) for f in _own(kind)] for kind in EDITS}


def arguments(command: str, values: Mapping[str, Any], kind: str | None = None) -> list[str]:
    """The flags of a command with these values; an empty one is left out, so that the command's default holds.

    kind: of an edit, whose own choices are then among them.

    Raises UnblotError for an unknown choice, and for a value of the wrong type or out of its range.
    """
    options = {f.name: f for f in (*(_own(kind) if kind else ()), *_options(command))}
    flags = []
    for name, value in values.items():
        if name not in options:
            raise UnblotError(f"unknown choice {name!r} of {command}; choose among {', '.join(options)}")
        if not is_given(value):
            continue
        f = options[name]
        if field_type(f) is bool:
            check_value(f, value)
            flags.append(flag(name))
            continue
        for one in value if isinstance(value, list) and f.metadata["repeats"] else [value]:
            check_value(f, _typed(f, one))
            entry, colon, _ = str(one).partition(":")
            if name == "network" and colon and entry not in entries("NETWORKS"):
                raise UnblotError(f"the studio imports no code for network {one!r}; choose {names('NETWORKS')}")
            flags += [flag(name) + ("=" if len(name) > 1 else "") + str(one)]
    return flags


def is_given(value: Any) -> bool:
    """Whether a form holds a value, which 0 is; an empty field and a switch that is off are none."""
    return not (value is None or value is False or value == "" or value == [])


def paths(command: str) -> tuple[str, ...]:
    """The choices of a command that name a file or a folder."""
    return tuple(f.name for f in _options(command) if f.metadata["value"] == "PATH")


def _own(kind: str) -> list[dataclasses.Field]:
    return [f for f in dataclasses.fields(EDITS[kind].choices) if f.name != "mask"]


def _options(command: str) -> list[dataclasses.Field]:
    chosen = COMMANDS[command]
    found: dict[str, dataclasses.Field] = {}
    for config in chosen.configs:
        for f in dataclasses.fields(config):
            if f.name not in chosen.skipped:
                found.setdefault(f.name, f)
    return list(found.values())


def _field(f: dataclasses.Field) -> Field:
    kind = {bool: "switch", int: "number", float: "number"}.get(field_type(f), "text")
    kind = "lines" if f.metadata["repeats"] else kind
    table = f.metadata["table"]
    default = f.default
    known = default is not dataclasses.MISSING and default not in (None, "", False)
    return Field(
        f.name,
        f.name.rstrip("_").replace("_", " ") if len(f.name) > 1 else "how many",
        help_of(f),
        kind,
        f.metadata["group"],
        str(default) if known else "decided for you" if DECIDED in help_of(f) else "",
        tuple(entries(table)) if table else (),
        SLIDERS.get(f.name),
    )


def _typed(f: dataclasses.Field, value: Any) -> Any:
    """A value of a form as the type of its field, where it can be read as such."""
    kind = field_type(f)
    if not isinstance(value, str) or kind not in (int, float):
        return value
    try:
        return kind(value)
    except ValueError:
        return value
