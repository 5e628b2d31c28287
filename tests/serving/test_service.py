"""The service: each picture is that of `unblot sample`, whatever else is asked; limits, deadlines, who may ask."""

import asyncio
import base64
import io
import json
import threading
from concurrent.futures import ThreadPoolExecutor

import numpy as np
import pytest
from fastapi.testclient import TestClient
from PIL import Image
from prometheus_client.parser import text_string_to_metric_families

import unblot
from helpers import captioned_folder, shaken
from unblot.config.serving import ServeConfig
from unblot.editing.files import edit_files
from unblot.errors import UnblotError
from unblot.runs.folder import MODEL, save_model
from unblot.runs.labels import choose_labels
from unblot.runs.samples import Samples
from unblot.serving.answers import accepted
from unblot.serving.app import create_app
from unblot.serving.guard import check_token
from unblot.serving.models import load_models
from unblot.serving.queue import Job, Late, Queue

AS_JSON = {"Content-Type": "application/json"}
HOME = "http://127.0.0.1:8000"
SMALL = {
    "network": "unet:width=16,multipliers=1,blocks=1",
    "batch_size": 8,
    "quiet": True,
    "steps": 2,
    "preview_every": 0,
    "held_out_every": 0,
}
PROMPTS = ["a red picture", "a dark picture"]


def trained(data, out):
    """A run in which labels and text matter: its zeros are made small numbers, as training does slowly."""
    more = {} if data == "digits" else {"text_encoder": "transformer:width=32,depth=1"}
    run = shaken(unblot.train(data, out=out, **SMALL, **more))
    save_model(run.path / MODEL, run.config, run.denoiser.state_dict())
    return run.path


@pytest.fixture(scope="module")
def digits(tmp_path_factory):
    return trained("digits", tmp_path_factory.mktemp("runs") / "digits")


@pytest.fixture(scope="module")
def words(tmp_path_factory):
    folder = captioned_folder(tmp_path_factory.mktemp("data"), (8, 8), PROMPTS)
    return trained(folder, tmp_path_factory.mktemp("runs") / "words")


def client(*runs, **limits):
    """A client of a service in this process."""
    app = create_app(load_models(runs, "cpu"), ServeConfig(most_steps=20, **limits))
    return TestClient(app, base_url=HOME)


@pytest.fixture(scope="module")
def asking(digits, words):
    with client(digits, words) as there:
        yield there


def held(there) -> threading.Event:
    """Lets the service's thread wait, so that requests gather, until the event is set."""
    go, begun = threading.Event(), threading.Event()

    def wait(asked, check):
        begun.set()
        go.wait(10)
        return asked

    there.app.state.service.queue.put(Job(object(), 1, None, wait, float("inf")))
    begun.wait(10)
    return go


def together(there, bodies, accept="image/png"):
    """The answers to requests that wait for one another in the queue."""
    go, queue = held(there), there.app.state.service.queue
    with ThreadPoolExecutor(len(bodies)) as pool:
        answers = [pool.submit(there.post, "/samples", json=body, headers={"Accept": accept}) for body in bodies]
        for _ in range(1000):
            if len(queue) == len(bodies):
                break
            threading.Event().wait(0.01)
        go.set()
        return [answer.result() for answer in answers]


def batches(there) -> tuple[float, float]:
    """The number of batches computed, and of pictures in them."""
    metrics = {m.name: m for m in text_string_to_metric_families(there.get("/metrics").text)}
    values = {s.name: s.value for s in metrics["unblot_batch_pictures"].samples}
    return values["unblot_batch_pictures_count"], values["unblot_batch_pictures_sum"]


def test_eight_clients_at_once_get_the_very_files_that_sampling_writes(asking, digits, tmp_path):
    bodies = [
        {"model": "digits", "seed": seed, "first": seed % 3, "steps": 4, "label": label, "guidance": 1}
        for seed, label in enumerate([3, None, "7", "all", None, 0, 9, 1])
    ]
    before = batches(asking)
    answers = together(asking, bodies)
    count, pictures = (after - earlier for after, earlier in zip(batches(asking), before))
    assert (count, pictures) == (2, 1 + 8)  # the job that held the thread; all others
    for body, answer in zip(bodies, answers):
        choices = {k: body[k] for k in ("seed", "first", "steps", "label", "guidance")}
        samples = unblot.load(digits, "cpu").sample(1, **choices)
        samples.save_files(tmp_path)
        assert answer.content == (tmp_path / f"{body['first']:06d}.png").read_bytes()


