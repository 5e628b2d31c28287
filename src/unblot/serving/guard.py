"""Who may ask: Host and Origin, the token, and the size of a request, checked before anything is read.

A web page in the browser of the machine that serves can send requests to it. Its Origin tells, and where its name was
pointed at this machine (DNS rebinding) its Host tells.
"""

import hmac
import ipaddress
from collections.abc import Sequence
from contextlib import suppress
from urllib.parse import urlsplit

from starlette.requests import ClientDisconnect
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unblot.errors import UnblotError, arg
from unblot.serving.answers import Ascii

LOCAL = ("localhost", "127.0.0.1", "::1")
OPEN = ("/healthz",)  # answers without a token: it says nothing but that the service is there
LEAST = 16  # characters of a token


def is_local(host: str) -> bool:
    """Whether the address is one of this machine alone."""
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def check_token(host: str, token: str | None) -> None:
    """Raises UnblotError for a service that others can reach without a token, and for a token that can be guessed."""
    if token is None and not is_local(host):
        raise UnblotError(
            f"{arg('host', host)} lets other machines ask this one for pictures, at its cost; give {arg('token')} and "
            f"a secret of {LEAST} characters or more, which clients must send"
        )
    if token is not None and (len(token) < LEAST or not token.isascii() or not token.isprintable()):
        raise UnblotError(
            f"{arg('token')} must be {LEAST} or more letters, digits and signs of ASCII; give a longer one"
        )


class Guard:
    """The application behind the checks: 403 for another Host or Origin, 401 without the token, 413 for too much.

    host: the address that is listened on. most: bytes of a request's body.
    """

    def __init__(self, app: ASGIApp, host: str, token: str | None, most: int):
        self.app, self.token, self.most = app, token, most
        self.hosts: Sequence[str] | None = (*LOCAL, host) if is_local(host) else None  # None: the token decides

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            return await self.app(scope, receive, send)
        headers = {name.lower(): value.decode("latin-1") for name, value in scope["headers"]}
        refused = self._refused(scope["path"], headers)
        if refused is not None:
            return await refused(scope, receive, send)
        read = 0

        async def limited() -> Message:
            nonlocal read
            message = await receive()
            read += len(message.get("body", b""))
            return message if read <= self.most else {"type": "http.disconnect"}

        async def answered(message: Message) -> None:
            if read <= self.most:
                await send(message)

        with suppress(ClientDisconnect):
            await self.app(scope, limited, answered)
        if read > self.most:
            await self._too_large()(scope, receive, send)

    def _too_large(self) -> Ascii:
        return Ascii({"detail": f"the request is larger than {self.most} bytes"}, 413)

    def _refused(self, path: str, headers: dict[bytes, str]) -> Ascii | None:
        """The answer to a request that is not let through."""
        host, origin = headers.get(b"host", ""), headers.get(b"origin")
        if self.hosts is not None and host_name(host) not in self.hosts:
            return Ascii({"detail": f"Host {host!r} is not this service"}, 403)
        if is_foreign(origin, host):
            return Ascii({"detail": f"Origin {origin!r} is another site"}, 403)
        if self.token is not None and path not in OPEN:
            scheme, _, given = headers.get(b"authorization", "").partition(" ")
            right = hmac.compare_digest(given.strip().encode("latin-1"), self.token.encode())
            if scheme.lower() != "bearer" or not right:
                return Ascii(
                    {"detail": "send the header Authorization: Bearer TOKEN"}, 401, {"WWW-Authenticate": "Bearer"}
                )
        length = headers.get(b"content-length", "0")
        if not length.isdecimal() or int(length[:20]) > self.most:
            return self._too_large()
        return None


def is_foreign(origin: str | None, host: str) -> bool:
    """Whether an Origin header, None where there is none, is another site's than the Host header, or no address."""
    if origin is None:
        return False
    try:
        return origin == "null" or urlsplit(origin).netloc.lower() != host.lower()
    except ValueError:
        return True


def host_name(host: str) -> str:
    """The name in a Host header, without its port; empty for what is no name."""
    try:
        return urlsplit(f"//{host}").hostname or ""
    except ValueError:
        return ""
