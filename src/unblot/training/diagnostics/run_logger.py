"""What a run writes down of itself and says to people: its metrics, measurements, warnings, and how it went."""

import itertools
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor

from unblot.runs.folder import BEST, save_model
from unblot.runs.metrics import HELD_OUT, STEP, MetricsFile, mean_loss, of_kind
from unblot.training import checkpoint
from unblot.training.diagnostics.colours import ColourStatistics
from unblot.training.diagnostics.held_out import HeldOutLoss
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.diagnostics.rules import DIVERGED_LINES, RECENT, Diagnostics, diverged, turned
from unblot.training.diagnostics.summary import summary
from unblot.training.learning_rate import learning_rate
from unblot.training.trainer import StepResult, Trainer

MOST_SKIPPED_STEPS = 20  # skipped in a row, after which a run goes back to its newest checkpoint


class RunLogger:
    """Keeps the metrics of a run in training and its monitor up to date; every process of the run has one."""

    def __init__(self, folder: Path, trainer: Trainer, monitor: Monitor):
        self.folder, self.trainer, self.monitor = folder, trainer, monitor
        self.metrics = MetricsFile(folder, trainer.group.is_main_process)
        self.held_out = HeldOutLoss(trainer) if trainer.config.train.held_out_every else None
        self.colours: ColourStatistics | None = None
        self.diagnostics = Diagnostics()
        self.started, self.first = time.perf_counter(), 0

    def begin(self) -> None:
        """The run is about to go on; warnings that hold already were told."""
        self.started, self.first = time.perf_counter(), self.trainer.step
        self.diagnostics = Diagnostics(self.metrics.lines)

    def step(self, outcome: StepResult) -> None:
        """Writes down what a step did, and now and then looks whether all is well."""
        train, step = self.trainer.config.train, self.trainer.step
        loss = outcome.loss.item()
        planned = {"steps": train.steps} if train.budget else {}
        self.metrics.write({"step": step, "loss": loss, "grad_norm": outcome.grad_norm.item(), **planned})
        rate = learning_rate(train, step - 1, self.trainer.switch)
        self.monitor.step(step, loss, self.trainer.rate_scale * rate)
        if step // train.log_every % RECENT == 0:
            self._warn()

    def is_due(self) -> bool:
        """Whether it is time to measure the held-out loss."""
        train, step = self.trainer.config.train, self.trainer.step
        return bool(train.held_out_every) and (step % (train.held_out_every or 1) == 0 or step == train.steps)

    def measure(self) -> None:
        """Measures the held-out loss; all processes come here after the same steps."""
        if self.held_out:
            self.metrics.write(self.held_out.measure())
            self.monitor.measured(self.metrics.lines[-1])
            self._warn()

    def preview(self, pictures: Tensor, labels: Tensor | None) -> None:
        """Compares the colours of a preview, (n, C, H, W) in the network's range, with the training pictures'."""
        self.colours = self.colours or ColourStatistics(self.trainer.dataset, labels)
        self.metrics.write(self.colours.compare(self.trainer.step, pictures))
        self._warn()

    def gone_wrong(self, outcome: StepResult) -> str | None:
        """Why the run must go back, None where it need not: steps lost in a row, or a loss that has diverged."""
        if outcome.skipped_steps >= MOST_SKIPPED_STEPS:
            at = f"{MOST_SKIPPED_STEPS} steps up to step {self.trainer.step}"
            return f"the loss was not finite for {at}; {culprits(self.trainer)}"
        if diverged(self._recent_losses(), self._untrained()):
            loss, untrained = outcome.loss.item(), self._untrained()
            told = f"the loss is {loss:.3g} at step {self.trainer.step}, of an untrained network {untrained:.3g}"
            return f"{told}: the learning rate is too high"
        return None

    def sound(self) -> bool:
        """Whether the last logged loss is none that a run would go back for."""
        return not diverged(self._recent_losses(), self._untrained(), in_a_row=1)

    def _recent_losses(self) -> list[float | None]:
        """The last logged losses, oldest first; the same in every process, though only one writes of previews."""
        logged = (line["loss"] for line in reversed(self.metrics.lines) if STEP in line)
        return list(itertools.islice(logged, DIVERGED_LINES))[::-1]

    def _untrained(self) -> float | None:
        """The loss of the weights that the run started with; None where it was not measured, or they were trained."""
        if self.trainer.config.distill is not None:
            return None
        first = self.metrics.lines[0] if self.metrics.lines else {}
        return mean_loss(first, "training") if HELD_OUT in first and first["step"] == 0 else None

    def newest_held_out(self) -> float | None:
        """The held-out loss as it was last measured, None where it was not."""
        measured = of_kind(self.metrics.lines, HELD_OUT)
        return mean_loss(measured[-1], "held_out") if measured else None

    def finish(self) -> None:
        """Says how it went; of a run that has overfitted, keeps the best weights that there are a checkpoint of."""
        (self.folder / BEST).unlink(missing_ok=True)
        if turned(self.metrics.lines) is not None:
            best = checkpoint.best_saved(self.folder)
            if best is not None:
                weights = averages(checkpoint.load(self.folder, best)[0])
                save_model(self.folder / BEST, self.trainer.config, weights)
        taken, scale = self.trainer.step - self.first, self.trainer.rate_scale
        seconds = time.perf_counter() - self.started
        for line in summary(self.folder, self.trainer.config, self.metrics.lines, seconds, taken, scale):
            self.monitor.note(line)

    def _warn(self) -> None:
        for line in self.diagnostics.look(self.metrics.lines):
            self.monitor.note(f"warning: {line}")


def averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights among the tensors of a checkpoint."""
    return {name.removeprefix("ema/"): tensor for name, tensor in tensors.items() if name.startswith("ema/")}


def culprits(trainer: Trainer, most: int = 8) -> str:
    """The training pictures of the last step's batch, by name: those whose own loss is not finite, if only some are."""
    draw = trainer.batch_sampler.at(trainer.step - 1)
    with torch.no_grad():
        batch = trainer.timed(trainer.batch(draw)).to(trainer.device)
        rows = [slice(i, i + trainer.micro_batch) for i in range(0, len(batch.x0), trainer.micro_batch)]
        bad = ~torch.isfinite(torch.cat([trainer.losses(batch, part) for part in rows])).cpu()
    some = 0 < int(bad.sum()) < len(bad)
    chosen = trainer.dataset.train[(draw.pictures[bad] if some else draw.pictures).numpy()].tolist()
    cached = trainer.dataset.cached
    name: Callable[[int], str] = (lambda i: cached.names[i]) if cached else str
    names = ", ".join(name(i) for i in chosen[:most]) + (
        f" and {len(chosen) - most} more" if len(chosen) > most else ""
    )
    return f"the loss of {names} was not finite" if some else f"the last batch held {names}"
