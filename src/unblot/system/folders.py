"""Folders that commands write into: claimed by one process at a time, and overwritten only where unblot wrote.

    manifest.json    in every folder of samples, edits or films: what made it under "generator", as "unblot 1.0", and
                     under "files" the names that were written beside it
    grid.png         of samples and edits: many of them in one image, to look at
    .lock            while a process writes

Nothing else in a folder is ever removed or replaced.
"""

import contextlib
import itertools
import os
import tempfile
from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import filelock

from unblot._version import __version__
from unblot.errors import UnblotError, arg, sentence
from unblot.system.distributed import Group
from unblot.system.files import write_json
from unblot.system.stored import read_stored
from unblot.system.turns import decided

MANIFEST, GRID, LOCK = "manifest.json", "grid.png", ".lock"
GENERATOR = "generator"  # the key of a manifest that says what wrote the folder
SHOWN = 3  # names in a message
MARK, HEAD = b'name="generator" content="unblot"', 4096  # of every page, among so many first bytes


@dataclass(frozen=True)
class Manifest:
    """What every manifest has: the names of the files that were written beside it."""

    files: tuple[str, ...]


def user_path(path: str | os.PathLike[str]) -> Path:
    """A path as a person gives it, `~` expanded. Raises UnblotError for a user that does not exist."""
    try:
        return Path(path).expanduser()
    except RuntimeError as e:
        raise UnblotError(f"{str(path)!r}: {e}; write the path in full") from None


def recorded(folder: Path) -> set[str]:
    """The names of the files that the folder's manifest lists, and its own; none where there is no manifest.

    Raises UnblotError where the manifest is damaged, or lists a file outside of the folder.
    """
    path = folder / MANIFEST
    if not path.is_file():
        return set()
    files = read_stored(path, Manifest, f"choose another {arg('out')}", extra=True).files
    if odd := [name for name in files if name != os.path.basename(name) or name in ("", ".", "..")]:
        raise UnblotError(f"{str(path)!r} lists {odd[0]!r}, which is no file beside it; choose another {arg('out')}")
    return {*files, MANIFEST}


def refuse_foreign(folder: Path, names: Iterable[str], overwrite: bool) -> None:
    """Raises UnblotError where files with these names cannot be written without loss of what is in the folder.

    Without `overwrite` the folder must be empty or new. With it the files that its manifest lists may go, and no other
    file may have one of the names.
    """
    if folder.exists() and not folder.is_dir():
        raise UnblotError(f"{str(folder)!r} is a file; choose another {arg('out')}")
    there = {path.name for path in folder.iterdir()} - {LOCK} if folder.is_dir() else set()
    if there and not overwrite:
        raise UnblotError(
            f"{str(folder)!r} holds files already; choose another {arg('out')}, or give {arg('overwrite', True)}"
        )
    if foreign := (there - recorded(folder)) & {*names, MANIFEST}:
        raise UnblotError(
            f"{str(folder)!r} holds files that unblot did not write ({shortened(foreign)}); choose another {arg('out')}"
        )


def begin_folder(folder: Path, names: Iterable[str], about: Mapping[str, Any], overwrite: bool) -> None:
    """Makes the folder with a manifest of the files that are about to be written; with `overwrite` without those that
    an earlier manifest lists. Raises UnblotError as `refuse_foreign` does."""
    names = list(names)
    refuse_foreign(folder, names, overwrite)
    remove_recorded(folder)
    folder.mkdir(parents=True, exist_ok=True)
    write_json(folder / MANIFEST, {**about, GENERATOR: f"unblot {__version__}", "files": names})


def remove_recorded(folder: Path) -> None:
    """Removes the files that the folder's manifest lists, and the manifest last."""
    for name in sorted(recorded(folder), key=lambda name: name == MANIFEST):
        if not (folder / name).is_dir() or (folder / name).is_symlink():
            (folder / name).unlink(missing_ok=True)


