"""The one error that a user is meant to read, and how a message names a choice: as an argument or as a flag."""

from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_at_command_line: ContextVar[bool] = ContextVar("at_command_line", default=False)


class UnblotError(Exception):
    """Bad input or a bad state of the world, in one line: the value at fault and the way out.

    The command line prints it without a traceback and exits with code 2; from Python it is raised as it is.
    """


def arg(name: str, value: Any = None) -> str:
    """A choice as the reader of a message gives it: `batch_size=64` from Python, `--batch-size 64` at the command line.

    Without a value `batch_size=` and `--batch-size`.
    """
    if _at_command_line.get():
        return flag(name) + ("" if value is None else f" {value}")
    return f"{name}=" + ("" if value is None else repr(value))


def flag(name: str) -> str:
    """The flag of the command line for a choice: `--batch-size`, `-n`."""
    return "-" + name if len(name) == 1 else "--" + name.replace("_", "-")


@contextmanager
def command_line() -> Iterator[None]:
    """Within it messages name flags."""
    token = _at_command_line.set(True)
    try:
        yield
    finally:
        _at_command_line.reset(token)
