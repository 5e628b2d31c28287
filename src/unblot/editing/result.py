"""What working on pictures gives: results with what they were made from, as files and as a sheet to look at."""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unblot.data.output import as_display, save_picture, tile
from unblot.data.values import ValueMap
from unblot.system.files import refuse_full

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
        refuse_full(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        stems = [Path(name).stem or "picture" for name in self.names]
        for row, results in enumerate(self.array):
            stem = stems[row] if stems.count(stems[row]) == 1 else f"{row + 1}-{stems[row]}"
            for draw, result in enumerate(results):
                index = row * len(results) + draw
                about = {**self.about, "picture": self.names[row], "index": index}
                if self.labels is not None:
                    about["label"] = self.labels[index]
                save_picture(folder / f"{stem}-{draw + 1}", result, self.values, about)
        self.grid().save(folder / "grid.png")
        return folder


def tinted(shown: np.ndarray, unknown: np.ndarray) -> np.ndarray:
    """Pictures to look at (P, h, w, 3) with their unknown pixels (P, 1, h, w) in one colour."""
    return np.where(unknown[:, 0, :, :, None], np.array(TINT, np.uint8), shown)
