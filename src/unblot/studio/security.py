"""Who may speak to a server on one's own machine: a token, the right Host and Origin, pages that load nothing else.

A page of another site can send requests to 127.0.0.1 (cross-site posts), and its name can be made to mean 127.0.0.1
(DNS rebinding). The token keeps the first out, the check of Host the second.
"""

import hmac
from html import escape
from http.cookies import CookieError, SimpleCookie
from urllib.parse import parse_qs, quote, urlencode

from starlette.responses import HTMLResponse, PlainTextResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from unblot.serving.guard import host_name, is_foreign, is_local

COOKIE = "unblot_{port}"  # browsers keep the cookies of all ports of a machine together
PAGE_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' data: blob:; connect-src 'self'; "
    "form-action 'self'; frame-src 'self'; frame-ancestors 'self'; base-uri 'none'"
)
REPORT_POLICY = (  # of a report, which holds its own styles, scripts and pictures: without the rights of the page
    "sandbox; default-src 'none'; style-src 'unsafe-inline'; img-src data:"
)
SAFE = ("GET", "HEAD")


class Guard:
    """An ASGI middleware: 403 for a foreign Host or Origin, 401 without the token, and the headers of every answer.

    The token comes in the printed address once (`?token=`), then as a cookie that no other site's page can use, or in
    `Authorization: Bearer`. host: the address that is listened on; one that other machines reach is called by names
    that nobody knows beforehand, and there the token alone decides.
    """

    def __init__(self, app: ASGIApp, token: str, host: str):
        self.app, self.token, self.any_host = app, token, not is_local(host)

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        if scope["type"] != "http":
            await self.app(scope, receive, send)
            return
        headers = {key.decode("latin-1").lower(): value.decode("latin-1") for key, value in scope["headers"]}
        answer = self._refusal(scope, headers)
        await (answer or self.app)(scope, receive, _with_headers(send))

    def _refusal(self, scope: Scope, headers: dict[str, str]) -> ASGIApp | None:
        """The answer to a request that may not pass, or to the first one, whose token becomes a cookie."""
        host = headers.get("host", "")
        if not (self.any_host or is_local(host_name(host))):
            return PlainTextResponse("403: this server is not called by this name", 403)
        if is_foreign(headers.get("origin"), host):
            return PlainTextResponse("403: a page of another site asked", 403)
        query = parse_qs(scope["query_string"].decode("latin-1"))
        given = query.pop("token", [""])[0]
        cookie = COOKIE.format(port=scope["server"][1])
        if given and self._right(given) and scope["method"] in SAFE:
            rest = urlencode(query, doseq=True)
            answer = HTMLResponse(redirecting(quote(scope["path"]) + (f"?{rest}" if rest else "")))
            answer.set_cookie(cookie, self.token, httponly=True, samesite="strict")
            return answer
        bearer = headers.get("authorization", "").removeprefix("Bearer ")
        if self._right(bearer) or self._right(_cookie(headers.get("cookie", ""), cookie)):
            return None
        return PlainTextResponse("401: open the address that `unblot studio` printed, with its token", 401)

    def _right(self, token: str) -> bool:
        return hmac.compare_digest(token.encode(), self.token.encode())


def redirecting(address: str) -> str:
    """A page that goes on to an address by itself. A browser sends our cookie where a page of ours leads, but not where
    a redirect does that began in a file or on another site."""
    return (
        f'<!doctype html><link rel="icon" href="data:,"><meta http-equiv="refresh" content="0; url={escape(address)}">'
    )


def _cookie(text: str, name: str) -> str:
    try:
        found = SimpleCookie(text).get(name)
    except CookieError:
        return ""
    return found.value if found else ""


def _with_headers(send: Send) -> Send:
    async def sent(message: Message) -> None:
        if message["type"] == "http.response.start":
            there = {key.lower() for key, _ in message["headers"]}
            wanted = {
                b"content-security-policy": PAGE_POLICY.encode(),
                b"x-content-type-options": b"nosniff",
                b"referrer-policy": b"no-referrer",
                b"cache-control": b"no-store",
            }
            message["headers"] = [*message["headers"], *((k, v) for k, v in wanted.items() if k not in there)]
        await send(message)

    return sent
