"""What a data source gives: files to be decoded or an array to be read, and the rules that all readers share."""

import contextlib
import os
import posixpath
import stat
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from unblot.data.shards.index import ShardIndex
from unblot.errors import UnblotError, counted, one_line, printable

MAX_BYTES = 2**30  # that one thing may take in memory or unpacked, unless UNBLOT_MAX_BYTES says otherwise
MAX_RATIO = 20  # a file that expands less than this is a large data set, not an attack
SYSTEM_NAMES = {  # files and folders that systems write beside pictures; those that begin with a dot need no entry
    *("__macosx", "@eadir", "@__thumb", "#recycle", "$recycle.bin", "lost+found", "system volume information"),
    *("thumbs.db", "ehthumbs.db", "desktop.ini"),
}
NO_LABELS = "none"  # as the option `labels` of a source: read all pictures, and no labels
NAMED = 20  # names that a note lists before it counts the rest


class Broken(NamedTuple):
    """A picture that cannot be used, and why."""

    name: str
    reason: str

    def __str__(self) -> str:
        return f"{printable(self.name)}: {self.reason}"


class PassingFailure(UnblotError):
    """A picture could not be had, for a reason that is not in its file: another try may go well."""


class Item(NamedTuple):
    """Where the bytes of one picture are: a file below the root, or a member of an archive.

    place: the archive's path, "" for a file of its own. offset: of the bytes in a tar file (−1: not in one).
    size: in bytes. page: index in a multi-page TIFF (−1: the whole file).
    """

    name: str
    place: str = ""
    offset: int = -1
    size: int = -1
    page: int = -1


@dataclass(frozen=True)
class ArrayPictures:
    """Pictures that are already numbers: rows(start, stop) reads some of them as (n, C, H, W).

    alpha: whether the last channel is opacity; None where nothing says so.
    """

    shape: tuple[int, int, int, int]
    dtype: np.dtype
    rows: Callable[[int, int], np.ndarray]
    alpha: bool | None = None


@dataclass(frozen=True)
class Captions:
    """What is written about pictures.

    texts: for each picture, in order, its captions, one or several; () for a picture without any. Empty where none has
    one. notes: how they were read, and what was left out.
    """

    texts: tuple[tuple[str, ...], ...] = ()
    notes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Listing:
    """Everything in a source, in a fixed order: either `items` (with `root`) or `array`.

    labels: (N,) int64 indices into `classes`, None when unlabelled. broken: what could not be listed.
    notes: what the user should know about how the source was read.
    pages: what the pages of a TIFF are, "pictures" or "channels".
    read: gives the bytes of picture i, for sources whose bytes are in no file of their own.
    captions: of the pictures, None where there is nothing to be said of any.
    held_out: (N,) bool, which pictures are not trained on; None where their content decides.
    """

    root: str = ""
    items: list[Item] = field(default_factory=list)
    array: ArrayPictures | None = None
    labels: np.ndarray | None = None
    classes: tuple[str, ...] = ()
    broken: tuple[Broken, ...] = ()
    notes: tuple[str, ...] = ()
    pages: str = "pictures"
    read: Callable[[int], bytes] | None = None
    captions: Captions | None = None
    held_out: np.ndarray | None = None

    def __len__(self) -> int:
        return self.array.shape[0] if self.array else len(self.items)


@dataclass(frozen=True)
class DataSource:
    """Something that pictures come from.

    name: shown to the user. origin: plain JSON values that change when the files do (paths, sizes, times). load: lists
    the pictures, with a folder to unpack into; it is not called when a dataset cache of this origin exists. index: of
    shards, of which `load` lists a sample; None for a source that is listed whole.
    """

    name: str
    origin: list[Any]
    load: Callable[[Path], Listing]
    index: ShardIndex | None = None


def file_origin(path: str) -> list[Any]:
    """The values that change when a file does: its path, size and time.

    Raises UnblotError where there is no regular file, so that nobody waits for a pipe.
    """
    try:
        status = os.stat(path)
    except (OSError, ValueError) as error:
        reason = error.strerror if isinstance(error, OSError) else error
        raise UnblotError(f"cannot read {printable(path)!r}: {reason}") from None
    if not stat.S_ISREG(status.st_mode):
        raise UnblotError(f"{printable(path)!r} is {kind_of_file(status.st_mode)}; give a file or a folder")
    return [os.path.abspath(path), status.st_size, status.st_mtime_ns]


def kind_of_file(mode: int) -> str:
    """What a file that is neither regular nor a folder is, from its mode."""
    kinds = ((stat.S_ISDIR, "a folder"), (stat.S_ISFIFO, "a named pipe"), (stat.S_ISSOCK, "a socket"))
    return next((name for is_kind, name in kinds if is_kind(mode)), "a device")


