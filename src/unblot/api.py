"""unblot from Python: `run = unblot.train("pictures/")`, `unblot.load("runs/pictures").sample(16, seed=0)`."""

import dataclasses
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from PIL import Image

import unblot
from unblot.config import DataConfig, DataFacts, EvaluateConfig, RunConfig, SampleConfig
from unblot.data.batches import Dataset, open_data
from unblot.data.output import grid, save_picture, scatter
from unblot.data.pack import cache_folder
from unblot.data.values import ValueMap
from unblot.denoiser import Denoiser
from unblot.errors import UnblotError
from unblot.losses import WEIGHTINGS
from unblot.nn import NETWORKS
from unblot.presets import resolve
from unblot.process.parameterizations import PARAMETERIZATIONS
from unblot.process.randomness import epoch_order
from unblot.process.schedules import SCHEDULES
from unblot.run import CONFIG, create, load_model, new_folder, read_config, refuse_full, write_json
from unblot.sampling.draw import available_device, draw, sampling_levels
from unblot.sampling.grids import GRIDS
from unblot.sampling.loop import Progress
from unblot.sampling.solvers import SOLVERS
from unblot.specs import canonical
from unblot.training.ema import EMAS
from unblot.training.engine import DECAYS, Trainer
from unblot.training.loop import run_training
from unblot.training.monitor import Monitor

STD_PICTURES = 4096  # enough to know the data's standard deviation to about one percent


SPECS: dict[str, Mapping[str, Callable[..., Any]]] = {  # fields of TrainConfig that choose from a table
    "network": NETWORKS,
    "parameterization": PARAMETERIZATIONS,
    "schedule": SCHEDULES,
    "weighting": WEIGHTINGS,
    "decay": DECAYS,
    "ema": EMAS,
    "grid": GRIDS,
    "solver": SOLVERS,
}


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
        if self.data.kind == "points":
            return scatter(self.array)
        return grid(self.array, ValueMap.from_dict(self.data.values), columns=columns)

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
        array = np.concatenate([values.decode(batch.cpu().numpy()) for batch in batches])
        about = {"generator": f"unblot {unblot.__version__}", "run": self.path.resolve().name, **choices}
        return Pictures(array, labels, self.config.data, indices, about)

    def choices(self, *, steps: int | None, solver: str | None, grid: str | None, **others: Any) -> dict[str, Any]:
        """How pictures are drawn, written out: what is given, and for the rest what the run says."""
        train = self.config.train
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


def train(
    data: str = "digits", *, out: str | Path | None = None, overwrite: bool = False, quiet: bool = False, **choices: Any
) -> Run:
    """Trains a model on `data` and returns the run; `choices` are fields of `DataConfig` and `TrainConfig`.

    out: the run folder, by default a new one in `runs/`. Raises UnblotError for bad input, before anything is written.
    """
    reading = {f.name: choices.pop(f.name) for f in dataclasses.fields(DataConfig) if f.name in choices}
    source = DataConfig(data=data, **reading)
    dataset = open_data(source.data, **_reading(source))
    config = plan(source, dataset, choices)
    folder = Path(out) if out is not None else new_folder(Path("runs") / dataset.name)
    trainer = Trainer(config, dataset)
    if trainer.group.leads:
        create(folder, config, overwrite)
    return _train(folder, trainer, quiet)


def resume(folder: str | Path, *, steps: int | None = None, device: str | None = None, quiet: bool = False) -> Run:
    """Goes on with a run from its newest checkpoint, to `steps` steps in all where given.

    Raises UnblotError where there is nothing to go on from, or where the data has changed.
    """
    folder = Path(folder)
    config = read_config(folder)
    changes: dict[str, Any] = {k: v for k, v in {"steps": steps, "device": device}.items() if v is not None}
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    dataset = open_data(config.source.data, **_reading(config.source))
    if dataset.fingerprint != config.data.fingerprint:
        raise UnblotError(
            f"the data {config.source.data!r} is not what run {str(folder)!r} was trained on; put it back as it was, "
            "or train a new run"
        )
    trainer = Trainer(config, dataset)
    if trainer.group.leads:
        write_json(folder / CONFIG, config.to_dict())
    return _train(folder, trainer, quiet, resuming=True)


