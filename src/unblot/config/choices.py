"""From keyword arguments to a configuration."""

import dataclasses
from collections.abc import Mapping, Sequence
from typing import Any, TypeVar

from unblot.config.options import Checked
from unblot.errors import UnblotError

C = TypeVar("C", bound=Checked)


def from_choices(config: type[C], choices: Mapping[str, Any], without: Sequence[str] = ()) -> C:
    """A configuration with these fields, the others at their defaults; `without`: fields that do not apply here.

    Raises UnblotError for an unknown field, and for a value out of its range.
    """
    known = [f.name for f in dataclasses.fields(config) if f.name not in without]  # type: ignore[arg-type]
    for name in choices:
        if name not in known:
            raise UnblotError(f"unknown choice {name!r}; choose among {', '.join(known)}")
    return config(**choices)
