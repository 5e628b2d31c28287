"""The service itself: its addresses, and what they answer."""

import asyncio
import time
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from typing import Any

from fastapi import FastAPI, HTTPException, Request, Response
from fastapi.exceptions import RequestValidationError
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.concurrency import run_in_threadpool

from unblot._version import __version__
from unblot.config.serving import ServeConfig
from unblot.errors import UnblotError, command_line
from unblot.serving.answers import JSON, NPY, PNG, Ascii, Drawn, accepted, encoded
from unblot.serving.guard import Guard
from unblot.serving.metrics import Metrics
from unblot.serving.models import Model, UnknownModel, chosen
from unblot.serving.queue import Check, Full, Job, Late, Queue
from unblot.serving.requests import Choices, EditRequest, SampleRequest

ERROR = {"content": {JSON: {"schema": {"type": "object", "properties": {"detail": {"type": "string"}}}}}}
ERRORS: dict[int | str, dict[str, Any]] = {
    400: {"description": "no valid JSON", **ERROR},
    401: {"description": "the token is missing or wrong", **ERROR},
    403: {"description": "Host or Origin is another site's", **ERROR},
    404: {"description": "no such model", **ERROR},
    406: {"description": "no media type that Accept allows", **ERROR},
    413: {"description": "the request is too large", **ERROR},
    422: {"description": "a choice that this service or this model cannot use", **ERROR},
    429: {"description": "the queue is full; Retry-After says in how many seconds to come again", **ERROR},
    504: {"description": "not done within the deadline", **ERROR},
}
CLOSED = 499  # of a client that has closed its connection, in the counts; it hears of nothing
BINARY = {"schema": {"type": "string", "format": "binary"}}
PICTURES: dict[int | str, dict[str, Any]] = {
    200: {"description": "the pictures", "content": {PNG: BINARY, NPY: BINARY, JSON: {"schema": {}}}}
}


class Service:
    """The models, the queue in front of them, and the counts."""

    def __init__(self, models: dict[str, Model], config: ServeConfig):
        self.models, self.config = models, config
        self.metrics = Metrics(lambda: len(self.queue))
        self.queue = Queue(config.queue, config.batch_size, self.metrics.batch.observe)

    async def draw(
        self, request: Request, asked: Choices, check: Callable[..., Any], job: Callable[..., Any]
    ) -> Response:
        """The answer to a request for pictures. check: (model, asked) -> what is computed, in a thread.

        job: (model, checked) -> (key, compute). The event loop waits, and computes nothing.
        """
        kind = accepted(request.headers.get("accept", "*/*"))
        if kind is None:
            raise HTTPException(406, f"pictures come as {PNG}, {NPY} or {JSON}; accept one of them")
        model = chosen(self.models, asked.model)
        checked = await run_in_threadpool(check, model, asked)
        key, compute = job(model, checked)

        def encoding(calls: Sequence[Any], check: Check) -> list[Any]:
            return [self._body(model, result, kind) for result in compute(calls, check)]

        waiting = Job((key, kind), asked.count, checked, encoding, time.monotonic() + self.config.deadline)
        self.queue.put(waiting)
        try:
            body = await self._answer(request, waiting)
        except Late:
            raise HTTPException(504, f"not done within {self.config.deadline:g} s; ask for less, or later") from None
        if body is None:
            return Response(status_code=CLOSED)
        return Response(body, media_type=kind, headers={"Cache-Control": "no-store"})

    async def _answer(self, request: Request, waiting: Job) -> bytes | None:
        """The result of a job; None where the client has gone before it. Raises Late at the deadline."""
        answer, gone = asyncio.wrap_future(waiting.future), asyncio.create_task(_disconnected(request))
        try:
            await asyncio.wait((answer, gone), timeout=self.config.deadline, return_when=asyncio.FIRST_COMPLETED)
            if answer.done():
                return answer.result()
            if not gone.done():
                raise Late
            return None
        finally:  # what nobody waits for is not computed
            waiting.left.set()
            answer.cancel()
            gone.cancel()

    def _body(self, model: Model, result: Any, kind: str) -> bytes | Exception:
        if isinstance(result, Exception):
            return result
        drawn = Drawn.of(result)
        self.metrics.pictures.labels(model.name).inc(len(drawn.array))
        return encoded(drawn, kind)


