"""The one error that a user is meant to read, and what its message is made of: choices, numbers and names in words."""

import errno
import shlex
import sys
import unicodedata
import warnings
from collections.abc import Iterator
from contextlib import contextmanager
from contextvars import ContextVar
from typing import Any

_at_command_line: ContextVar[bool] = ContextVar("at_command_line", default=False)

JOINERS = "\u200c\u200d"  # invisible, but part of the spelling of words in some scripts, and of emoji
REASONS = {  # of an operating system's error: what is wrong, and what to do
    errno.EACCES: "permission denied; change the permissions, or choose another place",
    errno.EPERM: "permission denied; change the permissions, or choose another place",
    errno.EROFS: "the file system is read-only; choose another place",
    errno.ENOSPC: "the disk is full; free some space, nothing that was saved is lost",
    errno.EDQUOT: "the disk quota is used up; free some space, nothing that was saved is lost",
    errno.ENOENT: "no such file or folder",
    errno.EISDIR: "this is a folder; give a file",
    errno.ENOTDIR: "this is a file; give a folder",
    errno.EEXIST: "this exists already; choose another name",
    errno.ELOOP: "this is a symbolic link, which is not followed; remove it",
    errno.ENAMETOOLONG: "the name is too long; choose a shorter one",
}


class UnblotError(Exception):
    """Bad input or a bad state of the world, in one line: the value at fault and the way out.

    The command line prints it without a traceback and exits with code 2; Python raises it unchanged.
    """


class UnblotNote(UserWarning):
    """What a user may want to know of a call that goes on: Python shows it as a warning, the command line as a line."""


def note(line: str) -> None:
    """Shows a note, once."""
    warnings.warn(line, UnblotNote, stacklevel=2)


def typed(path: object) -> str:
    """A path as it is typed at a command line, in quotes where it needs them."""
    return shlex.quote(str(path))


def arg(name: str, value: Any = None) -> str:
    """A choice as the reader of a message gives it: `batch_size=64` from Python, `--batch-size 64` at the command line.

    Without a value `batch_size=` and `--batch-size`. A switch has the value True: `overwrite=True` and `--overwrite`.
    """
    if _at_command_line.get():
        return flag(name) + ("" if value is None or value is True else f" {value}")
    return f"{name}=" + ("" if value is None else repr(value))


def flag(name: str) -> str:
    """The flag of the command line for a choice: `--batch-size`, `-n`, and `--from` for `from_`, a word of Python's."""
    return "-" + name if len(name) == 1 else "--" + name.rstrip("_").replace("_", "-")


@contextmanager
def command_line(at: bool = True) -> Iterator[None]:
    """Messages that are made within it name flags, or arguments where `at` is False."""
    token = _at_command_line.set(at)
    try:
        yield
    finally:
        _at_command_line.reset(token)


def sentence(error: OSError) -> str:
    """An error of the operating system as a sentence: which file, what is wrong, what to do."""
    reason = REASONS.get(error.errno or 0) or (error.strerror or str(error) or type(error).__name__).lower()
    return f"{str(error.filename)!r}: {reason}" if error.filename else reason


def is_out_of_memory(error: Exception) -> bool:
    """Whether the memory of the machine or of a GPU was too small; of Apple's GPUs only the text says so.

    PyTorch, whose error it may be, is not imported.
    """
    torch = sys.modules.get("torch")
    of_torch = torch is not None and isinstance(error, torch.OutOfMemoryError)
    return of_torch or isinstance(error, MemoryError) or "out of memory" in str(error)


def one_line(text: object, most: int = 200) -> str:
    """A text, or the message of an error, on one line of at most `most` characters."""
    return " ".join(str(text).split())[:most]


def counted(number: int, what: str) -> str:
    """A number of things: "1 file", "2 files", "2 classes"."""
    return f"{number} {what}{'' if number == 1 else 'es' if what.endswith('s') else 's'}"


def printable(name: str) -> str:
    """The name with everything that could act on a terminal or that does not print written as escapes."""
    if name.isprintable():
        return name
    return "".join(c if _prints(c) else c.encode("unicode_escape").decode() for c in name)


def _prints(char: str) -> bool:
    return char.isprintable() or char in JOINERS or unicodedata.category(char) == "Zs"


def escaped(text: str) -> str:
    """`printable` line by line."""
    return "\n".join(map(printable, text.split("\n")))
