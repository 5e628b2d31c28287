"""Samples of a run: pictures with the values of the data, and what made them."""

from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
from PIL import Image

from unblot._version import __version__
from unblot.config.sampling import SampleConfig
from unblot.config.schema import DataFacts
from unblot.data.output import picture_suffix, save_picture, sheet
from unblot.data.values import ValueMap
from unblot.process.schedules import SCHEDULES
from unblot.sampling.settings import SamplerConfig
from unblot.specs import build
from unblot.system.folders import GRID, begin_folder, user_path

GUIDANCE_OPTIONS = ("guidance_low", "guidance_high", "guidance_rescale", "autoguide", "negative", "threshold")


@dataclass(frozen=True)
class Samples:
    """Samples `array` (N, C, H, W) in the units, range and dtype of the training data.

    labels: the class index of each sample, or None. indices: their numbers. provenance: the run, the sampler and the
    seed, as written into files. prompts: the text of each sample, or None.
    """

    array: np.ndarray
    labels: list[int] | None
    data: DataFacts
    indices: Sequence[int]
    provenance: dict[str, Any]
    prompts: list[str] | None = None

    @property
    def values(self) -> ValueMap:
        """The map between the samples' values and the network's range."""
        return ValueMap.from_dict(self.data.values)

    def about(self, row: int) -> dict[str, Any]:
        """What made one of the samples, as written into its file."""
        about = {**self.provenance, "index": self.indices[row]}
        if self.labels is not None:
            about["label"] = self.data.classes[self.labels[row]]
        if self.prompts is not None:
            about["prompt"] = self.prompts[row]
        return about

    def about_all(self) -> dict[str, Any]:
        """What made the samples, with the prompt of each, as written into the manifest of their folder."""
        return self.provenance | ({} if self.prompts is None else {"prompts": self.prompts})

    def grid(self, columns: int | None = None) -> Image.Image:
        """All samples in one image, each above its prompt where they have several."""
        captions = self.prompts if len(set(self.prompts or ())) > 1 else None
        return sheet(self.array, self.values, columns, captions)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes `grid.png` and one file per sample (of points in the plane: one `points.npy`); returns the folder.

        Raises UnblotError where the folder holds files already and `overwrite` is False.
        """
        folder, points = user_path(folder), self.data.kind == "points"
        suffix = picture_suffix(self.data.channels, self.values)
        names = ["points.npy"] if points else [f"{index:06d}{suffix}" for index in self.indices]
        begin_folder(folder, [GRID, *names], self.about_all(), overwrite)
        self.grid().save(folder / GRID)
        if points:
            np.save(folder / "points.npy", self.array[:, :, 0, 0])
        else:
            self.save_files(folder)
        return folder

    def save_files(self, folder: Path) -> None:
        """Writes one file per sample, named by its index, with its provenance inside."""
        for row, index in enumerate(self.indices):
            save_picture(folder / f"{index:06d}", self.array[row], self.values, self.about(row))


def provenance(run: str, ema: str, schedule: str, sampler: SamplerConfig, config: SampleConfig) -> dict[str, Any]:
    """What is written into the files of samples: the run's name and average of weights, the sampler, the seed."""
    chosen = {"solver": sampler.solver, "spacing": sampler.spacing, "steps": sampler.steps, "schedule": schedule}
    options = {**asdict(config), **asdict(sampler)}
    changed = {k: options[k] for k in GUIDANCE_OPTIONS if options[k] != getattr(SampleConfig, k)}
    about = {"generator": f"unblot {__version__}", "run": run, "ema": ema, **chosen, "seed": config.seed}
    return {**about, "guidance": sampler.guidance, **changed}


def network_calls(sampler: SamplerConfig, schedule: str) -> int | str:
    """Network calls for each sample, two for a guided estimate; in words where the pictures decide their number."""
    return sampler.nfe(build(SCHEDULES, schedule, "schedule")) or "depends on the picture"
