"""`unblot serve`: the service on a port, until it is told to stop."""

import os
import warnings
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import uvicorn

from unblot.config.choices import from_choices
from unblot.config.serving import ServeConfig
from unblot.errors import UnblotError, UnblotNote, arg
from unblot.serving.app import create_app
from unblot.serving.guard import check_token
from unblot.serving.listening import listen, run_until_stopped
from unblot.serving.models import load_models

TOKEN = "UNBLOT_TOKEN"


def serve(runs: Sequence[str | Path], *, report: Callable[[str], None] = lambda line: None, **choices: Any) -> None:
    """Serves runs until SIGTERM or SIGINT; then it answers what it has taken on, and returns.

    choices: fields of `ServeConfig`. report: gets a line once the service listens. Raises UnblotError for an address
    that cannot be had, and for one that other machines reach without a token.
    """
    config = from_choices(ServeConfig, choices)
    config = replace(config, token=config.token or os.environ.get(TOKEN) or None)
    check_token(config.host, config.token)
    if config.most_pictures > config.batch_size:
        raise UnblotError(
            f"{arg('most_pictures', config.most_pictures)} is more than {arg('batch_size', config.batch_size)}, which "
            "are computed together; give a larger one"
        )
    app = create_app(load_models(runs, config.device), config)
    settings = uvicorn.Config(app, config.host, config.port, log_level="error", access_log=False, server_header=False)
    place, address = listen(settings)
    report(address)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", UnblotNote)  # about the prompts of clients
        run_until_stopped(settings, place)
