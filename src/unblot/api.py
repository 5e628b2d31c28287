"""unblot from Python: `run = unblot.train("pictures/")`, `unblot.load("runs/pictures").sample(16, seed=0)`."""

import dataclasses
import sys
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unblot.config.durations import budget_of, longer_budget, parse_budget
from unblot.config.schema import DataConfig, DistillConfig, EmaConfig, EvaluateConfig, RunConfig, TuneConfig
from unblot.data.audit.audit import audit_dataset, quick_check
from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.cache.build import cache_folder
from unblot.data.dataset import Dataset, open_data
from unblot.distillation.student import keep_teacher, student_config, teacher_of
from unblot.distillation.task import DistillationTask
from unblot.errors import UnblotError, arg
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import CONFIG, MODEL, REPORT, create, load_model, locked, read_config, refuse_run, save_model
from unblot.runs.labels import choose_labels, labels_as_trained
from unblot.runs.run import Run, Samples, load
from unblot.runs.snapshots import EmaCandidate, Snapshots
from unblot.runs.tuning_store import Tuning
from unblot.specs import several
from unblot.system.distributed import join_group, shared_clock
from unblot.system.files import must_be_writable, new_folder, write_json
from unblot.training import checkpoint
from unblot.training.announce import announce
from unblot.training.budget import choose, go_on, keep, training_seconds, try_out
from unblot.training.budget_controller import BudgetController
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.loop import run_training
from unblot.training.plan import SPECS, check_choices, plan_run
from unblot.training.trainer import Trainer, denoising_trainer

__all__ = [
    "SPECS",
    "Samples",
    "Run",
    "choose_ema",
    "choose_labels",
    "distill",
    "evaluate",
    "load",
    "plan_run",
    "resume",
]
__all__ += ["train", "tune"]


def train(
    data: str = "digits", *, out: str | Path | None = None, overwrite: bool = False, quiet: bool = False, **choices: Any
) -> Run:
    """Trains a model on `data` and returns the run; `choices` are fields of `DataConfig` and `TrainConfig`.

    out: the run folder, by default a new one in `runs/`. budget="20m" trains for so long instead of so many steps.
    Raises UnblotError for bad input, before anything is written.
    """
    check_choices(choices)
    budget = budget_of(choices)
    reading = {f.name: choices.pop(f.name) for f in dataclasses.fields(DataConfig) if f.name in choices}
    source = DataConfig(data=data, **reading)
    dataset = open_dataset(source, quiet)
    for warning in quick_check(dataset):
        if not quiet:
            print(f"note: {warning}")
    controller = BudgetController(budget, shared_clock(join_group()))
    config = plan_run(source, dataset, choices)
    folder = Path(out) if out is not None else new_folder(Path("runs") / dataset.name)
    budget_plan = None
    if budget is not None:
        if not overwrite:
            refuse_run(folder)  # before the trial steps
        config, budget_plan = choose(
            lambda **own: plan_run(source, dataset, {**own, **choices}), choices, dataset, controller
        )
    trainer = denoising_trainer(config, dataset)
    with locked(folder) if trainer.group.is_main_process else nullcontext():
        if trainer.group.is_main_process:
            create(folder, config, overwrite)
        return _train(folder, trainer, controller, budget_plan, quiet)


