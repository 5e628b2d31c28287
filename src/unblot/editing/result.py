"""The results of an edit beside their inputs, as files and as a grid."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unblot.data.output import as_display, picture_suffix, save_picture, tile
from unblot.data.values import ValueMap
from unblot.system.folders import GRID, begin_folder, user_path

TINT = (226, 120, 60)  # of unknown pixels, RGB


@dataclass(frozen=True)
class EditResult:
    """Results `array` (P, n, C, H, W), stored values, n for each of the P pictures.

    before, after: the images beside them in the grid, (P, h, w, 3) uint8 each. names: of the pictures. about: the
    provenance that is written into the files. labels, prompts: of each result, P·n of them. errors: of
    reconstructions, root mean square in stored units (P,).
    """

    array: np.ndarray
    values: ValueMap
    names: Sequence[str]
    about: dict[str, Any]
    labels: Sequence[str] | None
    prompts: Sequence[str] | None
    before: Sequence[np.ndarray]
    after: Sequence[np.ndarray] = ()
    errors: np.ndarray | None = None

    def about_of(self, index: int) -> dict[str, Any]:
        """What made one of the results, as written into its file."""
        about = {**self.about, "picture": self.names[index // self.array.shape[1]], "index": index}
        if self.labels is not None:
            about["label"] = self.labels[index]
        if self.prompts is not None:
            about["prompt"] = self.prompts[index]
        return about

    def grid(self) -> Image.Image:
        """One image with a row for each picture: the picture, the model's input, the results, each above its prompt
        where there are several."""
        results = [as_display(column, self.values) for column in self.array.swapaxes(0, 1)]
        row = np.stack([*self.before, *results, *self.after], axis=1)
        return tile(row.reshape(-1, *row.shape[2:]), columns=row.shape[1], captions=self._captions())

    def _captions(self) -> list[str] | None:
        """The text below each image of the grid, none below those that are no results; None without several prompts."""
        if self.prompts is None or len(set(self.prompts)) < 2:
            return None
        n = self.array.shape[1]
        parts = [self.prompts[i : i + n] for i in range(0, len(self.prompts), n)]
        return [text for part in parts for text in ([""] * len(self.before) + [*part] + [""] * len(self.after))]

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes `grid.png` and one file a result, NAME-1, NAME-2, …, provenance inside; returns the folder.

        Raises UnblotError where the folder holds files already and `overwrite` is False.
        """
        folder = user_path(folder)
        count, n, channels, height, width = self.array.shape
        texts = {} if self.prompts is None else {"prompts": [*self.prompts]}
        begin_folder(
            folder, file_names(self.names, count, n, channels, self.values), {**self.about, **texts}, overwrite
        )
        stems = result_stems(self.names, count, n)
        results = self.array.reshape(-1, channels, height, width)
        for index, (stem, result) in enumerate(zip(stems, results, strict=True)):
            save_picture(folder / stem, result, self.values, self.about_of(index))
        self.grid().save(folder / GRID)
        return folder


def result_stems(names: Sequence[str], count: int, n: int) -> list[str]:
    """The names of the results' files without their suffix, NAME-1, NAME-2, … for each of the first `count` pictures.

    A second picture to interpolate to has none. Where two pictures have one name, but for small and capital letters,
    the number of each picture stands before its name.
    """
    plain = [Path(name).stem or "picture" for name in names[:count]]
    repeated = len({name.casefold() for name in plain}) < len(plain)
    unique = [f"{row}-{name}" for row, name in enumerate(plain, 1)] if repeated else plain
    return [f"{name}-{i + 1}" for name in unique for i in range(n)]


def file_names(names: Sequence[str], count: int, n: int, channels: int, values: ValueMap) -> list[str]:
    """The names of all files of an edit: n results for each of `count` pictures, and the grid."""
    suffix = picture_suffix(channels, values)
    return [*(stem + suffix for stem in result_stems(names, count, n)), GRID]


def tinted(shown: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Images (P, h, w, 3) with their unknown pixels, bool (P, 1, h, w), in one colour."""
    return np.where(unknown[:, 0, :, :, None], np.array(TINT, np.uint8), shown)
