"""The pages of the studio, and the parts of them that are sent again while a job goes on."""

import math
import shlex
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache, partial
from importlib.resources import files
from pathlib import Path
from typing import Any

from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, Response, StreamingResponse
from jinja2 import Environment, PackageLoader, StrictUndefined

from unblot._version import __version__
from unblot.config.edits import EDITS
from unblot.config.sampling import SampleConfig
from unblot.data.readers.sources import BUILT_IN
from unblot.errors import UnblotError
from unblot.runs.samples import GUIDANCE_OPTIONS
from unblot.studio import commands, jobs, runs, uploads
from unblot.studio.api import Folders
from unblot.studio.live import Look, stream
from unblot.system.folders import in_use

MEASURES = {
    "evaluate": "How good, varied and original are the pictures?",
    "tune": "Which sampler is best for each number of network calls?",
    "ema": "Which average of the weights is best?",
    "distill": "Make a model that draws in one to four steps.",
}
SETTINGS = [  # that draw pictures again; what files do not record of them is as by default
    *("n", "seed", "steps", "solver", "spacing", "label", "prompt", "guidance", *GUIDANCE_OPTIONS),
]
CHOOSERS = ["quality", "nfe"]  # which choose some of the settings, and do not go with them
NOTES = ("note:", "warning:")  # how lines of a training's output begin that a user should see
NO_RUN: dict[str, Any] = {
    "card": None,
    "previews": [],
    "charts": {"loss": {}, "levels": {}},
    "job": None,
    "now": "",
    "notes": [],
}
WIDTH, HEIGHT, EDGE, LABEL = 640, 220, 48, 12  # of the chart of losses

Page = Callable[..., HTMLResponse]  # the answer that is a template with these values


def add_pages(app: FastAPI, folders: Folders, local: bool) -> None:
    """The routes of all pages. local: whether no other machine reaches them, which they say."""
    page = partial(_page, local=local)
    _add_run_pages(app, folders.root, page)
    _add_other_pages(app, folders.root, page)
    _add_streams(app, folders.root)


def _page(template: str, **values: Any) -> HTMLResponse:
    return HTMLResponse(render(template, **values))


def _add_other_pages(app: FastAPI, root: Path, page: Page) -> None:
    @app.get("/", include_in_schema=False)
    def list_page(page_number: int = 0) -> HTMLResponse:
        count, number, found = runs.page(root, page_number)
        return page("runs.html", runs=found, count=count, number=number, size=runs.PAGE)

    @app.get("/train", include_in_schema=False)
    def train_page(data: str = "") -> HTMLResponse:
        first, others = commands.fields("train")
        return page("train.html", first=first, groups=grouped(others), data=data, builtin=BUILT_IN)

    @app.get("/data", include_in_schema=False)
    def data_page(data: str = "") -> HTMLResponse:
        first, others = commands.fields("doctor")
        return page("data.html", first=first, groups=grouped(others), data=data, builtin=BUILT_IN)

    @app.get("/learn", include_in_schema=False)
    def learn_page() -> HTMLResponse:
        done = [s for s in jobs.jobs(root) if s.job.command == "explain"]
        return page("learn.html", lessons=done, names=runs.names(root))

    @app.get("/jobs", include_in_schema=False)
    def jobs_page() -> HTMLResponse:
        return page("jobs.html", jobs=jobs.jobs(root))

    @app.get("/jobs/{id}", include_in_schema=False)
    def job_page(id: str) -> HTMLResponse:
        return page("job.html", **job_values(root, id))

    @app.get("/style.css", include_in_schema=False)
    def style() -> Response:
        """The style of the reports, and what the studio adds."""
        places = ("reports/templates/style.css", "studio/static/studio.css")
        text = "\n".join((files("unblot") / place).read_text(encoding="utf-8") for place in places)
        return Response(text, media_type="text/css")


