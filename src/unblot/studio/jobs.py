"""Jobs of the studio: the ordinary commands as child processes, whose whole state is files in a folder of their own.

    .studio/jobs/ID/job.json     what is to run, written once
                    started      made by the one process that starts the job; the number of its process group
                    output.log   what the command prints
                    now.png      of a job that draws: its pictures while they come out of noise
                    stopping     made by the one process that interrupts the job, which may take a while to end
                    ended.json   its exit code and the time
                    .lock        held while the job runs, and let go however that ends

A page, a second tab and a studio that was started again read the same files, and a job outlives all of them.
"""

import contextlib
import os
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path

import filelock

from unblot.errors import UnblotError, sentence
from unblot.studio import runner
from unblot.studio.runner import ENDED, OUTPUT
from unblot.system.files import write_json, write_text
from unblot.system.folders import LOCK, in_use
from unblot.system.stored import read_stored

JOBS = ".studio/jobs"
JOB, STARTED, STOPPING, NOW = "job.json", "started", "stopping", "now.png"
WATCHED = ("sample", "film")  # commands that show their pictures while they come out of noise
ONE_AT_A_TIME = ("train", "distill", "tune")  # that would take each other's cores
TAIL_BYTES = 64 * 1024  # of the output that a page shows
UNFINISHED = "running", "waiting"
STOPPED = -signal.SIGINT, -signal.SIGTERM, 130, 143  # exit codes of a command that was stopped
STARTING = 60.0  # seconds in which the process of a job has come up, or never will


@dataclass(frozen=True)
class Job:
    """What is to run: a command of unblot with its arguments, and the run that it works on, where there is one."""

    id: str
    command: str
    arguments: list[str]
    created: float
    run: str | None = None


@dataclass(frozen=True)
class Ended:
    """How a job ended: the exit code of its command, and the time in seconds since 1970."""

    code: int
    time: float


@dataclass(frozen=True)
class Status:
    """Where a job stands: waiting, running, done, stopped, failed, or lost where its process is gone without an end.

    stopping: it runs, but was interrupted; a training ends after its step.
    """

    job: Job
    state: str
    code: int | None = None
    seconds: float | None = None
    stopping: bool = False


def add(root: Path, command: str, arguments: Sequence[str], run: str | None = None) -> Job:
    """Writes a job into the studio's folder below `root`; `advance` starts it."""
    folder = _numbered(root / JOBS)
    job = Job(folder.name, command, list(arguments), time.time(), run)
    write_json(folder / JOB, asdict(job))
    return job


def _numbered(folder: Path) -> Path:
    """A new folder with a number after all others here, so that no two jobs share a place in the order."""
    folder.mkdir(parents=True, exist_ok=True)
    number = 1 + max((int(path.name) for path in folder.iterdir() if path.name.isdecimal()), default=0)
    while True:
        try:
            (folder / f"{number:08d}").mkdir()
        except FileExistsError:  # another process was faster
            number += 1
        else:
            return folder / f"{number:08d}"


def jobs(root: Path, most: int = 100) -> list[Status]:
    """The newest jobs and all that wait or run, however many are newer; the newest first."""
    return [status(root, name) for name in _names(root, most)]


def _names(root: Path, most: int = 100) -> list[str]:
    """The names of the newest jobs and of all that wait or run, the newest first."""
    folder = root / JOBS
    names = sorted((path.name for path in folder.iterdir()), reverse=True) if folder.is_dir() else []
    whole = [name for name in names if (folder / name / JOB).is_file()]
    return [*whole[:most], *(name for name in whole[most:] if status(root, name).state in UNFINISHED)]


def status(root: Path, name: str) -> Status:
    """Where the job of this name stands. Raises UnblotError where there is none."""
    folder = root / JOBS / name
    if name != os.path.basename(name) or not (folder / JOB).is_file():
        raise UnblotError(f"there is no job {name!r}")
    job = _job(root, name)
    if not (folder / STARTED).exists():
        return Status(job, "waiting")
    start = (folder / STARTED).stat().st_mtime
    if (end := _end(folder, job, start)) is not None:
        return end
    seconds = time.time() - start
    if in_use(folder) or _is_starting(folder, seconds):
        return Status(job, "running", seconds=seconds, stopping=(folder / STOPPING).exists())
    return _end(folder, job, start) or Status(job, "lost")  # it may have ended since the first look


def _end(folder: Path, job: Job, start: float) -> Status | None:
    """How a job ended that was started at this time; None where it has not ended."""
    if not (folder / ENDED).is_file():
        return None
    ended = read_stored(folder / ENDED, Ended, "remove its folder")
    state = "done" if ended.code == 0 else "stopped" if ended.code in STOPPED else "failed"
    return Status(job, state, ended.code, ended.time - start)


