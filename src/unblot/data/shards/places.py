"""Where shards lie: a folder of this machine, or an address of any file system that fsspec knows."""

import contextlib
import os
import time
from pathlib import Path
from typing import Any

from unblot.errors import UnblotError, arg, one_line, printable
from unblot.system.files import checksum, write_whole

TRIES = 3  # of an address that does not answer
PAUSE = 1.0  # seconds before the second try; twice as long before each further one
SKIP = "skip"


class Missing(Exception):
    """A file that is not there, or is not what the index says; str() is the reason."""


def is_address(place: str) -> bool:
    """Whether a place is an address such as s3://bucket/folder."""
    return "://" in place


def local_folder(place: str) -> Path | None:
    """The folder that a place is on this machine, None where it is elsewhere."""
    if not is_address(place):
        return Path(place)
    return Path(place.removeprefix("file://")) if place.startswith("file://") else None


def read_file(place: str, name: str) -> bytes:
    """The bytes of a file. Raises Missing where it is not there, UnblotError where its place cannot be reached."""
    folder = local_folder(place)
    try:
        if folder is not None:
            return (folder / name).read_bytes()
        files, root = _file_system(place)
        return _tried(place, lambda: files.cat_file(f"{root}/{name}"))
    except OSError as error:
        raise Missing(_reason(error)) from None


def fetch(place: str, name: str, to: Path) -> None:
    """Copies a file of an address to a path, where it appears whole. Raises Missing and UnblotError as `read_file`."""
    files, root = _file_system(place)

    try:
        _tried(place, lambda: write_whole(to, lambda path: files.get_file(f"{root}/{name}", str(path))))
    except OSError as error:
        raise Missing(_reason(error)) from None


def check(path: Path, size: int, sha256: str) -> None:
    """Raises Missing where a file is not there, or has not this size and checksum."""
    try:
        found = path.stat().st_size
        if found != size:
            raise Missing(f"it has {found:,} bytes and should have {size:,}")
        if checksum(path) != sha256:
            raise Missing("it is damaged: its bytes are not those that were packed")
    except OSError as error:
        raise Missing(_reason(error)) from None


def refuse(place: str, name: str, reason: Exception | str) -> UnblotError:
    """The error for a shard that cannot be used."""
    return UnblotError(
        f"shard {name} of {printable(place)!r} cannot be used: {reason}; put it back as it was packed, pack again, or "
        f"train without its pictures with {arg('on_broken', SKIP)}"
    )


def make_room(folder: Path, wanted: int, limit: int) -> None:
    """Removes shards below a folder, least recently used first, until `wanted` more bytes fit within `limit`."""
    found = []
    for path in folder.rglob("*.npy"):
        with contextlib.suppress(OSError):  # another process was faster
            status = path.stat()
            found.append((status.st_mtime, status.st_size, path))
    total = sum(size for _, size, _ in found)
    for _, size, path in sorted(found, key=lambda one: one[0]):
        if total + wanted <= limit:
            return
        with contextlib.suppress(OSError):  # another process was faster, or reads it where the system forbids that
            os.unlink(path)
            total -= size


def _file_system(place: str) -> tuple[Any, str]:
    """The file system of an address, and the path in it."""
    try:
        import fsspec

        files, root = fsspec.core.url_to_fs(place)
    except ImportError as error:
        scheme = place.partition("://")[0]
        more = {"s3": " s3fs", "gs": " gcsfs", "gcs": " gcsfs", "az": " adlfs", "abfs": " adlfs"}.get(scheme, "")
        raise UnblotError(
            f"reading {printable(place)!r} needs more packages ({error}); pip install 'unblot[stream]'{more}"
        ) from None
    except ValueError as error:
        raise UnblotError(f"{printable(place)!r} is no address that can be read ({error})") from None
    return files, str(root).rstrip("/")


def _tried(place: str, do: Any) -> Any:
    """What `do` returns, tried again where the network fails. Raises FileNotFoundError at once."""
    for attempt in range(TRIES):
        try:
            return do()
        except FileNotFoundError:
            raise
        except Exception as error:  # each file system has errors of its own
            if attempt == TRIES - 1:
                reason = one_line(error) or type(error).__name__
                raise UnblotError(
                    f"{printable(place)!r} cannot be read ({reason}); check the address and the network, then go on "
                    f"with {arg('resume', 'RUN')} where a training was under way"
                ) from None
            time.sleep(PAUSE * 2**attempt)
    raise AssertionError


def _reason(error: OSError) -> str:
    if isinstance(error, FileNotFoundError):
        return "it is not there"
    return (error.strerror or str(error) or type(error).__name__).lower()
