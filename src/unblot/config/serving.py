"""The choices of `unblot serve`."""

from dataclasses import dataclass

from unblot.config.options import MOST_STEPS, Checked, device_option, option


@dataclass(frozen=True, kw_only=True)
class ServeConfig(Checked):
    """Where a service listens, and what a request may cost."""

    host: str = option("address to listen on; any but this machine's own needs a token", "service", "ADDRESS",
                       default="127.0.0.1")  # fmt: skip
    port: int = option("port to listen on", "service", "N", low=0, high=65535, default=8000)
    token: str | None = option(
        "what clients must send, as Authorization: Bearer TOKEN (default: UNBLOT_TOKEN of the environment, or none)",
        "service",
        "TOKEN",
        default=None,
    )
    most_pictures: int = option("pictures that one request may ask for", "limits", "N", low=1, default=64)
    most_steps: int = option("steps that one request may ask for", "limits", "N", low=1, high=MOST_STEPS, default=250)
    queue: int = option("requests that may wait; further ones are told to come again", "limits", "N", low=1,
                        default=256)  # fmt: skip
    deadline: float = option("seconds after which a request is given up", "limits", "X", low=0.001, default=60.0)
    upload: int = option("megabytes of a request, a picture to edit in it", "limits", "N", low=1, default=16)
    batch_size: int = option("pictures computed together, of all clients", "run", "N", low=1, default=64)
    device: str = device_option("run")
