"""Requests made from the service's own description of itself: whatever fits it, or nearly fits it, is no 5xx."""

import pytest
import schemathesis
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

import unblot
from unblot.config.serving import ServeConfig
from unblot.serving.app import create_app
from unblot.serving.models import load_models

REQUESTS = 15  # of each kind and address
HOST = {"Host": "127.0.0.1"}


@pytest.fixture(scope="module")
def app(tmp_path_factory):
    small = {"network": "mlp:width=16", "batch_size": 8, "steps": 1, "preview_every": 0, "held_out_every": 0}
    run = unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "digits", quiet=True, **small)
    return create_app(load_models([run.path], "cpu"), ServeConfig(most_steps=2, most_pictures=2))


RIGHT, WRONG = schemathesis.GenerationMode.POSITIVE, schemathesis.GenerationMode.NEGATIVE


POSTS, GETS = ["POST /samples", "POST /edit"], ["GET /models", "GET /metrics", "GET /healthz"]  # a GET has no body
KINDS = [*((address, RIGHT) for address in [*POSTS, *GETS]), *((address, WRONG) for address in POSTS)]


@pytest.mark.parametrize(("address", "mode"), KINDS)
def test_no_request_is_answered_by_an_error_of_the_server(app, address, mode):
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=HOST)
    method, path = address.split()
    cases = schema[path][method].as_strategy(generation_mode=mode)

    @settings(max_examples=REQUESTS, suppress_health_check=list(HealthCheck), phases=[Phase.generate], deadline=None)
    @given(st.data())
    def ask(data):
        case = data.draw(cases)
        case.headers = {**(case.headers or {}), **HOST}
        answer = case.call()
        assert answer.status_code < 500
        assert answer.status_code < 400 or "detail" in answer.json()

    ask()