def resume(
    folder: str | Path,
    *,
    steps: int | None = None,
    budget: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Run:
    """Goes on with a run from its newest checkpoint, to `steps` steps in all where given.

    budget: "40m" for so long in all, "+20m" for so much longer than was planned; a run with a budget that was stopped
    goes on for the time that was left. Raises UnblotError where there is nothing to go on from, or where the data has
    changed.
    """
    folder = Path(folder)
    config = read_config(folder)
    state = checkpoint.newest_state(folder)
    if steps is not None and steps < state.get("step", 0):
        raise UnblotError(
            f"{arg('steps', steps)} is less than the {state['step']} steps that the run has taken; give more than those"
        )
    changes: dict[str, Any] = {k: v for k, v in {"steps": steps, "device": device}.items() if v is not None}
    if steps is not None or budget is not None:
        changes["budget"] = longer_budget(budget, steps, config.train.budget, state.get("seconds", 0.0))
        if budget is not None and config.distill is not None:
            raise UnblotError("--budget plans trainings from scratch; give --steps to go on with a distillation")
    config = dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))
    dataset = _data_of(config, folder, quiet)
    seconds = parse_budget(config.train.budget)[0] if config.train.budget else None
    controller = BudgetController(seconds, shared_clock(join_group()), before=state.get("seconds", 0.0))
    more = state and (state["step"] < state.get("steps", 0) or state.get("budget") != seconds)
    budget_plan = go_on(config, state["step"], dataset, controller) if seconds is not None and more else None
    if config.distill is None:
        trainer = denoising_trainer(config, dataset)
    else:
        trainer = Trainer(config, DistillationTask(config, dataset, teacher_of(folder, config.distill)))
    with locked(folder) if trainer.group.is_main_process else nullcontext():
        if trainer.group.is_main_process:
            write_json(folder / CONFIG, config.to_dict())
        return _train(folder, trainer, controller, budget_plan, quiet, resuming=True)


def distill(
    path: str | Path, *, out: str | Path | None = None, overwrite: bool = False, quiet: bool = False, **choices: Any
) -> Run:
    """Makes a model that takes 1 to 4 evaluations for a picture out of a trained run, and returns its run.

    choices: fields of `DistillConfig`, and of `TrainConfig` for the training. out: the new run folder, by default one
    beside the first. Raises UnblotError for a run that was distilled itself, or whose data has changed.
    """
    path = Path(path)
    if choices.get("budget"):
        raise UnblotError("--budget plans trainings from scratch; give --steps to distill")
    wanted = {f.name: choices.pop(f.name) for f in dataclasses.fields(DistillConfig) if f.name in choices}
    run_of_teacher, teacher = load_model(path)
    config = student_config(run_of_teacher, path, DistillConfig(**wanted), choices)
    place = path if path.is_dir() else path.parent
    folder = Path(out) if out is not None else new_folder(place.with_name(f"{place.resolve().name}-distilled"))
    if folder.resolve() == place.resolve():
        raise UnblotError(f"{str(folder)!r} is the run to distill from; choose another --out")
    trainer = Trainer(config, DistillationTask(config, _data_of(config, path, quiet), teacher))
    with locked(folder) if trainer.group.is_main_process else nullcontext():
        if trainer.group.is_main_process:
            create(folder, config, overwrite)
            keep_teacher(folder, path)
        return _train(folder, trainer, BudgetController(), None, quiet)


def evaluate(path: str | Path, *, quiet: bool = False, **choices: Any) -> dict[str, Any]:
    """Measures how good, varied and original what a run draws is; writes RUN/report/ and returns the report.

    choices: fields of `EvaluateConfig`. Pictures are drawn with the labels of training pictures, where it has labels.
    Raises UnblotError where the data is not what the run was trained on.
    """
    from unblot.evaluation.measure import Options
    from unblot.reports.evaluation import evaluate_run

    config = EvaluateConfig(**choices)
    options = Options(
        tuple(several(config.features)) if config.features else (),
        config.flip,
        config.shift,
        config.likelihood,
        config.ode,
        cache_folder() / "features",
    )
    run = load(path, config.device)
    must_be_writable(run.path / REPORT)
    dataset = _data_of(run.config, run.path, quiet)
    label = labels_as_trained(run.config.data, dataset, config.seed, config.n)
    samples = run.sample(
        config.n, steps=config.steps, seed=config.seed, label=label, guidance=config.guidance, batch_size=250
    )
    note = (lambda line: None) if quiet else print
    return evaluate_run(run.path, run.config, run.denoiser, dataset, samples.array, options, note, samples.provenance)


def choose_ema(path: str | Path, *, report: Callable[[EmaCandidate], None] = lambda row: None, **choices: Any) -> Run:
    """Puts another average of the weights into a run's model.safetensors: of a given length, or the best.

    choices: fields of `EmaConfig`; `report` is told of each length that was measured. The run's checkpoints and
    snapshots stay as they are, so that any other can be had later. Raises UnblotError for a run without snapshots, and
    where the data to choose by is not what the run was trained on.
    """
    from unblot.evaluation.ema_std import best

    path, config = Path(path), EmaConfig(**choices)
    snapshots, run = Snapshots(path), load(path, config.device)
    std = config.std
    if std is None:
        dataset = _data_of(run.config, path, quiet=True)
        std = best(run.config, run.denoiser, dataset, snapshots, config, cache_folder(), report)
    weights = snapshots.weights(std)
    chosen = dataclasses.replace(run.config, train=dataclasses.replace(run.config.train, ema=f"power:std={std}"))
    with locked(path):
        save_model(path / MODEL, chosen, weights)
    return load(path, config.device)


