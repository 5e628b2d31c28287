"""TIFF beyond 8-bit colour: deep, of many channels, of many pages, by tifffile."""

from typing import Any, BinaryIO

import numpy as np

from unblot.errors import UnblotError

STARTS = (b"II*\0", b"MM\0*", b"II+\0", b"MM\0+")
PILLOW_READS = {"MINISBLACK", "MINISWHITE", "RGB", "PALETTE", "SEPARATED", "YCBCR"}


class Stack:
    """The pictures of a TIFF's first series, each (C, H, W).

    Axes that tifffile calls samples or channels are channels. The others (pages, time, depth) count pictures, or
    channels too if pages="channels". Pages are read one at a time where the file allows it.
    """

    def __init__(self, file: str | BinaryIO, pages: str = "pictures"):
        import tifffile

        if pages not in ("pictures", "channels"):
            raise UnblotError(f"unknown meaning of pages {pages!r}; choose pictures or channels")
        try:
            self.tif = tifffile.TiffFile(file)
            series = self.tif.series[0]
        except (tifffile.TiffFileError, ValueError, IndexError, KeyError, OSError) as error:
            raise UnblotError(f"it is no TIFF that can be read: {error}") from None
        self.dtype = np.dtype(series.dtype).newbyteorder("=")
        if self.dtype.kind not in "biuf" or "Y" not in series.axes or "X" not in series.axes:
            raise UnblotError(f"its values are of type {series.dtype} with axes {series.axes}, which are no pictures")
        page: Any = series.keyframe
        self.orientation = int(page.tags[274].value) if 274 in page.tags else 1
        self.alpha = series.axes.endswith("S") and bool(set(page.extrasamples) & {1, 2})
        self.inverted = page.photometric.name == "MINISWHITE" and self.dtype.kind in "iu"
        self._series, self._whole = series, np.empty(0)
        counting = [a for a in series.axes if a not in "YXSC"] if pages == "pictures" else []
        sizes = dict(zip(series.axes, series.shape))
        self._outer = [series.axes.index(a) for a in counting]
        self._inner = [i for i, a in enumerate(series.axes) if a not in "YX" and i not in self._outer]
        self.count = int(np.prod([series.shape[i] for i in self._outer], dtype=int))
        channels = int(np.prod([series.shape[i] for i in self._inner], dtype=int))
        self.shape = (channels, sizes["Y"], sizes["X"])

    def picture(self, index: int) -> np.ndarray:
        """Picture `index` (C, H, W)."""
        series, axes = self._series, self._series.axes
        pages = len(series.pages)
        one_a_page = pages == self.count and axes.endswith(series.keyframe.axes) and len(axes) > 2
        if one_a_page and self.count > 1 and len(self._outer) == len(axes) - len(series.keyframe.axes):
            page: Any = series.pages[index]
            array, axes = page.asarray(), series.keyframe.axes
            order = [i for i, a in enumerate(axes) if a not in "YX"] + [axes.index("Y"), axes.index("X")]
            array = array.transpose(order)
        else:
            if not self._whole.size:
                self._whole = series.asarray(out="memmap" if series.nbytes > 2**26 else None)
            order = [*self._outer, *self._inner, axes.index("Y"), axes.index("X")]
            array = self._whole.transpose(order).reshape(self.count, *self.shape)[index]
        array = array.reshape(self.shape).astype(self.dtype, copy=False)
        return np.iinfo(self.dtype).max - array if self.inverted else array


def count(data: bytes) -> int:
    """How many pictures a TIFF holds; 1 where it is broken, which decoding will tell."""
    import io

    try:
        return Stack(io.BytesIO(data)).count
    except UnblotError:
        return 1


def is_deep(data: bytes) -> bool:
    """Whether a TIFF needs tifffile: other than one picture of up to four 8-bit channels of a photometric kind."""
    import io

    import tifffile

    try:
        with tifffile.TiffFile(io.BytesIO(data)) as tif:
            page: Any = tif.pages[0]
            plain = page.bitspersample in (1, 8) and page.photometric.name in PILLOW_READS and page.samplesperpixel <= 4
            return not plain or len(tif.series[0].pages) > 1 or page.imagedepth > 1
    except Exception:  # whatever is wrong with it, Pillow says it better
        return False