def of_run(root: Path, name: str) -> Status | None:
    """The training of a run: the one that runs, else one that waits, else the newest among the newest jobs."""
    own = [status(root, one) for one in _names(root) if (job := _job(root, one)).run == name and job.command == "train"]
    return next((one for state in UNFINISHED for one in own if one.state == state), own[0] if own else None)


def unfinished(root: Path, run: str, command: str | None = None) -> list[Status]:
    """The jobs of a run that run or wait, those of one command where it is given."""
    own = (one for one in jobs(root, most=0) if one.job.run == run)
    return [one for one in own if command in (None, one.job.command)]


def _job(root: Path, name: str) -> Job:
    return read_stored(root / JOBS / name / JOB, Job, "remove its folder")


def output(root: Path, name: str) -> str:
    """The end of what a job printed; of a line that was written over again and again, its last state."""
    status(root, name)
    path = root / JOBS / name / OUTPUT
    if not path.exists():
        return ""
    with path.open("rb") as file:
        file.seek(max(0, path.stat().st_size - TAIL_BYTES))
        text = file.read().decode("utf-8", "replace")
    return "\n".join(line.rstrip("\r").rpartition("\r")[2] for line in text.split("\n"))


def picture(root: Path, name: str) -> str:
    """What changes when the picture of a job does, "" while there is none."""
    path = root / JOBS / name / NOW
    return str(path.stat().st_mtime_ns) if path.exists() else ""


def stop(root: Path, name: str) -> None:
    """Interrupts a job as Ctrl-C does, after which a training can be resumed; one that waits will not start.

    It is done once: a second Ctrl-C would end a training before it has saved itself. Raises UnblotError for a job that
    is only starting, and for one that is being stopped already.
    """
    found = status(root, name)
    folder = root / JOBS / name
    if found.state == "waiting" and _made(folder / STARTED):
        write_json(folder / ENDED, asdict(Ended(130, time.time())))
    elif found.state in UNFINISHED:
        group = (folder / STARTED).read_text()
        if not group or _is_starting(folder, found.seconds or 0.0):  # nobody is there who would hear it
            raise UnblotError(f"job {name} is just starting; stop it in a moment")
        if not _made(folder / STOPPING):
            raise UnblotError(f"job {name} is being stopped; it ends after its step")
        with contextlib.suppress(ProcessLookupError):  # it has ended meanwhile
            os.killpg(int(group), signal.SIGINT)


def advance(root: Path) -> None:
    """Starts the jobs whose turn it is, in the order in which they were added; one process at a time does this."""
    if not (root / JOBS).is_dir():
        return
    with filelock.FileLock(root / JOBS / LOCK):
        found = jobs(root)[::-1]
        busy = any(one.state == "running" and one.job.command in ONE_AT_A_TIME for one in found)
        for one in found:
            if one.state != "waiting" or (busy and one.job.command in ONE_AT_A_TIME):
                continue
            if _made(root / JOBS / one.job.id / STARTED) and _begin(root, one.job):
                busy = busy or one.job.command in ONE_AT_A_TIME


def _made(path: Path) -> bool:
    """Whether this process is the one that makes the file, and with it starts the job, or stops it."""
    try:
        path.touch(exist_ok=False)
    except FileExistsError:
        return False
    return True


def _begin(root: Path, job: Job) -> bool:
    """Whether the process of a job could be started. Else the job has ended, and its output says why."""
    try:
        _start(root, job)
    except OSError as e:
        folder = root / JOBS / job.id
        write_text(folder / OUTPUT, f"the job could not be started: {sentence(e)}\n")
        write_json(folder / ENDED, asdict(Ended(2, time.time())))
        return False
    return True


def _start(root: Path, job: Job) -> None:
    folder = root / JOBS / job.id
    watch = ["--watch", str(folder / NOW)] if job.command in WATCHED else []
    command = [sys.executable, runner.__file__, str(folder), job.command, *job.arguments, *watch]
    nothing = subprocess.DEVNULL
    process = subprocess.Popen(command, stdin=nothing, stdout=nothing, stderr=nothing, start_new_session=True)
    (folder / STARTED).write_text(str(process.pid))


def _is_starting(folder: Path, seconds: float) -> bool:
    """Whether the process of a job that began so many seconds ago is still to take its lock, when it is loaded."""
    if (folder / LOCK).exists() or seconds > STARTING:
        return False
    process = (folder / STARTED).read_text()
    try:
        os.kill(int(process or os.getpid()), 0)  # without a number it is just being started
    except (ProcessLookupError, PermissionError):
        return False
    return True
