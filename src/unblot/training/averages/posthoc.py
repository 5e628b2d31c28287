"""Snapshots of the tracked averages, written during training, for post-hoc EMA (Karras et al. 2024, section 3.2).

`runs/snapshots.py` reads them and describes the files.
"""

import json
from collections.abc import Callable, Mapping
from pathlib import Path

import torch
from torch import Tensor

from unblot.runs.folder import SNAPSHOTS
from unblot.runs.snapshots import snapshot_path, steps_kept
from unblot.system.files import write_tensors
from unblot.training.averages.ema import Ema, power_std

COUNT = 8  # snapshots of a run


def due(step: int, steps: int) -> bool:
    """Whether a snapshot is taken after this step of a run of `steps`: COUNT times, evenly spaced, and at the end."""
    return step % -(-steps // COUNT) == 0 or step == steps


def keep(
    run: Path,
    step: int,
    steps: int,
    ema: Ema,
    for_main_process: Callable[[dict], dict] = dict,
    buffers: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes the snapshot of a step in float16, whose error a sum of several averages out; in float32 at the last step.

    for_main_process: gives whole tensors to the process that writes, and none to others; all processes call it.
    buffers: of the averaged module, which are no averages and kept as they are.
    """
    stds = [power_std(spec) for spec in ema.specs]
    if not any(stds):
        return
    dtype = torch.float32 if step == steps else torch.float16
    tensors = {
        f"{i}/{name}": p.to(dtype)
        for i, (std, weights) in enumerate(zip(stds, ema.averages, strict=True))
        if std
        for name, p in weights.items()
    }
    tensors = for_main_process(tensors | {f"buffers/{name}": b for name, b in (buffers or {}).items()})
    if not tensors:
        return
    (run / SNAPSHOTS).mkdir(exist_ok=True)
    write_tensors(snapshot_path(run, step), tensors, {"stds": json.dumps(stds)})


def forget_after(run: Path, step: int) -> None:
    """Deletes the snapshots of later steps, which are about to be written again."""
    for later in (s for s in steps_kept(run) if s > step):
        snapshot_path(run, later).unlink()
