"""What a person sees while a run trains: a live line in a terminal, plain lines elsewhere, TensorBoard always."""

import time
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn

LINE_SECONDS = 10.0  # between two plain lines where there is no terminal
SMOOTH = 0.98  # of the shown loss and speed


class Monitor:
    """Shows steps, loss, pictures/s and time left of a run of `steps` steps; use as a context.

    folder: the run, whose `tensorboard/` it writes. `quiet` shows nothing, but writes all the same.
    """

    def __init__(self, folder: Path, steps: int, quiet: bool = False):
        self.folder, self.steps = folder, steps
        self.console = Console(quiet=quiet, highlight=False)
        self.live = Progress(
            TextColumn("[bold]training"),
            BarColumn(bar_width=None),
            MofNCompleteColumn(),
            TextColumn("loss {task.fields[loss]:.4f}  {task.fields[speed]:.0f} pictures/s"),
            TimeRemainingColumn(),
            console=self.console,
        )
        self.loss: float | None = None
        self.speed = 0.0
        self.last_line = 0.0

    def __enter__(self) -> "Monitor":
        from torch.utils.tensorboard import SummaryWriter

        self.board = SummaryWriter(str(self.folder / "tensorboard"))
        self.task = self.live.add_task("", total=self.steps, loss=0.0, speed=0.0)
        if self.console.is_terminal:
            self.live.start()
        self.clock = time.perf_counter()
        return self

    def __exit__(self, *error: object) -> None:
        self.live.stop()
        self.board.close()

    def note(self, line: str) -> None:
        """A line that stays."""
        self.console.print(line, markup=False, soft_wrap=True)

    def step(self, step: int, loss: float, rate: float, pictures: int) -> None:
        """Step `step` is done; it used `pictures` pictures."""
        now = time.perf_counter()
        speed, self.clock = pictures / (now - self.clock), now
        self.loss = loss if self.loss is None else SMOOTH * self.loss + (1 - SMOOTH) * loss
        self.speed = SMOOTH * self.speed + (1 - SMOOTH) * speed if self.speed else speed
        self.live.update(self.task, completed=step, loss=self.loss, speed=self.speed)
        if step % 10 == 0 or step == self.steps:
            self.board.add_scalar("loss", loss, step)
            self.board.add_scalar("learning_rate", rate, step)
            self.board.add_scalar("pictures_per_second", self.speed, step)
        if not self.console.is_terminal and (now - self.last_line > LINE_SECONDS or step == self.steps):
            self.last_line = now
            left = (self.steps - step) * pictures / self.speed
            self.note(f"step {step}/{self.steps}  loss {self.loss:.4f}  {self.speed:.0f} pictures/s  {left:.0f} s left")