@pytest.mark.parametrize("solver", ["ddpm", "heun", "dpmpp_2m_sde"])
def test_prompts_and_guidance_of_others_change_no_picture(asking, words, solver):
    asked = [*PROMPTS, None, [PROMPTS[1], ""]]
    bodies = [{"model": "words", "seed": 5, "count": 2, "steps": 3, "prompt": p, "solver": solver} for p in asked]
    bodies += [{**body, "guidance": 2.0} for body in bodies if body["prompt"]]
    run = unblot.load(words, "cpu")
    for body, answer in zip(bodies, together(asking, bodies, "application/x-npy")):
        choices = {k: body[k] for k in ("seed", "steps", "prompt", "solver")}
        alone = run.sample(2, **choices, guidance=body.get("guidance"))
        assert np.array_equal(np.load(io.BytesIO(answer.content)), alone.array), body


def test_json_holds_files_and_what_made_them(asking, digits):
    answer = asking.post(
        "/samples",
        json={"model": "digits", "count": 3, "steps": 2, "label": [4, 5]},
        headers={"Accept": "text/json, */*;q=0.1, application/json"},
    )
    pictures = answer.json()["pictures"]
    samples = unblot.load(digits, "cpu").sample(3, steps=2, label=[4, 5])
    assert [p["about"] for p in pictures] == [samples.about(i) for i in range(3)]
    arrays = [np.asarray(Image.open(io.BytesIO(base64.b64decode(p["data"])))) for p in pictures]
    assert np.array_equal(arrays, samples.array[:, 0])


def test_an_edit_is_that_of_the_command(asking, digits, tmp_path):
    run = unblot.load(digits, "cpu")
    run.sample(1, steps=2).save_files(tmp_path)
    picture = (tmp_path / "000000.png").read_bytes()
    body = {"model": "digits", "kind": "img2img", "strength": 0.5, "steps": 4, "count": 2, "seed": 3}
    answer = asking.post(
        "/edit", json={**body, "picture": base64.b64encode(picture).decode()}, headers={"Accept": "application/x-npy"}
    )
    edited = edit_files(run, "img2img", [tmp_path / "000000.png"], strength=0.5, steps=4, n=2, seed=3)
    assert np.array_equal(np.load(io.BytesIO(answer.content)), edited.array[0])


@pytest.mark.parametrize(
    ("body", "word"),
    [
        ({"count": 65}, "count=65 is too many; give 64"),
        ({"steps": 21}, "steps=21 are too many; give 20"),
        ({"steps": 0}, "steps: Input should be greater than or equal to 1"),
        ({"label": "cat"}, "no class 'cat'"),
        ({"label": "²"}, "no class '²'"),
        ({"prompt": "a cat"}, "trained without captions"),
        ({"solver": "euler:x=1"}, "solver: choose one of ddpm, ddim"),
        ({"autoguide": "/etc/passwd"}, "autoguide: Extra inputs are not permitted"),
        ({"seed": -1}, "seed: Input should be greater"),
        ({"prompt": "\ud800"}, "prompt"),
    ],
)  # fmt: skip
def test_what_cannot_be_is_told_in_a_line(asking, body, word):
    answer = asking.post("/samples", content=json.dumps({"model": "digits", **body}), headers=AS_JSON)
    assert answer.status_code == 422
    assert word in answer.json()["detail"]


@pytest.mark.parametrize("name", ["nobody", "../words", "/etc", "", None])
def test_a_model_is_one_that_is_served(asking, name):
    answer = asking.post("/samples", json={"model": name})
    assert answer.status_code == 404
    assert "choose one of digits, words" in answer.json()["detail"]


def test_uploaded_bytes_of_no_type_are_refused(asking):
    for content, word in ((b"/etc/passwd", "no PNG, JPEG"), (b"\x89PNG\r\n\x1a\n....", "cannot read 'picture.png'")):
        body = {"model": "digits", "kind": "img2img", "picture": base64.b64encode(content).decode()}
        answer = asking.post("/edit", json={**body, "steps": 2})
        assert (answer.status_code, word in answer.json()["detail"]) == (422, True), answer.text


def test_a_full_queue_says_when_to_come_again(digits):
    with client(digits, queue=1) as there:
        go = held(there)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(there.post, "/samples", json={"steps": 2})
            while len(there.app.state.service.queue) < 1:
                threading.Event().wait(0.01)
            answer = there.post("/samples", json={"steps": 2})
            go.set()
            assert waits.result().status_code == 200
        assert answer.status_code == 429
        assert int(answer.headers["Retry-After"]) >= 1


