"""Readers of folders of pictures."""

import hashlib
import os

from unblot.data.listing import Broken, Item, Listing, class_names, printable
from unblot.errors import UnblotError

PICTURES = (
    *(".png", ".jpg", ".jpeg", ".jpe", ".jfif", ".webp", ".bmp", ".dib", ".gif", ".tif", ".tiff"),
    *(".ppm", ".pgm", ".pbm", ".pnm", ".tga", ".jp2", ".avif", ".heic"),
)


def folder(path: str) -> Listing:
    """A folder of pictures at any depth; its subfolders are the classes when every picture lies in one."""
    names, broken = walk(path)
    if not names:
        raise UnblotError(f"no pictures in {printable(path)!r}; known are {' '.join(PICTURES)}")
    items = [Item(name) for name in names]
    parts = [name.split(os.sep) for name in names]
    if all(len(p) > 1 for p in parts) and len({p[0] for p in parts}) > 1:
        labels, classes = class_names([p[0] for p in parts])
        return Listing(path, items, labels=labels, classes=classes, broken=tuple(broken))
    return Listing(path, items, broken=tuple(broken))


def walk(path: str) -> tuple[list[str], list[Broken]]:
    """The names of all pictures below a folder, relative to it and sorted, and what could not be looked into."""
    broken: list[Broken] = []
    names = []
    for place, _, files in os.walk(path, onerror=lambda e: broken.append(Broken(e.filename, str(e.strerror)))):
        names += [os.path.relpath(os.path.join(place, f), path) for f in files if is_picture(f)]
    return sorted(names), broken


def is_picture(name: str) -> bool:
    """Whether a file is called as pictures are."""
    return not name.startswith(".") and os.path.splitext(name)[1].lower() in PICTURES


def stamp(path: str) -> str:
    """A hash of the names, sizes and times of all pictures below a folder."""
    told = hashlib.sha256()
    for name in walk(path)[0]:
        try:
            status = os.stat(os.path.join(path, name))
            told.update(f"{name!r} {status.st_size} {status.st_mtime_ns}\n".encode())
        except OSError as error:
            told.update(f"{name!r} {error.errno}\n".encode())
    return told.hexdigest()