def max_bytes() -> int:
    """The bytes that one thing may take in memory or unpacked: UNBLOT_MAX_BYTES, else MAX_BYTES."""
    text = os.environ.get("UNBLOT_MAX_BYTES", "")
    try:
        limit = int(float(text or MAX_BYTES))
    except (ValueError, OverflowError):
        limit = 0
    if limit < 1:
        raise UnblotError(f"UNBLOT_MAX_BYTES is {printable(text)!r}; give a number of bytes, such as {4 * 2**30}")
    return limit


def check_expansion(count: int, size: int, what: str) -> None:
    """Raises UnblotError where `count` bytes are too many to unpack or hold: more than max_bytes() and more than
    MAX_RATIO times the `size` in bytes of the file that they come from."""
    if count > max(max_bytes(), MAX_RATIO * size):
        raise UnblotError(
            f"{what} takes {count:,} bytes or more, the file has {size:,}; if it is sound, set the environment "
            f"variable UNBLOT_MAX_BYTES to a higher limit (it is {max_bytes():,})"
        )


@contextlib.contextmanager
def naming(path: str, kind: str) -> Iterator[None]:
    """Within it whatever a library raises becomes an UnblotError that names the file and what it was read as."""
    try:
        yield
    except UnblotError:
        raise
    except Exception as error:  # decoders raise whatever they like
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        reason = printable(one_line(reason)) or type(error).__name__
        raise failure(error, f"cannot read {printable(path)!r} as {kind}: {reason}") from None


def failure(error: BaseException, message: str) -> UnblotError:
    """The error with a message: a PassingFailure where it says nothing of a file's content."""
    return (PassingFailure if is_passing(error) else UnblotError)(message)


def is_passing(error: BaseException) -> bool:
    """Whether the system had no bytes or no memory to give; decoders' own errors of type OSError have no number."""
    return isinstance(error, MemoryError) or (isinstance(error, OSError) and error.errno is not None)


def path_of(item: Item) -> str:
    """An item's path below the root, "/" between its parts; archives may be written with backslashes."""
    return posixpath.normpath(item.name.replace("\\", "/") if item.place else item.name).lstrip("/")


def hidden(name: str) -> bool:
    """Whether a file's path below the root has a part that begins with a dot or is in SYSTEM_NAMES."""
    if "/" in name or "\\" in name:
        return any(map(_hidden, name.replace("\\", "/").split("/")))
    return _hidden(name)  # at once: a folder may have a million files


def _hidden(part: str) -> bool:
    return (part[:1] == "." and part not in (".", "..")) or part.casefold() in SYSTEM_NAMES


def wants_labels(labels: str) -> bool:
    """Whether the option `labels` of a source asks for labels: "" does, NO_LABELS does not."""
    if labels not in ("", NO_LABELS):
        raise UnblotError(f"labels={printable(labels)} is unknown here; give labels={NO_LABELS} or leave it out")
    return not labels


def cannot_be_used(broken: Sequence[Broken], way_out: str) -> str:
    """Every broken picture and the reason, a line each, below what to do."""
    return "\n  ".join([f"{counted(len(broken), 'picture')} cannot be used; {way_out}:", *map(str, broken)])


def named(names: list[str], most: int = NAMED) -> str:
    """The first names of a list, and how many more there are."""
    more = f" and {len(names) - most} more" if len(names) > most else ""
    return ", ".join(map(printable, names[:most])) + more


def readable(name: str) -> str:
    """A file name or a label as printable Unicode text. Bytes that were not UTF-8 are read as Windows-1252."""
    try:
        name.encode()
    except UnicodeEncodeError:
        data = name.encode("utf-8", "surrogateescape" if all(_is_byte(c) for c in name) else "replace")
        name = data.decode("cp1252", "replace")
    return printable(name)


def _is_byte(char: str) -> bool:
    """Whether surrogateescape can turn a character into bytes."""
    return not "\ud800" <= char <= "\udfff" or "\udc80" <= char <= "\udcff"


def class_names(raw: list[str]) -> tuple[np.ndarray, tuple[str, ...]]:
    """Label indices (N,) int64 and class names for one label a picture.

    Names are in one total order, whatever order the labels come in: numbers by value, then the rest, each by text.
    """
    text = {label: readable(label) for label in set(raw)}
    names = sorted(set(text.values()), key=_rank)
    index = {name: i for i, name in enumerate(names)}
    return np.array([index[text[label]] for label in raw], np.int64), tuple(names)


def _rank(name: str) -> tuple[int, float, str]:
    """The place of a class name in the order: (0, value, text) for a number, (1, 0, text) for the rest."""
    try:
        value = float(name)
    except ValueError:
        return 1, 0.0, name
    return (0, value, name) if value == value else (1, 0.0, name)
