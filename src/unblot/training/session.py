"""A session of training, from its first lines to the run that can be used."""

from pathlib import Path

from unblot.errors import typed
from unblot.runs.adapter import save_adapter
from unblot.runs.budget_plan import BudgetPlan
from unblot.runs.folder import write_run_config
from unblot.runs.run import Run, load
from unblot.training.announce import announce
from unblot.training.budget import keep
from unblot.training.budget_controller import BudgetController
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.loop import run_training
from unblot.training.trainer import Trainer


def train_to_end(
    folder: Path,
    trainer: Trainer,
    controller: BudgetController,
    budget_plan: BudgetPlan | None,
    quiet: bool,
    resuming: bool = False,
) -> Run:
    """Trains to the last step, or until it is interrupted, and loads the run; says how it goes unless `quiet`."""
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
    run = load(folder, train.device)
    if run.config.adapter is not None and trainer.group.is_main_process:
        monitor.note(f"adapter: {save_adapter(run)}")
    return run