def _add_run_pages(app: FastAPI, root: Path, page: Page) -> None:
    @app.get("/compare", include_in_schema=False)
    def compare_page(a: str = "", b: str = "") -> HTMLResponse:
        names = runs.names(root)
        a, b = a or (names[0] if names else ""), b or (names[1] if len(names) > 1 else "")
        sides = [live_values(runs.run_folder(root, name)) for name in (a, b) if name]
        return page("compare.html", names=names, a=a, b=b, sides=sides)

    @app.get("/runs/{name}/picture", include_in_schema=False)
    def picture_page(name: str, path: str) -> HTMLResponse:
        file = runs.file_below(runs.run_folder(root, name), path)
        frames, about = runs.picture_facts(file)
        return page("picture.html", name=name, path=path, frames=frames, about=about, single="index" in about)

    @app.get("/runs/{name}", include_in_schema=False)
    def run_page(name: str) -> HTMLResponse:
        folder = runs.run_folder(root, name)
        return page("run.html", galleries=runs.galleries(folder), reports=runs.reports(folder), **live_values(folder))

    @app.get("/runs/{name}/{action}", include_in_schema=False)
    def action_page(name: str, action: str) -> HTMLResponse:
        if action not in ("draw", "edit", "measure"):
            raise UnblotError(f"there is no page {action!r} of a run")
        folder = runs.run_folder(root, name)
        forms = {"draw": ["sample", "film"], "edit": ["edit"], "measure": list(MEASURES)}[action]
        return page(
            f"{action}.html",
            card=runs.card(folder),
            forms={command: _form(command) for command in forms},
            galleries=runs.galleries(folder),
            reports=runs.reports(folder),
            edits={kind: (EDITS[kind].about, own) for kind, own in commands.edit_fields().items()},
            measures=MEASURES,
        )


def _add_streams(app: FastAPI, root: Path) -> None:
    @app.get("/live/runs/{name}", include_in_schema=False)
    def live_run(name: str, request: Request) -> StreamingResponse:
        runs.run_folder(root, name)

        def look() -> Look:
            values = live_values(runs.run_folder(root, name))
            return Look(parts("live_run.html", **values), values["over"])

        return stream(request, look)

    @app.get("/live/jobs/{id}", include_in_schema=False)
    def live_job(id: str, request: Request) -> StreamingResponse:
        jobs.status(root, id)

        def look() -> Look:
            values = job_values(root, id)
            shown = parts("live_job.html", **values)
            if values["status"].job.command == "train":
                shown |= parts("live_run.html", **values)
            return Look(shown, values["over"])

        return stream(request, look)


def job_values(root: Path, id: str) -> dict[str, Any]:
    """What changes on the page of a job while it goes on; of a training with the run's, as soon as that is there."""
    status = jobs.status(root, id)  # before all that it changes
    of_run = NO_RUN
    if status.job.command == "train" and status.job.run is not None:
        with suppress(UnblotError):  # as long as the run is being made
            of_run = live_values(runs.run_folder(root, status.job.run))
    return {
        **of_run, "status": status, "over": status.state not in jobs.UNFINISHED, "output": jobs.output(root, id),
        "picture": jobs.picture(root, id), "report": _has_page(status),
    }  # fmt: skip


def live_values(folder: Path) -> dict[str, Any]:
    """What changes on the page of a run while it trains. over: nothing does any more."""
    job = jobs.of_run(folder.parent, folder.name)
    over = not in_use(folder) and (job is None or job.state not in jobs.UNFINISHED)  # before all that it changes
    charts = {name: chart(curves) for name, curves in runs.curves(folder).items()}
    said = jobs.output(folder.parent, job.job.id).strip().split("\n") if job else []
    return {
        "card": runs.card(folder), "previews": runs.previews(folder), "charts": charts, "job": job,
        "now": said[-1] if job and job.state == "running" else "",
        "notes": [line for line in said if line.startswith(NOTES)],
        "over": over,
    }  # fmt: skip


