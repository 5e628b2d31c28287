"""TIFF beyond one picture of 8-bit colour: deep, of many channels, of several pages or series, by tifffile."""

import json
import logging
import math
from typing import Any, BinaryIO, NamedTuple

import numpy as np

from unblot.data.readers.damage import check_bytes, check_size, damage_in_one_line
from unblot.data.readers.metadata import CONVERTED
from unblot.data.readers.tiff_colours import Meaning, for_pillow, meaning_of, orientation_of
from unblot.errors import UnblotError, counted

SUFFIXES = (".tif", ".tiff")
STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
MANY = 1000  # pages: tifffile needs quadratic time to find the series of more, so that they are read page by page


class Header(NamedTuple):
    """A picture's shape (C, H, W), before it is turned, and what is known of it without decoding it."""

    shape: tuple[int, int, int]
    dtype: np.dtype
    alpha: bool
    orientation: int
    kind: str


class Run(NamedTuple):
    """Consecutive pictures of one size. pages: those that make up each picture, (length, k) indices into the series'.

    series: tifffile's; None for a file that is read page by page. Without pages the series is decoded as a whole,
    its axes put into this order, (length, k samples, H, W).
    """

    length: int
    series: Any
    pages: np.ndarray | None
    order: tuple[int, ...] = ()


class Stack:
    """The pictures of a TIFF, each (C, H, W): of all its series, one after another, perhaps of several sizes.

    Axes that tifffile calls samples or channels are channels. The others (pages, time, depth) count pictures, or
    channels too if pages="channels". Reduced copies and masks among the pages are no pictures (`left_out` of them),
    unless there is nothing else. An open file is closed with the stack. Raises UnblotError for a file that cannot be
    read, each method for a broken page. Pages in other files, which OME-TIFF and Micro-Manager name, are not read.
    """

    def __init__(self, file: str | BinaryIO, pages: str = "pictures"):
        import tifffile

        if pages not in ("pictures", "channels"):
            raise UnblotError(f"unknown meaning of pages {pages!r}; choose pictures or channels")
        logging.getLogger("tifffile").addHandler(logging.NullHandler())  # else Python prints what it complains of
        self.tif: Any = None
        self._file, self.left_out = file, 0
        try:
            with damage_in_one_line("it is no TIFF that can be read"):
                self.tif = tifffile.TiffFile(file, _multifile=False, is_mmstack=False, is_ndtiff=False)
                self._runs = self._found(pages == "channels")
        except UnblotError:
            self.close()
            raise
        self.joined = pages == "channels" and sum(run.length for run in self._runs) > 1
        self.count = 1 if self.joined else sum(run.length for run in self._runs)
        self._last: tuple[tuple[int, int], Any] | None = None
        self._whole: tuple[int, np.ndarray] | None = None

    @property
    def for_pillow(self) -> bool:
        """Whether this is one picture whose values Pillow reads right."""
        page = self.tif.pages[0]
        return self.count == 1 and len(self.tif.pages) == self.left_out + 1 and for_pillow(page)

    def header(self, index: int) -> Header:
        """What is known of picture `index` before it is decoded. Raises UnblotError for what is not read here."""
        with damage_in_one_line():
            if not self.joined:
                return self._header(*self._place(index))
            parts = [self._header(run, i) for run in self._runs for i in range(run.length)]
            if len(different := {(part.shape[1:], part.dtype) for part in parts}) > 1:
                sizes = ", ".join(sorted(f"{w}x{h} of {dtype}" for (h, w), dtype in different))
                raise UnblotError(f"its pages ({sizes}) cannot be channels of one picture; read them as pictures")
            shape = (sum(part.shape[0] for part in parts), *parts[0].shape[1:])
            return parts[0]._replace(shape=shape, alpha=False)

    def picture(self, index: int) -> np.ndarray:
        """Picture `index` (C, H, W)."""
        with damage_in_one_line():
            if not self.joined:
                return self._picture(*self._place(index))
            return np.concatenate([self._picture(run, i) for run in self._runs for i in range(run.length)])

    def close(self) -> None:
        """Closes the file."""
        for opened in (self.tif, self._file):
            if opened is not None and not isinstance(opened, str):
                opened.close()

    def _found(self, channels: bool) -> list[Run]:
        """The runs of pictures in the file."""
        count = len(self.tif.pages)
        if count > MANY and self._page_by_page():
            return [Run(count, None, np.arange(count)[:, None])]
        series = [s for s in self.tif.series if math.prod(s.shape)]
        full = [s for s in series if not (s.keyframe.is_reduced or s.keyframe.is_mask)] or series
        self.left_out = sum(len(s.pages) for s in series) - sum(len(s.pages) for s in full)
        if not full:
            raise UnblotError("it is a TIFF without a picture")
        return [_run(s, channels) for s in full]

    def _page_by_page(self) -> bool:
        """Whether nothing in the file says how its pages belong together, or only that each is by itself."""
        first = self.tif.pages[0]
        if not self.tif.is_shaped:
            return not self.tif.flags - {"uniform"}
        try:
            return math.prod(json.loads(first.shaped_description)["shape"]) == math.prod(first.shape)
        except (ValueError, KeyError, TypeError):
            return False

    def _place(self, index: int) -> tuple[Run, int]:
        """The run that picture `index` lies in, and where in it."""
        for run in self._runs:
            if index < run.length:
                return run, index
            index -= run.length
        raise UnblotError(f"it has no picture {index}")

    def _page(self, run: Run, number: int) -> Any:
        """A page of a run; the last one is kept, as tifffile parses it anew each time."""
        place = (id(run.series), number)
        if self._last is None or self._last[0] != place:
            self._last = place, (self.tif if run.series is None else run.series).pages[number]
        if self._last[1] is None:
            raise UnblotError(f"its page {number} is missing")
        return self._last[1]

    def _meaning(self, run: Run, index: int) -> tuple[Any, Meaning, int]:
        """The key page of a picture, what its samples mean, and of how many pages' samples it consists."""
        if run.pages is not None:
            page = self._page(run, int(run.pages[index, 0])).keyframe
            return page, meaning_of(page), run.pages.shape[1]
        page = run.series.keyframe
        samples = math.prod(run.series.shape) // (run.length * page.imagelength * page.imagewidth)
        if samples % page.samplesperpixel:
            raise UnblotError(f"its axes {run.series.axes} do not fit its {counted(page.samplesperpixel, 'sample')}")
        return page, meaning_of(page), samples // page.samplesperpixel

    def _header(self, run: Run, index: int) -> Header:
        page, meaning, parts = self._meaning(run, index)
        shape = (parts * meaning.channels, page.imagelength, page.imagewidth)
        check_size(*shape, meaning.dtype)
        kind = f"{meaning.kind} of {counted(shape[0], 'channel')}{CONVERTED if meaning.converted else ''}"
        alpha = meaning.alpha and parts == 1
        return Header(shape, np.dtype(meaning.dtype), alpha, orientation_of(page), kind)

    def _picture(self, run: Run, index: int) -> np.ndarray:
        page, meaning, parts = self._meaning(run, index)
        height, width = page.imagelength, page.imagewidth
        if run.pages is not None:
            blocks = [_samples(self._page(run, int(number))) for number in run.pages[index]]
        else:
            blocks = list(self._decoded(run)[index].reshape(parts, page.samplesperpixel, height, width))
        return np.concatenate([meaning.colours(block) for block in blocks])

    def _decoded(self, run: Run) -> np.ndarray:
        """All pictures (length, samples, H, W) of a series that cannot be read page by page, mapped where it can be."""
        if self._whole is None or self._whole[0] != id(run.series):
            series = run.series
            mapped = series.dataoffset is not None and self.tif.filehandle.is_file
            if series.dataoffset is None:
                check_bytes(series.nbytes, "its pages, which can only be decoded together, take")
            array = series.asarray(out="memmap" if mapped else None).transpose(run.order)
            page = series.keyframe
            self._whole = id(series), array.reshape(run.length, -1, page.imagelength, page.imagewidth)
        return self._whole[1]


