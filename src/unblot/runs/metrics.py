"""metrics.jsonl: the metrics of a run, one JSON object a line, of three kinds, each with a key of its own.

    {"step", "loss", "grad_norm"}                   a training step; null where not finite, and so skipped
    {"step", "log_snr", "training", "held_out", …}  the averaged weights' losses by noise level; see `held_out.py`
    {"step", "preview": {…}}                        colours and fine detail of a preview; see `colours.py`, `octaves.py`

It holds no times: a run and its repetition write the same file.
"""

import json
import math
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from unblot.errors import counted
from unblot.runs.folder import METRICS

Line = dict[str, Any]
STEP, HELD_OUT, PREVIEW = "loss", "training", "preview"  # the key of each kind
COLOURS = ("mean", "std", "mean_off", "std_off", "mean_z", "std_z")  # of a preview, a value a channel
OCTAVES = ("octaves", "octaves_low", "octaves_high")  # a value an octave; older runs have none


def parse_metrics(raw: bytes) -> tuple[list[Line], int, int]:
    """The lines of a metrics file, oldest first, how many damaged ones were skipped, and the bytes up to the last
    newline, behind which a line may be incomplete."""
    whole = raw[: raw.rfind(b"\n") + 1]
    parsed = [_parse(line) for line in whole.splitlines()]
    lines = [line for line in parsed if line is not None]
    return lines, len(parsed) - len(lines), len(whole)


def read_metrics(folder: Path) -> list[Line]:
    """The lines of a run's metrics, oldest first, without damaged ones; none where the file does not exist yet."""
    path = folder / METRICS
    return parse_metrics(path.read_bytes())[0] if path.exists() else []


class MetricsFile:
    """The lines of a run's metrics, in memory (`lines`) and, in the main process, in the file."""

    def __init__(self, folder: Path, is_main_process: bool = True):
        self.path, self.is_main_process = folder / METRICS, is_main_process
        self.lines: list[Line] = []

    def restart(self) -> None:
        """Empties the file."""
        self.lines = []
        if self.is_main_process:
            self.path.write_text("")

    def go_back(self, size: int) -> str:
        """Keeps the first `size` bytes, the length at a checkpoint, up to the last newline.

        Returns what is missing or damaged there, in words; "" where nothing is.
        """
        kept = self.path.read_bytes()[:size] if self.path.exists() else b""  # the main process may be cutting the file
        self.lines, damaged, end = parse_metrics(kept)
        if self.is_main_process:
            self.path.touch()
            os.truncate(self.path, end)
        found = [f"{counted(damaged, 'damaged line')} skipped"] if damaged else []
        return ", ".join([*found, "lines are missing at the end"] if end < size else found)

    def write(self, line: Line) -> None:
        """Appends a line."""
        line = {key: _plain(value) for key, value in line.items()}
        self.lines.append(line)
        if self.is_main_process:
            with self.path.open("a") as file:
                file.write(json.dumps(line) + "\n")

    def flushed(self) -> int:
        """The size of the file in bytes, after all of it has been written to the disk."""
        with self.path.open("rb") as file:
            os.fsync(file.fileno())
        return self.path.stat().st_size


def of_kind(lines: Sequence[Line], kind: str) -> list[Line]:
    """The lines of one kind: STEP, HELD_OUT or PREVIEW."""
    return [line for line in lines if kind in line]


def mean_loss(line: Line, side: str) -> float | None:
    """The mean loss over all levels on `side`, training or held_out, of a HELD_OUT line; None where it is not known."""
    values = line[side]
    return None if not values or None in values else math.fsum(values) / len(values)


def _plain(value: Any) -> Any:
    """Plain JSON values: floats with six digits, None for what is not finite."""
    if isinstance(value, torch.Tensor):
        value = value.tolist()
    if isinstance(value, dict):
        return {key: _plain(v) for key, v in value.items()}
    if isinstance(value, list | tuple):
        return [_plain(v) for v in value]
    if isinstance(value, float):
        return float(f"{value:.6g}") if math.isfinite(value) else None
    return value


def _parse(raw: bytes) -> Line | None:
    """The line in these bytes; None where they are no line of one of the three kinds."""
    try:
        line = json.loads(raw)
    except (ValueError, RecursionError):
        return None
    if not isinstance(line, dict) or type(line.get("step")) is not int:
        return None
    if STEP in line:
        return line if all(_is_number(line.get(key)) for key in (STEP, "grad_norm")) else None
    if HELD_OUT in line:
        sides = [line.get(key) for key in (HELD_OUT, f"{HELD_OUT}_parts", "held_out", "held_out_parts", "log_snr")]
        return line if all(s is None or (isinstance(s, list) and all(map(_is_number, s))) for s in sides) else None
    return line if _is_preview(line.get(PREVIEW)) else None


def _is_preview(preview: Any) -> bool:
    """Whether these are the values of a preview, as many of each key as its neighbours have."""
    if not isinstance(preview, dict):
        return False
    if not all(isinstance(values, list) and all(map(_is_number, values)) for values in preview.values()):
        return False
    groups = [COLOURS, *([OCTAVES] if any(key in preview for key in OCTAVES) else [])]
    return all({*group} <= preview.keys() and len({len(preview[key]) for key in group}) == 1 for group in groups)


def _is_number(value: Any) -> bool:
    return value is None or (isinstance(value, int | float) and not isinstance(value, bool))
