"""What is already done of a dataset cache that is being built, on disk: a killed process loses next to nothing."""

import shutil
from collections import Counter
from dataclasses import dataclass, field
from pathlib import Path
from typing import Self

import numpy as np

from unblot.data.cache.decoding import Decoded
from unblot.data.image_spec import ImageSpec
from unblot.data.readers.listing import is_passing
from unblot.data.split import digest
from unblot.errors import UnblotError, arg
from unblot.system.stored import signed, unsigned


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
    """The rows of a dataset cache that is being built, and a file with a line for every few of them that are written.

    work: the folder of both. spec: of the pictures. digests: (count,) int64, 0 where a picture is broken or not
    done. done: (count,) bool. broken: reasons by index. kinds: counts of the originals' kinds and sizes. passing:
    reasons by index, of those that are to be tried again.
    """

    work: Path
    spec: ImageSpec
    digests: np.ndarray
    done: np.ndarray
    broken: dict[int, str] = field(default_factory=dict)
    kinds: Counter[str] = field(default_factory=Counter)
    passing: dict[int, str] = field(default_factory=dict)

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
            sizes = f"{needed / 1e9:.1f} GB in {str(work.parent.parent)!r}, where {free / 1e9:.1f} GB are free"
            way_out = f"give a smaller {arg('size')}, or set UNBLOT_CACHE to another folder"
            raise UnblotError(f"the dataset cache needs {sizes}; {way_out}")
        np.lib.format.open_memmap(journal.rows, mode="w+", dtype=np.dtype(spec.dtype), shape=shape)
        journal._lines.write_text(signed([count, spec]) + "\n")
        return journal

    @classmethod
    def resume(cls, work: Path, count: int) -> Self | None:
        """The journal that a killed process left, without the lines that are damaged or do not agree with the rows.

        None if there is none, or none for `count` pictures of the spec that its rows have. Raises OSError and
        MemoryError where the system cannot read it now.
        """
        try:
            lines = (work / "journal.jsonl").read_text().splitlines()
            lines_count, spec = unsigned(lines[0])
            journal = cls(work, ImageSpec(*spec), np.zeros(count, np.int64), np.zeros(count, bool))
            rows, spec = OnDisk(journal.rows), journal.spec
        except Exception as error:  # whatever was done to the files: the cache is built from the start
            if is_passing(error) and not isinstance(error, FileNotFoundError):
                raise
            return None
        if lines_count != count or rows.shape != (count, spec.channels, spec.height, spec.width):
            return None
        for line in lines[1:]:
            try:
                result = Decoded(*unsigned(line))
                found = [digest(row) for row in rows[result.start : result.start + len(result.digests)]]
                agreed = [there if noted else 0 for noted, there in zip(result.digests, found)]
                if result.start >= 0 and result.digests == agreed:
                    journal._note(result)
            except (ValueError, TypeError, AttributeError):  # cut off, as its process was killed, or edited
                continue
        with open(journal._lines, "a") as file:
            file.write("\n")  # in case the last line was cut off
        return journal

    def add(self, result: Decoded) -> None:
        """Writes down the result of decoding some pictures, whose rows are written."""
        with open(self._lines, "a") as file:
            file.write(signed(result) + "\n")
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
        """Notes a result. Raises ValueError or TypeError, nothing noted, for one that does not have its types."""
        stop = result.start + len(result.digests)
        broken = {int(index): str(reason) for index, reason in result.broken}
        kinds = {kind: int(number) for kind, number in result.kinds.items()}
        passing = {int(index): str(reason) for index, reason in result.passing}
        self.digests[result.start : stop] = result.digests
        self.done[result.start : stop] = [index not in passing for index in range(result.start, stop)]
        self.broken.update(broken)
        self.kinds.update(kinds)
        for index in range(result.start, stop):
            self.passing.pop(index, None)
        self.passing.update(passing)