def chart(curves: dict[str, runs.Curve]) -> dict[str, Any]:
    """Losses by step on a logarithmic axis: points of lines in a picture of WIDTH×HEIGHT, and the ends of both axes."""
    rows = [row for line in curves.values() for row in line]
    if len(rows) < 2:
        return {}
    last = max(step for step, _ in rows) or 1
    low, high = (end(loss for _, loss in rows) for end in (min, max))
    log_low = math.log(max(low, 1e-12))
    span = math.log(max(high, 1e-12)) - log_low or 1.0

    def height(loss: float) -> float:
        return 8 + (HEIGHT - EDGE - 8) * (1 - (math.log(max(loss, 1e-12)) - log_low) / span)

    def place(step: int, loss: float) -> str:
        return f"{EDGE + (WIDTH - 2 * EDGE) * step / last:.1f},{height(loss):.1f}"

    lines = {name: " ".join(place(*row) for row in line) for name, line in curves.items()}
    labels, below = {}, 0.0
    for y, name in sorted((height(line[-1][1]), name) for name, line in curves.items() if line):
        labels[name] = below = max(y, below + LABEL)
    ends = {name: f"{line[-1][1]:.4f}" if line else "" for name, line in curves.items()}
    return {
        "lines": lines, "ends": ends, "labels": labels, "low": f"{low:.3g}", "high": f"{high:.3g}", "last": f"{last:,}",
        "width": WIDTH, "height": HEIGHT, "edge": EDGE,
    }  # fmt: skip


def settings_of(about: Mapping[str, Any]) -> dict[str, str]:
    """What draws pictures again, from what is recorded of them: the values of SETTINGS that are not the default ones,
    as a form holds them."""
    found = {}
    for name in SETTINGS:
        value = about.get(name, _turns(about.get("prompts", [])) if name == "prompt" else None)
        if value in (None, "", []) or (name in GUIDANCE_OPTIONS and value == getattr(SampleConfig, name)):
            continue
        several = value if isinstance(value, list) else [value]
        found[name] = ("\n" if name == "prompt" else ",").join(" ".join(str(one).splitlines()) for one in several)
    return found


def _turns(prompts: list[str]) -> list[str]:
    """The prompts that took turns, from the one of each picture."""
    turns = list(dict.fromkeys(prompts))
    return turns if all(one == turns[i % len(turns)] for i, one in enumerate(prompts)) else prompts


def grouped(fields: list[commands.Field]) -> dict[str, list[commands.Field]]:
    """Choices by their group, in the order in which the groups come."""
    found: dict[str, list[commands.Field]] = {}
    for field in fields:
        found.setdefault(field.group, []).append(field)
    return found


def render(template: str, **values: Any) -> str:
    """A page or a part of one; every value is escaped."""
    return _environment().get_template(template).render(values)


def parts(template: str, **values: Any) -> dict[str, str]:
    """The blocks of a template by name: the parts of a page that are sent again on their own."""
    found = _environment().get_template(template)
    return {name: "".join(block(found.new_context(values))).strip() for name, block in found.blocks.items()}


def error_page(message: str, local: bool) -> str:
    """A page that says what was wrong with a request. local: as of the other pages."""
    return render("error.html", message=message, local=local)


@cache
def _environment() -> Environment:
    environment = Environment(
        loader=PackageLoader("unblot.studio"), autoescape=True, undefined=StrictUndefined,
        trim_blocks=True, lstrip_blocks=True,
    )  # fmt: skip
    environment.globals |= {
        "version": __version__, "settings": " ".join([*SETTINGS, *CHOOSERS]),
        "most_files": uploads.MOST_FILES, "most_bytes": uploads.MOST_BYTES,
    }  # fmt: skip
    environment.filters["settings_of"] = settings_of
    environment.filters["command_line"] = lambda job: shlex.join(["unblot", job.command, *job.arguments])
    return environment


def _form(command: str) -> dict[str, Any]:
    first, others = commands.fields(command)
    words = {field.name: {"placeholder": field.placeholder, "help": field.help} for field in (*first, *others)}
    return {"first": first, "groups": grouped(others), "words": words}


def _has_page(status: jobs.Status) -> bool:
    return status.state == "done" and status.job.command in ("doctor", "explain")
