"""The training loop: it logs and saves a run, goes back to a checkpoint when it has gone wrong, and ends it well."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from unblot.errors import UnblotError, arg, one_line
from unblot.runs.folder import CONFIG, MODEL, SAMPLES, buffers, frozen_weights, save_model
from unblot.system.distributed import wait_for_all
from unblot.system.files import under, write_json
from unblot.system.interrupts import interruptible
from unblot.training import checkpoint
from unblot.training.adversarial import fine_tunes_decoder
from unblot.training.averages import posthoc
from unblot.training.budget_controller import FINE_TUNING, BudgetController
from unblot.training.decoder_stage import run_decoder_stage
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.diagnostics.run_logger import RunLogger, averages, culprits
from unblot.training.diagnostics.summary import Session
from unblot.training.learning_rate import Switch
from unblot.training.left_out import left_out_where_it_fails
from unblot.training.previews import write_preview
from unblot.training.trainer import StepResult, Trainer, any_process

RATE_CUTS = 3  # halvings of the learning rate on going back, after which a run gives up


def run_training(
    folder: Path, trainer: Trainer, monitor: Monitor, controller: BudgetController, resume: bool = False
) -> bool:
    """Trains to the run's last step, keeping the run folder up to date. True when it came to the end.

    The controller keeps the time; with a budget it also decides which step is the last. Ctrl-C finishes the step, saves
    and returns False. `resume` goes on from the newest complete checkpoint; a run that was killed before its first one
    starts again. Raises UnblotError where the loss stays not finite or far too large.
    """
    loop = Loop(folder, trainer, monitor, controller)
    if trainer.group.is_main_process:
        checkpoint.remove_unfinished(folder)
    finished = False
    if resume and not checkpoint.steps_saved(folder):
        where = "from the beginning" if trainer.config.latent is None else "after its first stage"
        monitor.note(f"note: the run was stopped before its first checkpoint; it starts again {where}")
        resume = False
    if resume:
        state = loop.go_back()
        finished = loop.is_over(state) and loop.fine_tuned == loop.fine_tunes
    else:
        loop.logger.metrics.restart()
    wait_for_all(trainer.group)
    trainer.compile(monitor.note)
    monitor.begin(trainer.step)
    loop.logger.begin()
    since = controller.used()
    with monitor, interruptible() as interrupted:
        if not resume:
            loop.measure()
            loop.save()
        if not finished:
            loop.adjust_steps()
        while trainer.step < trainer.config.train.steps and not any_process(trainer, interrupted()):
            loop.step()
        if not finished or not (folder / MODEL).exists():  # that model may have another average, by `unblot ema`
            loop.stop()
        ended = trainer.step >= trainer.config.train.steps and (finished or loop.end(interrupted))
        seconds = controller.used() - since  # the clock is read by all processes together
        session = Session(
            seconds,
            loop.taken,
            trainer.rate_scale,
            controller.mean_step_seconds(seconds, loop.taken),
            controller.planned_step_seconds,
            0 if ended else trainer.step,
        )
        if trainer.group.is_main_process:
            loop.logger.finish(trainer.config, session, frozen_weights(trainer.denoiser))
    return ended


class Loop:
    """The work of one session of a run: training steps, and what comes between them."""

    def __init__(self, folder: Path, trainer: Trainer, monitor: Monitor, controller: BudgetController):
        config = trainer.config
        self.folder, self.trainer, self.monitor, self.controller = folder, trainer, monitor, controller
        self.logger = RunLogger(folder, config, monitor, trainer.group.is_main_process)
        measures = bool(config.train.held_out_every)
        self.held_out = HeldOutLoss(config, trainer.task, trainer.group, trainer.device) if measures else None
        self.identity = checkpoint.run_identity(config)
        self.fine_tunes = fine_tunes_decoder(config)
        self.fine_tuned = False
        self.fitting = trainer.micro_batch  # pictures at a time, as was said last
        self.saved: tuple[Any, ...] | None = None  # what `save` saved last
        self.taken = 0  # steps, also those that were taken again after going back

    def step(self) -> None:
        """One training step, and what is due after it."""
        trainer, train = self.trainer, self.trainer.config.train
        result = trainer.take_step()
        self.taken += 1
        if trainer.micro_batch < self.fitting:
            self.fitting = trainer.micro_batch
            now = f"{trainer.micro_batch} pictures at a time"
            self.monitor.note(f"out of memory: from now on {now} go through the network, in the same steps")
        if trainer.step % train.log_every == 0 or trainer.step == train.steps:
            if wrong := self._log(result):
                self.recover(wrong)
                return
            self.adjust_steps()
        if self._is_measuring_due():
            self.measure()
        steps = trainer.config.train.steps
        if self._is_preview_due() and not (self.fine_tunes and trainer.step == steps):
            self.preview()
        if posthoc.due(trainer.step, steps):
            kept = buffers(trainer.denoiser)
            posthoc.keep(self.folder, trainer.step, steps, trainer.ema, trainer.for_main_process, kept)
        due = trainer.step % train.checkpoint_every == 0 and not self._is_end_of_budget()
        if due and self._is_sound():
            self.save()

    def _log(self, result: StepResult) -> str | None:
        """Logs a step; says why the run has gone wrong, None where it has not."""
        trainer, train = self.trainer, self.trainer.config.train
        rate, planned = trainer.learning_rate(trainer.step - 1), train.steps if train.budget else None
        self.logger.step(trainer.step, result.loss.item(), result.grad_norm.item(), rate, planned)
        return self.logger.gone_wrong(
            trainer.step,
            int(result.skipped_steps),
            lambda: culprits(trainer.task.batches.dataset, *trainer.last_losses()),
        )

    def adjust_steps(self) -> None:
        """Changes the number of steps where the budget wants another."""
        steps = self.controller.wanted_steps(self.trainer.config.train, self.trainer.step)
        if steps is not None:
            self.trainer.change_steps(steps)
            self.monitor.change_steps(steps)

    def _is_measuring_due(self) -> bool:
        """Whether to measure the held-out loss: at its steps, while that keeps to its share of the time; at the end."""
        train, step = self.trainer.config.train, self.trainer.step
        if not train.held_out_every or step == train.steps:
            return bool(train.held_out_every)
        return step % train.held_out_every == 0 and self.controller.may_measure()

    def _is_preview_due(self) -> bool:
        """Whether to draw a preview after this step; with a budget there is one at the end."""
        every = self.trainer.config.train.preview_every
        return bool(every) and (self._is_end_of_budget() or self.trainer.step % every == 0)

    def _is_end_of_budget(self) -> bool:
        """Whether this was the last step of a run with a budget."""
        return self.controller.budget is not None and self.trainer.step == self.trainer.config.train.steps

    def measure(self) -> None:
        """Measures the held-out loss of the averaged weights; all processes come here after the same steps."""
        if self.held_out is not None:
            left_out = left_out_where_it_fails(
                "held-out loss", self.trainer, self.monitor.note, self.trainer.group.world > 1
            )
            with self.controller.overhead("measurements"), left_out, self.trainer.averaged():
                self.logger.measured(self.held_out.measure(self.trainer.step, self.trainer.micro_batch))

    def preview(self) -> None:
        """Writes a grid of samples of the averaged weights, always from the same noise."""
        trainer = self.trainer
        path = self.folder / SAMPLES / f"step_{trainer.step:08d}.png"
        left_out = left_out_where_it_fails("preview", trainer, self.monitor.note, trainer.sharded)
        with self.controller.overhead("previews"), left_out:
            drawn = write_preview(trainer, path)
            if drawn is not None:
                self.logger.preview(trainer.step, *drawn, trainer.task.batches.dataset)
                self.monitor.note(f"preview: {path}")

    def end(self, interrupted: Callable[[], bool]) -> bool:
        """What comes after the last step: fine-tuning of the decoder of a run in latents, a last preview, saving. False
        where it was interrupted; then it is begun again when the run is resumed."""
        if self.fine_tunes:
            with self.controller.overhead(FINE_TUNING):
                self.fine_tuned = run_decoder_stage(self.trainer, self.controller, self.monitor.note, interrupted)
            if not self.fine_tuned:  # what was saved before it knows of more time that is left
                return False
            if self._is_preview_due():
                self.preview()
            self.save()
        return True

    def stop(self) -> None:
        """Saves where no more steps are taken: at the last one or, if a session took any, before. But before the last
        one not while the loss is not sound: a run that goes on from there can only give up."""
        step, stopped = self.trainer.step, self.trainer.step < self.trainer.config.train.steps
        if stopped and not self._is_sound():
            newest, why = max(checkpoint.steps_saved(self.folder), default=0), "its loss is not finite or far too large"
            self.monitor.note(f"step {step} is not saved, since {why}; the run goes on from step {newest}")
        elif self.taken or not stopped:
            self.save()

    def _is_sound(self) -> bool:
        """Whether a run can go on well from here: its last step was not skipped, and its last loss is no divergence."""
        return not self.trainer.skipped_steps and self.logger.sound()

    def save(self) -> None:
        """Saves the averaged model, and a checkpoint that knows how long the metrics were, where that is not done.

        Raises UnblotError where the averaged weights are not finite: what was saved before stays.
        """
        if not self.trainer.ema.is_finite(self.trainer.group):
            raise UnblotError(
                f"the weights are not finite after step {self.trainer.step}, so they are not saved; the last good ones "
                f"are in {str(self.folder / MODEL)!r}. Train again with a lower {arg('learning_rate')}"
            )
        trainer, used = self.trainer, self.controller.used()
        position = trainer.step, trainer.config.train.steps, trainer.rate_scale, trainer.switch, self.fine_tuned
        now = (*position, used if self.controller.budget is not None else None)
        if now != self.saved:
            with self.controller.overhead("checkpoints"):
                _write(self, used)
            self.saved = now

    def go_back(self) -> dict[str, Any]:
        """Restores the newest complete checkpoint; lines of metrics after it are about to be written again.

        Returns its state. With a budget the number of steps is the checkpoint's, else that of the run's configuration.
        """
        trainer, note = self.trainer, self.monitor.note
        tensors, state = checkpoint.load_newest(self.folder, note, self.identity)
        try:
            trainer.restore(tensors, state["step"])
        except (KeyError, RuntimeError) as e:
            reason = one_line(e, 160)
            raise UnblotError(
                f"the checkpoints of {str(self.folder)!r} do not fit its {CONFIG}; put that back as it was written "
                f"({reason})"
            ) from None
        trainer.rate_scale = state["rate_scale"]
        if trainer.group.is_main_process:
            posthoc.forget_after(self.folder, trainer.step)
        trainer.switch = Switch(*state["switch"]) if state["switch"] else None
        wanted = trainer.config.train.steps
        trainer.set_steps(state["steps"])
        if not trainer.config.train.budget and wanted != trainer.config.train.steps:
            trainer.change_steps(wanted)
        self.monitor.change_steps(trainer.config.train.steps)
        self.fine_tuned = self.is_over(state) and bool(state.get("fine_tuned"))
        if self.fine_tuned:  # a run that takes more steps has its decoder fine-tuned at their end
            trainer.denoiser.load_state_dict(under("frozen/", tensors), strict=False)
        if missing := self.logger.metrics.go_back(state["metrics_bytes"]):
            note(f"note: {missing} in {self.logger.metrics.path}")
        if trainer.device.type == "cpu" and (other := checkpoint.other_threads(state)):
            note(other)
        return state

    def is_over(self, state: dict[str, Any]) -> bool:
        """Whether a checkpoint with this state, which the run is at, has all steps that it is to take."""
        return self.trainer.step >= self.trainer.config.train.steps and state.get("budget") == self.controller.budget

    def recover(self, reason: str) -> None:
        """Goes back to the newest checkpoint with half the learning rate. Raises UnblotError after a few times."""
        scale = self.trainer.rate_scale / 2
        rate = self.trainer.config.train.learning_rate * scale
        if scale < 0.5**RATE_CUTS:
            raise UnblotError(
                f"{reason}; halving the learning rate {RATE_CUTS} times did not help: train again with one far below "
                f"{arg('learning_rate', float(f'{rate:.2g}'))}, and check the values of the pictures (unblot doctor)"
            )
        self.go_back()
        self.trainer.rate_scale = scale
        self.monitor.go_back(self.trainer.step)
        self.monitor.note(f"{reason}; back to step {self.trainer.step} with learning rate {rate:.2g}")
        self.adjust_steps()


def _write(loop: Loop, used: float) -> None:
    """Writes the averaged model and the checkpoint of a run that has taken `used` seconds; all processes together."""
    trainer, budget = loop.trainer, loop.controller.budget
    tensors = trainer.for_main_process(trainer.tensors())
    if trainer.group.is_main_process:
        frozen = frozen_weights(trainer.denoiser)
        metrics_bytes = loop.logger.metrics.flushed()
        save_model(loop.folder / MODEL, trainer.config, averages(tensors) | frozen)
        if budget is not None:
            write_json(loop.folder / CONFIG, trainer.config.to_dict())  # with the steps as they are planned now
        state = {
            "rate_scale": trainer.rate_scale,
            "metrics_bytes": metrics_bytes,
            "held_out_loss": loop.logger.newest_held_out(),
            "steps": trainer.config.train.steps,
            "switch": trainer.switch,
            "budget": budget,
            "seconds": used,
            "fine_tuned": loop.fine_tuned,
            "threads": torch.get_num_threads(),
        }
        kept = {f"frozen/{name}": weight for name, weight in frozen.items()} if loop.fine_tuned else {}
        checkpoint.save(loop.folder, trainer.step, tensors | kept, state, loop.identity)
    wait_for_all(trainer.group)
