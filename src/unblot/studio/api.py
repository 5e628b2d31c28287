"""The REST service of the studio: runs, jobs, uploads and files. The pages use nothing else."""

import os
import threading
import uuid
from contextlib import suppress
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, Response, UploadFile
from fastapi import Path as InPath
from fastapi.responses import FileResponse
from pydantic import BaseModel, ConfigDict, Field, StrictBool

from unblot.config.edits import EDITS
from unblot.data.readers.sources import BUILT_IN, split_spec
from unblot.errors import UnblotError, arg, command_line
from unblot.runs.folder import is_run, refuse_run, remove_run
from unblot.studio import commands, jobs, runs, uploads
from unblot.studio.security import REPORT_POLICY
from unblot.system.folders import LOCK, in_use

REPORTS = ".studio/reports"
SHOWN_FILES = {".png", ".gif", ".jpg", ".html", ".json", ".jsonl", ".npy", ".npz", ".tif", ".log", ".safetensors"}
NAME = Annotated[str, InPath(pattern=r"^[^/\\\x00-\x1f]{1,200}$")]
TAKEN = {  # fields of a job besides its values; of commands that are not here "run"
    "train": {"data", "out", "dry_run"},
    "doctor": {"data"},
    "explain": {"run", "data"},
    "edit": {"run", "kind", "pictures", "mask"},
}
GOING_ON = ("steps", "budget")  # what may change where a training is resumed
LONGEST = 200  # bytes of the name of a run: file systems take 255


@dataclass(frozen=True)
class Folders:
    """The only folders that the studio reads from: that of the runs, and those of data."""

    root: Path
    allowed: tuple[Path, ...]

    def inside(self, path: str) -> Path:
        """An existing path inside the folders. Raises UnblotError for any other."""
        real = runs.resolved(self.allowed[0] / os.path.expanduser(path))
        if not any(real.is_relative_to(folder.resolve()) for folder in (self.root, *self.allowed)):
            raise UnblotError(f"{path!r} is outside of the folders of this studio; start it with {arg('allow', path)}")
        if not os.path.exists(real):
            raise UnblotError(f"{path!r}: no such file or folder")
        return real


class NewJob(BaseModel):
    """A command to run. run: the run that it works on, or that a training resumes. values: its choices by name.

    data: of train and doctor, a path or the name of a built-in set. out: the name of a new run. dry_run: of train, the
    plan alone. kind, pictures, mask: of edit, the last two as paths of uploads.
    """

    model_config = ConfigDict(extra="forbid")

    command: str
    run: str | None = None
    data: str | None = None
    out: str | None = Field(default=None, pattern=r"^[^/\\\x00-\x1f.][^/\\\x00-\x1f]{0,99}$")
    kind: str = "inpaint"
    pictures: list[str] = []
    mask: str | None = None
    dry_run: bool = False
    values: dict[str, str | StrictBool | int | float | list[str]] = {}


def router(folders: Folders) -> APIRouter:
    """All routes below /api."""
    service = APIRouter(prefix="/api")
    root = folders.root
    _add_runs(service, root)
    _add_jobs(service, folders)

    @service.post("/uploads")
    def upload(
        files: Annotated[list[UploadFile], File()],
        paths: Annotated[list[str] | None, Form()] = None,
        upload: Annotated[str | None, Form(pattern=uploads.ID)] = None,
    ) -> dict[str, Any]:
        """Keeps files in a folder of their own, or with those of an earlier `upload`: a request holds fewer than 1,000.

        Returns the upload, the folder that holds all its files, and where these files are. paths: where each lies in
        the folder that was dropped, whose folders inside are kept, for they may be labels.
        """
        upload, folder, targets = uploads.keep(root, files, paths, upload)
        return {"upload": upload, "folder": str(folder), "files": [str(target) for target in targets]}

    @service.get("/commands/{command}")
    def choices(command: NAME) -> dict[str, Any]:
        """The choices of a command with their help: those of the first look, and the others."""
        _known(command)
        first, others = commands.fields(command)
        return {"first": [f._asdict() for f in first], "others": [f._asdict() for f in others]}

    return service


