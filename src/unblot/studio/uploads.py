"""Files that are dropped on a page: kept in a folder of their own, laid out as they were."""

import os
import shutil
import uuid
from collections import Counter
from collections.abc import Sequence
from pathlib import Path

from fastapi import UploadFile

from unblot.errors import UnblotError

UPLOADS = ".studio/uploads"
ID = r"^[0-9a-f]{32}$"  # of an upload, which is also the name of its folder
MOST_FILES, MOST_BYTES = 20_000, 4 * 2**30  # of one upload, in all its requests
MOST_FOLDERS, MOST_NAME = 8, 120  # of a path in it; bytes of each


def keep(
    root: Path, files: Sequence[UploadFile], paths: Sequence[str] | None, upload: str | None = None
) -> tuple[str, Path, list[Path]]:
    """Writes files below `root`; returns their upload, the folder that holds all of that, and where each file is.

    paths: where each lay; None for its name. upload: an earlier one, which they are part of. Raises UnblotError, with
    nothing of the upload kept, for too many or too large ones, and for two of one name.
    """
    names = [file.filename or "file" for file in files] if paths is None else paths
    if len(names) != len(files):
        raise UnblotError(f"{len(files)} files have {len(names)} paths; give a path for each, or none")
    if upload is not None and not (root / UPLOADS / upload).is_dir():
        raise UnblotError(f"there is no upload {upload!r}; begin a new one")
    upload = upload or uuid.uuid4().hex
    folder = root / UPLOADS / upload
    try:
        targets = [folder / place for place in _safe_places(names)]
        count, size = _already(folder)
        if count + len(files) > MOST_FILES:
            raise UnblotError(f"{count + len(files)} files are too many; at most {MOST_FILES} at once")
        for file, target in zip(files, targets, strict=True):
            size += _keep(file, target, MOST_BYTES - size)
    except (UnblotError, OSError):
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return upload, _holding(folder), targets


def _already(folder: Path) -> tuple[int, int]:
    """How many files an upload has so far, and their bytes."""
    sizes = [os.path.getsize(os.path.join(place, name)) for place, _, names in os.walk(folder) for name in names]
    return len(sizes), sum(sizes)


def _holding(folder: Path) -> Path:
    """The innermost folder of an upload that holds all of it."""
    inside = list(folder.iterdir())
    return _holding(inside[0]) if len(inside) == 1 and inside[0].is_dir() else folder


def _safe_places(names: Sequence[str]) -> list[Path]:
    """Where uploads of these names go, below the folder that holds them all, without anything that leads elsewhere.

    Raises UnblotError where two would go to one place.
    """
    places = [Path(*_safe_parts(name)) for name in names]
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        raise _same_place(twice[0])
    return places


def _same_place(place: Path) -> UnblotError:
    return UnblotError(f"two files are named {place.name!r}; drop the folder that holds both, or rename one")


def _safe_parts(name: str) -> list[str]:
    """The last parts of an uploaded name: none hidden, with control characters, or too long for a file system."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..") and part[-1] != ":"]
    printable = ["".join(filter(str.isprintable, part)).lstrip(".") for part in parts[-MOST_FOLDERS:]]
    return [part.encode(errors="replace")[-MOST_NAME:].decode(errors="ignore") or "file" for part in printable] or [
        "file"
    ]


def _keep(file: UploadFile, target: Path, left: int) -> int:
    """Writes an upload; returns its size. Raises UnblotError where it is larger than what is left, or has no place."""
    size = 0
    try:
        target.parent.mkdir(parents=True, exist_ok=True)
        out = target.open("xb")
    except (FileExistsError, NotADirectoryError, IsADirectoryError):
        raise _same_place(target) from None
    with out:
        while part := file.file.read(2**20):
            size += len(part)
            if size > left:
                raise UnblotError(f"the upload is larger than {MOST_BYTES / 2**30:g} GiB; give the path of a folder")
            out.write(part)
    return size
