"""What is already done of a pack in the making, on disk, so that a killed process loses next to nothing."""

import json
import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from unblot.data.cache.decoding import Decoded
from unblot.data.image_spec import ImageSpec
from unblot.data.split import digest
from unblot.errors import UnblotError


class OnDisk:
    """A .npy file read in slices, so that memory holds no more than a slice of it (a memory map's pages add up)."""

    def __init__(self, path: Path):
        array = np.load(path, mmap_mode="r", allow_pickle=False)
        self.path, self.shape, self.dtype, self.offset = path, array.shape, array.dtype, array.offset

    def __getitem__(self, index: slice) -> np.ndarray:
        start, stop, _ = index.indices(self.shape[0])
        size = int(np.prod(self.shape[1:]))
        begin = self.offset + start * size * self.dtype.itemsize
        with open(self.path, "rb") as file:
            file.seek(begin)
            return np.fromfile(file, self.dtype, (stop - start) * size).reshape(-1, *self.shape[1:])


@dataclass
class Journal:
    """The rows of a pack in the making, and a file with a line for every few of them that are written.

    work: the folder of all this. form: of the pictures. digests: (count,) int64, 0 where a picture is broken or not
    done. done: (count,) bool. broken: why, by index. kinds: counts of the originals' kinds and sizes.
    """

    work: Path
    spec: ImageSpec
    digests: np.ndarray
    done: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)

    @property
    def rows(self) -> Path:
        """The .npy file (count, C, H, W) that the pictures are written to."""
        return self.work / "rows.npy"

    @classmethod
    def start(cls, work: Path, count: int, spec: ImageSpec) -> Self:
        """A new journal with room for `count` pictures. Raises UnblotError where there is not enough."""
        journal = cls(work, spec, np.zeros(count, np.int64), np.zeros(count, bool))
        work.mkdir(parents=True, exist_ok=True)
        for old in (journal._lines, journal.rows):
            old.unlink(missing_ok=True)
        shape = (count, spec.channels, spec.height, spec.width)
        needed, free = int(np.prod(shape)) * np.dtype(spec.dtype).itemsize, shutil.disk_usage(work).free
        if needed > free:
            told = (
                f"packing needs {needed / 1e9:.1f} GB in {str(work.parent.parent)!r}, where {free / 1e9:.1f} are free"
            )
            raise UnblotError(f"{told}; give a smaller --size, or set UNBLOT_CACHE to another folder")
        np.lib.format.open_memmap(journal.rows, mode="w+", dtype=np.dtype(spec.dtype), shape=shape)
        journal._lines.write_text(json.dumps([count, spec]) + "\n")
        return journal

    @classmethod
    def resume(cls, work: Path, count: int) -> Self | None:
        """The journal a killed process left, without the lines that the rows do not bear out; None if there is none."""
        try:
            lines = (work / "journal.jsonl").read_text().splitlines()
            told, spec = json.loads(lines[0])
            journal = cls(work, ImageSpec(*spec), np.zeros(count, np.int64), np.zeros(count, bool))
            rows = OnDisk(journal.rows)
        except (OSError, ValueError, IndexError, TypeError):
            return None
        if told != count or rows.shape[0] != count:
            return None
        for line in lines[1:]:
            try:
                result = Decoded(*json.loads(line))
            except (ValueError, TypeError):  # cut off, as its process was killed
                continue
            written = [digest(row) for row in rows[result.start : result.start + len(result.digests)]]
            if all(said in (0, found) for said, found in zip(result.digests, written)):
                journal._note(result)
        with open(journal._lines, "a") as file:
            file.write("\n")  # in case the last line was cut off
        return journal

    def add(self, result: Decoded) -> None:
        """Writes down what became of some pictures, whose rows are written."""
        with open(self._lines, "a") as file:
            file.write(json.dumps(result) + "\n")
        self._note(result)

    def missing(self) -> np.ndarray:
        """Indices (n,) of the pictures that are still to be done."""
        return np.flatnonzero(~self.done)

    def kept(self) -> np.ndarray:
        """Indices (n,) of the pictures that could be used."""
        return np.flatnonzero(self.digests)

    def ready(self) -> Path:
        """The path of the rows without those of broken pictures: of a copy where there are any."""
        kept, rows = self.kept(), OnDisk(self.rows)
        if len(kept) == rows.shape[0]:
            return self.rows
        path = self.work / "kept.npy"
        offset = np.lib.format.open_memmap(path, mode="w+", dtype=rows.dtype, shape=(len(kept), *rows.shape[1:])).offset
        step = max(1, 2**22 // rows[:1].nbytes)
        with open(path, "r+b") as file:
            file.seek(offset)
            for start in range(0, rows.shape[0], step):
                part = rows[start : start + step]
                file.write(part[self.digests[start : start + step] != 0].tobytes())
        return path

    @property
    def _lines(self) -> Path:
        return self.work / "journal.jsonl"

    def _note(self, result: Decoded) -> None:
        stop = result.start + len(result.digests)
        self.digests[result.start : stop] = result.digests
        self.done[result.start : stop] = True
        self.broken.update(dict(result.broken))
        self.kinds.update(result.kinds)
