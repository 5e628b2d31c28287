"""The loop round the engine: it shows a run, saves it, goes back when it has gone wrong, and stops it well."""

import signal
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch

from unblot.data.output import sheet
from unblot.errors import UnblotError
from unblot.process.randomness import labels_for
from unblot.runs.folder import CONFIG, MODEL, SAMPLES, save_model
from unblot.sampling.batched import sample_batches
from unblot.system.distributed import sum_over, wait_for_all
from unblot.system.files import write_json
from unblot.training import checkpoint
from unblot.training.averages import posthoc
from unblot.training.budget_controller import BudgetController
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.diagnostics.run_logger import RunLogger, averages
from unblot.training.learning_rate import Switch
from unblot.training.trainer import Trainer

PREVIEW_PICTURES, PREVIEW_STEPS = 40, 20
RATE_CUTS = 3  # halvings of the learning rate on going back, after which a run gives up


def run_training(
    folder: Path, trainer: Trainer, monitor: Monitor, controller: BudgetController, resume: bool = False
) -> bool:
    """Trains to the run's last step, keeping the run folder up to date. True when it came to the end.

    The pace keeps the time; with a budget it also decides which step is the last.

    Ctrl-C finishes the step, saves and returns False. `resume` goes on from the newest whole checkpoint.
    Raises UnblotError where the loss stays not finite or far too large.
    """
    train = trainer.config.train
    run_logger = RunLogger(folder, trainer, monitor)
    finished = False
    if resume:
        state = _go_back(folder, trainer, run_logger)
        finished = trainer.step >= trainer.config.train.steps and state.get("budget") == controller.budget
    else:
        run_logger.metrics.restart()
    wait_for_all(trainer.group)
    trainer.compile(monitor.note)
    monitor.begin(trainer.step)
    run_logger.begin()
    with monitor, _interruptible() as interrupted:
        if not resume:
            run_logger.measure()
            _save(folder, trainer, run_logger, controller)
        if not finished:
            _adjust_steps(trainer, monitor, controller)
        while trainer.step < trainer.config.train.steps and not _any(trainer, interrupted()):
            fitting, outcome = trainer.micro_batch, trainer.take_step()
            if trainer.micro_batch < fitting:
                monitor.note(f"out of memory: from now on {trainer.micro_batch} pictures at a time, in the same steps")
            if trainer.step % train.log_every == 0 or trainer.step == trainer.config.train.steps:
                run_logger.step(outcome)
                if wrong := run_logger.gone_wrong(outcome):
                    _recover(folder, trainer, run_logger, wrong)
                    continue
                _adjust_steps(trainer, monitor, controller)
            if run_logger.is_due():
                with controller.overhead("measurements"):
                    run_logger.measure()
            last = controller.budget is not None and trainer.step == trainer.config.train.steps
            if train.preview_every and (last or trainer.step % train.preview_every == 0):
                with controller.overhead("previews"):
                    _preview(folder, trainer, run_logger)
            if posthoc.due(trainer.step, trainer.config.train.steps):
                posthoc.keep(folder, trainer.step, trainer.config.train.steps, trainer.ema, trainer.for_leader)
            if (
                trainer.step % train.checkpoint_every == 0
                and not (last or outcome.skipped_steps)
                and run_logger.sound()
            ):
                _save(folder, trainer, run_logger, controller)
        _save(folder, trainer, run_logger, controller)
        if trainer.group.is_main_process:
            run_logger.finish()
    return trainer.step >= trainer.config.train.steps


def _adjust_steps(trainer: Trainer, monitor: Monitor, controller: BudgetController) -> None:
    """Changes the number of steps where the budget wants another."""
    steps = controller.wanted_steps(trainer.config.train, trainer.step)
    if steps is not None:
        trainer.change_steps(steps)
        monitor.change_steps(steps)


def _save(folder: Path, trainer: Trainer, run_logger: RunLogger, controller: BudgetController) -> None:
    """The averaged model, and a checkpoint that knows how long the metrics were."""
    with controller.overhead("checkpoints"):
        _write(folder, trainer, run_logger, controller.budget, controller.used())


def _write(folder: Path, trainer: Trainer, run_logger: RunLogger, budget: float | None, used: float) -> None:
    tensors = trainer.for_leader(trainer.tensors())
    if trainer.group.is_main_process:
        metrics_bytes = run_logger.metrics.flushed()
        save_model(folder / MODEL, trainer.config, averages(tensors))
        if budget is not None:
            write_json(folder / CONFIG, trainer.config.to_dict())  # with the steps as they are now planned
        state = {
            "rate_scale": trainer.rate_scale,
            "metrics_bytes": metrics_bytes,
            "held_out_loss": run_logger.newest_held_out(),
            "steps": trainer.config.train.steps,
            "switch": trainer.switch,
            "budget": budget,
            "seconds": used,
        }
        checkpoint.save(folder, trainer.step, tensors, state)
    wait_for_all(trainer.group)


