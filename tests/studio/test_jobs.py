"""Jobs are their files: whoever reads them sees the same, and the process that started them may go."""

import errno
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path

import filelock
import pytest
from starlette.testclient import TestClient

import unblot
from helpers import NETWORK, STUDIO_TOKEN, TINY_RUN
from unblot.errors import UnblotError
from unblot.studio import jobs, runner, runs
from unblot.studio.api import Folders
from unblot.studio.app import make_app
from unblot.studio.jobs import JOBS, STARTED
from unblot.studio.runner import ENDED, OUTPUT
from unblot.system.folders import LOCK


def ended(root: Path, name: str) -> jobs.Status:
    """The job when it has ended."""
    for _ in range(600):
        found = jobs.status(root, name)
        if found.state not in ("waiting", "running"):
            return found
        time.sleep(0.1)
    raise AssertionError("the job does not end")


def test_a_job_runs_outlives_its_starter_and_keeps_what_it_printed(tmp_path: Path) -> None:
    job = jobs.add(tmp_path, "show", ["nothing-here"])
    assert jobs.status(tmp_path, job.id).state == "waiting"
    start = f"from pathlib import Path; from unblot.studio import jobs; jobs.advance(Path({str(tmp_path)!r}))"
    subprocess.run([sys.executable, "-c", start], check=True)  # a studio that is closed at once
    found = ended(tmp_path, job.id)
    assert (found.state, found.code) == ("failed", 2)
    assert "unblot: error:" in jobs.output(tmp_path, job.id)
    jobs.advance(tmp_path)
    assert jobs.status(tmp_path, job.id) == found, "it runs once"


def made(root: Path, command: str, files: dict[str, str]) -> jobs.Job:
    job = jobs.add(root, command, [])
    for name, text in files.items():
        (root / JOBS / job.id / name).write_text(text)
    return job


