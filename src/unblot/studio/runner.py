"""The process of one job: a command of unblot, its output into a file, and its exit code into another.

It runs as a script and imports nothing of the package, since it is in memory as long as a training is.
"""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import filelock

LOCK, OUTPUT, ENDED = ".lock", "output.log", "ended.json"
NEXT = "import sys; from pathlib import Path; from unblot.studio.jobs import advance; advance(Path(sys.argv[1]))"


def main() -> None:
    """Runs the command of the arguments, job folder first; afterwards starts the next job of the studio."""
    signal.signal(signal.SIGINT, lambda *_: None)  # meant for the command, which is in this group
    folder, *command = sys.argv[1:]
    place = Path(folder)
    with (place / OUTPUT).open("ab") as file:
        process = subprocess.Popen([sys.executable, "-m", "unblot", *command], stdin=subprocess.DEVNULL,
                                   stdout=file, stderr=file)  # fmt: skip
    with filelock.FileLock(place / LOCK):  # who sees it can stop the job: the command is there to be interrupted
        code = process.wait()
        (place / f"{ENDED}.part").write_text(json.dumps({"code": code, "time": time.time()}))
        os.replace(place / f"{ENDED}.part", place / ENDED)
    subprocess.run([sys.executable, "-c", NEXT, str(place.parents[2])])


if __name__ == "__main__":
    main()
