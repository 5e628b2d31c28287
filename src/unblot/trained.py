"""A trained run, and the pictures that it draws."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import unblot
from unblot.config import DataFacts, RunConfig, SampleConfig
from unblot.data.output import save_picture, sheet
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser, mixed_precision
from unblot.errors import UnblotError
from unblot.run import load_model, refuse_full
from unblot.sampling.draw import available_device, draw
from unblot.sampling.grids import GRIDS
from unblot.sampling.loop import Progress
from unblot.sampling.solvers import SOLVERS
from unblot.specs import canonical, several


@dataclass(frozen=True)
class Pictures:
    """Drawn pictures: `array` (N, C, H, W) with the values, range and dtype of the data that the model learned from.

    labels: the class index of each picture, or None; provenance: what they were drawn from, and how.
    """

    array: np.ndarray
    labels: list[int] | None
    data: DataFacts
    indices: Sequence[int]
    provenance: dict[str, Any]

    def grid(self, columns: int | None = None) -> Image.Image:
        """All of them as one picture to look at."""
        return sheet(self.array, ValueMap.from_dict(self.data.values), columns)

    def save(self, folder: str | Path, overwrite: bool = False) -> Path:
        """Writes `grid.png` and one file a picture (for points in the plane: one `points.npy`); returns the folder.

        Raises UnblotError where the folder holds files already and `overwrite` is False.
        """
        folder = Path(folder)
        refuse_full(folder, overwrite)
        folder.mkdir(parents=True, exist_ok=True)
        self.grid().save(folder / "grid.png")
        if self.data.kind == "points":
            np.save(folder / "points.npy", self.array[:, :, 0, 0])
        else:
            self.save_files(folder)
        return folder

    def save_files(self, folder: Path) -> None:
        """Writes one file a picture, named by its index, with its provenance inside."""
        values = ValueMap.from_dict(self.data.values)
        for row, index in enumerate(self.indices):
            about = {**self.provenance, "index": index}
            if self.labels is not None:
                about["label"] = self.data.classes[self.labels[row]]
            save_picture(folder / f"{index:06d}", self.array[row], values, about)


@dataclass(frozen=True)
class Run:
    """A trained model: where it lies, its config, and the denoiser itself."""

    path: Path
    config: RunConfig
    denoiser: Denoiser

    def sample(
        self,
        n: int = 16,
        *,
        first: int = 0,
        steps: int | None = None,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        guidance: float = 1.0,
        solver: str | None = None,
        grid: str | None = None,
        batch_size: int = 64,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Pictures:
        """n new pictures, numbered from `first`. Picture i follows from (seed, i), its label and the choices alone.

        label: a class by name or index, several that take turns, "all", or None for no label. What is not given is
        taken from the run. Raises UnblotError for values that this run cannot use.
        """
        SampleConfig(n=n, steps=steps, seed=seed, batch_size=batch_size)  # holds the numbers to their ranges
        indices = range(first, first + n)
        labels = choose_labels(label, self.config.data.classes, indices)
        if guidance != 1 and labels is None:
            raise UnblotError(f"guidance {guidance} pushes towards a label; give one with --label")
        choices = self.choices(steps=steps, solver=solver, grid=grid, seed=seed, guidance=guidance)
        batches = draw(
            self.denoiser,
            self.config.data.shape,
            indices,
            labels=None if labels is None else torch.tensor(labels),
            batch_size=batch_size,
            on_step=on_step,
            **choices,
        )
        values = ValueMap.from_dict(self.config.data.values)
        device = next(self.denoiser.parameters()).device
        precision = self.config.train.precision if device.type == "cuda" else "fp32"  # as trained, where it can be
        with mixed_precision(precision, device):
            array = np.concatenate([values.decode(batch.cpu().numpy()) for batch in batches])
        run = {"run": self.path.resolve().name, "ema": several(self.config.train.ema)[0]}
        about = {"generator": f"unblot {unblot.__version__}", **run, **choices}
        return Pictures(array, labels, self.config.data, indices, about)

    def need_denoiser(self, what: str) -> None:
        """Raises UnblotError for a distilled run, which knows a few noise levels only and cannot do `what`."""
        if self.config.distill is not None:
            raise UnblotError(
                f"{what} needs a denoiser of every noise level, and this run was distilled; use its teacher, "
                f"{self.config.distill.teacher!r}"
            )

    def choices(self, *, steps: int | None, solver: str | None, grid: str | None, **others: Any) -> dict[str, Any]:
        """How pictures are drawn, written out: what is given, and for the rest what the run says."""
        train = self.config.train
        if self.config.distill and not (steps in (None, train.sampling_steps) and solver is None and grid is None):
            raise UnblotError(
                f"this run was distilled to draw in {train.sampling_steps} steps at levels of its own; leave out "
                f"--steps, --solver and --grid, or sample its teacher, {self.config.distill.teacher}"
            )
        return {
            "steps": train.sampling_steps if steps is None else steps,
            "solver": canonical(SOLVERS, solver or train.solver, "solver"),
            "schedule": train.schedule,
            "grid": canonical(GRIDS, grid or train.grid, "grid"),
            **others,
        }


def load(path: str | Path, device: str = "auto") -> Run:
    """The run in a folder, or the model in a `model.safetensors`. Raises UnblotError where there is none."""
    path = Path(path)
    config, denoiser = load_model(path)
    return Run(path if path.is_dir() else path.parent, config, denoiser.to(available_device(device)))


def choose_labels(label: Any, classes: Sequence[str], indices: Sequence[int]) -> list[int] | None:
    """The class index of each of the pictures numbered `indices`, for a label as `Run.sample` takes it."""
    if label is None:
        return None
    if not classes:
        raise UnblotError(f"label {label!r} cannot be asked for: this run was trained without labels")
    if label == "all":
        chosen = list(range(len(classes)))
    else:
        wanted = label.split(",") if isinstance(label, str) else [label] if isinstance(label, int) else label
        chosen = [_class_index(w, classes) for w in wanted]
    return [chosen[i % len(chosen)] for i in indices]


def _class_index(wanted: str | int, classes: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if str(wanted).isdigit() and int(wanted) < len(classes):
        return int(wanted)
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise UnblotError(f"no class {wanted!r}; this run knows {known} (or an index from 0 to {len(classes) - 1}, or all)")
