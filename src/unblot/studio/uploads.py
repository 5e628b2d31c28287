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
MOST_FILES, MOST_BYTES = 20_000, 4 * 2**30  # of one upload
MOST_FOLDERS, MOST_NAME = 8, 120  # of a path in it; bytes of each


def keep(root: Path, files: Sequence[UploadFile], paths: Sequence[str] | None) -> tuple[Path, list[Path]]:
    """Writes files below `root`; returns their folder and where each is. paths: where each lay; None for its name.

    Raises UnblotError, with nothing kept, for too many or too large ones, and for two of one name.
    """
    if len(files) > MOST_FILES:
        raise UnblotError(f"{len(files)} files are too many; at most {MOST_FILES} at once")
    names = [file.filename or "file" for file in files] if paths is None else paths
    if len(names) != len(files):
        raise UnblotError(f"{len(files)} files have {len(names)} paths; give a path for each, or none")
    folder, left = root / UPLOADS / uuid.uuid4().hex, MOST_BYTES
    targets = [folder / place for place in _safe_places(names)]
    try:
        for file, target in zip(files, targets, strict=True):
            target.parent.mkdir(parents=True, exist_ok=True)
            left -= _keep(file, target, left)
    except UnblotError:
        shutil.rmtree(folder, ignore_errors=True)
        raise
    return folder, targets


def _safe_places(names: Sequence[str]) -> list[Path]:
    """Where uploads of these names go, below the folder that holds them all, without anything that leads elsewhere.

    Raises UnblotError where two would go to one place.
    """
    places = [Path(*_safe_parts(name)) for name in names]
    above = os.path.commonpath([place.parent for place in places])
    places = [place.relative_to(above) for place in places]
    if twice := [place for place, count in Counter(places).items() if count > 1]:
        raise UnblotError(f"two files are named {str(twice[0])!r}; drop the folder that holds both, or rename one")
    return places


def _safe_parts(name: str) -> list[str]:
    """The last parts of an uploaded name: none hidden, with control characters, or too long for a file system."""
    parts = [part for part in name.replace("\\", "/").split("/") if part not in ("", ".", "..") and part[-1] != ":"]
    printable = ["".join(filter(str.isprintable, part)).lstrip(".") for part in parts[-MOST_FOLDERS:]]
    return [part.encode(errors="replace")[-MOST_NAME:].decode(errors="ignore") or "file" for part in printable] or [
        "file"
    ]


def _keep(file: UploadFile, target: Path, left: int) -> int:
    """Writes an upload; returns its size. Raises UnblotError where it is larger than what is left."""
    size = 0
    with target.open("wb") as out:
        while part := file.file.read(2**20):
            size += len(part)
            if size > left:
                raise UnblotError(f"the upload is larger than {MOST_BYTES / 2**30:g} GiB; give the path of a folder")
            out.write(part)
    return size
