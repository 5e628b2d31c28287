"""The display of a run in training: a live line in a terminal, a table in a notebook, plain lines elsewhere and
always in RUN/training.log; metrics also go to TensorBoard, and to the services that the run asks for."""

import math
import time
from datetime import datetime
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

from unblot.config.schema import RunConfig
from unblot.runs.folder import LOG
from unblot.runs.metrics import Line, mean_loss
from unblot.system.files import append_text
from unblot.training.diagnostics.loggers import Logger, open_loggers
from unblot.training.diagnostics.notebook import NotebookDisplay, in_notebook

LINE_SECONDS, LINE_SHARE = 10.0, 0.01  # between two plain lines, at least; and of the time so far
SMOOTH = 0.9  # of the shown loss and speed


class Monitor:
    """Shows steps, losses, pictures/s and time left of a run; use as a context.

    folder: the run, whose `tensorboard/` and `training.log` it writes. `quiet` shows nothing, but writes them;
    `silent`, for all but the main process, does neither.
    """

    def __init__(self, folder: Path, config: RunConfig, quiet: bool = False, silent: bool = False):
        self.folder, self.config, self.silent = folder, config, silent
        self.steps, self.batch_size = config.train.steps, config.train.batch_size
        self.console = Console(quiet=quiet or silent, highlight=False)
        self.live = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}{task.fields[held_out]}  {task.fields[speed]:.0f} pictures/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.live.add_task("", total=self.steps, loss=0.0, speed=0.0, held_out="")
        self.notebook = NotebookDisplay() if in_notebook() and not (quiet or silent) else None
        self.curves: dict[str, list[tuple[float, float]]] = {"loss": [], "held-out": []}
        self.loggers: list[Logger] = []
        self.loss = self.speed = 0.0
        self.held_out = ""

    def begin(self, step: int) -> None:
        """The run is about to go on from step `step`."""
        self.at = step
        self.clock = self.started = time.perf_counter()
        self.last_line = self.clock - LINE_SECONDS

    def go_back(self, step: int) -> None:
        """The run goes on from an earlier step."""
        self.at, self.clock = step, time.perf_counter()

    def change_steps(self, steps: int) -> None:
        """The run has another number of steps in all."""
        self.steps = steps
        self.live.update(self.task, total=steps)

    def __enter__(self) -> "Monitor":
        if not self.silent:
            self.loggers = open_loggers(self.folder, self.config, self.at, self.note)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()
        for logger in self.loggers:
            logger.close()

    def note(self, line: str) -> None:
        """Prints a line that stays on the screen, and writes it to the log file."""
        self.console.print(line, markup=False, soft_wrap=True)
        self._write(line)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Shows step `step`, with its loss and learning rate; called every few steps."""
        if self.silent:
            return
        now = time.perf_counter()
        speed = (step - self.at) * self.batch_size / (now - self.clock)
        self.at, self.clock = step, now
        if math.isfinite(loss):  # a step that was skipped would hide all that come after it
            self.loss = SMOOTH * self.loss + (1 - SMOOTH) * loss if self.loss else loss
        self.speed = SMOOTH * self.speed + (1 - SMOOTH) * speed if self.speed else speed
        self._log({"loss": loss, "learning_rate": rate, "pictures_per_second": speed}, step)
        self.live.update(self.task, completed=step, loss=self.loss, speed=self.speed, held_out=self.held_out)
        self.curves["loss"].append((step, self.loss))
        if now - self.last_line > max(LINE_SECONDS, LINE_SHARE * (now - self.started)) or step == self.steps:
            self.last_line = now
            self._plain_line(step)
        self._update_notebook(step)

    def measured(self, line: Line) -> None:
        """Shows the losses of the averaged weights by noise level, a line of `HeldOutLoss`."""
        if self.silent:
            return
        step, values = line["step"], {}
        for side in ("training", "held_out"):
            mean = mean_loss(line, side)
            if mean is not None:
                values[f"{side}_loss"] = mean
                for log_snr, loss in zip(line["log_snr"], line[side], strict=True):
                    values[f"{side}_loss_by_level/log_snr_{log_snr:.1f}"] = loss
        if "held_out_loss" in values:
            self.held_out = f"  held-out {values['held_out_loss']:.4f}"
            self.curves["held-out"].append((step, values["held_out_loss"]))
        self._log(values, step)

    def _plain_line(self, step: int) -> None:
        """Writes a plain line to the log file, and shows it where there is no live display."""
        left = (self.steps - step) * self.batch_size / self.speed
        losses = f"loss {self.loss:.4f}{self.held_out}"
        line = f"step {step}/{self.steps}  {losses}  {self.speed:.0f} pictures/s  {left:.0f} s left"
        if self.console.is_terminal or self.notebook:
            self._write(line)
        else:
            self.note(line)

    def _update_notebook(self, step: int) -> None:
        if self.notebook is None:
            return
        left = (self.steps - step) * self.batch_size / self.speed
        row = {
            "step": f"{step} of {self.steps}",
            "loss": f"{self.loss:.4f}",
            "held-out": self.held_out.split()[-1] if self.held_out else "–",
            "pictures/s": f"{self.speed:.0f}",
            "left": f"{left:.0f} s",
        }
        self.notebook.show(row, self.curves, step / self.steps)

    def _log(self, values: dict[str, float], step: int) -> None:
        for logger in self.loggers:
            logger.log(values, step)

    def _write(self, line: str) -> None:
        if not self.silent:
            lines = (f"{datetime.now():%Y-%m-%d %H:%M:%S}  {part}\n" for part in line.split("\n"))
            append_text(self.folder / LOG, "".join(lines))
