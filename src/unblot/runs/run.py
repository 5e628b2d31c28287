"""A trained run, and the pictures that it draws."""

import math
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

from unblot._version import __version__
from unblot.config.schema import DataFacts, RunConfig, SampleConfig
from unblot.data.output import picture_suffix, save_picture, sheet
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.process.randomness import labels_for
from unblot.runs.folder import SNAPSHOTS, load_model
from unblot.runs.snapshots import at_snapshot
from unblot.runs.tuning_store import choose_sampler, read_tuning, usable
from unblot.sampling.batched import sample_batches
from unblot.sampling.guidance import Guidance
from unblot.sampling.loop import Progress
from unblot.sampling.settings import SamplerConfig
from unblot.specs import several
from unblot.system.device import available_device, mixed_precision
from unblot.system.folders import begin_folder, user_path

GUIDING = ("guidance_low", "guidance_high", "guidance_rescale", "autoguide", "threshold")


@dataclass(frozen=True)
class Samples:
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
        folder, points = user_path(folder), self.data.kind == "points"
        suffix = picture_suffix(self.data.channels, ValueMap.from_dict(self.data.values))
        names = ["points.npy"] if points else [f"{index:06d}{suffix}" for index in self.indices]
        begin_folder(folder, ["grid.png", *names], self.provenance, overwrite)
        self.grid().save(folder / "grid.png")
        if points:
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

    @property
    def device(self) -> torch.device:
        """Where the denoiser lies, and pictures are drawn."""
        return next(self.denoiser.parameters()).device

    def sample(
        self,
        n: int = 16,
        *,
        first: int = 0,
        quality: str | None = None,
        nfe: int | None = None,
        steps: int | None = None,
        seed: int = 0,
        label: str | int | Sequence[str | int] | None = None,
        guidance: float | Sequence[float] | None = None,
        guidance_low: float = 0.0,
        guidance_high: float | None = None,
        guidance_rescale: float = 0.0,
        autoguide: str | Path | None = None,
        threshold: str = "none",
        solver: str | None = None,
        spacing: str | None = None,
        batch_size: int = 64,
        on_step: Callable[[Progress], None] | None = None,
    ) -> Samples:
        """n new pictures, numbered from `first`. Picture i follows from (seed, i), its label and the choices alone.

        quality, evaluations, steps, solver, grid: see `tuned.choose_setting`. label: a class by name or index, several
        that take turns, "all", or None for no label, where a run that learned clusters draws from each as often as it
        came. guidance: a scale, or several that take turns; low and high are the sigma/alpha within which it is on.
        autoguide: a run, model file or snapshot of this run to push away from. Where neither is given, guidance is as
        tuning found it best, or none. Raises UnblotError for values that this run cannot use.
        """
        config = SampleConfig(  # holds the numbers to their ranges
            n=n,
            seed=seed,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            guidance_rescale=guidance_rescale,
            threshold=threshold,
            batch_size=batch_size,
        )
        indices = range(first, first + n)
        labels = choose_labels(label, self.config.data.classes, indices)
        unasked = labels_for(seed, indices, clusters=self.config.data.clusters)
        told = unasked if labels is None else torch.tensor(labels)
        sampler = self.sampler(
            label=label,
            guidance=guidance,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            autoguide=autoguide,
            quality=quality,
            nfe=nfe,
            steps=steps,
            solver=solver,
            spacing=spacing,
        )
        choices: dict[str, Any] = {
            "solver": sampler.solver,
            "spacing": sampler.spacing,
            "steps": sampler.steps,
            "schedule": self.config.train.schedule,
            "seed": seed,
        }
        batches = sample_batches(
            self.denoiser,
            self.config.data.shape,
            indices,
            labels=told,
            guidance=self._guidance(sampler, config, told, indices),
            batch_size=batch_size,
            on_step=on_step,
            **choices,
        )
        values = ValueMap.from_dict(self.config.data.values)
        precision = self.config.train.precision if self.device.type == "cuda" else "fp32"  # as trained, where it can be
        with mixed_precision(precision, self.device):
            array = np.concatenate([values.decode(batch.cpu().numpy()) for batch in batches])
        run = {"run": self.path.resolve().name, "ema": several(self.config.train.ema)[0]}
        about = {"generator": f"unblot {__version__}", **run, **choices}
        pushed = {**asdict(config), **asdict(sampler)}
        unusual = {k: v for k, v in pushed.items() if k in GUIDING and v != getattr(SampleConfig, k)}
        return Samples(array, labels, self.config.data, indices, {**about, "guidance": sampler.guidance, **unusual})

    def need_denoiser(self, what: str) -> None:
        """Raises UnblotError for a distilled run, which knows a few noise levels only and cannot do `what`."""
        if self.config.distill is not None:
            raise UnblotError(
                f"{what} needs a denoiser of every noise level, and this run was distilled; use its teacher, "
                f"{self.config.distill.teacher!r}"
            )

    def sampler(
        self,
        *,
        label: Any = None,
        guidance: float | Sequence[float] | None = None,
        guidance_low: float = 0.0,
        guidance_high: float | None = None,
        autoguide: str | Path | None = None,
        **asked: Any,
    ) -> SamplerConfig:
        """How pictures are drawn where this is asked for: see `sample`, and for `asked` `tuned.choose_setting`.

        Raises UnblotError where a distilled run is asked for other steps than its own.
        """
        SampleConfig(guidance_low=guidance_low, guidance_high=guidance_high)  # holds the numbers to their ranges
        own = guidance is None and autoguide is None
        if self.config.distill is None:
            labels = label is not None or bool(self.config.data.clusters)
            overhead = any(asked.get(name) is not None for name in ("steps", "solver", "spacing"))
            tuning = None if overhead else read_tuning(self.path, self.denoiser)
            tuning = usable(tuning, self.path, labels=labels, guided=own)
            found = choose_sampler(self.config.train, tuning, **asked)
        else:
            found = self._distilled(asked)
        if own:
            return found
        return replace(
            found,
            guidance=1.0 if guidance is None else guidance,
            guidance_low=guidance_low,
            guidance_high=guidance_high,
            autoguide=None if autoguide is None else str(autoguide),
        )

    def _distilled(self, asked: dict[str, Any]) -> SamplerConfig:
        """A distilled run's only setting. Raises UnblotError where another is asked for."""
        assert self.config.distill is not None
        own = choose_sampler(self.config.train, None)
        given = {k: v for k, v in asked.items() if v is not None}
        if not given.items() <= {**asdict(own), "nfe": own.steps}.items():
            raise UnblotError(
                f"this run was distilled to draw in {own.steps} steps at levels of its own; leave out --steps, "
                f"--solver, --spacing, --nfe and --quality, or sample its teacher, {self.config.distill.teacher}"
            )
        return own

    def _guidance(self, sampler: SamplerConfig, config: SampleConfig, labels: Any, indices: Sequence[int]) -> Guidance:
        """The guidance of the pictures numbered `indices`. Raises UnblotError where this run cannot have it."""
        scale = sampler.guidance
        weak = None if sampler.autoguide is None else self._weaker(sampler.autoguide)
        if scale != 1 and labels is None and weak is None:
            raise UnblotError(f"guidance {scale} pushes towards a label; give one with --label")
        if scale == 1 and weak is not None:
            raise UnblotError("autoguidance at scale 1 changes nothing; give --guidance above 1, as 1.5")
        if config.threshold != "none" and not ValueMap.from_dict(self.config.data.values).bounded:
            raise UnblotError(f"threshold {config.threshold!r} needs values with limits; this run's are floats without")
        scales = scale if isinstance(scale, int | float) else torch.tensor([scale[i % len(scale)] for i in indices])
        high = math.inf if sampler.guidance_high is None else sampler.guidance_high
        return Guidance(scales, config.guidance_rescale, sampler.guidance_low, high, weak, config.threshold)

    def _weaker(self, path: str) -> Denoiser:
        """The model to push away from, on this one's device; a path is looked for in the run's folder first.

        Raises UnblotError where its pictures are others.
        """
        inside = self.path / path
        place = inside if inside.exists() else Path(path)
        if place.resolve().parent == (self.path / SNAPSHOTS).resolve():
            config, denoiser = self.config, at_snapshot(place, self.config)
        else:
            config, denoiser = load_model(place)
        mine, its = ((c.data.shape, c.data.num_labels) for c in (self.config, config))
        if mine != its:
            raise UnblotError(f"{path!r} cannot guide this run: its pictures and labels are {its}, not {mine}")
        return denoiser.to(self.device)


def load(path: str | Path, device: str = "auto") -> Run:
    """The run in a folder, or the model in a `model.safetensors`. Raises UnblotError where there is none."""
    path = user_path(path)
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