def tune(path: str | Path, *, report: Callable[[str], None] = lambda line: None, **choices: Any) -> Tuning:
    """Finds out how a run samples best, and keeps it: RUN/tuning.json, and a page in RUN/report/.

    choices: fields of `TuneConfig`; `report` is told how it goes on. Raises UnblotError where the data is not what the
    run was trained on.
    """
    from unblot.tuning.search import tune_run

    config, path = TuneConfig(**choices), Path(path)
    run_config = read_config(path)  # a folder: this is where the result is kept
    for folder in (path, path / REPORT):
        must_be_writable(folder)
    run = load(path, config.device)
    run.need_denoiser("tuning")
    return tune_run(run, _data_of(run_config, path, quiet=False), config, cache_folder() / "features", report)


def audit(
    data: str, *, near: bool = True, flipped: bool = False, quiet: bool = False, **choices: Any
) -> tuple[DatasetAudit, Dataset]:
    """What is in a data set and what is wrong with it, and the data set itself; `choices`: fields of `DataConfig`.

    near, flipped: look for near copies, and for mirrored ones. Broken pictures are reported, not refused.
    """
    source = DataConfig(data=data, **{**choices, "on_broken": "skip"})
    dataset = open_dataset(source, quiet=True)

    def seconds(dataset: Dataset) -> float:
        config = plan_run(source, dataset, {"clusters": 0})  # finding them takes long, and changes no step
        return training_seconds(try_out(config, dataset, time.monotonic, preview=True))

    return audit_dataset(
        dataset, near=near, flipped=flipped, seconds=seconds, report=(lambda line: None) if quiet else _tell
    ), dataset


def open_dataset(source: DataConfig, quiet: bool = False) -> Dataset:
    """The data set of a configuration, packed if it is not yet; shows how far packing is."""
    choices = {k: v for k, v in dataclasses.asdict(source).items() if k not in ("data", "unlabelled")}
    console = Console(stderr=True, quiet=quiet or not sys.stderr.isatty())
    columns = TextColumn("[bold]packing"), BarColumn(), MofNCompleteColumn(), TimeRemainingColumn()
    with Progress(*columns, console=console, transient=True) as bar:
        task = bar.add_task("", total=None)
        return open_data(
            source.data,
            **choices,
            labels=not source.unlabelled,
            report=(lambda line: None) if quiet else _tell,
            progress=lambda done, count: bar.update(task, completed=done, total=count),
        )


def _data_of(config: RunConfig, folder: Path, quiet: bool) -> Dataset:
    """The data that a run was trained on. Raises UnblotError where it is not what it was."""
    dataset = open_dataset(config.source, quiet)
    if dataset.fingerprint != config.data.fingerprint:
        raise UnblotError(
            f"the data {config.source.data!r} is not what run {str(folder)!r} was trained on; put it back as it was, "
            "or train a new run"
        )
    return dataset


def _tell(line: str) -> None:
    print(line, file=sys.stderr)


def _train(
    folder: Path,
    trainer: Trainer,
    controller: BudgetController,
    budget_plan: BudgetPlan | None,
    quiet: bool,
    resuming: bool = False,
) -> Run:
    train = trainer.config.train
    monitor = Monitor(folder, trainer.config, quiet, silent=not trainer.group.is_main_process)
    monitor.note(announce(trainer, folder))
    if budget_plan is not None:
        monitor.note(str(budget_plan))
        keep(folder, budget_plan, trainer)
    finished = run_training(folder, trainer, monitor, controller, resuming)
    if budget_plan is not None:
        keep(folder, budget_plan, trainer, controller.used())
    if not finished:
        monitor.note(f"stopped after step {trainer.step}; go on with: unblot train --resume {folder}")
    return load(folder, train.device)