def test_a_request_is_given_up_at_its_deadline_and_the_next_is_served(digits):
    with client(digits, deadline=0.2) as there:
        go = held(there)
        assert there.post("/samples", json={"steps": 2}).status_code == 504
        go.set()
        there.app.state.service.queue.end()  # what was given up is not computed
        assert batches(there)[1] == 1


def test_nothing_is_computed_for_a_client_that_has_gone(digits):
    with client(digits) as there:
        queue, go, told = there.app.state.service.queue, held(there), []
        body = [{"type": "http.request", "body": b'{"steps": 2}'}]

        async def receive():
            if body:
                return body.pop()
            while not len(queue):
                await asyncio.sleep(0.01)
            return {"type": "http.disconnect"}

        async def send(message):
            told.append(message)

        headers = [(b"host", HOME.removeprefix("http://").encode()), (b"content-type", b"application/json")]
        scope = {"type": "http", "http_version": "1.1", "method": "POST", "path": "/samples", "query_string": b""}
        scope |= {"headers": headers, "server": ("127.0.0.1", 8000), "scheme": "http"}
        asyncio.run(there.app(scope, receive, send))
        assert [message["status"] for message in told if "status" in message] in ([], [499])
        go.set()
        queue.end()
        assert batches(there)[1] == 1, "the job that held the thread alone"


def test_a_computation_is_given_up_when_all_its_clients_have_gone():
    begun = threading.Event()

    def endless(asked, check):
        begun.set()
        while True:
            check()
            threading.Event().wait(0.001)

    queue, job = Queue(1, 1), Job("key", 1, None, endless, float("inf"))
    queue.put(job)
    begun.wait(10)
    job.left.set()
    with pytest.raises(Late):
        job.future.result(10)
    queue.end()


def test_a_sheet_is_made_only_where_it_is_the_answer(digits, monkeypatch):
    monkeypatch.setattr(Samples, "grid", lambda samples: 1 / 0)
    with client(digits) as there:
        for count, accept in ((1, "image/png"), (2, "application/x-npy"), (2, "application/json")):
            answer = there.post("/samples", json={"steps": 1, "count": count}, headers={"Accept": accept})
            assert answer.status_code == 200


def test_what_waits_at_the_end_is_computed(digits):
    there = client(digits)
    with there:
        go = held(there)
        with ThreadPoolExecutor(1) as pool:
            waits = pool.submit(there.post, "/samples", json={"steps": 2})
            while len(there.app.state.service.queue) < 1:
                threading.Event().wait(0.01)
            ends = threading.Thread(target=there.app.state.service.queue.end)
            ends.start()
            go.set()
            assert waits.result().status_code == 200
        ends.join()


def test_who_may_ask(digits):
    secret = "a secret of many letters"
    with client(digits, token=secret, upload=1) as there:
        token = {"Authorization": f"Bearer {secret}"}
        assert there.get("/healthz").status_code == 200
        assert there.get("/models").status_code == 401
        assert there.get("/models", headers={"Authorization": "Bearer other"}).status_code == 401
        assert there.get("/models", headers=token).json()["models"][0]["classes"] == [str(i) for i in range(10)]
        assert there.get("/models", headers={**token, "Host": "evil.example"}).status_code == 403
        assert there.get("/models", headers={**token, "Origin": "http://evil.example"}).status_code == 403
        assert there.get("/models", headers={**token, "Origin": HOME}).status_code == 200
        assert there.post("/samples", content=b" " * 2**21, headers={**token, **AS_JSON}).status_code == 413
        assert there.post("/samples", content=iter([b" " * 2**20] * 2), headers={**token, **AS_JSON}).status_code == 413


def test_a_service_for_others_needs_a_token_that_cannot_be_guessed():
    check_token("127.0.0.1", None)
    check_token("0.0.0.0", "0123456789abcdef")
    for host, token in (("0.0.0.0", None), ("192.168.0.7", None), ("localhost", "short")):
        with pytest.raises(UnblotError, match="token="):
            check_token(host, token)


@pytest.mark.parametrize(
    ("accept", "kind"),
    [
        ("*/*", "image/png"), ("image/*", "image/png"), ("application/json", "application/json"),
        ("image/png;q=0.1, application/x-npy", "application/x-npy"), ("text/html", None), ("image/png;q=0", None),
        ("*/*;q=0.5, image/png;q=0", "application/x-npy"), (";;q=x,", None),
    ],
)  # fmt: skip
def test_the_media_type_is_the_one_preferred(accept, kind):
    assert accepted(accept) == kind


def test_a_class_is_not_named_by_a_digit_that_is_no_number():
    with pytest.raises(UnblotError, match="no class"):
        choose_labels("²", ["a", "b", "c"], range(2))