def _add_runs(service: APIRouter, root: Path) -> None:
    @service.get("/runs")
    def list_runs(page: int = 0) -> dict[str, Any]:
        """A page of runs, the one that was written last first."""
        count, _, found = runs.page(root, page)
        return {"count": count, "runs": [asdict(card) for card in found]}

    @service.get("/runs/{name}")
    def one_run(name: NAME) -> dict[str, Any]:
        """A run: where it stands, its previews, what was drawn with it, and its reports."""
        folder = runs.run_folder(root, name)
        return {
            **asdict(runs.card(folder)),
            "previews": runs.previews(folder),
            "galleries": runs.galleries(folder),
            "reports": runs.reports(folder),
        }

    @service.get("/runs/{name}/curve")
    def one_curve(name: NAME) -> dict[str, Any]:
        """Loss by step, of the training and on held-out pictures, and by noise level."""
        return runs.curves(runs.run_folder(root, name))

    @service.delete("/runs/{name}")
    def delete(name: NAME, confirm: str = "") -> dict[str, str]:
        """Removes the files that unblot wrote into a run; `confirm` must repeat its name."""
        folder = runs.run_folder(root, name)
        if confirm != name:
            raise UnblotError(f"to remove run {name!r}, repeat its name")
        if in_use(folder):
            raise UnblotError(f"run {name!r} is being trained; stop it first")
        if others := jobs.unfinished(root, name):
            raise UnblotError(f"run {name!r} is needed by {_words(others[0])}; stop that first")
        remove_run(folder)
        (folder / LOCK).unlink(missing_ok=True)  # of a process that was killed
        with suppress(OSError):  # there are other files in it
            folder.rmdir()
        return {"removed": name}

    @service.get("/runs/{name}/frames/{path:path}")
    def frame(name: NAME, path: str, number: Annotated[int, Query(ge=0, lt=10_000)] = 0) -> Response:
        """A frame of a film as a PNG file."""
        return Response(runs.frame(runs.file_below(runs.run_folder(root, name), path), number), media_type="image/png")

    @service.get("/runs/{name}/files/{path:path}")
    def file(name: NAME, path: str) -> Response:
        """A file of a run: a picture, a report, values."""
        return served(runs.run_folder(root, name), path)


def _add_jobs(service: APIRouter, folders: Folders) -> None:
    root, adding = folders.root, threading.Lock()

    @service.post("/jobs", status_code=201)
    def new(job: NewJob) -> dict[str, Any]:
        """Checks the choices, and puts the command at the end of the queue."""
        with command_line(False), adding:
            arguments, run = job_arguments(folders, job)
            added = jobs.add(root, job.command, arguments, run)
        jobs.advance(root)
        return asdict(jobs.status(root, added.id))

    @service.get("/jobs")
    def list_jobs() -> list[dict[str, Any]]:
        """The newest jobs and all that wait or run, the newest first."""
        return [asdict(status) for status in jobs.jobs(root)]

    @service.get("/jobs/{id}")
    def one_job(id: NAME) -> dict[str, Any]:
        """Where a job stands, the end of what it printed, and what changes when its picture does."""
        return {**asdict(jobs.status(root, id)), "output": jobs.output(root, id), "picture": jobs.picture(root, id)}

    @service.get("/jobs/{id}/picture")
    def picture(id: NAME) -> Response:
        """The pictures of a job that draws, while they come out of noise: x_t beside x0_hat."""
        jobs.status(root, id)
        return served(root / jobs.JOBS / id, jobs.NOW)

    @service.post("/jobs/{id}/stop")
    def stop(id: NAME) -> dict[str, Any]:
        """Interrupts a job as Ctrl-C does, once; a training saves what it has and can be resumed."""
        jobs.stop(root, id)
        return asdict(jobs.status(root, id))

    @service.get("/jobs/{id}/report")
    def report(id: NAME) -> Response:
        """The page that doctor or explain wrote."""
        pages = [text for text in jobs.status(root, id).job.arguments if text.startswith(str(root / REPORTS))]
        return served(root / REPORTS, Path(pages[0]).name if pages else "")


