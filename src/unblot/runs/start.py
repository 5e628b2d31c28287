"""How a new run starts: in a folder of its own, or, where torchrun starts its processes again, where it was."""

from pathlib import Path

from unblot.runs.folder import CONFIG, MODEL, TEACHER, is_run, refuse_run
from unblot.system.distributed import Group
from unblot.system.folders import LOCK
from unblot.system.launch import LAUNCH, launched_here, need_name
from unblot.system.turns import decided

NEW, ANEW, GO_ON = "new", "anew", "go on"
SET_UP = {CONFIG, MODEL, TEACHER, LAUNCH, LOCK}  # what a run has before it has computed anything


def how_to_start(folder: Path | None, overwrite: bool, group: Group) -> str:
    """NEW, or for a run that this torchrun has begun before GO_ON; ANEW, over what is there, where it had done nothing.

    The main process decides for all. Raises UnblotError as `refuse_run` does, and where torchrun would not find the run
    again.
    """

    def decide() -> str:
        if folder is None:
            need_name(folder)
            return NEW
        if launched_here(folder):
            there = {path.name for path in folder.iterdir() if path.is_file() or any(path.iterdir())}
            return GO_ON if is_run(folder) and there - SET_UP else ANEW
        refuse_run(folder, overwrite)
        return NEW

    return decided(group, decide)
