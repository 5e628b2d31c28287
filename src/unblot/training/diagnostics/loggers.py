"""Loggers of a run's metrics besides its own files: TensorBoard always, Weights & Biases and Trackio if asked for.

A service that fails during the run costs a line and never the run.
"""

import importlib
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Protocol

from unblot.config.schema import RunConfig
from unblot.errors import UnblotError, arg, one_line
from unblot.runs.folder import WANDB_ID

Note = Callable[[str], None]
SERVICES = ("wandb", "trackio")
PROJECT = "unblot"


class Logger(Protocol):
    """Takes metrics by name."""

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the metrics of step `step`."""

    def close(self) -> None:
        """Ends the log."""


class TensorBoard:
    """RUN/tensorboard; what a stopped run wrote there after step `at` is hidden."""

    def __init__(self, folder: Path, at: int):
        from torch.utils.tensorboard import SummaryWriter

        self.writer = SummaryWriter(str(folder / "tensorboard"), purge_step=at + 1)

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the metrics of step `step`, one scalar each."""
        for name, value in values.items():
            self.writer.add_scalar(name, value, step)

    def close(self) -> None:
        """Writes what is left."""
        self.writer.close()


class Service:
    """Weights & Biases or Trackio, which have the same interface; the first failure ends it with a line."""

    def __init__(self, name: str, folder: Path, config: RunConfig, note: Note):
        self.name, self.note = name, note
        self.module: Any = importlib.import_module(name)
        run_id = folder / WANDB_ID
        more: dict[str, Any] = {"resume": "allow"}
        if name == "wandb":
            more |= {"dir": str(folder), "id": run_id.read_text() if run_id.exists() else None}
        started = self._try(
            lambda: self.module.init(project=PROJECT, name=folder.resolve().name, config=config.to_dict(), **more)
        )
        if name == "wandb" and started is not None:
            run_id.write_text(str(started.id))

    def log(self, values: Mapping[str, float], step: int) -> None:
        """Logs the metrics of step `step`."""
        self._try(lambda: self.module.log(dict(values), step=step))

    def close(self) -> None:
        """Ends the run of the service."""
        self._try(lambda: self.module.finish())

    def _try(self, call: Callable[[], Any]) -> Any:
        if self.module is None:
            return None
        try:
            return call()
        except Exception as e:  # whatever it is, training continues
            self.module = None
            self.note(f"note: {self.name} failed and is left out from now on ({one_line(e, 160)})")
            return None


def services(log_to: str) -> list[str]:
    """The services named as in `wandb+trackio`. Raises UnblotError for one that is unknown or not installed."""
    names = [name for name in log_to.split("+") if name]
    for name in names:
        if name not in SERVICES:
            raise UnblotError(f"unknown {arg('log_to', name)}; choose {', '.join(SERVICES)} or wandb+trackio")
        try:
            importlib.import_module(name)
        except ImportError:
            raise UnblotError(f"{arg('log_to', name)} needs another package: pip install 'unblot[{name}]'") from None
    return names


def open_loggers(folder: Path, config: RunConfig, at: int, note: Note) -> list[Logger]:
    """The loggers that the run's configuration asks for, and TensorBoard, from step `at` on."""
    return [TensorBoard(folder, at), *(Service(name, folder, config, note) for name in services(config.train.log_to))]
