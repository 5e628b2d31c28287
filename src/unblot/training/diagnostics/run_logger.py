"""The record of a run in training: its metrics, its warnings, and how it went."""

import itertools
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unblot.config.schema import RunConfig
from unblot.data.dataset import Dataset
from unblot.errors import printable
from unblot.runs.folder import BEST, save_model
from unblot.runs.metrics import HELD_OUT, STEP, Line, MetricsFile, mean_loss, of_kind
from unblot.system.files import under
from unblot.training import checkpoint
from unblot.training.adversarial import fine_tunes_decoder
from unblot.training.diagnostics.colours import ColourStatistics
from unblot.training.diagnostics.monitor import Monitor
from unblot.training.diagnostics.octaves import OctaveStatistics
from unblot.training.diagnostics.rules import DIVERGED_LINES, RECENT, Diagnostics, diverged, turned
from unblot.training.diagnostics.summary import Session, summary

MOST_SKIPPED_STEPS = 20  # skipped in a row, after which a run goes back to its newest checkpoint
NAMED = 8  # pictures named in a message


class RunLogger:
    """Writes the metrics of a run and shows them; every process of the run has one, and the main process writes."""

    def __init__(self, folder: Path, config: RunConfig, monitor: Monitor, is_main_process: bool = True):
        self.folder, self.monitor = folder, monitor
        self.log_every, self.trained_before = config.train.log_every, bool(config.distill or config.origin)
        self.judges_detail = not fine_tunes_decoder(config)  # else it is too smooth until the decoder is fine-tuned
        self.metrics = MetricsFile(folder, is_main_process)
        self.colours: ColourStatistics | None = None
        self.octaves: OctaveStatistics | None = None
        self.diagnostics = Diagnostics()

    def begin(self) -> None:
        """The run is about to go on; warnings that hold already are not repeated."""
        self.diagnostics = Diagnostics(self.metrics.lines)

    def step(self, step: int, loss: float, grad_norm: float, rate: float, planned_steps: int | None) -> None:
        """Logs a step. rate: its learning rate; planned_steps: the steps in all of a run whose budget changes them."""
        planned = {} if planned_steps is None else {"steps": planned_steps}
        self.metrics.write({"step": step, "loss": loss, "grad_norm": grad_norm, **planned})
        self.monitor.step(step, loss, rate)
        if step // self.log_every % RECENT == 0:
            self._warn()

    def measured(self, line: Line) -> None:
        """Logs a measurement of the held-out loss."""
        self.metrics.write(line)
        self.monitor.measured(self.metrics.lines[-1])
        self._warn()

    def preview(self, step: int, pictures: Tensor, labels: Tensor | None, dataset: Dataset) -> None:
        """Compares a preview, (n, C, H, W) in the network's range, with training pictures: colours and fine detail."""
        self.colours = self.colours or ColourStatistics(dataset, labels)
        line = self.colours.compare(step, pictures)
        if self.judges_detail and min(dataset.shape[1:]) > 1:  # points in the plane have no spectrum
            self.octaves = self.octaves or OctaveStatistics(dataset, labels, len(pictures))
            line["preview"] |= self.octaves.compare(pictures)
        self.metrics.write(line)
        self._warn()

    def gone_wrong(self, step: int, skipped_steps: int, culprits: Callable[[], str]) -> str | None:
        """Why the run must go back to a checkpoint, None where it need not: steps skipped in a row, or divergence.

        culprits: finds the pictures in question, in words.
        """
        if skipped_steps >= MOST_SKIPPED_STEPS:
            return f"the loss was not finite for {MOST_SKIPPED_STEPS} steps up to step {step}; {culprits()}"
        untrained = self._untrained()
        if diverged(self._recent_losses(), untrained):
            last = self._recent_losses()[-1]
            found = f"the loss is {last:.3g} at step {step}, of an untrained network {untrained:.3g}"
            return f"{found}: the learning rate is too high"
        return None

    def sound(self) -> bool:
        """Whether the last logged loss is not one of a run that diverges."""
        return not diverged(self._recent_losses(), self._untrained(), in_a_row=1)

    def _recent_losses(self) -> list[float | None]:
        """The last logged losses, oldest first; the same in every process, though only one logs previews."""
        logged = (line["loss"] for line in reversed(self.metrics.lines) if STEP in line)
        return list(itertools.islice(logged, DIVERGED_LINES))[::-1]

    def _untrained(self) -> float | None:
        """The loss of the initial weights; None where it was not measured, or they were trained before."""
        first = self.metrics.lines[0] if self.metrics.lines else {}
        measured = not self.trained_before and HELD_OUT in first and first["step"] == 0
        return mean_loss(first, "training") if measured else None

    def newest_held_out(self) -> float | None:
        """The last measured held-out loss, None where it was not measured."""
        measured = of_kind(self.metrics.lines, HELD_OUT)
        return mean_loss(measured[-1], "held_out") if measured else None

    def finish(self, config: RunConfig, session: Session, fixed: Mapping[str, Tensor]) -> None:
        """Says how the run went; of a run that has overfitted, keeps the best weights that have a checkpoint.

        fixed: the tensors of the model that were not trained, of which a checkpoint has the buffers alone.
        """
        (self.folder / BEST).unlink(missing_ok=True)
        if turned(self.metrics.lines) is not None:
            best = checkpoint.best_saved(self.folder)
            if best is not None:
                kept = f"buffers/{checkpoint.model_name(config)}/"
                tensors, _ = checkpoint.load(self.folder, best, prefixes=("ema/", kept))
                save_model(self.folder / BEST, config, averages(tensors) | dict(fixed) | under(kept, tensors))
        for line in summary(self.folder, config, self.metrics.lines, session):
            self.monitor.note(line)

    def _warn(self) -> None:
        for line in self.diagnostics.look(self.metrics.lines):
            self.monitor.note(f"warning: {line}")


def averages(tensors: dict[str, Tensor]) -> dict[str, Tensor]:
    """The averaged weights among the tensors of a checkpoint."""
    return under("ema/", tensors)


def culprits(dataset: Dataset, positions: Tensor, losses: Tensor) -> str:
    """The pictures of a batch by name, in words: those whose own loss is not finite, or all if it is all or none.

    positions: among the training pictures, (B,); losses: (B,).
    """
    bad = ~torch.isfinite(losses)
    some = 0 < int(bad.sum()) < len(bad)
    chosen = dataset.training_names((positions[bad] if some else positions).numpy())
    names = ", ".join(map(printable, chosen[:NAMED]))
    names += f" and {len(chosen) - NAMED} more" if len(chosen) > NAMED else ""
    return f"the loss of {names} was not finite" if some else f"the last batch held {names}"
