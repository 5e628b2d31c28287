"""`unblot sample` under torchrun: at its first start one process is killed when it is to draw its second batch."""

import os
import signal
import sys
from typing import Any

from unblot.cli.parser import main
from unblot.runs.run import Run
from unblot.runs.samples import Samples

sample_with, drawn = Run.sample_with, []


def dying(run: Run, *args: Any) -> Samples:
    if (os.environ["RANK"], os.environ["TORCHELASTIC_RESTART_COUNT"], len(drawn)) == ("1", "0", 1):
        os.kill(os.getpid(), signal.SIGKILL)
    drawn.append(args)
    return sample_with(run, *args)


if __name__ == "__main__":
    Run.sample_with = dying  # type: ignore[method-assign]
    sys.exit(main(["sample", *sys.argv[1:]]))
