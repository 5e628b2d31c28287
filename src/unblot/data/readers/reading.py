"""The bytes of a listed picture, from its file or its archive, and the picture in them."""

import io
import os
import warnings
import zipfile
from collections.abc import Callable
from types import TracebackType
from typing import Any, Self

from unblot.data.readers import tiff
from unblot.data.readers.damage import damage_in_one_line, reason_of
from unblot.data.readers.formats import Picture, open_picture, tiff_picture
from unblot.data.readers.listing import Item
from unblot.errors import UnblotError

__all__ = ["Reader", "reason_of"]
MAX_BYTES = 2**31 - 2**12  # of one file: beyond it, it is no picture
OPEN = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_BINARY", 0)


class Reader:
    """Reads items below a root, or row by row through `read`, keeping archives open. A context manager."""

    def __init__(self, root: str, pages: str = "pictures", read: Callable[[int], bytes] | None = None):
        self.pages, self._row, self._below = pages, read, os.path.join(root, "")
        self._stack: tuple[Item, tiff.Stack] | None = None
        self._archives: dict[str, Any] = {}

    def __enter__(self) -> Self:
        self._warnings = warnings.catch_warnings()
        self._warnings.__enter__()
        warnings.simplefilter("ignore")  # of decoders: what matters is the reason why a picture is broken
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, t: TracebackType | None) -> None:
        for archive in (*self._archives.values(), *([self._stack[1]] if self._stack else [])):
            archive.close()
        self._warnings.__exit__(kind, error, t)

    def read(self, item: Item) -> bytes:
        """The bytes of an item. Raises UnblotError with the reason where it cannot be read."""
        if item.size > MAX_BYTES:
            raise UnblotError(f"its file has {item.size} bytes; a picture's has at most {MAX_BYTES}")
        with damage_in_one_line():
            return self._read(item)

    def beginning(self, item: Item, count: int) -> bytes:
        """The first `count` bytes of an item, or all where it has fewer. Raises UnblotError as `read` does."""
        packed = item.place and item.offset < 0
        return self.read(item if packed else item._replace(size=min(item.size, count)))[:count]

    def _read(self, item: Item) -> bytes:
        """The bytes of an item. Raises whatever its archive's reader raises."""
        if self._row:
            return self._row(item.offset)
        if not item.place:
            return self._read_file(self._below + item.name, item.size)
        if item.offset >= 0:
            tar = self._archive(item.place, lambda: open(item.place, "rb"))  # noqa: SIM115
            tar.seek(item.offset)
            return tar.read(item.size)
        try:
            return self._archive(item.place, lambda: zipfile.ZipFile(item.place)).read(item.name)
        except RuntimeError as error:  # zipfile's word for an encrypted member, or a compression that it does not know
            raise UnblotError(str(error)) from None

    def open(self, item: Item, at_least: int = 0) -> Picture:
        """The picture of an item, its header read. Raises UnblotError with the reason where it cannot be used."""
        if item.page < 0 and not self._only_as_it_goes(item):
            return open_picture(self.read(item), self.pages, at_least)
        file = item._replace(page=0)
        if self._stack is None or self._stack[0] != file:  # the pages of a file come one after another
            if self._stack:
                self._stack[1].close()
            self._stack = file, self.stack(item)
        return tiff_picture(self._stack[1], max(item.page, 0))

    def stack(self, item: Item) -> tiff.Stack:
        """The pictures of a TIFF, read as they are asked for where it is a file of its own, whatever its size.

        Raises UnblotError with the reason where it cannot be read.
        """
        with damage_in_one_line():
            if item.place or self._row:
                return tiff.Stack(io.BytesIO(self.read(item)), self.pages)
            return tiff.Stack(open(self._below + item.name, "rb", opener=_opened_at_once), self.pages)

    def _only_as_it_goes(self, item: Item) -> bool:
        """Whether an item is a TIFF that is too large to be read whole, in a file of its own."""
        return item.size > MAX_BYTES and not item.place and item.name.lower().endswith(tiff.SUFFIXES)

    def _archive(self, place: str, opener: Callable[[], Any]) -> Any:
        """An open archive, opened the first time."""
        if place not in self._archives:
            self._archives[place] = opener()
        return self._archives[place]

    @staticmethod
    def _read_file(path: str, size: int) -> bytes:
        """The bytes of what was a regular file when it was listed; nothing that it has become can keep one waiting."""
        file = os.open(path, OPEN)
        try:
            return os.read(file, size if size >= 0 else os.fstat(file).st_size)
        finally:
            os.close(file)


def _opened_at_once(path: str, flags: int) -> int:
    """The descriptor of a file, opened without waiting for what it may have become."""
    return os.open(path, OPEN)