def _go_back(folder: Path, trainer: Trainer, run_logger: RunLogger) -> dict[str, Any]:
    """Takes up the newest whole checkpoint; lines of metrics after it are about to be written again.

    Returns its state. With a budget the number of steps is the checkpoint's, else that of the run's configuration.
    """
    tensors, state = checkpoint.load_newest(folder, run_logger.monitor.note)
    try:
        trainer.restore(tensors, state["step"])
    except (KeyError, RuntimeError) as e:
        reason = " ".join(str(e).split())[:160]
        raise UnblotError(
            f"the checkpoints of {str(folder)!r} do not fit its config.json; put that back as it was written ({reason})"
        ) from None
    trainer.rate_scale = state["rate_scale"]
    if trainer.group.is_main_process:
        posthoc.forget_after(folder, trainer.step)
    trainer.switch = Switch(*state["switch"]) if state.get("switch") else None
    wanted = trainer.config.train.steps
    trainer.set_steps(state.get("steps", wanted))
    if not trainer.config.train.budget and wanted != trainer.config.train.steps:
        trainer.change_steps(wanted)
    run_logger.monitor.change_steps(trainer.config.train.steps)
    if not run_logger.metrics.go_back(state["metrics_bytes"]):
        run_logger.monitor.note(f"note: lines are missing in {run_logger.metrics.path}")
    return state


def _recover(folder: Path, trainer: Trainer, run_logger: RunLogger, what: str) -> None:
    """Goes back to the newest checkpoint with half the learning rate. Raises UnblotError after a few times."""
    scale = trainer.rate_scale / 2
    rate = trainer.config.train.learning_rate * scale
    if scale < 0.5**RATE_CUTS:
        raise UnblotError(
            f"{what}; halving the learning rate {RATE_CUTS} times did not help: train anew with one far below "
            f"{rate:.2g} (--learning-rate), and look at the values of the pictures (unblot doctor)"
        )
    _go_back(folder, trainer, run_logger)
    trainer.rate_scale = scale
    run_logger.monitor.note(f"{what}; back to step {trainer.step} with learning rate {rate:.2g}")


def _any(trainer: Trainer, flag: bool) -> bool:
    """Whether the flag is up in any process, so that all stop after the same step; several ask it now and then."""
    if trainer.group.world == 1:
        return flag
    if trainer.step % trainer.config.train.log_every:
        return False  # asking waits for the device
    raised = torch.tensor(float(flag), device=trainer.device)
    sum_over(trainer.group, raised)
    return bool(raised)


def _preview(folder: Path, trainer: Trainer, run_logger: RunLogger) -> None:
    """Writes a grid of pictures from the averaged weights, always from the same noise."""
    if not (trainer.group.is_main_process or trainer.sharded):  # drawing from what is spread out needs all
        return
    pictures, labels = preview_pictures(trainer, PREVIEW_STEPS)
    if not trainer.group.is_main_process:
        return
    stored = trainer.dataset.values.decode(pictures.numpy())
    path = folder / SAMPLES / f"step_{trainer.step:08d}.png"
    sheet(stored, trainer.dataset.values, columns=10).save(path)
    run_logger.preview(pictures, labels)
    run_logger.monitor.note(f"preview: {path}")


def preview_pictures(trainer: Trainer, steps: int) -> tuple[torch.Tensor, torch.Tensor | None]:
    """What a preview shows, (N, C, H, W) in the network's range, drawn in so many steps, and their labels."""
    config = trainer.config
    data, seed = config.data, config.train.seed
    indices = range(PREVIEW_PICTURES if data.kind == "pictures" else 25 * PREVIEW_PICTURES)
    labels = labels_for(seed, indices, classes=len(data.classes), clusters=data.clusters)
    how: dict[str, Any] = {"spacing": "karras", "solver": "dpmpp_2m", "steps": steps}
    if config.distill is not None:  # which draws well in its own way alone
        how = {"spacing": config.train.spacing, "solver": config.train.solver, "steps": config.train.sampling_steps}
    with trainer.averaged():
        drawn = sample_batches(
            trainer.denoiser,
            data.shape,
            indices,
            schedule=config.train.schedule,
            **how,
            seed=seed,
            labels=labels,
        )
        return torch.cat(list(drawn)).cpu(), labels


@contextmanager
def _interruptible() -> Iterator[Callable[[], bool]]:
    """Within it Ctrl-C only sets a flag, which the yielded function reads; a second Ctrl-C stops at once."""
    flag = threading.Event()
    if threading.current_thread() is not threading.main_thread():
        yield flag.is_set
        return

    def on_interrupt(signum: int, frame: Any) -> None:
        flag.set()
        signal.signal(signal.SIGINT, before)

    before = signal.signal(signal.SIGINT, on_interrupt)
    try:
        yield flag.is_set
    finally:
        signal.signal(signal.SIGINT, before)
