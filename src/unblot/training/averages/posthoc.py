"""Averages of any length after the run: snapshots of the tracked ones, and the sum of them that comes nearest.

    snapshots/00000375.safetensors     every tracked average after that step, named `number/parameter`

An average of profile `t^gamma` up to step T weighs the weights of step t by `p(t) = (gamma + 1)·t^gamma/T^(gamma + 1)`.
One that was not tracked is approximated by a sum of snapshots whose own profiles add up to nearly the wanted one
(Karras et al. 2024, section 3.2 and appendix C.3).
"""

import json
from collections.abc import Callable
from pathlib import Path

import torch

from unblot.runs.folder import SNAPSHOTS
from unblot.runs.snapshots import snapshot_path, steps_kept
from unblot.system.files import write_tensors
from unblot.training.averages.ema import Ema, power_std

COUNT = 8  # snapshots of a run


# --- snapshots of a run


def due(step: int, steps: int) -> bool:
    """Whether a snapshot is taken after this step of a run of so many: COUNT times, evenly spaced, and at the end."""
    return step % -(-steps // COUNT) == 0 or step == steps


def keep(run: Path, step: int, steps: int, ema: Ema, for_leader: Callable[[dict], dict] = dict) -> None:
    """Writes the snapshot of a step: in 16 bits, which a sum of several forgives; at the end of the run in full.

    for_leader: of several processes, which all come here, gives whole tensors to the one that writes, none to others.
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
    tensors = for_leader(tensors)
    if not tensors:
        return
    (run / SNAPSHOTS).mkdir(exist_ok=True)
    write_tensors(snapshot_path(run, step), tensors, {"stds": json.dumps(stds)})


def forget_after(run: Path, step: int) -> None:
    """Deletes the snapshots of later steps, which are about to be taken again."""
    for later in (s for s in steps_kept(run) if s > step):
        snapshot_path(run, later).unlink()
