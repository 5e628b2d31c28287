"""Both services as they are run: a free port, a request, and an end by SIGTERM that is no failure."""

import json
import os
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from urllib.request import Request, urlopen

import pytest

import unblot
from helpers import TINY_RUN


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return unblot.train("digits", out=tmp_path_factory.mktemp("runs") / "first", quiet=True, **TINY_RUN).path


@contextmanager
def killed(process: subprocess.Popen) -> Iterator[None]:
    """The process is gone afterwards, also where an assertion fails."""
    try:
        yield
    finally:
        process.kill()


@pytest.mark.parametrize("command", ["serve", "studio"])
def test_a_service_listens_answers_and_ends(run: Path, command: str) -> None:
    flags = {"serve": [str(run)], "studio": [str(run.parent), "--no-browser"]}[command]
    argv = [sys.executable, "-m", "unblot", command, *flags, "--port", "0"]
    environment = os.environ | {"OMP_NUM_THREADS": "1"}
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, env=environment) as process, killed(process):
        address, _, token = re.search(r"(http://127\.0\.0\.1:\d+)(/\?token=(\S+))?", process.stdout.readline()).groups()
        question = {"serve": "/models", "studio": "/api/runs"}[command]
        with urlopen(Request(address + question, headers={"Authorization": f"Bearer {token}"}), timeout=60) as answer:
            told = json.load(answer)
        names = [model["name"] for model in told["models" if command == "serve" else "runs"]]
        assert names == ["first"]
        process.send_signal(signal.SIGTERM)
        assert process.wait(60) == 0