def job_arguments(folders: Folders, job: NewJob) -> tuple[list[str], str | None]:
    """The arguments of the command line for a job, and the name of its run. Raises UnblotError for bad ones."""
    _known(job.command, "explain")
    _refuse_unused(job)
    root, values = folders.root, _held_inside(folders, job)
    if job.command == "train" and job.run is not None:
        folder = runs.run_folder(root, job.run)
        if others := jobs.unfinished(root, job.run, "train"):
            raise UnblotError(f"run {job.run!r} has {_words(others[0])} already; wait for it, or stop it")
        return ["--resume", str(folder), *commands.arguments("train", values)], job.run
    if job.command == "train":
        name = job.out or f"run-{uuid.uuid4().hex[:6]}"
        if len(name.encode()) > LONGEST:
            raise UnblotError(f"the name {name!r} has more than {LONGEST} bytes; choose a shorter one")
        if is_run(root / name) or jobs.unfinished(root, name, "train"):
            raise UnblotError(f"there is a run {name!r} already; choose another name")
        refuse_run(root / name)
        flags = commands.arguments("train", values)
        if job.dry_run:
            return [data_of(folders, job.data), "--dry-run", *flags], None
        return [data_of(folders, job.data), "--out", str(root / name), *flags], name
    if job.command in ("doctor", "explain"):
        page = root / REPORTS / f"{uuid.uuid4().hex}.html"
        page.parent.mkdir(parents=True, exist_ok=True)
        if job.command == "explain":
            target = str(runs.run_folder(root, job.run)) if job.run else data_of(folders, job.data or "digits")
            return [target, "--out", str(page)], job.run
        return [data_of(folders, job.data), "--page", str(page), *commands.arguments("doctor", values)], None
    folder = runs.run_folder(root, job.run or "")
    if job.command != "edit":
        return [str(folder), *commands.arguments(job.command, values)], folder.name
    if job.kind not in EDITS:
        raise UnblotError(f"unknown edit {job.kind!r}; choose among {', '.join(EDITS)}")
    pictures = [str(folders.inside(path)) for path in job.pictures]
    if not pictures:
        raise UnblotError("choose a picture to edit first")
    mask = ["--mask", str(folders.inside(job.mask))] if job.mask and job.kind == "inpaint" else []
    return [job.kind, str(folder), *pictures, *mask, *commands.arguments("edit", values, job.kind)], folder.name


def _refuse_unused(job: NewJob) -> None:
    """Raises UnblotError for what the command of a job has no use for, which would be dropped."""
    resumes = job.command == "train" and job.run is not None
    used = {"run"} if resumes else TAKEN.get(job.command, {"run"})
    if job.command == "edit" and job.kind != "inpaint":
        used = used - {"mask"}
    if job.command == "explain" and job.run is not None:
        used = used - {"data"}
    given = [name for name in job.model_fields_set - {"command", "values"} if getattr(job, name)]
    values = [name for name, value in job.values.items() if commands.is_given(value)]
    if resumes and (unused := sorted({*given, *values} - used - {*GOING_ON})):
        raise UnblotError(
            f"a run that is trained further keeps its choices; leave out {unused[0]} (only {' and '.join(GOING_ON)} "
            "may change)"
        )
    if unused := sorted({*given} - used) + (values if job.command == "explain" else []):
        raise UnblotError(f"{job.command} has no use for {unused[0]} here; leave it out")


def _held_inside(folders: Folders, job: NewJob) -> dict[str, Any]:
    """The choices of a job, its paths inside the folders. Raises UnblotError for one that is not."""
    known = commands.paths(job.command) if job.command in commands.COMMANDS else ()
    given = {name: str(value) for name, value in job.values.items() if name in known and commands.is_given(value)}
    return job.values | {name: _path_inside(folders, job, name, path) for name, path in given.items()}


def _path_inside(folders: Folders, job: NewJob, name: str, path: str) -> str:
    """A path inside the folders. A weaker model is looked for in the run's own folder first, as by the commands."""
    if name == "autoguide" and job.run is not None:
        folder = runs.run_folder(folders.root, job.run).resolve()
        real = runs.resolved(folder / path)
        if real.is_relative_to(folder) and os.path.exists(real):
            return real.relative_to(folder).as_posix()
    return data_of(folders, path) if name == "data" else str(folders.inside(path))


def data_of(folders: Folders, data: str | None) -> str:
    """Data as a command takes it: the name of a built-in set, or a path inside the folders."""
    text = (data or "").strip()
    if not text:
        raise UnblotError("say where the pictures are: drop files, or give a folder, an archive or built-in data")
    place, options = split_spec(text)
    return text if place in BUILT_IN else ":".join(filter(None, (str(folders.inside(place)), options)))


def served(folder: Path, path: str) -> Response:
    """A file below a folder; 404 for everything else, and for kinds of files that no page needs."""
    real = runs.file_below(folder, path)
    if real.suffix not in SHOWN_FILES:
        raise HTTPException(404, "there is no such file")
    headers = {"Content-Security-Policy": REPORT_POLICY} if real.suffix == ".html" else {}
    return FileResponse(real, headers=headers)


def _known(command: str, *others: str) -> None:
    if command not in (*commands.COMMANDS, *others):
        raise UnblotError(f"unknown command {command!r}; choose among {', '.join((*commands.COMMANDS, *others))}")


def _words(status: jobs.Status) -> str:
    return f"job {status.job.id} ({status.job.command}, {status.state})"