def evaluate(path: str | Path, *, quiet: bool = False, **choices: Any) -> dict[str, Any]:
    """Measures how good, varied and original what a run draws is; writes RUN/report/ and returns the report.

    choices: fields of `EvaluateConfig`. Pictures are drawn with the labels of training pictures, where it has labels.
    Raises UnblotError where the data is not what the run was trained on.
    """
    from unblot.evaluate.measure import Options
    from unblot.evaluate.report import evaluate_run

    config = EvaluateConfig(**choices)
    run = load(path, config.device)
    dataset = open_data(run.config.source.data, **_reading(run.config.source))
    label = None
    if dataset.labels is not None and run.config.data.classes:
        chosen = epoch_order(config.seed, 0, len(dataset.train))[: config.n].numpy()
        label = dataset.labels[dataset.train[chosen]].tolist()
    samples = run.sample(
        config.n, steps=config.steps, seed=config.seed, label=label, guidance=config.guidance, batch_size=250
    )
    options = Options(
        tuple(filter(None, config.features.split("+"))),
        config.flip,
        config.shift,
        config.likelihood,
        config.ode,
        cache_folder() / "features",
    )
    note = (lambda line: None) if quiet else print
    return evaluate_run(run.path, run.config, run.denoiser, dataset, samples.array, options, note, samples.provenance)


def plan(source: DataConfig, dataset: Dataset, choices: dict[str, Any]) -> RunConfig:
    """The full configuration of a run on this data, every choice decided and written out."""
    sample, _ = dataset.batch(dataset.train[:STD_PICTURES])
    facts = DataFacts(
        name=dataset.name,
        channels=sample.shape[1],
        height=sample.shape[2],
        width=sample.shape[3],
        classes=dataset.classes,
        values=dataset.values.to_dict(),
        std=round(float(sample.double().std()), 4),
        count=len(dataset.train),
        fingerprint=dataset.fingerprint,
    )
    config = resolve(facts, choices)
    written: dict[str, Any] = {name: canonical(table, getattr(config, name), name) for name, table in SPECS.items()}
    config = dataclasses.replace(config, **written)
    levels = sampling_levels(config.schedule, config.grid, config.sampling_steps)
    PARAMETERIZATIONS[config.parameterization](levels.at(0), config.data_std)  # refuses pairs that cannot work
    return RunConfig(source, facts, config, unblot.__version__)


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


def announce(trainer: Trainer, folder: Path) -> str:
    """What is about to be trained, on what, where, in two lines."""
    data, train = trainer.config.data, trainer.config.train
    parameters = sum(p.numel() for p in trainer.denoiser.parameters())
    labels = f", {len(data.classes)} classes" if data.classes else ""
    shape = "x".join(str(s) for s in (data.height, data.width, data.channels))
    return (
        f"{data.name}: {data.count} {data.kind} of {shape}{labels}; preset {train.preset}, "
        f"{parameters / 1e6:.2f} M parameters on {trainer.device}\n"
        f"{train.steps} steps of {train.batch_size} into {folder}"
    )


def _train(folder: Path, trainer: Trainer, quiet: bool, resuming: bool = False) -> Run:
    plan = trainer.config.train
    monitor = Monitor(folder, plan.steps, plan.batch_size, quiet, silent=not trainer.group.leads)
    monitor.note(announce(trainer, folder))
    finished = run_training(folder, trainer, monitor, resuming)
    if not finished:
        monitor.note(f"stopped after step {trainer.step}; go on with: unblot train --resume {folder}")
    return load(folder, plan.device)


def _reading(source: DataConfig) -> dict[str, Any]:
    """The keyword arguments of `open_data`."""
    return {k: v for k, v in dataclasses.asdict(source).items() if k != "data"}


def _class_index(wanted: str | int, classes: Sequence[str]) -> int:
    if isinstance(wanted, str) and wanted in classes:
        return classes.index(wanted)
    if str(wanted).isdigit() and int(wanted) < len(classes):
        return int(wanted)
    known = ", ".join(classes[:20]) + (", …" if len(classes) > 20 else "")
    raise UnblotError(f"no class {wanted!r}; this run knows {known} (or an index from 0 to {len(classes) - 1}, or all)")
