"""The studio's server: the REST service, the pages that use it, and the guard in front of both."""

import asyncio
import contextlib
import errno
import os
import secrets
import threading
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, HTTPException, Request
from fastapi.exception_handlers import http_exception_handler
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from unblot._version import __version__
from unblot.config.choices import from_choices
from unblot.config.commands import StudioConfig
from unblot.errors import UnblotError, sentence
from unblot.serving.guard import LEAST, check_token, is_local
from unblot.serving.listening import listen, run_until_stopped
from unblot.studio import jobs
from unblot.studio.api import Folders, router
from unblot.studio.pages import add_pages, error_page
from unblot.studio.security import Guard, redirecting

STATIC = Path(__file__).parent / "static"
LOOK = 1.0  # seconds between two looks at the queue
TOKEN = ".studio/token"
DOOR = ".studio/open.html"  # leads the browser in: its own arguments, which every user can read, hold no token
ANSWERS = {errno.ENOSPC: 507, errno.EDQUOT: 507, errno.ENAMETOOLONG: 422}  # to errors of the operating system; else 500


def make_app(folders: Folders, token: str, host: str = "127.0.0.1") -> FastAPI:
    """The application over these folders, for a server that listens on this address; see `Guard`.

    Raises UnblotError for a token that can be guessed.
    """
    check_token(host, token)

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_queue(folders.root))
        yield
        task.cancel()

    app = FastAPI(
        title="unblot studio", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        middleware=[Middleware(Guard, token=token, host=host)],
    )  # fmt: skip
    app.include_router(router(folders))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_pages(app, folders, is_local(host))
    _add_refusals(app, is_local(host))
    return app


def _add_refusals(app: FastAPI, local: bool) -> None:
    """The answers to what cannot be done: one line that says what to do, as JSON below /api and else as a page."""

    def refusal(request: Request, line: str, status: int) -> Response:
        if request.url.path.startswith("/api"):
            return JSONResponse({"detail": line}, status)
        return HTMLResponse(error_page(line, local), status)

    @app.exception_handler(UnblotError)
    def refused(request: Request, error: UnblotError) -> Response:
        """A bad value: 404 where there is no such thing, else 422."""
        return refusal(request, str(error), 404 if str(error).startswith("there is no ") else 422)

    @app.exception_handler(OSError)
    def failed(request: Request, error: OSError) -> Response:
        """What the operating system refuses, such as a file on a full disk."""
        return refusal(request, sentence(error), ANSWERS.get(error.errno or 0, 500))

    @app.exception_handler(400)
    async def unread(request: Request, error: HTTPException) -> Response:
        """A request that could not be read; files of an upload are on the disk before they are kept."""
        cause = error.__cause__
        return failed(request, cause) if isinstance(cause, OSError) else await http_exception_handler(request, error)


def serve(
    root: str | Path = "runs",
    *,
    allow: tuple[str | Path, ...] = (),
    browser: bool = True,
    say: Callable[[str], Any] = print,
    **choices: Any,
) -> None:
    """Runs the studio until SIGTERM or SIGINT. Trainings that it started go on.

    root: the folder of the runs, made where it is missing. allow: more folders that data may be read from, besides the
    present one. choices: see `StudioConfig`. Raises UnblotError where the port is taken, and on Windows.
    """
    config = from_choices(StudioConfig, choices)
    host = config.host
    if not hasattr(os, "killpg"):
        raise UnblotError("the studio stops its jobs with signals that this system lacks; on Windows use WSL")
    folders = Folders(Path(root).expanduser().resolve(), (Path.cwd(), *(Path(p).expanduser() for p in allow)))
    folders.root.mkdir(parents=True, exist_ok=True)
    token, door = stored_token(folders.root), folders.root / DOOR
    app = make_app(folders, token, host)
    settings = uvicorn.Config(app, host=host, port=config.port, log_level="warning", timeout_graceful_shutdown=2)
    place, address = listen(settings)
    if not is_local(host):
        say(f"the studio listens on {host}, which other machines call by the name of this one: who has the address")
        say("below can train, draw and read files in its folders")
    say(f"open   {address}/?token={token}\nstop   Ctrl-C; trainings go on")
    try:
        if browser:
            door.unlink(missing_ok=True)
            _write_private(door, redirecting(f"{address}/?token={token}"))
            opening = threading.Thread(target=webbrowser.open, args=(door.as_uri(),), daemon=True)
            opening.start()  # which goes on as long as a text browser is open
        run_until_stopped(settings, place)
    finally:
        door.unlink(missing_ok=True)


def stored_token(root: Path) -> str:
    """The token of the studio of these runs, which stays the same over restarts; only its owner can read the file.

    Raises UnblotError where the file holds none that is long enough.
    """
    path = root / TOKEN
    path.parent.mkdir(parents=True, exist_ok=True)
    if not path.exists():
        written = path.with_name(f"{path.name}.{os.getpid()}")
        written.unlink(missing_ok=True)
        _write_private(written, secrets.token_urlsafe(24))
        with contextlib.suppress(FileExistsError):  # another studio was faster
            os.link(written, path)
        written.unlink()
    token = path.read_text().strip()
    if len(token) < LEAST:
        short = f"holds no token of {LEAST} characters or more; remove it, and a new one is made"
        raise UnblotError(f"{str(path)!r} {short}")
    return token


def _write_private(path: Path, text: str) -> None:
    """A new file that only its owner can read."""
    with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
        file.write(text)


async def _queue(root: Path) -> None:
    """Starts waiting jobs, also those that another studio left."""
    while True:
        with contextlib.suppress(UnblotError, OSError):
            await asyncio.to_thread(jobs.advance, root)
        await asyncio.sleep(LOOK)