def test_one_training_at_a_time_and_in_order(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun = []
    monkeypatch.setattr(jobs, "_start", lambda root, job: begun.append(job.id))
    running = made(tmp_path, "train", {STARTED: str(os.getpid())})
    first, other, second = (jobs.add(tmp_path, command, []) for command in ("tune", "sample", "train"))
    jobs.advance(tmp_path)
    assert begun == [other.id]
    (tmp_path / JOBS / running.id / ENDED).write_text('{"code": 0, "time": 0}')
    jobs.advance(tmp_path)
    assert begun == [other.id, first.id]
    assert jobs.status(tmp_path, second.id).state == "waiting"


def test_what_has_not_ended_is_never_forgotten(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(jobs, "_start", lambda root, job: begun.append(job.id))
    old = made(tmp_path, "sample", {STARTED: "1", ENDED: '{"code": 0, "time": 0}'})
    running = jobs.add(tmp_path, "train", [], "mine")
    (tmp_path / JOBS / running.id / STARTED).write_text(str(os.getpid()))
    waiting = jobs.add(tmp_path, "tune", [])
    for _ in range(101):
        made(tmp_path, "sample", {STARTED: "1", ENDED: '{"code": 0, "time": 0}'})
    found = jobs.of_run(tmp_path, "mine")
    assert found is not None
    assert (found.job.id, found.state) == (running.id, "running")
    jobs.advance(tmp_path)
    assert begun == [], "one training at a time"
    (tmp_path / JOBS / running.id / ENDED).write_text('{"code": 0, "time": 0}')
    jobs.advance(tmp_path)
    assert begun == [waiting.id]
    shown = [one.job.id for one in jobs.jobs(tmp_path)]
    assert len(shown) == 101
    assert waiting.id in shown
    assert old.id not in shown


def test_jobs_added_at_once_have_numbers_of_their_own_in_order(tmp_path: Path) -> None:
    with ThreadPoolExecutor(4) as pool:
        made = list(pool.map(lambda _: jobs.add(tmp_path, "sample", []).id, range(20)))
    last = jobs.add(tmp_path, "sample", []).id
    assert [one.job.id for one in jobs.jobs(tmp_path)] == [last, *sorted(made, reverse=True)]
    assert len({last, *made}) == 21


def test_states_are_read_from_the_files(tmp_path: Path) -> None:
    stopped = [(code, "stopped") for code in (130, 143, -signal.SIGINT, -signal.SIGTERM)]
    for code, state in ((0, "done"), *stopped, (2, "failed"), (-9, "failed")):
        job = made(tmp_path, "train", {STARTED: "1", ENDED: f'{{"code": {code}, "time": 0}}'})
        assert jobs.status(tmp_path, job.id).state == state
    assert jobs.status(tmp_path, made(tmp_path, "train", {STARTED: "999999999"}).id).state == "lost"
    with pytest.raises(UnblotError, match="there is no job"):
        jobs.status(tmp_path, "../x")


def test_a_job_whose_process_never_came_up_is_lost(tmp_path: Path) -> None:
    for text in ("", str(os.getpid())):  # its starter was killed; its number is another process by now
        job = made(tmp_path, "train", {STARTED: text})
        assert jobs.status(tmp_path, job.id).state == "running"
        os.utime(tmp_path / JOBS / job.id / STARTED, (time.time() - 2 * jobs.STARTING,) * 2)
        assert jobs.status(tmp_path, job.id).state == "lost"


def test_a_job_that_cannot_be_started_has_failed_and_says_why(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*args: object, **choices: object) -> None:
        raise OSError(errno.ENOMEM, "Cannot allocate memory")

    first, second = (jobs.add(tmp_path, "train", []) for _ in range(2))
    monkeypatch.setattr(subprocess, "Popen", refuse)
    jobs.advance(tmp_path)
    for job in (first, second):  # the next one is not kept waiting
        assert jobs.status(tmp_path, job.id).state == "failed"
        assert "could not be started: cannot allocate memory" in jobs.output(tmp_path, job.id)


def test_stopping_a_job_that_has_just_gone_is_no_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    job = made(tmp_path, "train", {STARTED: "999999999"})
    monkeypatch.setattr(jobs, "in_use", lambda folder: True)  # it still was when the status was read
    jobs.stop(tmp_path, job.id)


def test_a_job_is_not_stopped_before_its_process_hears_that(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "killpg", lambda group, number: pytest.fail("it would end without a word"))
    for text in ("", str(os.getpid())):
        starting = made(tmp_path, "train", {STARTED: text})
        with pytest.raises(UnblotError, match="just starting"):
            jobs.stop(tmp_path, starting.id)
        assert not jobs.status(tmp_path, starting.id).stopping


def test_a_job_is_interrupted_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[tuple[int, int]] = []
    monkeypatch.setattr(os, "killpg", lambda group, number: sent.append((group, number)))
    monkeypatch.setattr(jobs, "in_use", lambda folder: True)
    job = made(tmp_path, "train", {STARTED: "999999999"})
    assert not jobs.status(tmp_path, job.id).stopping
    jobs.stop(tmp_path, job.id)
    assert jobs.status(tmp_path, job.id).stopping
    with pytest.raises(UnblotError, match=f"job {job.id} is being stopped; it ends after its step"):
        jobs.stop(tmp_path, job.id)
    assert sent == [(999999999, signal.SIGINT)]
    (tmp_path / JOBS / job.id / ENDED).write_text('{"code": 130, "time": 0}')
    found = jobs.status(tmp_path, job.id)
    assert (found.state, found.stopping) == ("stopped", False)


def test_a_job_that_ends_while_one_looks_is_not_lost(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def just_ended(folder: Path) -> bool:
        (folder / ENDED).write_text('{"code": 0, "time": 0}')
        return False

    monkeypatch.setattr(jobs, "in_use", just_ended)
    job = made(tmp_path, "train", {STARTED: "999999999"})
    assert jobs.status(tmp_path, job.id).state == "done"


def test_who_sees_the_lock_of_a_job_can_interrupt_its_command(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    order: list[str] = []

    class Command:
        def __init__(self, *args: object, **choices: object) -> None:
            order.append("command")

        def wait(self) -> int:
            return 0

    @contextmanager
    def lock(path: Path) -> Iterator[None]:
        order.append("lock")
        yield

    monkeypatch.setattr(sys, "argv", ["runner.py", str(tmp_path), "show"])
    monkeypatch.setattr(signal, "signal", lambda *_: order.append("hears"))
    monkeypatch.setattr(subprocess, "Popen", Command)
    monkeypatch.setattr(subprocess, "run", lambda *_: order.append("next"))
    monkeypatch.setattr(filelock, "FileLock", lock)
    runner.main()
    assert order == ["hears", "command", "lock", "next"]
    assert (tmp_path / ENDED).is_file()


def test_two_that_start_jobs_at_once_start_one_training(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    begun: list[str] = []
    monkeypatch.setattr(jobs, "_start", lambda root, job: begun.append(job.id))
    first, second = (jobs.add(tmp_path, "train", []) for _ in range(2))
    with filelock.FileLock(tmp_path / JOBS / LOCK):  # another process, which has seen that both wait
        late = threading.Thread(target=jobs.advance, args=(tmp_path,))
        late.start()
        late.join(0.2)
        (tmp_path / JOBS / first.id / STARTED).write_text(str(os.getpid()))
    late.join()
    assert begun == []
    assert jobs.status(tmp_path, second.id).state == "waiting"


def test_of_several_trainings_of_a_run_the_one_that_runs_is_shown(tmp_path: Path) -> None:
    over = {STARTED: "1", ENDED: '{"code": 0, "time": 0}'}
    running = jobs.add(tmp_path, "train", [], "mine")
    (tmp_path / JOBS / running.id / STARTED).write_text(str(os.getpid()))
    waiting, ended = (jobs.add(tmp_path, "train", [], "mine") for _ in range(2))
    for name, text in over.items():
        (tmp_path / JOBS / ended.id / name).write_text(text)
    shown = []
    for job in (running, waiting, None):
        shown.append(jobs.of_run(tmp_path, "mine").job.id)
        for name, text in over.items() if job else ():
            (tmp_path / JOBS / job.id / name).write_text(text)
    assert shown == [running.id, waiting.id, ended.id]
    assert jobs.of_run(tmp_path, "other") is None


def test_a_training_that_is_stopped_is_called_so(tmp_path: Path) -> None:
    flags = ["--network", NETWORK, "--steps", "100000", "--batch-size", "8", "--preview-every", "0"]
    job = jobs.add(tmp_path, "train", ["digits", "--out", str(tmp_path / "run"), *flags], "run")
    jobs.advance(tmp_path)
    while not runs.is_run(tmp_path / "run") or runs.card(tmp_path / "run").step == 0:
        assert jobs.status(tmp_path, job.id).state == "running", jobs.output(tmp_path, job.id)
        time.sleep(0.05)
    jobs.stop(tmp_path, job.id)
    found = ended(tmp_path, job.id)
    assert (found.state, found.code) == ("stopped", 130)
    assert "go on with: unblot train --resume" in jobs.output(tmp_path, job.id)
    assert runs.card(tmp_path / "run").state == "stopped"


def test_a_job_that_waits_can_be_stopped_and_never_starts(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(jobs, "_start", lambda root, job: pytest.fail("started"))
    job = jobs.add(tmp_path, "train", [])
    jobs.stop(tmp_path, job.id)
    jobs.advance(tmp_path)
    assert jobs.status(tmp_path, job.id).state == "stopped"


def test_of_a_line_that_was_written_over_the_last_state_is_shown(tmp_path: Path) -> None:
    job = made(tmp_path, "sample", {})
    (tmp_path / JOBS / job.id / OUTPUT).write_bytes(b"one\nstep 1\rstep 2\rstep 3\nlast\xff")
    assert jobs.output(tmp_path, job.id) == "one\nstep 3\nlast\ufffd"


def test_a_job_that_draws_shows_its_pictures_as_they_come_out_of_noise(tmp_path: Path) -> None:
    unblot.train("digits", out=tmp_path / "run", quiet=True, **TINY_RUN)
    job = jobs.add(tmp_path, "sample", [str(tmp_path / "run"), "-n", "2", "--steps", "3"])
    assert jobs.picture(tmp_path, job.id) == ""
    jobs.advance(tmp_path)
    assert ended(tmp_path, job.id).state == "done"
    client = TestClient(make_app(Folders(tmp_path, (tmp_path,)), STUDIO_TOKEN), "http://127.0.0.1")
    client.headers["Authorization"] = f"Bearer {STUDIO_TOKEN}"
    found = client.get(f"/api/jobs/{job.id}").json()
    assert found["picture"]
    assert client.get(f"/api/jobs/{job.id}/picture").content.startswith(b"\x89PNG")
    told = client.get(f"/live/jobs/{job.id}").text  # which ends, as the job has
    assert f"/api/jobs/{job.id}/picture?{found['picture']}" in told
    assert told.endswith("event: end\ndata: \n\n")
