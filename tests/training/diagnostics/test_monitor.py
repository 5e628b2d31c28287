"""What is shown of a run: a log file, a notebook, TensorBoard, and services that may fail."""

import re
import sys
from types import ModuleType, SimpleNamespace

import pytest

from helpers import stopped_after
from unblot import UnblotError, api
from unblot.runs.folder import LOG
from unblot.training.diagnostics import notebook
from unblot.training.diagnostics.monitor import Monitor

TINY = {
    "network": "unet:width=8,multipliers=1,blocks=1,attention=",
    "steps": 6,
    "batch_size": 16,
    "log_every": 2,
    "held_out_every": 3,
    "preview_every": 0,
    "checkpoint_every": 3,
}


class FakeService(ModuleType):
    """Stands in for wandb or trackio: keeps what it was told, and fails from one call on."""

    def __init__(self, name, fails=()):
        super().__init__(name)
        self.fails, self.inits, self.logged, self.finished = fails, [], [], 0

    def init(self, **given):
        self._may_fail("init")
        self.inits.append(given)
        return SimpleNamespace(id="id7")

    def log(self, values, step):
        self._may_fail("log")
        self.logged.append((step, values))

    def finish(self):
        self.finished += 1

    def _may_fail(self, call):
        if call in self.fails:
            raise ConnectionError("no network\nhere")


def test_services_get_the_configuration_and_the_numbers_and_a_resumed_run_stays_one(tmp_path, monkeypatch):
    fakes = {name: FakeService(name) for name in ("wandb", "trackio")}
    for name, fake in fakes.items():
        monkeypatch.setitem(sys.modules, name, fake)
    run = api.train("digits", out=tmp_path / "run", quiet=True, log_to="wandb+trackio", **TINY)
    for fake in fakes.values():
        (given,) = fake.inits
        assert (given["project"], given["name"], given["resume"]) == ("unblot", "run", "allow")
        assert given["config"] == run.config.to_dict()
        losses = [step for step, values in fake.logged if "loss" in values]
        assert losses == [2, 4, 6]
        assert [step for step, values in fake.logged if "held_out_loss" in values] == [0, 3, 6]
        assert fake.finished == 1
    api.resume(run.path, steps=8, quiet=True)
    assert [given["id"] for given in fakes["wandb"].inits] == [None, "id7"]


@pytest.mark.parametrize("call", ["init", "log"])
def test_a_service_that_fails_costs_one_line(tmp_path, monkeypatch, call):
    monkeypatch.setitem(sys.modules, "wandb", FakeService("wandb", fails=[call]))
    api.train("digits", out=tmp_path / "run", quiet=True, log_to="wandb", **TINY)
    log = (tmp_path / "run" / LOG).read_text()
    assert log.count("wandb failed and is left out from now on (no network here)") == 1


def test_a_service_that_is_missing_or_unknown_is_told_before_anything_is_written(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "trackio", None)
    for log_to, told in (("trackio", r"pip install 'unblot\[trackio\]'"), ("excel", "wandb, trackio")):
        with pytest.raises(UnblotError, match=told):
            api.train("digits", out=tmp_path / "run", quiet=True, log_to=log_to, **TINY)
    assert not (tmp_path / "run").exists()


def test_tensorboard_and_the_log_file_are_written_in_any_case(tmp_path):
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    board = EventAccumulator(str(tmp_path / "run" / "tensorboard")).Reload()
    tags = board.Tags()["scalars"]
    assert {"loss", "learning_rate", "pictures_per_second", "training_loss", "held_out_loss"} <= set(tags)
    assert sum(tag.startswith("held_out_loss_by_level/log_snr_") for tag in tags) == 5
    assert [event.step for event in board.Scalars("held_out_loss")] == [0, 3, 6]
    lines = (tmp_path / "run" / LOG).read_text().splitlines()
    assert all(re.match(r"\d{4}-\d\d-\d\d \d\d:\d\d:\d\d  \S", line) for line in lines)
    text = "\n".join(lines)
    for part in ("6 steps of 16 into", "step 6/6  loss", "held-out", "done      6 steps", "more time", "--steps 12"):
        assert part in text


def test_a_notebook_has_one_display_that_is_updated(tmp_path, monkeypatch):
    shown = []
    ipython, display = ModuleType("IPython"), ModuleType("IPython.display")
    ipython.version_info = (9, 0)  # matplotlib asks for it
    ipython.get_ipython = lambda: SimpleNamespace(kernel=object())
    display.HTML = lambda text: text

    def begin(first, display_id):
        assert display_id is True
        return SimpleNamespace(update=shown.append)

    display.display, ipython.display = begin, display
    monkeypatch.setitem(sys.modules, "IPython", ipython)
    monkeypatch.setitem(sys.modules, "IPython.display", display)
    api.train("digits", out=tmp_path / "quiet", quiet=True, **TINY)
    assert not shown
    api.train("digits", out=tmp_path / "run", **TINY)
    assert len(shown) == 3
    assert "6 of 6" in shown[-1]
    assert "<svg" in shown[-1]
    assert ">held-out<" in shown[-1]
    ipython.get_ipython = lambda: None  # IPython may be imported outside of a notebook
    assert not notebook.in_notebook()


def test_a_step_that_was_skipped_does_not_hide_the_losses_after_it_nor_going_back_the_speed(tmp_path):
    run = api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    monitor = Monitor(tmp_path, run.config, quiet=True)
    monitor.begin(0)
    with monitor:
        for step, loss in enumerate([0.9, float("nan"), 0.8, 0.7]):
            monitor.step(step + 1, loss, 1e-3)
        assert 0.7 < monitor.loss < 0.9
        monitor.go_back(2)
        monitor.step(3, 0.7, 1e-3)
        assert monitor.speed > 0


def test_a_run_that_was_stopped_says_where_and_not_that_more_time_would_help(tmp_path, monkeypatch):
    stopped_after(monkeypatch, 4)
    api.train("digits", out=tmp_path / "run", quiet=True, **TINY)
    told = (tmp_path / "run" / LOG).read_text()
    assert "stopped   after 4 of 6 steps" in told
    assert "more time" not in told
    assert "go on with: unblot train --resume" in told
