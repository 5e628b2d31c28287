"""No request of any form is answered by an error of the server."""

from pathlib import Path

import pytest
from fastapi import FastAPI

import unblot
from helpers import STUDIO_TOKEN, TINY_RUN
from openapi import ask, questions
from unblot.studio import jobs
from unblot.studio.api import Folders
from unblot.studio.app import make_app

HEADERS = {"Host": "127.0.0.1", "Authorization": f"Bearer {STUDIO_TOKEN}"}


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with one trained run, and one job of it."""
    root = tmp_path_factory.mktemp("studio")
    unblot.train("digits", out=root / "first", quiet=True, held_out_every=2, **{**TINY_RUN, "preview_every": 2})
    jobs.add(root, "sample", ["first"], "first")
    return root


def application(root: Path) -> FastAPI:
    return make_app(Folders(root, (root,)), STUDIO_TOKEN)


@pytest.mark.parametrize(("address", "mode"), questions(application(Path("nowhere"))))
def test_there_is_no_error_of_the_server(root: Path, address: str, mode: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_start", lambda root, job: None)
    ask(application(root), address, mode, HEADERS, {"name": "first", "id": jobs.jobs(root)[-1].job.id})
