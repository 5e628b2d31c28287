"""unblot from Python: `run = unblot.train("pictures/", budget="30m")`, `unblot.load("runs/pictures").sample(16)`."""

import dataclasses
import time
from collections.abc import Callable
from contextlib import nullcontext
from pathlib import Path
from typing import Any

from unblot.config.choices import from_choices
from unblot.config.distill import DistillConfig
from unblot.config.durations import budget_of, parse_budget
from unblot.config.measuring import EmaConfig, EvaluateConfig, TuneConfig
from unblot.config.schema import DataConfig, RunConfig
from unblot.data.audit.audit import audit_dataset
from unblot.data.audit.dataset_audit import DatasetAudit
from unblot.data.cache.build import cache_folder
from unblot.data.dataset import Dataset, open_data
from unblot.distillation.student import keep_teacher, read_teacher, student_config, teacher_of
from unblot.distillation.task import DistillationTask
from unblot.errors import UnblotError, arg, printable
from unblot.nn.own import import_named
from unblot.runs.folder import MODEL, REPORT, create, note_other_code, read_config, save_model
from unblot.runs.hub import local_run
from unblot.runs.labels import choose_labels
from unblot.runs.run import Run, Samples, load
from unblot.runs.run_data import data_of_choices, data_of_run, line_printer, open_dataset
from unblot.runs.snapshots import EmaCandidate
from unblot.runs.start import how_to_start
from unblot.runs.tuning_store import Tuning
from unblot.system.distributed import join_group, shared_clock
from unblot.system.folders import claimed, locked, must_be_writable, user_path
from unblot.system.launch import added_before, note_launch
from unblot.training import checkpoint
from unblot.training.adapter import adapter_config, resumed_adapter, train_adapter
from unblot.training.budget import planned, training_seconds, try_out
from unblot.training.budget_controller import BudgetController
from unblot.training.defaults import add_defaults
from unblot.training.forecast import forecast
from unblot.training.latents import first_stage, planned_on, used_before, with_first_stage
from unblot.training.plan import SPECS, check_choices, plan_run
from unblot.training.session import resumed_config, train_to_end
from unblot.training.trainer import Trainer, denoising_trainer
from unblot.training.transfer import inherit_choices, own_pretrained, pretrained_of, with_origin

__all__ = [
    "SPECS",
    "Run",
    "Samples",
    "audit",
    "choose_ema",
    "choose_labels",
    "distill",
    "evaluate",
    "forecast",
    "load",
    "open_data",
    "plan",
    "plan_run",
    "resume",
    "train",
    "tune",
]


def train(
    data: str | Path = "digits",
    *,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **choices: Any,
) -> Run:
    """Trains a model on `data`; choices: fields of `DataConfig`, `TrainConfig`, `LatentConfig` and `TransferConfig`.

    Returns the run. from_: a run, model file or snapshot whose weights it begins with, as far as they fit. adapter: the
    rank of an addition to those weights, which is all that is trained then. out: the run folder, by default a new one
    in `runs/`. overwrite: replaces the run in `out`; files that unblot did not write stay. budget="20m" trains for a
    given time instead of a number of steps. Raises UnblotError for bad input, before anything is written.
    """
    import_named(choices.get("network"))
    pretrained = pretrained_of(choices)
    check_choices(choices)
    budget = budget_of(choices)
    folder, group = None if out is None else user_path(out), join_group()
    how = how_to_start(folder, overwrite, group)
    if folder is not None and how.resume:
        return resume(folder, quiet=quiet)
    source, dataset = data_of_choices(data, choices, quiet)
    if pretrained is not None and pretrained.rank:
        return train_adapter(pretrained, source, dataset, choices, folder=folder, overwrite=how.overwrite, quiet=quiet)
    begun = inherit_choices(pretrained, dataset, choices)
    add_defaults(dataset, choices, budget, line_printer(quiet or not group.is_main_process))
    controller, latent = BudgetController(budget, shared_clock(group)), bool(choices.get("latent"))
    config, budget_plan = planned(source, dataset, choices, None if latent else budget, controller)
    config = with_origin(config, pretrained, begun)
    trainer = None if latent else denoising_trainer(config, dataset, pretrained)
    with claimed(folder, Path("runs") / dataset.name, group) as claim:
        if group.is_main_process:
            create(claim, config, how.overwrite)
            if trainer is not None and pretrained is not None:  # from here on the run needs its source no more
                save_model(claim / MODEL, config, trainer.denoiser.state_dict())
        if trainer is None:  # the first stage of latents: before trial steps, in a folder to go on from
            stage = first_stage(claim, config, dataset, controller, line_printer(quiet), choices)
            choices["latent_steps"], dataset = stage
            config, budget_plan = planned(source, dataset, choices, budget, controller)
            trainer = denoising_trainer(config, dataset)
        return train_to_end(claim, trainer, controller, budget_plan, quiet)


