"""Which torchrun started this process, and whether it did so before: it starts all processes again where one has died.

.launch    in a run folder: the torchrun that began the run, or went on with it
"""

import os
import socket
from contextlib import suppress
from pathlib import Path

from unblot.errors import UnblotError, arg
from unblot.system.files import write_text

LAUNCH = ".launch"


def need_name(folder: Path | None) -> None:
    """Raises UnblotError where torchrun may start the processes again (`--max-restarts`), and they would not find their
    folder."""
    if folder is None and int(os.environ.get("TORCHELASTIC_MAX_RESTARTS", "0")) > 0:
        name = arg("out", "FOLDER")
        raise UnblotError(f"torchrun starts a process that dies again, which must then find its folder; give {name}")


def started_again() -> bool:
    """Whether torchrun has started this process before."""
    return int(os.environ.get("TORCHELASTIC_RESTART_COUNT", "0")) > 0


def note_launch(folder: Path) -> None:
    """Writes down in the folder which torchrun started this process; nothing without torchrun."""
    if _this_launch():
        write_text(folder / LAUNCH, _this_launch())


def launched_here(folder: Path) -> bool:
    """Whether what is in the folder was begun under the torchrun that started this process, by it or by one before it.

    Where torchrun has no id (`--rdzv-id`) it is known by its process, on the same machine, from its second start on.
    """
    with suppress(OSError):
        return (folder / LAUNCH).read_text() == _this_launch() != "" and (_id() != "none" or started_again())
    return False


def added_before(folder: Path) -> bool:
    """Whether an earlier start under this torchrun has already gone on with what is in the folder."""
    return started_again() and launched_here(folder)


def _id() -> str:
    return os.environ.get("TORCHELASTIC_RUN_ID", "")


def _this_launch() -> str:
    return f"{socket.gethostname()} {os.getppid()}" if _id() == "none" else _id()
