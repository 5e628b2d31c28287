"""metrics.jsonl: the numbers of a run, one JSON object a line, of three kinds that are told by a key of their own.

    {"step", "loss", "grad_norm"}                   a training step: null where it was not finite, and so skipped
    {"step", "log_snr", "training", "held_out", …}  the averaged weights' losses by noise level; see `heldout.py`
    {"step", "preview": {…}}                        the colours of a preview; see `colour.py`

No times stand in it: a run and its repetition write the same file.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unblot.runs.folder import METRICS

Line = dict[str, Any]
STEP, HELD_OUT, PREVIEW = "loss", "training", "preview"  # the key that tells the kind


class MetricsFile:
    """The lines of a run's metrics, in memory (`lines`) and, where this process leads, in its file."""

    def __init__(self, folder: Path, is_main_process: bool = True):
        self.path, self.is_main_process = folder / METRICS, is_main_process
        self.lines: list[Line] = []

    def restart(self) -> None:
        """An empty file."""
        self.lines = []
        if self.is_main_process:
            self.path.write_text("")

    def go_back(self, size: int) -> bool:
        """Keeps the first `size` bytes, as a checkpoint knows them. False where some of those are missing."""
        kept = self.path.read_bytes()[:size] if self.path.exists() else b""  # not what stands there: the leader cuts it
        self.lines = [json.loads(line) for line in kept.splitlines() if line.endswith(b"}")]
        if self.is_main_process:
            self.path.touch()
            os.truncate(self.path, len(kept))
        return len(kept) == size

    def write(self, line: Line) -> None:
        """Adds a line."""
        line = {key: _plain(value) for key, value in line.items()}
        self.lines.append(line)
        if self.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def flushed(self) -> int:
        """The size of the file in bytes, once all of it is on the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size


def of_kind(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of one kind: STEP, HELD_OUT or PREVIEW."""
    return [line for line in lines if kind in line]


def mean_loss(line: Line, side: str) -> float | None:
    """The loss over all levels on `side`, training or held_out, of a line by noise level; None where not known."""
    values = line[side]
    return None if not values or None in values else math.fsum(values) / len(values)


def _plain(value: Any) -> Any:
    """Six digits are enough, and what is not finite has no place in JSON."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value
