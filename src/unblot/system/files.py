"""Files that appear whole or not at all: text, JSON, tensors and arrays; and new folders."""

import hashlib
import itertools
import json
import os
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from unblot.errors import UnblotError


def read_tensors(path: Path) -> tuple[dict[str, Tensor], dict[str, str]]:
    """All tensors of a safetensors file, and its header's metadata. Raises UnblotError where it is damaged."""
    try:
        with safe_open(path, framework="pt") as f:
            return {name: f.get_tensor(name) for name in f.keys()}, f.metadata() or {}  # noqa: SIM118
    except (SafetensorError, OSError, ValueError) as e:
        raise UnblotError(f"{str(path)!r} is not a whole safetensors file ({e})") from None


def write_tensors(path: Path, tensors: Mapping[str, Tensor], metadata: dict[str, str]) -> None:
    """A safetensors file, written beside its place and moved there. Raises UnblotError where it cannot be written."""
    temporary = path.with_name(path.name + ".part")
    try:
        save_file({name: t.detach().cpu().contiguous() for name, t in tensors.items()}, temporary, metadata)
        os.replace(temporary, path)
    except (SafetensorError, OSError) as e:
        temporary.unlink(missing_ok=True)
        raise UnblotError(f"{str(path)!r} could not be written ({e}); what was saved before is whole") from None


def write_json(path: Path, value: Any) -> None:
    """A JSON file, written beside its place and moved there."""
    write_text(path, json.dumps(value, indent=2) + "\n")


def write_text(path: Path, text: str) -> None:
    """A text file, written beside its place and moved there."""
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # processes may write the same file
    temporary.write_text(text, encoding="utf-8", errors="backslashreplace")  # a name may hold what is no text
    os.replace(temporary, path)


def new_folder(wanted: Path) -> Path:
    """`wanted`, or the first of `wanted-2`, `wanted-3`, … that does not exist yet."""
    names = itertools.chain([wanted], (wanted.with_name(f"{wanted.name}-{i}") for i in itertools.count(2)))
    return next(path for path in names if not path.exists())


def refuse_full(folder: Path, overwrite: bool) -> None:
    """Raises UnblotError where the folder holds files that are not to be overwritten."""
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UnblotError(f"{str(folder)!r} holds files already; choose another --out, or give --overwrite")


def must_be_writable(folder: Path) -> None:
    """Raises UnblotError where no file can be made in the folder, or in what is there of the way to it."""
    place = next(path for path in (folder, *folder.absolute().parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        raise UnblotError(
            f"cannot write into {str(folder)!r} ({error.strerror}); make it writable, or copy the run elsewhere"
        ) from None


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


def write_whole(path: Path, write: Callable[[Path], None]) -> Path:
    """The path, after `write` wrote the file beside it and the file was moved there: it appears whole or not at all."""
    path.parent.mkdir(parents=True, exist_ok=True)
    temporary = path.with_name(f".{path.name}.{os.getpid()}.part")  # processes may write the same file
    try:
        write(temporary)
        os.replace(temporary, path)
    finally:
        temporary.unlink(missing_ok=True)
    return path
