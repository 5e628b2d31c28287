"""Pages that change while a job goes on: each part is sent when it is another one, and the stream ends."""

import asyncio
from collections.abc import Callable
from pathlib import Path

import pytest
from starlette.testclient import TestClient

import unblot
from helpers import STUDIO_TOKEN, TINY_RUN
from unblot.errors import UnblotError
from unblot.studio import jobs, live
from unblot.studio.api import Folders
from unblot.studio.app import make_app
from unblot.studio.live import Look
from unblot.studio.pages import job_values, live_values, parts
from unblot.system.folders import locked


class Connected:
    """A request of a client that stays."""

    async def is_disconnected(self) -> bool:
        return False


def sent(look: Callable[[], Look]) -> list[str]:
    """The events of a look, until the stream ends by itself."""

    async def all_of() -> list[str]:
        return [event async for event in live.events(Connected(), look)]  # type: ignore[arg-type]

    return asyncio.run(all_of())


def test_a_part_is_sent_when_it_is_another_one_and_the_stream_ends(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "TICK", 0)
    seen = iter(
        [Look({"a": "1", "b": "x\ny"}, False), Look({"a": "1", "b": "z"}, False), Look({"a": "2", "b": "z"}, True)]
    )
    assert sent(lambda: next(seen)) == [
        "event: a\ndata: 1\n\n",
        "event: b\ndata: x\ndata: y\n\n",
        "event: b\ndata: z\n\n",
        "event: a\ndata: 2\n\n",
        "event: end\ndata: \n\n",
    ]

    def removed() -> Look:
        raise UnblotError("there is no run")

    assert sent(removed) == ["event: end\ndata: \n\n"]


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained run, `first`."""
    root = tmp_path_factory.mktemp("studio")
    unblot.train("digits", out=root / "first", quiet=True, held_out_every=2, **{**TINY_RUN, "preview_every": 2})
    return root


def test_only_what_goes_on_is_followed(root: Path) -> None:
    app = TestClient(make_app(Folders(root, (root,)), STUDIO_TOKEN), "http://127.0.0.1")
    app.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    assert "data-watch" not in app.get("/runs/first").text
    assert app.get("/live/runs/first").text.endswith("event: end\ndata: \n\n")
    assert app.get("/live/runs/other").status_code == 404
    with locked(root / "first"):
        assert 'data-watch="/live/runs/first"' in app.get("/runs/first").text


def test_a_training_that_waits_keeps_the_page_of_its_run_open(root: Path) -> None:
    assert live_values(root / "first")["over"]
    job = jobs.add(root, "train", [], "first")
    assert not live_values(root / "first")["over"]
    jobs.stop(root, job.id)
    assert live_values(root / "first")["over"]


def test_a_job_that_is_being_stopped_has_no_button_any_more(root: Path) -> None:
    def state() -> str:
        return parts("live_job.html", **job_values(root, job.id))["state"]

    job = jobs.add(root, "sample", [])
    folder = root / jobs.JOBS / job.id
    (folder / jobs.STARTED).write_text("999999999")
    with locked(folder):
        assert "Stop</button>" in state()
        jobs.stop(root, job.id)  # there is no such process
        assert "It is being stopped." in state()
        assert "<form" not in state()


def test_every_part_of_a_page_has_its_place_there(root: Path) -> None:
    app = TestClient(make_app(Folders(root, (root,)), STUDIO_TOKEN), "http://127.0.0.1")
    app.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    found = parts("live_run.html", **live_values(root / "first"))
    assert set(found) == {"progress", "notes", "loss", "levels", "previews"}
    assert "step_00000004.png" in found["previews"]
    assert "<svg" in found["loss"]
    assert "<svg" in found["levels"]
    job = jobs.add(root, "train", [], "not-yet")  # whose run is not there
    page, stopped = app.get(f"/jobs/{job.id}").text, jobs.stop(root, job.id)
    assert stopped is None
    for name in (*found, "state", "picture", "output", "report"):
        assert f'data-part="{name}"' in page
    told = app.get(f"/live/jobs/{job.id}").text
    assert {line.removeprefix("event: ") for line in told.splitlines() if line.startswith("event: ")} == {
        *found, "state", "picture", "output", "report", "end",
    }  # fmt: skip
