"""How a new run starts: in a folder of its own, or, where torchrun starts its processes again, where it was."""

from pathlib import Path
from typing import NamedTuple

from unblot.runs.folder import CONFIG, MODEL, TEACHER, is_run, refuse_run
from unblot.system.distributed import Group
from unblot.system.folders import LOCK
from unblot.system.launch import LAUNCH, launched_here, need_name
from unblot.system.turns import decided

NEW, ANEW, RESUME = "new", "anew", "resume"  # ANEW: over what is there, where it had done nothing
SET_UP = {CONFIG, MODEL, TEACHER, LAUNCH, LOCK}  # what a run has before it has computed anything


class Start(NamedTuple):
    """How a run starts: whether over what is in its folder, and whether it resumes what this torchrun began there."""

    overwrite: bool
    resume: bool


def how_to_start(folder: Path | None, overwrite: bool, group: Group) -> Start:
    """How a new run starts. The main process decides for all.

    Raises UnblotError as `refuse_run` does, and where torchrun would not find the run again.
    """

    def decide() -> str:
        if folder is None:
            need_name(folder)
            return NEW
        if launched_here(folder):
            there = {path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())}
            return RESUME if is_run(folder) and there - SET_UP else ANEW
        refuse_run(folder, overwrite)
        return NEW

    way = decided(group, decide)
    return Start(overwrite or way == ANEW, way == RESUME)
