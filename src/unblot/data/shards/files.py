"""The shards of a training, opened: those of an address copied to a folder of bounded size, the next ones ahead."""

import contextlib
import os
import queue
import threading
from collections import OrderedDict
from collections.abc import Callable, Iterable
from pathlib import Path
from typing import Any

import filelock
import numpy as np

from unblot.data.shards import places
from unblot.data.shards.index import Shard, ShardIndex, array_header
from unblot.data.shards.order import WINDOW
from unblot.errors import UnblotError, printable
from unblot.system.stored import unsigned

LIMIT = 10 * 10**9  # bytes of copied shards, unless UNBLOT_SHARD_BYTES says otherwise
Report = Callable[[str], None]


class OpenShard:
    """A shard whose bytes are known to be those that were packed; it stays readable when its file is removed.

    labels: (n,) int64, None where there are none. captions: of each picture, None where there are none.
    """

    def __init__(self, path: Path, pictures: int, index: ShardIndex, told: dict[str, Any] | None):
        self.path, self.shape, self.dtype = path, index.shape, np.dtype(index.dtype)
        self.labels, self.captions = None, None
        if told is not None and index.labelled:
            self.labels = np.array(told["labels"], np.int64)
        if told is not None and index.captioned:
            self.captions = [tuple(texts) for texts in told["captions"]]
        self._offset = len(array_header(pictures, index.shape, index.dtype))
        self._file, self._lock = open(path, "rb", buffering=0), threading.Lock()  # noqa: SIM115

    def rows(self, chosen: np.ndarray) -> np.ndarray:
        """Some of its pictures (n, C, H, W), read one by one: the pages of a memory map would add up."""
        out = np.empty((len(chosen), *self.shape), self.dtype)
        view = out.reshape(len(chosen), -1).view(np.uint8)
        with self._lock:
            for target, row in zip(view, chosen.tolist(), strict=True):
                self._file.seek(self._offset + row * target.nbytes)
                if self._file.readinto(target.data) != target.nbytes:
                    raise UnblotError(f"{str(self.path)!r} changed while it was read; put it back as it was packed")
        return out

    def __del__(self) -> None:
        if hasattr(self, "_file"):
            self._file.close()


class ShardFiles:
    """The shards of an index, each checked when it is first opened; `ahead` has others copied and checked meanwhile.

    place: a folder or an address. cache: the folder of copies. skip: whether a shard that cannot be used is left out,
    and reported, instead of an error. broken: those left out.
    """

    def __init__(self, index: ShardIndex, place: str, cache: Path, skip: bool, report: Report):
        self.index, self.place, self.skip, self.report = index, place, skip, report
        self.broken: frozenset[int] = frozenset()
        self.folder = places.local_folder(place)
        self.cache, self.limit = cache, byte_limit(index) if self.folder is None else 0
        self._copies = cache / index.fingerprint(True, True)
        self._checked: set[str] = set()
        self._opened: OrderedDict[int, OpenShard | None] = OrderedDict()
        self._lock, self._wanted = threading.RLock(), queue.SimpleQueue[int]()
        self._thread: threading.Thread | None = None

    def open(self, number: int) -> OpenShard | None:
        """A shard; None for one that is left out. Raises UnblotError, which names it, where it cannot be used."""
        with self._lock:
            if number not in self._opened:
                self._opened[number] = self._open(number)
                while len(self._opened) > 2 * WINDOW:
                    self._opened.popitem(last=False)
            self._opened.move_to_end(number)
            return self._opened[number]

    def ahead(self, numbers: Iterable[int]) -> None:
        """Has shards copied and checked by a thread, while others are trained on."""
        for number in numbers:
            if self.index.shards[number].file not in self._checked and number not in self.broken:
                self._wanted.put(number)
        if self._thread is None:
            self._thread = threading.Thread(target=self._work, daemon=True, name="shards")
            self._thread.start()

    def _work(self) -> None:
        """The thread's work. What goes wrong here goes wrong again in `open`, which says so."""
        while True:
            number = self._wanted.get()
            with contextlib.suppress(Exception):
                self._present(self.index.shards[number])

    def _open(self, number: int) -> OpenShard | None:
        shard = self.index.shards[number]
        try:
            path = self._present(shard)
            return OpenShard(
                path,
                shard.pictures,
                self.index,
                self._told(shard) if self.index.labelled or self.index.captioned else None,
            )
        except places.Missing as reason:
            if not self.skip:
                raise places.refuse(self.place, shard.file, reason) from None
            if number not in self.broken:
                self.broken |= {number}
                pictures = f"its {shard.training:,} training pictures are left out"
                self.report(f"shard {shard.file} of {printable(self.place)!r}: {reason}; {pictures}")
            return None

    def _told(self, shard: Shard) -> dict[str, Any]:
        """What stands beside a shard. Raises Missing where it is not there, or not what was packed."""
        if self.folder is None:
            path = self._copies / shard.beside_file
            if not path.exists():
                places.fetch(self.place, shard.beside_file, path)
        else:
            path = self.folder / shard.beside_file
        try:
            text = path.read_text()
            told = unsigned(text)
        except (OSError, ValueError):
            raise places.Missing(f"{shard.beside_file} beside it is not there, or damaged") from None
        if told["sha256"] != shard.sha256 or text.strip()[2:18] != shard.beside:
            raise places.Missing(f"{shard.beside_file} beside it is of other pictures")
        return told

    def _present(self, shard: Shard) -> Path:
        """The path of a shard on this machine, checked once. Raises Missing where it cannot be had."""
        path = (self.folder or self._copies) / shard.file
        if self.folder is not None:
            if shard.file not in self._checked:
                places.check(path, shard.size, shard.sha256)
        else:
            self._copied(shard, path)
        self._checked.add(shard.file)
        return path

    def _copied(self, shard: Shard, path: Path) -> None:
        """Copies a shard of an address to a path, if it is not there; processes wait for one another."""
        path.parent.mkdir(parents=True, exist_ok=True)
        with filelock.FileLock(path.with_suffix(".lock")):
            there = path.exists()
            if there and shard.file in self._checked:
                return os.utime(path)
            if there:
                try:
                    return places.check(path, shard.size, shard.sha256)
                except places.Missing:
                    path.unlink(missing_ok=True)
            places.make_room(self.cache, shard.size, self.limit)
            places.fetch(self.place, shard.file, path)
            try:
                places.check(path, shard.size, shard.sha256)
            except places.Missing:
                path.unlink(missing_ok=True)
                raise


def byte_limit(index: ShardIndex) -> int:
    """The bytes that copies of shards may take: UNBLOT_SHARD_BYTES, else LIMIT. Raises UnblotError for too few."""
    text = os.environ.get("UNBLOT_SHARD_BYTES", "")
    try:
        limit = int(float(text or LIMIT))
    except (ValueError, OverflowError):
        limit = 0
    needed = 2 * min(WINDOW, len(index.shards)) * max(shard.size for shard in index.shards)
    if limit < needed:
        raise UnblotError(
            f"copies of shards may take {limit:,} bytes, and {2 * WINDOW} shards, which training needs at a time, take "
            f"{needed:,}; set UNBLOT_SHARD_BYTES to {needed} or more, or pack smaller shards"
        )
    return limit
