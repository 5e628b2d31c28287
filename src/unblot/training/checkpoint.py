"""Checkpoints: all that a run needs to go on exactly, in one folder a step.

    checkpoints/00001000/state.safetensors     weights, their average, the optimiser's moments
    checkpoints/00001000/state.json            step, checksum of the tensors, length of the metrics, held-out loss

A checkpoint is written under another name, flushed to disk and then renamed: one that can be seen is whole.
"""

import contextlib
import json
import os
import shutil
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from torch import Tensor

from unblot.errors import UnblotError
from unblot.runs.folder import CHECKPOINTS
from unblot.system.files import checksum, flush, read_tensors, write_json, write_tensors

TENSORS, STATE = "state.safetensors", "state.json"
KEEP = 2  # newest checkpoints kept, besides the one of least held-out loss


def save(run: Path, step: int, tensors: Mapping[str, Tensor], state: Mapping[str, Any]) -> Path:
    """Writes checkpoint `step`, then deletes all but the newest few and the best. `state` holds plain JSON values."""
    place = run / CHECKPOINTS / f"{step:08d}"
    temporary = place.with_name(place.name + ".part")
    shutil.rmtree(temporary, ignore_errors=True)
    try:
        temporary.mkdir(parents=True)
        write_tensors(temporary / TENSORS, tensors, {})
        digest = checksum(temporary / TENSORS)
        write_json(temporary / STATE, {**state, "step": step, "sha256": digest})
        for file in temporary.iterdir():
            flush(file)
    except BaseException:
        shutil.rmtree(temporary, ignore_errors=True)
        raise
    if place.exists():
        shutil.rmtree(place)
    os.replace(temporary, place)
    flush(place.parent)
    for old in set(steps_saved(run)[:-KEEP]) - {best_saved(run)}:
        shutil.rmtree(run / CHECKPOINTS / f"{old:08d}")
    return place


def steps_saved(run: Path) -> list[int]:
    """The steps that have a checkpoint, oldest first."""
    return sorted(int(p.name) for p in (run / CHECKPOINTS).glob("*") if p.name.isdigit())


def best_saved(run: Path) -> int | None:
    """The step of the checkpoint of least held-out loss, as last measured before it; None where it was not measured."""
    known = {}
    for step in steps_saved(run):
        with contextlib.suppress(OSError, ValueError):
            known[step] = json.loads((run / CHECKPOINTS / f"{step:08d}" / STATE).read_text()).get("held_out_loss")
    losses = {step: loss for step, loss in known.items() if loss is not None}
    return min(losses, key=lambda step: losses[step]) if losses else None


def load_newest(run: Path, warn=print) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the newest whole checkpoint; `warn(line)` is told of every damaged one passed over.

    Raises UnblotError where none is left.
    """
    for step in reversed(steps_saved(run)):
        try:
            return load(run, step)
        except UnblotError as e:
            warn(f"checkpoint passed over: {e}")
    raise UnblotError(f"run {str(run)!r} has no checkpoint to go on from; train it anew with --overwrite")


def newest_state(run: Path) -> dict[str, Any]:
    """The state of the newest checkpoint whose state can be read, without its tensors; {} where there is none."""
    for step in reversed(steps_saved(run)):
        try:
            return json.loads((run / CHECKPOINTS / f"{step:08d}" / STATE).read_text())
        except (OSError, ValueError):
            continue
    return {}


def load(run: Path, step: int) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Tensors and state of the checkpoint of a step, verified by checksum. Raises UnblotError where damaged."""
    place = run / CHECKPOINTS / f"{step:08d}"
    try:
        state = json.loads((place / STATE).read_text())
        sound = checksum(place / TENSORS) == state["sha256"]
    except (OSError, ValueError, KeyError) as e:
        raise UnblotError(f"{str(place)!r} cannot be read ({e})") from None
    if not sound:
        raise UnblotError(f"{str(place / TENSORS)!r} is damaged: its checksum is not the one that was stored")
    return read_tensors(place / TENSORS)[0], state
