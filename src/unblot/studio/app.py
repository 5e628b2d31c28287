"""The studio's server: the REST service, the pages that use it, and the guard in front of both."""

import asyncio
import contextlib
import os
import secrets
import webbrowser
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import uvicorn
from fastapi import FastAPI, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from fastapi.staticfiles import StaticFiles
from starlette.middleware import Middleware

from unblot._version import __version__
from unblot.errors import UnblotError, arg
from unblot.serving.guard import is_local
from unblot.studio import jobs
from unblot.studio.api import Folders, router
from unblot.studio.pages import add_pages, error_page
from unblot.studio.security import Guard

STATIC = Path(__file__).parent / "static"
LOOK = 1.0  # seconds between two looks at the queue
PORT = 8770
TOKEN = ".studio/token"


def make_app(folders: Folders, token: str, hosts: tuple[str, ...] = ()) -> FastAPI:
    """The application over these folders; see `Guard` for token and hosts."""

    @contextlib.asynccontextmanager
    async def lifespan(_: FastAPI) -> AsyncIterator[None]:
        task = asyncio.create_task(_queue(folders.root))
        yield
        task.cancel()

    app = FastAPI(
        title="unblot studio", version=__version__, lifespan=lifespan, docs_url=None, redoc_url=None,
        middleware=[Middleware(Guard, token=token, hosts=hosts)],
    )  # fmt: skip
    app.include_router(router(folders))
    app.mount("/static", StaticFiles(directory=STATIC), name="static")
    add_pages(app, folders)

    @app.exception_handler(UnblotError)
    def refused(request: Request, error: UnblotError) -> Response:
        """A bad value: 404 where there is no such thing, else 422; one line that says what to do."""
        status = 404 if str(error).startswith("there is no ") else 422
        if request.url.path.startswith("/api"):
            return JSONResponse({"detail": str(error)}, status)
        return HTMLResponse(error_page(str(error)), status)

    return app


def serve(
    root: str | Path = "runs",
    host: str = "127.0.0.1",
    port: int = PORT,
    allow: tuple[str | Path, ...] = (),
    browser: bool = True,
    say: Callable[[str], Any] = print,
) -> None:
    """Runs the studio until it is interrupted. Trainings that it started go on.

    root: the folder of the runs, made where it is missing. allow: more folders that data may be read from, besides the
    present one. Raises UnblotError where the port is taken, and on Windows.
    """
    if not hasattr(os, "killpg"):
        raise UnblotError("the studio stops its jobs with signals that this system lacks; on Windows use WSL")
    folders = Folders(Path(root).expanduser().resolve(), (Path.cwd(), *(Path(p).expanduser() for p in allow)))
    folders.root.mkdir(parents=True, exist_ok=True)
    token = stored_token(folders.root)
    if not is_local(host):
        say(f"the studio listens on {host}: who has the address below can train, draw and read files in its folders")
    app = make_app(folders, token, () if is_local(host) else (host,))
    address = f"http://{f'[{host}]' if ':' in host else host}:{port}/?token={token}"
    say(f"open   {address}\nstop   Ctrl-C; trainings go on")
    if browser:
        webbrowser.open(address)
    config = uvicorn.Config(app, host=host, port=port, log_level="warning", timeout_graceful_shutdown=2)
    try:
        uvicorn.Server(config).run()
    except SystemExit:
        raise UnblotError(f"{arg('port', port)} of {host} cannot be used; choose another") from None


def stored_token(root: Path) -> str:
    """The token of the studio of these runs, which stays the same over restarts; only its owner can read the file."""
    path = root / TOKEN
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        with os.fdopen(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600), "w") as file:
            file.write(secrets.token_urlsafe(24))
    return path.read_text().strip()


async def _queue(root: Path) -> None:
    """Starts waiting jobs, also those that another studio left."""
    while True:
        with contextlib.suppress(UnblotError, OSError):
            await asyncio.to_thread(jobs.advance, root)
        await asyncio.sleep(LOOK)
