"""A session of training, from its first lines to the run that can be used."""

import dataclasses
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from unblot.config.durations import longer_budget
from unblot.config.schema import RunConfig
from unblot.errors import UnblotError, arg, typed
from unblot.runs.adapter import save_adapter
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import write_run_config
from unblot.runs.run import Run, load
from unblot.system.interrupts import end_where_terminated
from unblot.training.announce import announce
from unblot.training.budget import keep
from unblot.training.budget_controller import BudgetController
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.loop import run_training
from unblot.training.trainer import Trainer


def resumed_config(
    config: RunConfig,
    state: Mapping[str, Any],
    used: float,
    *,
    steps: int | None,
    budget: str | None,
    device: str | None,
) -> RunConfig:
    """The configuration of a run that is resumed, with what was chosen anew: None leaves it as it is.

    state: of the newest checkpoint, or empty; used: seconds of its budget that the run has used. Raises UnblotError for
    fewer steps or less time than it has taken.
    """
    if steps is not None and steps < state.get("step", 0):
        raise UnblotError(
            f"{arg('steps', steps)} is less than the {state['step']} steps that the run has taken; give more than those"
        )
    changes: dict[str, Any] = {k: v for k, v in {"steps": steps, "device": device}.items() if v is not None}
    if steps is not None or budget is not None:
        changes["budget"] = longer_budget(budget, steps, config.train.budget, used)
        if budget is not None and (config.distill or config.adapter):
            what = "a distillation" if config.distill else "an adapter"
            raise UnblotError(f"{arg('budget')} plans trainings from scratch; give {arg('steps')} to go on with {what}")
    return dataclasses.replace(config, train=dataclasses.replace(config.train, **changes))


def train_to_end(
    folder: Path,
    trainer: Trainer,
    controller: BudgetController,
    budget_plan: BudgetPlan | None,
    quiet: bool,
    resuming: bool = False,
) -> Run:
    """Trains to the last step, or until it is interrupted, and loads the run; says how it goes unless `quiet`.

    Raises SystemExit where SIGTERM has come.
    """
    train = trainer.config.train
    monitor = Monitor(folder, trainer.config, quiet, silent=not trainer.group.is_main_process)
    if trainer.group.is_main_process:
        write_run_config(folder, trainer.config)
    monitor.note(announce(trainer, folder))
    if budget_plan is not None:
        monitor.note(str(budget_plan))
        keep(folder, budget_plan, trainer)
    finished = run_training(folder, trainer, monitor, controller, resuming)
    if budget_plan is not None:
        keep(folder, budget_plan, trainer, controller.used())
    if not finished:
        monitor.note(f"stopped after step {trainer.step}; go on with: unblot train --resume {typed(folder)}")
    run = dataclasses.replace(load(folder, train.device), interrupted=not finished)
    if run.config.adapter is not None and trainer.group.is_main_process:
        monitor.note(f"adapter: {save_adapter(run)}")
    end_where_terminated()
    return run