def plan(data: str | Path = "digits", *, quiet: bool = False, **choices: Any) -> RunConfig:
    """The configuration that `train` would use for this data and these choices, without training: no run is written.
    The command line prints it for `unblot train --dry-run`; what `unblot plan` says is `forecast`.

    With a budget the network, batch size and number of steps are those of a run without one, since trial steps decide
    them.
    """
    import_named(choices.get("network"))
    pretrained = pretrained_of(choices)
    check_choices(choices)
    budget = budget_of(choices)
    source, dataset = data_of_choices(data, choices, quiet)
    if pretrained is not None and pretrained.rank:
        return adapter_config(pretrained, source, dataset, choices, quiet)[0]
    begun = inherit_choices(pretrained, dataset, choices)
    add_defaults(dataset, choices, budget, line_printer(quiet))
    return with_origin(plan_run(source, dataset, choices), pretrained, begun)


def resume(
    folder: str | Path,
    *,
    data: str | Path | None = None,
    steps: int | None = None,
    budget: str | None = None,
    device: str | None = None,
    quiet: bool = False,
) -> Run:
    """Goes on with a run from its newest checkpoint, to `steps` steps in all where given; a run that was stopped before
    its first checkpoint starts again.

    data: where the data is now, if it was moved. budget: "40m" for a time in all, "+20m" for more time than was
    planned; a run with a budget that was stopped goes on for the time that was left. Raises UnblotError where there is
    no run, or where the data has changed.
    """
    folder, group = user_path(folder), join_group()
    config = read_config(folder)
    note_other_code(config, folder / MODEL)
    must_be_writable(folder)
    budget = None if str(budget).startswith("+") and added_before(folder) else budget
    with locked(folder) if group.is_main_process else nullcontext():
        state = checkpoint.state_to_go_on(folder)
        used = used_before(folder, state)
        config = resumed_config(config, state, used, steps=steps, budget=budget, device=device)
        dataset, config = data_of_run(config, folder, data, quiet)
        seconds = parse_budget(config.train.budget)[0] if config.train.budget else None
        controller = BudgetController(seconds, shared_clock(group), before=used)
        if config.distill is None:
            config, dataset = with_first_stage(folder, config, dataset, controller, line_printer(quiet))
        config, budget_plan = planned_on(folder, config, dataset, controller, state)
        if config.adapter is not None:
            trainer = resumed_adapter(folder, config, dataset)
        elif config.distill is None:
            trainer = denoising_trainer(config, dataset, None if state else own_pretrained(folder, config))
        else:
            trainer = Trainer(config, DistillationTask(config, dataset, teacher_of(folder, config.distill)))
        if group.is_main_process:
            note_launch(folder)
        return train_to_end(folder, trainer, controller, budget_plan, quiet, resuming=True)


def distill(
    path: str | Path,
    *,
    data: str | Path | None = None,
    out: str | Path | None = None,
    overwrite: bool = False,
    quiet: bool = False,
    **choices: Any,
) -> Run:
    """Makes a model that takes 1 to 4 network calls for a sample from a trained run, and returns its run.

    choices: fields of `DistillConfig`, and of `TrainConfig` for the training. data: where the data of the run is now,
    if it was moved. out: the new run folder, by default one beside the first. Raises UnblotError for a run that was
    distilled itself, or whose data has changed.
    """
    path = local_run(user_path(path))
    if choices.get("budget"):
        raise UnblotError(f"{arg('budget')} plans trainings from scratch; give {arg('steps')} to distill")
    wanted = {f.name: choices.pop(f.name) for f in dataclasses.fields(DistillConfig) if f.name in choices}
    run_of_teacher, teacher = read_teacher(path)
    config = student_config(run_of_teacher, path, DistillConfig(**wanted), choices)
    place = path if path.is_dir() else path.parent
    place = place.resolve() if place.name in ("", "..") else place
    folder = None if out is None else user_path(out)
    if folder is not None and folder.resolve() == place.resolve():
        raise UnblotError(f"{str(folder)!r} is the run to distill from; choose another {arg('out')}")
    beside = place.with_name(f"{place.resolve().name}-distilled")
    how = how_to_start(folder, overwrite, join_group())
    if folder is not None and how.resume:
        return resume(folder, quiet=quiet)
    dataset, config = data_of_run(config, path, data, quiet)
    trainer = Trainer(config, DistillationTask(config, dataset, teacher))
    with claimed(folder, beside, trainer.group) as claim:
        if trainer.group.is_main_process:
            create(claim, config, how.overwrite)
            keep_teacher(claim, path)
        return train_to_end(claim, trainer, BudgetController(), None, quiet)