async def _disconnected(request: Request) -> None:
    """Returns when the client has closed its connection."""
    while (await request.receive())["type"] != "http.disconnect":
        pass


def create_app(models: dict[str, Model], config: ServeConfig) -> FastAPI:
    """The ASGI application that serves these models."""
    service = Service(models, config)

    @asynccontextmanager
    async def life(app: FastAPI) -> AsyncIterator[None]:
        yield
        await run_in_threadpool(service.queue.end)

    app = FastAPI(title="unblot", version=__version__, lifespan=life, docs_url=None, redoc_url=None)
    app.state.service = service
    _add_errors(app)
    _add_addresses(app, service)
    _add_counting(app, service)
    app.add_middleware(Guard, host=config.host, token=config.token, most=config.upload * 2**20)
    return app


def _add_addresses(app: FastAPI, service: Service) -> None:
    limits = service.config

    @app.post("/samples", responses={**PICTURES, **ERRORS}, response_class=Response)
    async def samples(request: Request, asked: SampleRequest) -> Response:
        """New pictures. Picture i of a seed is that of `unblot sample`, whatever else is computed with it."""
        return await service.draw(
            request, asked, lambda model, a: model.call(a, limits), lambda model, call: (model.key(call), model.sample)
        )

    @app.post("/edit", responses={**PICTURES, **ERRORS}, response_class=Response)
    async def edit(request: Request, asked: EditRequest) -> Response:
        """An edit of a picture, as `unblot edit` makes it."""
        return await service.draw(
            request, asked, lambda model, a: model.checked_edit(a, limits), lambda model, a: (object(), model.edit)
        )

    refusals: dict[int | str, dict[str, Any]] = {k: ERRORS[k] for k in (401, 403)}

    @app.get("/models", responses=refusals, response_class=Ascii)
    async def models() -> Response:
        """What is served, and the limits of a request."""
        about = [model.about() for model in service.models.values()]
        return Ascii({"models": about, "most_pictures": limits.most_pictures, "most_steps": limits.most_steps})

    @app.get("/healthz", responses={403: ERRORS[403]}, response_class=Ascii)
    async def healthz() -> Response:
        """Whether the service is there."""
        return Ascii({"status": "ok"})

    @app.get("/metrics", responses=refusals, response_class=Response)
    async def metrics() -> Response:
        """Counts and times, for Prometheus."""
        return Response(generate_latest(service.metrics.registry), media_type=CONTENT_TYPE_LATEST)


def _add_errors(app: FastAPI) -> None:
    def line(status: int, detail: str, headers: dict[str, str] | None = None) -> Response:
        return Ascii({"detail": detail}, status, headers)

    @app.exception_handler(UnblotError)
    async def refused(request: Request, error: UnblotError) -> Response:
        return line(404 if isinstance(error, UnknownModel) else 422, str(error))

    @app.exception_handler(RequestValidationError)
    async def invalid(request: Request, error: RequestValidationError) -> Response:
        if "json" not in request.headers.get("content-type", ""):
            return line(422, "send the request as JSON, with the header Content-Type: application/json")
        return line(422, "; ".join(_where(e) + e["msg"] for e in error.errors()[:5]))

    @app.exception_handler(Full)
    async def full(request: Request, error: Full) -> Response:
        return line(429, str(error), {"Retry-After": str(error.seconds)})


def _where(error: dict[str, Any]) -> str:
    """The field that an error is about."""
    names = [
        str(part) for part in error["loc"] if part != "body" and not str(part).startswith(("constrained", "function"))
    ]
    return f"{names[0]}: " if names else ""


def _add_counting(app: FastAPI, service: Service) -> None:
    @app.middleware("http")
    async def counted(request: Request, call_next: Callable[..., Any]) -> Response:
        start = time.perf_counter()
        with command_line(False):  # messages name fields, not flags
            response = await call_next(request)
        known = (
            request.url.path
            if request.url.path in {"/samples", "/edit", "/models", "/healthz", "/metrics"}
            else "other"
        )
        service.metrics.requests.labels(known, str(response.status_code)).inc()
        service.metrics.seconds.labels(known).observe(time.perf_counter() - start)
        return response
