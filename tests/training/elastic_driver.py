"""Trains a run under torchrun: `elastic_driver.py RUN STEP`; at its first start one process is killed after a step."""

import os
import signal
import sys
from pathlib import Path

from test_processes import CHOICES

from unblot import api
from unblot.training.trainer import StepResult, Trainer


def main(run: Path, killed_after: int) -> None:
    take_step = Trainer.take_step

    def dying(trainer: Trainer) -> StepResult:
        if (trainer.group.rank, trainer.step, os.environ["TORCHELASTIC_RESTART_COUNT"]) == (1, killed_after, "0"):
            os.kill(os.getpid(), signal.SIGKILL)
        return take_step(trainer)

    Trainer.take_step = dying  # type: ignore[method-assign]
    api.train("digits", out=run, quiet=True, **CHOICES, steps=12, checkpoint_every=5, held_out_every=0)


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]))
