"""A server on a port of this machine: bound before anything is said of it, and ended well by SIGTERM and Ctrl-C."""

import signal
import socket

import uvicorn

from unblot.errors import UnblotError, arg

EVERYWHERE = ("", "0.0.0.0", "::")  # hosts that stand for all addresses of this machine, and can be opened nowhere


def listen(settings: uvicorn.Config) -> tuple[socket.socket, str]:
    """The socket that a server with these settings is to use, and its address, such as http://127.0.0.1:8000.

    That of a server that listens everywhere has the name of this machine, by which others call it. Raises UnblotError
    where the port cannot be had. Port 0 is any that is free.
    """
    try:
        found = settings.bind_socket()
    except (SystemExit, OSError):
        raise UnblotError(f"{arg('port', settings.port)} of {settings.host} cannot be had; give another") from None
    found.listen(settings.backlog)  # who comes before the server is up waits for it
    host = socket.gethostname() if settings.host in EVERYWHERE else settings.host
    host = f"[{host}]" if ":" in host else host
    return found, f"http://{host}:{found.getsockname()[1]}"


def run_until_stopped(settings: uvicorn.Config, place: socket.socket) -> None:
    """Serves until SIGTERM or SIGINT; then what was begun is answered, and the call returns."""
    for stop in (signal.SIGTERM, signal.SIGINT):  # uvicorn raises it again at the end, when all is done
        signal.signal(stop, lambda *_: None)
    uvicorn.Server(settings).run(sockets=[place])