@contextmanager
def removed_on_failure(*folders: Path) -> Iterator[None]:
    """Within it the files that the folders' manifests list are written; where that fails, they are removed again, and
    the folders too where nothing else is in them."""
    try:
        yield
    except BaseException:
        for folder in folders:
            remove_recorded(folder)
            with contextlib.suppress(OSError):
                folder.rmdir()
        raise


@contextmanager
def claimed(folder: Path | None, default: Path, group: Group | None = None) -> Iterator[Path]:
    """A folder that no other process writes into: `folder`, or a new one named `default`, `default-2`, `default-3`, …

    The processes of `group` share one folder, which the main process claims. Folders that were made for it are removed
    again where nothing was written into them. Raises UnblotError where another process has the folder.
    """
    group = group or Group()
    if not group.is_main_process:
        yield Path(decided(group, lambda: str(folder)))
        return
    made: list[Path] = []
    try:
        if folder is None:
            _make(default.parent, made)
            folder = _new_folder(default)
            made.append(folder)
        else:
            _make(folder, made)
        with locked(folder):
            yield Path(decided(group, lambda: str(folder)))
    finally:
        for path in reversed(made):
            with contextlib.suppress(OSError):
                path.rmdir()


@contextmanager
def locked(folder: Path, choice: str = "out") -> Iterator[None]:
    """Within it this process alone writes into the folder, which is made where it is missing.

    The lock ends with the process, however that ends. Raises UnblotError where another process has it. choice: by which
    the user takes another folder.
    """
    folder.mkdir(parents=True, exist_ok=True)
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except filelock.Timeout:
        raise UnblotError(
            f"{str(folder)!r} is in use by another process that writes into it; wait until it ends, stop it, or "
            f"choose another {arg(choice)}"
        ) from None
    try:
        yield
    finally:
        (folder / LOCK).unlink(missing_ok=True)  # before the release: whoever waits for this file sees it gone
        lock.release()


def in_use(folder: Path) -> bool:
    """Whether a process has the folder locked now."""
    if not (folder / LOCK).exists():
        return False
    lock = filelock.FileLock(folder / LOCK, timeout=0)
    try:
        lock.acquire()
    except (filelock.Timeout, OSError):
        return True
    lock.release()
    return False


def must_be_writable(folder: Path) -> None:
    """Raises UnblotError where no file can be made in the folder, or in the nearest folder above it that exists."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as e:
        reason = sentence(OSError(e.errno, e.strerror))
        raise UnblotError(f"nothing can be written into {str(folder)!r}: {reason}") from None


def must_be_page(path: Path) -> None:
    """Raises UnblotError where a page cannot be written without loss: it may replace a page of unblot alone."""
    if path.suffix.lower() not in (".html", ".htm"):
        raise UnblotError(f"{str(path)!r} is to be a page; give a name that ends in .html")
    must_be_writable(path.parent)
    if path.exists() and (not path.is_file() or MARK not in path.read_bytes()[:HEAD]):
        raise UnblotError(f"{str(path)!r} is no page of unblot; choose another name, or remove it")


def shortened(names: Iterable[str]) -> str:
    """The first few names, for a message."""
    some = sorted(names)
    return ", ".join(some[:SHOWN]) + (", …" if len(some) > SHOWN else "")


def _make(folder: Path, made: list[Path]) -> None:
    """Makes a folder and its parents, and adds those that were missing to `made`, the outermost first."""
    missing = [path for path in (folder, *folder.parents) if not path.exists()]
    folder.mkdir(parents=True, exist_ok=True)
    made += reversed(missing)


def _new_folder(wanted: Path) -> Path:
    """Makes `wanted`, or the first of `wanted-2`, `wanted-3`, … that does not exist. One process alone makes each."""
    for path in itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{i}") for i in itertools.count(2))):
        with contextlib.suppress(FileExistsError):
            path.mkdir()
            return path
    raise AssertionError("there is always a next number")
