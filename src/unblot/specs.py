"""Choosing an entry of a table by name and options: `ddim:eta=1`, `unet:width=64,blocks=3`.

Every table of the package (`SCHEDULES`, `SOLVERS`, `NETWORKS`, ...) maps a name to a factory whose keyword-only
parameters are its options: their names, types and defaults are read from its signature and written nowhere else.
"""

import inspect
import math
import re
from collections.abc import Callable, Mapping
from typing import Any, TypeVar

from unblot.errors import UnblotError

T = TypeVar("T")


def options_of(factory: Callable[..., Any]) -> dict[str, Any]:
    """The options of a table's entry with their defaults: its keyword-only parameters."""
    parameters = inspect.signature(factory).parameters.values()
    return {p.name: p.default for p in parameters if p.kind is p.KEYWORD_ONLY}


def parse(table: Mapping[str, Callable[..., Any]], spec: str, kind: str) -> tuple[str, dict[str, Any]]:
    """The name of the entry and all its options, with defaults, for a spec `name` or `name:key=value,key=value`.

    Values take the type of the option's default. A text alone, `name:text`, is the first option if that is a text. A
    name that has a colon itself, as that of an own network, is followed by a comma: `module:Name,key=value`.
    Raises UnblotError for an unknown name, an unknown option or a value of the wrong type; `kind` ("solver") is the
    word used in the message.
    """
    name, _, tail = spec.partition(":")
    for long in (entry for entry in table if ":" in entry and f"{spec},".startswith(f"{entry},")):
        name, tail = long, spec[len(long) + 1 :]
    if name not in table:
        raise UnblotError(f"unknown {kind} {name!r}; choose one of {', '.join(table)}")
    options = options_of(table[name])
    for item in filter(None, tail.split(",")):
        key, equals, text = item.partition("=")
        if not equals and item == tail and isinstance(next(iter(options.values()), None), str):
            key, equals, text = next(iter(options)), "=", item  # a path or a name alone
        if key not in options or not equals:
            known = ", ".join(f"{k}={v}" for k, v in options.items()) or "none"
            raise UnblotError(f"{kind} {name!r} has no option {item!r}; its options are: {known}")
        options[key] = _convert(text, type(options[key]), f"{kind} {name!r}, option {key!r}")
    return name, options


def canonical(table: Mapping[str, Callable[..., Any]], spec: str, kind: str) -> str:
    """The spec with every option written out, so that it means the same after a default has changed.

    Several specs that are joined by + are written out one by one.
    """
    return "+".join(_written(*parse(table, part, kind)) for part in several(spec))


def without_defaults(table: Mapping[str, Callable[..., Any]], spec: str, kind: str) -> str:
    """The spec without the options that have their default value."""
    name, options = parse(table, spec, kind)
    defaults = options_of(table[name])
    return _written(name, {k: v for k, v in options.items() if v != defaults[k]})


def several(spec: str) -> list[str]:
    """The specs that one spec joins by +; the + of a number such as 1e+9 does not join."""
    return re.split(r"\+(?=[a-z])", spec)


def _written(name: str, options: dict[str, Any]) -> str:
    return name + ((",:"[":" not in name]) + ",".join(f"{k}={v}" for k, v in options.items()) if options else "")


def build(table: Mapping[str, Callable[..., T]], spec: str, kind: str, *args: Any) -> T:
    """The table's entry called with `args` and with the options of the spec."""
    name, options = parse(table, spec, kind)
    return table[name](*args, **options)


def _convert(text: str, to: type, where: str) -> Any:
    """`text` as a value of type `to` (bool, int, float or str)."""
    if to is bool:
        if text.lower() not in ("true", "false"):
            raise UnblotError(f"{where}: {text!r} is neither true nor false")
        return text.lower() == "true"
    try:
        value = to(text)
    except ValueError:
        raise UnblotError(f"{where}: {text!r} is not of type {to.__name__}") from None
    if to is float and not math.isfinite(value):
        raise UnblotError(f"{where}: {text!r} is not a finite number")
    return value
