"""Trains a run in children that are killed: `kill_driver.py FOLDER KILLS`, 0 kills for a run in one piece.

What takes seconds to import is imported once and the children are forked, so that a start costs little.
"""

import importlib
import json
import os
import random
import signal
import sys
import time
from pathlib import Path

import torch

from unblot import api

for name in ("torch._dynamo", "torch.utils.tensorboard"):  # here rather than in every child
    importlib.import_module(name)

STEPS = 120
CHOICES = {
    "network": "unet:width=8,multipliers=1,blocks=1,attention=",
    "steps": STEPS,
    "batch_size": 16,
    "log_every": 1,
    "held_out_every": 25,
    "preview_every": 40,
    "checkpoint_every": 20,
}


def child(folder: Path) -> int:
    """The process of a child that trains, or goes on training where there is a checkpoint."""
    pid = os.fork()
    if pid == 0:
        torch.set_num_threads(1)
        started = any((folder / "checkpoints").glob("0*"))
        if started:
            api.resume(folder, quiet=True)
        else:
            api.train("digits", out=folder, quiet=True, **CHOICES)
        os._exit(0)
    return pid


def reached(folder: Path) -> int:
    """The last step that is written down."""
    try:
        return json.loads((folder / "metrics.jsonl").read_bytes().rpartition(b"\n")[0].rpartition(b"\n")[2])["step"]
    except (OSError, ValueError):
        return 0


def main(folder: Path, kills: int) -> None:
    dice = random.Random(5)
    for target in sorted(dice.sample(range(1, STEPS), kills)):
        pid = child(folder)
        while reached(folder) < target:
            done, status = os.waitpid(pid, os.WNOHANG)
            assert not done, f"a child ended by itself with {status}"
            time.sleep(0.01)
        time.sleep(dice.random() * 0.05)
        os.kill(pid, signal.SIGKILL)
        assert os.WIFSIGNALED(os.waitpid(pid, 0)[1])
    _, status = os.waitpid(child(folder), 0)
    assert status == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
