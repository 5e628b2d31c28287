"""What a person sees while a run trains: a live line in a terminal, plain lines elsewhere, TensorBoard always."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between two plain lines where there is no terminal
SMOOTH = 0.9  # of the shown loss and speed


class Monitor:
    """Shows steps, loss, pictures/s and time left of a run of `steps` steps of `batch_size`; use as a context.

    folder: the run, whose `tensorboard/` it writes. `quiet` shows nothing, but writes all the same; `silent` is for
    processes that do not lead.
    """

    def __init__(self, folder: Path, steps: int, batch_size: int, quiet: bool = False, silent: bool = False):
        self.folder, self.steps, self.batch_size, self.silent = folder, steps, batch_size, silent
        self.console = Console(quiet=quiet or silent, highlight=False)
        self.live = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.0f} pictures/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.task = self.live.add_task("", total=steps, loss=0.0, speed=0.0)
        self.loss = self.speed = 0.0
        self.last_line = -LINE_SECONDS

    def begin(self, step: int) -> None:
        """The run is about to go on from step `step`."""
        self.at, self.clock = step, time.perf_counter()

    def __enter__(self) -> "Monitor":
        if not self.silent:
            from torch.utils.tensorboard import SummaryWriter

            self.board = SummaryWriter(str(self.folder / "tensorboard"), purge_step=self.at + 1)
        if self.console.is_terminal:
            self.live.start()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()
        if not self.silent:
            self.board.close()

    def note(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)

    def step(self, step: int, loss: float, rate: float) -> None:
        """Step `step` is done, with this loss and learning rate; called every few steps."""
        if self.silent:
            return
        now = time.perf_counter()
        speed = (step - self.at) * self.batch_size / (now - self.clock)
        self.at, self.clock = step, now
        self.loss = SMOOTH * self.loss + (1 - SMOOTH) * loss if self.loss else loss
        self.speed = SMOOTH * self.speed + (1 - SMOOTH) * speed if self.speed else speed
        self.live.update(self.task, completed=step, loss=self.loss, speed=self.speed)
        for name, value in (("loss", loss), ("learning_rate", rate), ("pictures_per_second", speed)):
            self.board.add_scalar(name, value, step)
        if not self.console.is_terminal and (now - self.last_line > LINE_SECONDS or step == self.steps):
            self.last_line = now
            left = (self.steps - step) * self.batch_size / self.speed
            self.note(f"step {step}/{self.steps}  loss {self.loss:.4f}  {self.speed:.0f} pictures/s  {left:.0f} s left")
