"""Requests made from a service's own description of itself: whatever fits it, or nearly fits it, is no 5xx.

`pytest --hypothesis-profile thousands -k no_error_of_the_server` makes thousands of them.
"""

from collections.abc import Mapping

import schemathesis
from fastapi import FastAPI
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

MODES = {"right": schemathesis.GenerationMode.POSITIVE, "wrong": schemathesis.GenerationMode.NEGATIVE}
REQUESTS = 15  # of each address and mode, in the whole suite


def questions(app: FastAPI) -> list[tuple[str, str]]:
    """Each address of a service, such as "GET /runs", to be asked right, and wrong where there is something to say."""
    found = []
    for path, methods in app.openapi()["paths"].items():
        for method, operation in methods.items():
            modes = MODES if operation.keys() & {"parameters", "requestBody"} else ["right"]
            found += [(f"{method.upper()} {path}", mode) for mode in modes]
    return found


def ask(app: FastAPI, address: str, mode: str, headers: Mapping[str, str], there: Mapping[str, str] = {}) -> None:
    """Requests to an address, half of them of things that are there, by the names in its path.

    None may be answered by an error of the server, and each refusal says why.
    """
    method, path = address.split()
    schema = schemathesis.openapi.from_asgi("/openapi.json", app, headers=dict(headers))
    cases = schema[path][method].as_strategy(generation_mode=MODES[mode])
    many = settings.get_current_profile_name() == "thousands"

    @settings(
        max_examples=settings().max_examples if many else REQUESTS,
        suppress_health_check=list(HealthCheck), phases=[Phase.generate], deadline=None,
    )  # fmt: skip
    @given(st.data())
    def requests(data: st.DataObject) -> None:
        case = data.draw(cases)
        case.headers = {**(case.headers or {}), **headers}
        if data.draw(st.booleans()):
            case.path_parameters = {n: there.get(n, v) for n, v in (case.path_parameters or {}).items()}
        answer = case.call()
        assert answer.status_code < 500, (address, case.body, answer.text)
        assert answer.status_code < 400 or "detail" in answer.json()

    requests()
