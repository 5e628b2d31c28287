"""Files that appear whole or not at all: text, JSON and tensors; and those of installed packages."""

import hashlib
import importlib.util
import json
import os
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unblot.errors import UnblotError, sentence


def read_tensors(path: Path, prefixes: tuple[str, ...] = ("",)) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file whose names begin with one of the prefixes, and its header's metadata.

    Raises UnblotError where it is damaged.
    """
    with _opened(path) as f:
        names = [name for name in f.keys() if name.startswith(prefixes)]  # noqa: SIM118
        return {name: f.get_tensor(name) for name in names}, f.metadata() or {}


def read_metadata(path: Path) -> dict[str, str]:
    """The header's metadata of a safetensors file, without its tensors. Raises UnblotError where it is damaged."""
    with _opened(path) as f:
        return f.metadata() or {}


@contextmanager
def _opened(path: Path) -> Iterator[Any]:
    """A safetensors file; what goes wrong with it within is an UnblotError."""
    try:
        path.open("rb").close()  # whose errors say what is wrong; the library's have no number
        with safe_open(path, framework="pt") as f:
            yield f
    except OSError as e:
        raise UnblotError(sentence(OSError(e.errno, e.strerror, str(path)))) from None
    except (SafetensorError, ValueError) as e:
        raise UnblotError(f"{str(path)!r} is not a whole safetensors file ({e})") from None


def under(prefix: str, tensors: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """The tensors whose names begin with the prefix, named by what follows it."""
    return {name.removeprefix(prefix): tensor for name, tensor in tensors.items() if name.startswith(prefix)}


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, written beside its place and moved there. Raises UnblotError where it cannot be written."""

    def write(temporary: Path) -> None:
        temporary.touch()
        mode = temporary.stat().st_mode  # what the user's umask gives; the library makes files for the owner alone
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
        temporary.chmod(mode)

    try:
        write_whole(path, write)
    except (SafetensorError, OSError) as e:
        reason = sentence(e) if isinstance(e, OSError) else str(e)
        raise UnblotError(f"{str(path)!r} could not be written ({reason}); what was saved before is whole") from None


def write_json(path: Path, value: Any) -> None:
    """A JSON file, written beside its place and moved there."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, written beside its place and moved there."""
    # a name in it may hold what is no text
    write_whole(path, lambda temporary: temporary.write_text(text, encoding="utf-8", errors="backslashreplace"))


def append_text(path: Path, text: str) -> None:
    """Adds text to the end of a file. Raises UnblotError where the file is a symbolic link, which is not followed."""
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_APPEND | os.O_CREAT | getattr(os, "O_NOFOLLOW", 0), 0o666)
    except OSError as e:
        raise UnblotError(sentence(e)) from None
    with os.fdopen(descriptor, "a", encoding="utf-8", errors="backslashreplace") as file:
        file.write(text)


def packaged(module: str, name: str) -> Path | None:
    """A file of an installed package, found without running any of its code; None where there is none."""
    spec = importlib.util.find_spec(module)
    places = [Path(folder) / name for folder in (spec.submodule_search_locations or ())] if spec else []
    return next((path for path in places if path.is_file()), None)


def checksum(path: Path) -> str:
    """SHA-256 of a file, hexadecimal."""
    with path.open("rb") as f:
        return hashlib.file_digest(f, "sha256").hexdigest()


def flush(path: Path) -> None:
    """Returns when what was written to a file, or the names in a folder, are on the disk."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def write_whole(path: Path, write: Callable[[Path], object]) -> Path:
    """The path, after `write` wrote the file beside it and the file was moved there: it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # processes may write the same file
    temporary.unlink(missing_ok=True)  # it may be a link that leads elsewhere
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