def _run(series: Any, channels: bool) -> Run:
    """How the pictures of a series lie in its pages. channels: all of it is one picture."""
    axes, shape, page = series.axes, series.shape, series.keyframe
    if "Y" not in axes or "X" not in axes:
        raise UnblotError(f"its axes are {axes}, which are no pictures")
    y, x = axes.rindex("Y"), axes.rindex("X")  # a letter may come twice
    others = [i for i in range(len(axes)) if i not in (y, x)]
    outer = [] if channels else [i for i in others if axes[i] not in "SC"]
    inner = [i for i in others if i not in outer]
    count = math.prod(shape[i] for i in outer)
    lead = len(axes) - len(page.axes)
    in_pages = axes[lead:] == page.axes and shape[lead:] == page.shape and set(page.axes) <= set("SYX")
    if in_pages and len(series.pages) == math.prod(shape[:lead]):
        order = [i for i in (*outer, *inner) if i < lead]
        numbers = np.arange(len(series.pages)).reshape(shape[:lead] or (1,))
        return Run(count, series, numbers.transpose(order or [0]).reshape(count, -1))
    return Run(count, series, None, (*outer, *inner, y, x))


def _samples(page: Any) -> np.ndarray:
    """The values (S, H, W) of a page."""
    array, axes = page.asarray(), page.keyframe.axes
    order = [i for i, a in enumerate(axes) if a not in "YX"] + [axes.index("Y"), axes.index("X")]
    return array.transpose(order).reshape(-1, page.keyframe.imagelength, page.keyframe.imagewidth)
