"""Pages that change while a job goes on: their parts are sent again, as server-sent events."""

import asyncio
from collections.abc import AsyncIterator, Callable
from typing import NamedTuple

from fastapi import Request
from fastapi.responses import StreamingResponse

from unblot.errors import UnblotError

TICK = 0.5  # seconds between two looks at files that grow
END = "end"  # the event after which nothing comes: a browser has six connections for all its tabs


class Look(NamedTuple):
    """What is to be seen: the parts of a page by name, as HTML, and whether nothing of it will change any more."""

    parts: dict[str, str]
    over: bool


async def events(request: Request, look: Callable[[], Look]) -> AsyncIterator[str]:
    """Server-sent events: each part at once and whenever it is another one, and END after the last change."""
    sent: dict[str, str] = {}
    over = False
    while not over and not await request.is_disconnected():
        try:
            parts, over = await asyncio.to_thread(look)
        except UnblotError:  # it was removed
            parts, over = {}, True
        for name, text in parts.items():
            if sent.get(name) != text:
                sent[name] = text
                yield _event(name, text)
        if not over:
            await asyncio.sleep(TICK)
    if over:
        yield _event(END, "")


def _event(name: str, text: str) -> str:
    return f"event: {name}\n" + "".join(f"data: {line}\n" for line in text.split("\n")) + "\n"


def stream(request: Request, look: Callable[[], Look]) -> StreamingResponse:
    """An answer that goes on: see `events`."""
    return StreamingResponse(events(request, look), media_type="text/event-stream")
