"""What working on pictures gives: results with what they were made from, as files and as a sheet to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unblot.data.output import as_display, picture_suffix, save_picture, tile
from unblot.data.values import ValueMap
from unblot.system.folders import begin_folder

GRID = "grid.png"
TINT = (226, 120, 60)  # of what is to be made anew


@dataclass(frozen=True)
class EditResult:
    """Results `array` (P, n, C, H, W), stored values, in the order of the pictures that they were made from.

    before, after: what stands beside them in the sheet, (P, h, w, 3) uint8 each. names: of the pictures. about: what
    is written into the files. errors: of reconstructions, root mean square in stored units (P,).
    """

    array: np.ndarray
    values: ValueMap
    names: Sequence[str]
    about: dict[str, Any]
    labels: Sequence[str] | None
    before: Sequence[np.ndarray]
    after: Sequence[np.ndarray] = ()
    errors: np.ndarray | None = None

    def grid(self) -> Image.Image:
        """A sheet: in each row a picture, what the model was shown of it, and the results."""
        results = [as_display(column, self.values) for column in self.array.swapaxes(0, 1)]
        row = np.stack([*self.before, *results, *self.after], axis=1)
        return tile(row.reshape(-1, *row.shape[2:]), columns=row.shape[1])

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes `grid.png` and one file a result, NAME-1, NAME-2, …, provenance inside; returns the folder.

        Raises UnblotError where the folder holds files already and `overwrite` is False.
        """
        folder = Path(folder)
        stems = self.stems()
        suffix = picture_suffix(self.array.shape[2], self.values)
        begin_folder(folder, [*(stem + suffix for stem in stems), GRID], self.about, overwrite)
        for index, (stem, result) in enumerate(zip(stems, self.array.reshape(-1, *self.array.shape[2:]), strict=True)):
            about = {**self.about, "picture": self.names[index // self.array.shape[1]], "index": index}
            if self.labels is not None:
                about["label"] = self.labels[index]
            save_picture(folder / stem, result, self.values, about)
        self.grid().save(folder / GRID)
        return folder

    def stems(self) -> list[str]:
        """The names of the results' files without their suffix, in order: NAME-1, NAME-2, … for each picture."""
        plain = [Path(name).stem or "picture" for name in self.names]
        unique = [name if plain.count(name) == 1 else f"{row + 1}-{name}" for row, name in enumerate(plain)]
        return [f"{name}-{i + 1}" for name in unique for i in range(self.array.shape[1])]


def tinted(shown: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Pictures to look at (P, h, w, 3) with their unknown pixels (P, 1, h, w) in one colour."""
    return np.where(unknown[:, 0, :, :, None], np.array(TINT, np.uint8), shown)