def evaluate(
    path: str | Path,
    *,
    out: str | Path | None = None,
    quiet: bool = False,
    report: Callable[[str], None] = lambda line: None,
    **choices: Any,
) -> dict[str, Any]:
    """Measures how good, varied and original the samples of a run are, or other pictures; returns the report.

    choices: fields of `EvaluateConfig`; `report` gets lines on the progress. out: the folder for the report, by default
    RUN/report. Samples have the labels and captions of training pictures, where there are any. Raises UnblotError where
    the data is not what the run was trained on, and where something else than a report would be replaced, or the run's
    own by that of other pictures.
    """
    from unblot.reports.evaluation import sampled_and_evaluated
    from unblot.reports.place import place_of_report

    config = from_choices(EvaluateConfig, choices)
    run = load(path, config.device)
    if config.ode:
        run.config.need_pixels(arg("ode", config.ode))
    folder = place_of_report(run.path, None if out is None else user_path(out), config.samples is not None)
    dataset, _ = data_of_run(run.config, run.path, config.data, quiet)

    def note(line: str) -> None:
        if not quiet:
            print(f"note: {printable(line)}")

    return sampled_and_evaluated(run, dataset, config, note, join_group(), report, folder)


def choose_ema(path: str | Path, *, report: Callable[[EmaCandidate], None] = lambda row: None, **choices: Any) -> Run:
    """Puts another average of the weights into a run's model.safetensors: of a given EMA std, or the best. Where the
    run trained an adapter, that has it too.

    choices: fields of `EmaConfig`; `report` gets each candidate that was measured. The run's checkpoints and snapshots
    stay as they are, so that any other average can be had later. Notes where the newest snapshot is not of the newest
    step. Raises UnblotError for a run without snapshots, and where the data to choose by is not what the run was
    trained on.
    """
    from unblot.tuning.ema_std import best_std, load_average, save_average, snapshots_of

    path, config = user_path(path), from_choices(EmaConfig, choices)
    run = load(path, config.device)
    snapshots = snapshots_of(path)
    must_be_writable(path)
    std = config.std
    if std is None:
        dataset, _ = data_of_run(run.config, path, config.data, quiet=True)
        std = best_std(run, dataset, snapshots, config, cache_folder(), report)
    load_average(run.denoiser, snapshots.weights(std))
    save_average(run, std)
    return load(path, config.device)


def tune(path: str | Path, *, report: Callable[[str], None] = lambda line: None, **choices: Any) -> Tuning:
    """Measures how a run samples best, and writes it: RUN/tuning.json, and a page in RUN/report/.

    choices: fields of `TuneConfig`; `report` gets lines on the progress. Raises UnblotError where the data is not what
    the run was trained on.
    """
    from unblot.tuning.search import tune_run

    config, path = from_choices(TuneConfig, choices), local_run(user_path(path))
    run_config = read_config(path)  # a folder: this is where the result goes
    for folder in (path, path / REPORT):
        must_be_writable(folder)
    run = load(path, config.device)
    run.need_denoiser("tuning")
    dataset, _ = data_of_run(run_config, path, config.data, quiet=False)
    return tune_run(run, dataset, config, cache_folder() / "features", report, join_group())


def audit(
    data: str | Path, *, near: bool = True, flipped: bool = False, quiet: bool = False, **choices: Any
) -> tuple[DatasetAudit, Dataset]:
    """What is in a data set and what is wrong with it, and the data set itself; `choices`: fields of `DataConfig`.

    near, flipped: look for near copies, and for mirrored ones. Broken pictures are reported, not refused.
    """
    source = from_choices(DataConfig, choices, without=["data", "on_broken"])
    source = dataclasses.replace(source, data=str(data), on_broken="skip")
    dataset = open_dataset(source, quiet=True)

    def seconds(dataset: Dataset) -> float:
        config = plan_run(source, dataset, {"clusters": 0})  # finding clusters takes long, and changes no step
        return training_seconds(try_out(config, dataset, time.monotonic, preview=True))

    return audit_dataset(dataset, near=near, flipped=flipped, seconds=seconds, report=line_printer(quiet)), dataset
