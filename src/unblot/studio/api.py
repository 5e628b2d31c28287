"""The REST service of the studio: runs, jobs, uploads and files. The pages use nothing else."""

import asyncio
import os
import uuid
from collections.abc import AsyncIterator, Callable
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, File, Form, HTTPException, Query, Request, Response, UploadFile
from fastapi import Path as InPath
from fastapi.responses import FileResponse, StreamingResponse
from pydantic import BaseModel, ConfigDict, Field

from unblot.config.edits import EDITS
from unblot.data.readers.sources import BUILT_IN
from unblot.errors import UnblotError, arg, command_line
from unblot.runs.folder import remove_run
from unblot.studio import commands, jobs, runs, uploads
from unblot.studio.security import REPORT_POLICY
from unblot.system.folders import in_use

REPORTS = ".studio/reports"
SHOWN_FILES = {".png", ".gif", ".jpg", ".html", ".json", ".jsonl", ".npy", ".npz", ".tif", ".log", ".safetensors"}
TICK = 0.5  # seconds between two looks at a file that grows
NAME = Annotated[str, InPath(pattern=r"^[^/\\\x00-\x1f]{1,200}$")]


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
    values: dict[str, str | bool | list[str]] = {}


def router(folders: Folders) -> APIRouter:
    """All routes below /api."""
    service = APIRouter(prefix="/api")
    root = folders.root
    _add_runs(service, root)
    _add_jobs(service, folders)

    @service.post("/uploads")
    def upload(
        files: Annotated[list[UploadFile], File()], paths: Annotated[list[str] | None, Form()] = None
    ) -> dict[str, Any]:
        """Keeps files in a folder of their own; returns its path and the files'. paths: where each lies in the folder
        that was dropped, whose folders inside are kept, for they may be labels."""
        folder, targets = uploads.keep(root, files, paths)
        return {"folder": str(folder), "files": [str(target) for target in targets]}

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
        remove_run(folder)
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
    root = folders.root

    @service.post("/jobs", status_code=201)
    def new(job: NewJob) -> dict[str, Any]:
        """Checks the choices, and puts the command at the end of the queue."""
        with command_line(False):
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
        """Interrupts a job as Ctrl-C does; a training saves what it has and can be resumed."""
        jobs.stop(root, id)
        return asdict(jobs.status(root, id))

    @service.get("/jobs/{id}/report")
    def report(id: NAME) -> Response:
        """The page that doctor or explain wrote."""
        jobs.status(root, id)
        return served(root / REPORTS, _report_of(root, id))


def job_arguments(folders: Folders, job: NewJob) -> tuple[list[str], str | None]:
    """The arguments of the command line for a job, and the name of its run. Raises UnblotError for bad ones."""
    _known(job.command, "explain")
    root, values = folders.root, _held_inside(folders, job)
    if job.command == "train" and job.run is not None:
        steps = {name: values[name] for name in ("steps", "budget") if values.get(name)}
        folder = runs.run_folder(root, job.run)
        return ["--resume", str(folder), "--quiet", *commands.arguments("train", steps)], job.run
    if job.command == "train":
        name = job.out or f"run-{uuid.uuid4().hex[:6]}"
        if (root / name).exists():
            raise UnblotError(f"there is a run {name!r} already; choose another name")
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


def _held_inside(folders: Folders, job: NewJob) -> dict[str, Any]:
    """The choices of a job, its paths inside the folders. Raises UnblotError for one that is not."""
    known = commands.paths(job.command) if job.command in commands.COMMANDS else ()
    given = {name: str(value) for name, value in job.values.items() if value and name in known}
    return job.values | {name: _path_inside(folders, job, name, path) for name, path in given.items()}


def _path_inside(folders: Folders, job: NewJob, name: str, path: str) -> str:
    """A path inside the folders. A weaker model is looked for in the run's own folder first, as by the commands."""
    if name == "autoguide" and job.run is not None:
        folder = runs.run_folder(folders.root, job.run).resolve()
        real = runs.resolved(folder / path)
        if real.is_relative_to(folder) and os.path.exists(real):
            return real.relative_to(folder).as_posix()
    return str(folders.inside(path))


def data_of(folders: Folders, data: str | None) -> str:
    """Data as a command takes it: the name of a built-in set, or a path inside the folders."""
    text = (data or "").strip()
    if not text:
        raise UnblotError("say where the pictures are: drop files, or give a folder, an archive or built-in data")
    place, colon, options = text.partition(":")
    return text if place in BUILT_IN else f"{folders.inside(place)}{colon}{options}"


def served(folder: Path, path: str) -> Response:
    """A file below a folder; 404 for everything else, and for kinds of files that no page needs."""
    real = runs.file_below(folder, path)
    if real.suffix not in SHOWN_FILES:
        raise HTTPException(404, "there is no such file")
    headers = {"Content-Security-Policy": REPORT_POLICY} if real.suffix == ".html" else {}
    return FileResponse(real, headers=headers)


async def watched(request: Request, look: Callable[[], str]) -> AsyncIterator[str]:
    """Server-sent events: what `look` returns, at once and whenever it is another."""
    last = None
    while not await request.is_disconnected():
        try:
            found = await asyncio.to_thread(look)
        except UnblotError:  # as long as a run is being made
            found = ""
        if found != last:
            lines = "".join(f"data: {line}\n" for line in found.split("\n"))
            last = found
            yield f"event: message\n{lines}\n"
        await asyncio.sleep(TICK)


def stream(request: Request, look: Callable[[], str]) -> StreamingResponse:
    """An answer that goes on: see `watched`."""
    return StreamingResponse(watched(request, look), media_type="text/event-stream")


def _known(command: str, *others: str) -> None:
    if command not in (*commands.COMMANDS, *others):
        raise UnblotError(f"unknown command {command!r}; choose among {', '.join((*commands.COMMANDS, *others))}")


def _report_of(root: Path, id: str) -> str:
    """The name of the page that a job writes."""
    arguments = jobs.status(root, id).job.arguments
    return next((Path(text).name for text in arguments if text.startswith(str(root / REPORTS))), "")
