"""No request of any form is answered by an error of the server."""

import pytest
from fastapi import FastAPI

import unblot
from openapi import ask, questions
from unblot.config.serving import ServeConfig
from unblot.serving.app import create_app
from unblot.serving.models import load_models


@pytest.fixture(scope="module")
def app(tmp_path_factory: pytest.TempPathFactory) -> FastAPI:
    small = {"network": "mlp:width=16", "batch_size": 8, "steps": 1, "preview_every": 0, "held_out_every": 0}
    run = unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "digits", quiet=True, **small)
    return create_app(load_models([run.path], "cpu"), ServeConfig(most_steps=2, most_pictures=2))


@pytest.mark.parametrize(("address", "mode"), questions(create_app({}, ServeConfig())))
def test_there_is_no_error_of_the_server(app: FastAPI, address: str, mode: str) -> None:
    ask(app, address, mode, {"Host": "127.0.0.1"})
